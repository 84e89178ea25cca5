"""How far numbers may be off that are to be the same."""

from __future__ import annotations

import math

import pytest
import torch

from objectives.probing import same_but_for_rounding


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
