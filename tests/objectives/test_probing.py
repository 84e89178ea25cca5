"""How far numbers may be off that are to be the same, and what an error says of an architecture."""

from __future__ import annotations

import math

import pytest
import torch

from objectives.cut import narrowest_cut
from objectives.probing import in_float32, same_but_for_rounding, tried
from tests.objectives.tiny import Zoo


@pytest.mark.parametrize(
    ("dtype", "off", "same"),
    [
        (torch.float32, 0.019, True),
        (torch.float32, 0.021, False),
        (torch.float64, 0.021, False),
        (torch.bfloat16, 0.9, True),
        (torch.bfloat16, 1.1, False),
        (torch.float16, 0.9, True),
    ],
)
def test_what_is_rounding_depends_on_the_dtype_and_on_the_largest_number(
    dtype: torch.dtype, off: float, same: bool
) -> None:
    plain = torch.tensor([0.0, -20.0, 3.0])
    assert same_but_for_rounding(plain + torch.tensor([off, 0.0, 0.0]), plain, dtype) == same


def test_other_shapes_and_no_numbers_are_not_the_same() -> None:
    plain = torch.tensor([1.0, -math.inf])
    assert same_but_for_rounding(plain, plain.clone(), torch.float32)
    assert not same_but_for_rounding(plain[None], plain, torch.float32)
    for broken in (torch.tensor([math.nan, -math.inf]), torch.tensor([1.0, math.inf]), torch.tensor([1.0, 2.0])):
        assert not same_but_for_rounding(broken, plain, torch.float32)
    assert not same_but_for_rounding(torch.tensor([math.nan]), torch.tensor([math.nan]), torch.float32)


def test_a_model_that_was_in_float32_is_itself_again_also_after_an_error() -> None:
    model = torch.nn.BatchNorm1d(3).bfloat16()  # with buffers, of which one counts
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="within"), in_float32(model):
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}
        raise ValueError("within")
    after = model.state_dict()
    assert all(torch.equal(after[name], was) and after[name].dtype == was.dtype for name, was in before.items())


SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_what_an_architecture_cannot_do() -> None:
    def raising(error: Exception) -> None:
        raise error

    assert tried(lambda: 3) == 3
    assert tried(lambda: raising(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))) is None
    for error in (SHORT, torch.AcceleratorError("CUDA error: device-side assert triggered")):
        with pytest.raises(type(error)):
            tried(lambda error=error: raising(error))  # type: ignore[misc]


def test_memory_that_is_short_while_a_cut_is_tried_says_nothing_of_the_model(zoo: Zoo) -> None:
    """It was taken for a model that needs its whole pass, with a worker that was slow from then on."""
    model, passes = zoo.copy("llama"), 0

    def run_out(*_: object) -> None:
        nonlocal passes
        passes += 1
        if passes > 1:  # the plain pass succeeds
            raise SHORT

    model.register_forward_pre_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError):
        narrowest_cut(model)
