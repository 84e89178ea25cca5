"""What a model computes in bfloat16 is scored in float32: bfloat16 tells few log-probabilities apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from objectives.accuracy import evaluate
from objectives.data import Task
from tests.objectives.tiny import Zoo, make_task


@pytest.mark.parametrize(
    ("name", "kind", "by_prompt"),
    [
        ("llama", "classification", False),
        ("llama", "classification", True),
        ("llama", "generation", False),
        ("bert", "classification", False),
    ],
)
def test_log_probabilities_are_taken_in_single_precision(zoo: Zoo, name: str, kind: Task, by_prompt: bool) -> None:
    task = make_task(zoo, name, kind)
    few = replace(task, splits={"test": task.splits["test"][:3]}, max_new_tokens=2)
    options: dict[str, Any] = {"metric": "accuracy" if kind == "classification" else "rouge_l", "by_prompt": by_prompt}
    seen = set()

    class Types(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "log_softmax" in str(func) or "cross_entropy" in str(func):
                seen.add(args[0].dtype)
            return func(*args, **(kwargs or {}))

    with Types():
        evaluate(zoo.copy(name).bfloat16(), few, "test", tokenizer=zoo.tokenizer(name), **options)
    assert seen == {torch.float32}
