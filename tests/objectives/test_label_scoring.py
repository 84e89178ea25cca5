"""Labels of which the pass of a prompt says everything, beside those of test_accuracy.py."""

from __future__ import annotations

import pytest

from tests.objectives.test_accuracy import EOS, check_against_brute_force, labelled
from tests.objectives.tiny import Zoo


@pytest.mark.parametrize("label_ids", [[(10,), (11,), (12,)], [(10,), (11, EOS), (11, 12, EOS)]])
@pytest.mark.parametrize("by_prompt", [False, True])
def test_labels_of_one_token(zoo: Zoo, label_ids: list[tuple[int, ...]], by_prompt: bool) -> None:
    """As labels often are: the prompt's pass alone says all of them, or all of some rows'."""
    check_against_brute_force(zoo.base("llama"), labelled(label_ids), by_prompt=by_prompt)
