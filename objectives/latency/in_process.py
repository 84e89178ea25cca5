"""The engine ``transformers``: base model and unmerged PEFT layers in this process, token by token in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from objectives.backbone import attach, decoding_state, twin
from objectives.errors import RequestError
from objectives.latency.context import in_process_facts
from objectives.latency.graphs import GraphDecoder
from objectives.latency.paired import Axis, PairedRequest
from objectives.latency.settings import LatencySettings
from objectives.latency.timing import Timing
from objectives.modules import ModuleSpace
from objectives.placement import Placement
from objectives.probing import no_decoder, refused

Seconds = NDArray[np.float64]  # (tokens, 2 models); the first token's are its TTFT


class TransformersEngine:
    """Placements on a base model that this process holds. Latency depends on shapes alone, so nothing is trained."""

    name = "transformers"
    unmerged = "each adapted layer computes two thin products beside its own; layers that are not adapted cost nothing"
    fused = False
    fixed_rank = False

    def __init__(self, base: Any, space: ModuleSpace, settings: LatencySettings) -> None:
        """``base`` is used as it is; what is measured are copies that share its tensors."""
        self._base, self._space, self._settings = base, space, settings
        self._tried = False  # whether the model decodes
        self.facts = in_process_facts(base.device, base.dtype)

    def open(self, placement: Placement, seed: int) -> InProcessPair:
        """A new adapter of the placement, or for no groups the base model once more, beside the base model."""
        if placement.is_base:
            return self.beside(twin(self._base), seed)
        return self.beside(attach(self._base, self._space, placement, seed=seed).eval().get_base_model(), seed)

    def open_mixed(self, placement: Placement, adapters: int, seed: int) -> InProcessPair:
        """Each row of a batch has its adapter: PEFT's mixed batches. Raises RequestError where PEFT has none.

        It is tried: PEFT mixes single layers of a head alone, and no rows that a model puts together (OPT's MLP).
        """
        model = attach(self._base, self._space, placement, seed=seed).eval()
        if self._settings.graphs or model.peft_config["default"].target_parameters:
            raise RequestError(
                f"{placement.label} cannot be served in mixed batches: PEFT mixes no adapters of fused experts, and "
                "none under --graphs"
            )
        names = ["default", *(f"adapter{number}" for number in range(1, adapters))]
        for name in names[1:]:
            model.add_adapter(name, model.peft_config["default"])
        mixed = _Mixed(model, [names[row % adapters] for row in range(self._settings.concurrency)])
        pair = self.beside(mixed, seed)
        mixes_none = f"{placement.label} cannot be served in mixed batches: PEFT mixes no adapters of model type"
        with refused(lambda reason: RequestError(f"{mixes_none} {self._space.model_type!r} ({reason})")):
            pair.request()
        return pair

    def beside(self, model: Any, seed: int) -> InProcessPair:
        """``model``, which is adapted already, beside the base model.

        Raises ModelError for a causal model that cannot go on from its own state: BLT's class makes none.
        """
        # The base model is a copied tree of objects too: the original measured about 1% faster than its own copy,
        # which would look like a cost of the adapter.
        base, encoder = twin(self._base), self._space.kind == "encoder"
        if not encoder and not self._tried:  # an adapter changes nothing about it
            with refused(partial(no_decoder, self._space.model_type)), torch.inference_mode():
                step = _Decoder(base, torch.zeros(1, 1, dtype=torch.long, device=base.device))
                step(), step()
            self._tried = True
        return InProcessPair(base, model, self._settings, encoder=encoder, seed=seed)

    def close(self) -> None:
        """Nothing is left behind."""


class InProcessPair:
    """Two models that share their weights. An encoder has no TPOT: a token is then one pass of each."""

    def __init__(self, base: Any, adapted: Any, settings: LatencySettings, *, encoder: bool, seed: int) -> None:
        self.axis: Axis = "ttft" if encoder else "tpot"
        self._models = (base, adapted)
        self._tokens = settings.output_tokens
        self._turn = 0
        self._prompt = _prompt(base, settings, seed, encoder=encoder)
        self._clock = _CudaClock() if base.device.type == "cuda" else _CpuClock()
        self._begin: Callable[[Any, torch.Tensor], Callable[[], object]] = _Encoder if encoder else _Decoder
        if settings.graphs and not encoder:
            # torch.compile keeps a few graphs of one function, and compiles no more of it: those of the pair before go.
            torch.compiler.reset()
            steps = [GraphDecoder(model, settings.prompt_tokens + settings.output_tokens) for model in self._models]
            self._begin = lambda model, prompt: steps[self._models.index(model)].begin(prompt)

    @torch.inference_mode()
    def request(self) -> PairedRequest:
        """Greedy decoding with a cache and nothing else in the loop; who goes first changes with every token.

        And with every request: the first step behind the prompt is slow for whoever takes it.

        The ratio is taken from CPU time where one thread computes, since what other processes take is no cost of a
        placement. There is one for every two tokens: the second of two models finds warm caches.
        """
        steps = [self._begin(model, self._prompt) for model in self._models]
        self._turn += 1
        for token in range(self._tokens):
            for which in (0, 1) if (self._turn + token) % 2 else (1, 0):
                self._clock.start()
                steps[which]()
                self._clock.stop(token, which)
        wall, cost = self._clock.read(self._tokens)
        after = cost[1:]
        twos = after[: len(after) // 2 * 2].reshape(-1, 2, 2).sum(1)
        return PairedRequest(twos[:, 1] / twos[:, 0], self._timings(wall[:, 0]), self._timings(wall[:, 1]))

    def _timings(self, seconds: NDArray[np.float64]) -> tuple[Timing, ...]:
        """One for each row of the batch; of an encoder one for each pass, which is a request of its own."""
        if self.axis == "ttft":
            return tuple(Timing(float(each), (), 1) for each in seconds)
        return (Timing(float(seconds[0]), tuple(map(float, seconds[1:])), len(seconds)),) * self._prompt.shape[0]


def _prompt(base: Any, settings: LatencySettings, seed: int, *, encoder: bool) -> torch.Tensor:
    text = base.config.get_text_config()
    generator = torch.Generator().manual_seed(seed)
    vocabulary = getattr(text, "vocab_size", 256)  # Canine reads characters
    prompt = torch.randint(vocabulary, (settings.concurrency, settings.prompt_tokens), generator=generator)
    end = getattr(text, "eos_token_id", None)
    if encoder and isinstance(end, int):
        # Encoder-decoders classify by it, and refuse rows that have different numbers of it, as chance would draw them.
        prompt = torch.where(prompt == end, (prompt + 1) % vocabulary, prompt)
        prompt[:, -1] = end
    return prompt.to(base.device)


class _Decoder:
    """Calling it computes the next token: the whole prompt first, then one token a pass."""

    def __init__(self, model: Any, prompt: torch.Tensor) -> None:
        self._model = model
        self._inputs: dict[str, Any] = {"input_ids": prompt}

    def __call__(self) -> object:
        out = self._model(**self._inputs, use_cache=True)
        self._inputs = {"input_ids": out.logits[:, -1:].argmax(-1), **decoding_state(out)}
        return self._inputs["input_ids"]


class _Mixed:
    """A model whose rows each go through an adapter of their own."""

    def __init__(self, model: Any, names: list[str]) -> None:
        self._model, self._names = model, names

    def __call__(self, **inputs: Any) -> Any:
        return self._model(**inputs, adapter_names=self._names)


class _Encoder:
    def __init__(self, model: Any, prompt: torch.Tensor) -> None:
        self._model, self._prompt = model, prompt

    def __call__(self) -> object:
        return self._model(input_ids=self._prompt)


class _CpuClock:
    """Wall clock, and the clock of the cost: of this thread where it computes alone."""

    def __init__(self) -> None:
        self._alone = torch.get_num_threads() == 1
        self._seconds: dict[tuple[int, int], tuple[float, float]] = {}
        self._started = (0.0, 0.0)

    def _now(self) -> tuple[float, float]:
        wall = time.perf_counter()
        return wall, time.thread_time() if self._alone else wall

    def start(self) -> None:
        self._started = self._now()

    def stop(self, token: int, which: int) -> None:
        wall, cost = self._now()
        self._seconds[token, which] = (wall - self._started[0], cost - self._started[1])

    def read(self, tokens: int) -> tuple[Seconds, Seconds]:
        both = np.array([[self._seconds[token, which] for which in (0, 1)] for token in range(tokens)])
        return both[..., 0], both[..., 1]


class _CudaClock:
    """CUDA events: what the device took, read after the request, so that no wait for it stands between two tokens."""

    def __init__(self) -> None:
        self._events: dict[tuple[int, int], tuple[torch.cuda.Event, torch.cuda.Event]] = {}
        self._started: torch.cuda.Event | None = None

    def start(self) -> None:
        self._started = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch publishes none
        self._started.record()

    def stop(self, token: int, which: int) -> None:
        assert self._started is not None
        ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        ended.record()
        self._events[token, which] = (self._started, ended)

    def read(self, tokens: int) -> tuple[Seconds, Seconds]:
        torch.cuda.synchronize()
        seconds = np.empty((tokens, 2))
        for (token, which), (started, ended) in self._events.items():
            seconds[token, which] = started.elapsed_time(ended) / 1e3
        return seconds, seconds
