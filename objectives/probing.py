"""What an architecture can do is tried on a few tokens: what comes of it is compared with the plain way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from objectives.device_errors import is_of_the_device
from objectives.errors import ModelError, RequestError, in_a_line

T = TypeVar("T")

#: What an architecture raises that cannot do what was tried.
CANNOT = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def same_but_for_rounding(some: Tensor, plain: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``some`` are the numbers of ``plain``, both made in passes of a model of ``dtype``.

    No number may be off by more than a share of the largest: that one says how coarsely ``dtype`` rounds on the way,
    and products of more rows may be summed in another order. Measured in bfloat16 on small models, rounding makes up to
    0.6% and a wrong pass, of wrong positions or with a part of its tokens, 20% or more.
    """
    share = 1e-3 if dtype in (torch.float32, torch.float64) else 5e-2
    largest = plain.abs().nan_to_num(nan=0.0, posinf=0.0).max().item()
    return some.shape == plain.shape and torch.allclose(some, plain, rtol=0.0, atol=share * largest)


@contextmanager
def refused(refusal: Callable[[str], RequestError]) -> Iterator[None]:
    """Raises what ``refusal`` makes of the reason where an architecture cannot do what is tried within.

    Memory that is short and a device that is broken are no such reason: they are raised as they are.
    """
    try:
        yield
    except CANNOT as error:
        if is_of_the_device(error):
            raise
        raise refusal(in_a_line(error)) from error


def tried(what: Callable[[], T]) -> T | None:
    """What it gives, or None where an architecture cannot do it. Raises what :func:`refused` raises as it is."""
    try:
        with refused(RequestError):
            return what()
    except RequestError:
        return None


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """The model computes in float32 within, at twice the memory of bfloat16, and is itself again behind, bit for bit.

    Not to be entered in inference mode, whose tensors cannot be trained with.
    """
    tensors = (*model.parameters(), *model.buffers())
    coarse = [(each, each.dtype) for each in tensors if each.dtype in (torch.bfloat16, torch.float16)]
    try:
        for tensor, _ in coarse:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in coarse:
            tensor.data = tensor.data.to(dtype)


def check_numbers(logits: Tensor, folder: Path) -> None:
    """Raises ModelError where a model of ``folder`` computes none: every trial would be said to have diverged."""
    if logits.isnan().any():
        raise ModelError(f"{folder} computes nan for a text: its weights hold no usable numbers.")


def no_decoder(model_type: str, reason: str) -> ModelError:
    return ModelError(
        f"model type {model_type!r} does not generate token by token in this version of transformers ({reason}): "
        "choose another model"
    )
