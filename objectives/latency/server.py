"""The engine ``openai``: any OpenAI-compatible server that streams completions, base and adapter by turns."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from objectives.errors import RequestError
from objectives.latency.classes import whole_layers
from objectives.latency.loading import identify
from objectives.latency.paired import Axis, PairedRequest
from objectives.latency.prompts import Prompts
from objectives.latency.settings import LatencySettings
from objectives.latency.stream import Answer, Endpoint
from objectives.latency.timing import Timing
from objectives.modules import ModuleSpace
from objectives.placement import Placement

#: Prompts that are tried for one request before answers of one token are refused.
_TRIES = 5
#: A server, or this machine, that is too busy may send or read late for seconds; a proxy that gathers answers always.
_HELD_BACK_TRIES = 20
#: Seconds a token: whoever sends one needs longer for it, so chunks that come faster were not sent as they were made.
_AT_ONCE = 5e-5


class ServerEngine:
    """A server that runs already. It must see the same file system, since adapters are handed over as folders."""

    def __init__(
        self, url: str, folder: Path, space: ModuleSpace, settings: LatencySettings, *, trust_remote_code: bool = False
    ) -> None:
        """``folder`` holds the base model: its structure for adapters, its tokenizer for prompts.

        Raises RequestError if nobody answers at ``url``, ModelError if the tokenizer cannot be read.
        """
        self._endpoint = Endpoint(url)
        self._folder, self._space, self._settings = folder, space, settings
        self._trusted = trust_remote_code
        server = identify(self._endpoint, folder)
        self._loader = server.loader
        self.name, self.unmerged = self._loader.name, self._loader.unmerged
        self.fused, self.fixed_rank = self._loader.fused, self._loader.fixed_rank
        self._base = {"model": server.model or str(folder)}
        self._prompts = Prompts(folder, settings, trust_remote_code=trust_remote_code)
        self._scratch = Path(tempfile.mkdtemp(prefix="target-search-"))  # last of what may fail: nobody would remove it
        self._loaded: list[str] = []
        self._opened = 0
        self._threads = ThreadPoolExecutor(settings.concurrency)
        self.facts = {
            "engine": self.name,
            "device": f"{self.name} {server.version}".strip() + f" at {self._endpoint.url}",
            "threads": "of the server",
            "dtype": "of the server",
            "model": server.said or "not said by the server",
            "versions": server.version or "not said by the server",
        }

    def open(self, placement: Placement, seed: int) -> ServerPair:
        return self.open_mixed(placement, 1, seed)

    def open_mixed(self, placement: Placement, adapters: int, seed: int) -> ServerPair:
        self._unload()
        body = {"max_tokens": self._settings.output_tokens, "temperature": 0, **self._options(), **self._base}
        named = [] if placement.is_base else [self._load(placement, seed + number) for number in range(adapters)]
        return ServerPair(
            self._endpoint,
            body,
            [body | each for each in named],
            self._prompts.next,
            self._threads,
            self._settings.concurrency,
        )

    def close(self) -> None:
        try:
            self._unload()
        finally:  # a server that is gone unloads nothing
            self._threads.shutdown()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _options(self) -> dict[str, Any]:
        """So that every answer has the asked length, says how many tokens it has, and shows each of them: a special
        one without text, behind an end that is ignored, would come at no time. Others do not take these."""
        if self.name in ("vllm", "sglang"):
            return {"ignore_eos": True, "skip_special_tokens": False, "stream_options": {"include_usage": True}}
        return {}

    def _load(self, placement: Placement, seed: int) -> dict[str, Any]:
        self._opened += 1
        # The folder's own name: a server may still hold adapters of a process that was killed, or of one beside this.
        name = f"{self._scratch.name}-{self._opened}"
        adapter = self._scratch / name
        placement = whole_layers(self._space, placement) if self.fused else placement
        write_random_adapter(self._folder, self._space, placement, seed, adapter, trust_remote_code=self._trusted)
        named = self._loader.load(name, adapter)
        self._loaded.append(name)
        return named

    def _unload(self) -> None:
        """Folders go with the adapters: no request names them again, and a server reads none that is not asked for."""
        while self._loaded:
            name = self._loaded.pop()
            self._loader.unload(name)
            shutil.rmtree(self._scratch / name, ignore_errors=True)


class ServerPair:
    """Blocks of ``concurrency`` requests at once, to the base model and to the adapter by turns."""

    axis: Axis = "tpot"

    def __init__(
        self,
        endpoint: Endpoint,
        base: dict[str, Any],
        adapted: list[dict[str, Any]],
        prompt: Callable[[], str],
        threads: ThreadPoolExecutor,
        concurrency: int,
    ) -> None:
        """``base`` is the request to the base model, ``adapted`` those to the adapters, taken in turn; none for the
        base model against itself. ``prompt`` gives another one with each call."""
        self._endpoint, self._threads, self._prompt = endpoint, threads, prompt
        self._itself = not adapted
        others = adapted or [base]
        self._blocks = [[base] * concurrency, [others[row % len(others)] for row in range(concurrency)]]
        self._turn = 0

    def request(self) -> PairedRequest:
        """One block of each; who goes first changes. The ratio is that of the blocks' mean TPOT, by the wall clock.

        Each row of a block has a prompt that was not asked before. The other model's block has the same ones, since
        what servers keep of a prefix is kept for each adapter apart; the base model against itself has others. Where
        answers have no TPOT, since they end after one token or were held back on the way, other prompts are tried;
        raises RequestError, which tells the cause, if those give none either.
        """
        self._turn += 1
        for number in range(1, _HELD_BACK_TRIES + 1):
            answers = self._asked((0, 1) if self._turn % 2 else (1, 0))
            timings = [[answer.timing for answer in answers[which]] for which in (0, 1)]
            blocks = [tuple(each for each in block if not _held_back(each)) for block in timings]
            tpots = [[each.tpot for each in block if each.tpot] for block in blocks]
            if all(tpots):
                return PairedRequest(np.array([np.mean(tpots[1]) / np.mean(tpots[0])]), *blocks)
            if number >= _TRIES and not any(map(_held_back, itertools.chain(*timings))):
                break
        raise RequestError(f"--endpoint {self._endpoint.url} {_untimed([*answers[0], *answers[1]])}")

    def _asked(self, order: tuple[int, int]) -> dict[int, list[Answer]]:
        prompts: list[str] = []
        answers: dict[int, list[Answer]] = {}
        for which in order:
            bodies = self._blocks[which]
            if self._itself or not prompts:
                prompts = [self._prompt() for _ in bodies]
            asked = [{**body, "prompt": prompt} for body, prompt in zip(bodies, prompts, strict=True)]
            answers[which] = self._block(asked)
        return answers

    def _block(self, bodies: list[dict[str, Any]]) -> list[Answer]:
        if len(bodies) == 1:
            return [self._endpoint.complete(bodies[0])]
        return list(self._threads.map(self._endpoint.complete, bodies))


def _held_back(timing: Timing) -> bool:
    """Whether its chunks waited for each other: what the first came too late by is missing after it."""
    return timing.tpot is not None and timing.tpot < _AT_ONCE


def _untimed(answers: Sequence[Answer]) -> str:
    """Why there is no time per output token."""
    most = max(answer.timing.output_tokens for answer in answers)
    if any(_held_back(answer.timing) for answer in answers):
        return (
            f"sent {most} tokens one by one, but {_HELD_BACK_TRIES} times in a row all of an answer came at once, so "
            "that they have no time per output token: let every proxy before the server stream token by token, or "
            "measure while server and this machine do less"
        )
    if most > 1:
        return (
            f"sent {most} tokens in one chunk, so that they have no time per output token: let the server, and every "
            "proxy before it, stream token by token"
        )
    if not all(answer.counted for answer in answers):
        return (
            f"sent the answers to {_TRIES} prompts in a row in one chunk without saying how many tokens they have, so "
            "that there is no time per output token: let the server, and every proxy before it, stream token by token, "
            "or try again, with other prompts"
        )
    return (
        f"ended the answers to {_TRIES} prompts in a row after one token, so that they have no time per output token: "
        "try again, with other prompts"
    )


def write_random_adapter(
    folder: Path,
    space: ModuleSpace,
    placement: Placement,
    seed: int,
    out: Path,
    *,
    trust_remote_code: bool = False,
) -> None:
    """An adapter of the placement's shape for the base model in ``folder``; none of that model's weights are read."""
    import torch
    from safetensors.torch import save_file

    from objectives.adapter import WEIGHTS
    from objectives.backbone import attach
    from objectives.model import load_config, meta_model

    model = meta_model(load_config(folder, trust_remote_code), space.kind)
    model.new_modules = []
    adapted = attach(model, space, placement, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name.replace(".default", ""): torch.randn(parameter.shape, generator=generator) * 0.01
        for name, parameter in adapted.named_parameters()
        if "lora_" in name
    }
    config = adapted.peft_config["default"]
    config.base_model_name_or_path = str(folder.absolute())
    config.inference_mode = True
    config.save_pretrained(str(out))
    save_file(weights, out / WEIGHTS)
