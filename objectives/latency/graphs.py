"""Decoding with a static cache and a compiled step, as servers do: no time goes into launching kernels one by one.

On a GPU ``torch.compile(mode="reduce-overhead")`` records the step as a CUDA graph, which takes ten seconds a pair.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from objectives.device_errors import is_of_the_device
from objectives.errors import RequestError, in_a_line
from objectives.probing import CANNOT

#: How models call what they have seen so far, from transformers 5.24 on and before.
_STATES = ("cache", "past_key_values")


class GraphDecoder:
    """The decoding of one model at fixed addresses: cache, positions and token are buffers that are written in place.

    ``length`` is prompt and output tokens together. ``backend`` None compiles nothing, which a test can afford.
    Raises RequestError for a model whose decoding state is no attention cache; so do its steps where they cannot be
    taken with one.
    """

    def __init__(self, model: Any, length: int, backend: str | None = "inductor") -> None:
        from transformers import StaticCache

        taken = inspect.signature(model.forward).parameters
        # Under another name it would be taken and not read, and each step be timed as if it were the first.
        state = next((name for name in _STATES if name in taken), None)
        if state is None or not getattr(model, "_can_compile_fullgraph", False):
            raise _refused(model)
        self._model = model
        self._state = state
        self._cache = StaticCache(config=model.config, max_cache_len=length)
        mode = "reduce-overhead" if backend == "inductor" else None
        # As one graph or not at all: a step that falls back to launching its kernels is another measurement.
        self._step = torch.compile(self._pass, fullgraph=True, backend=backend, mode=mode) if backend else self._pass

    def _pass(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        out = self._model(input_ids=ids, position_ids=positions, use_cache=True, **{self._state: self._cache})
        token: torch.Tensor = out.logits[:, -1:].argmax(-1)
        return token

    def begin(self, prompt: torch.Tensor) -> Callable[[], torch.Tensor]:
        """A function that computes the next token each time it is called; the prompt's pass is not compiled."""
        self._cache.reset()
        rows, length = prompt.shape
        positions = torch.arange(length, device=prompt.device).expand(rows, length)
        ids, run = prompt, self._pass

        def step() -> torch.Tensor:
            nonlocal ids, positions, run
            if run is self._step and prompt.device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch gives no types
            try:
                # Cloned: the next replay of the graph writes over its output.
                ids = run(ids, positions).clone()
            except CANNOT as error:  # Falcon's ALiBi does not go with a static cache; and what the compiler refuses
                if is_of_the_device(error):
                    raise
                raise _refused(self._model, error) from error
            positions, run = positions[:, -1:] + 1, self._step
            return ids

        return step


def _refused(model: Any, error: BaseException | None = None) -> RequestError:
    kind, why = model.config.model_type, f" ({in_a_line(error)})" if error else ""
    return RequestError(f"--graphs: transformers cannot record model type {kind!r} as a graph{why}: leave the flag out")
