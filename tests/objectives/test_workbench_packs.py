"""Several trials at once on one bench: each as it would be alone, whatever becomes of the others."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from objectives import workbench
from objectives.packed import train_packed
from objectives.placement import Placement
from objectives.workbench import Assignment, Request, Workbench
from tests.objectives.test_workbench import TRAINING, assignment, plain
from tests.objectives.tiny import Zoo, all_groups

PROFILE = {"ratio": 1.2, "tpot_p95_ms": 3.0}


def requests(zoo: Zoo, prefix: str, name: str = "llama") -> list[Request]:
    names = [group.name for group in zoo.space(name).groups]
    placements = [Placement.of(names[:1], 2), all_groups(zoo.space(name)), Placement.of(names[1:3], 8)]
    return [Request(placement, f"{prefix}{number}", PROFILE) for number, placement in enumerate(placements)]


def workbench_of(given: Assignment) -> Workbench:
    """In single precision on a GPU too: in bfloat16 rounding alone sets both ways apart."""
    bench = Workbench(given)
    bench.base.float()
    return bench


def alone(bench: Workbench, some: Sequence[Request]) -> list[dict[str, Any]]:
    return [bench.measure([request])[0] for request in some]


def assert_alike(together: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> None:
    for outcome, other in zip(together, others, strict=True):
        outcome = plain(outcome)
        assert (outcome["status"], outcome["steps"]) == (other["status"], other["steps"]) == ("complete", 30)
        mine, its = (each["measurement"] for each in (outcome, other))
        assert [step for step, _ in mine["losses"]] == [step for step, _ in its["losses"]]
        assert [loss for _, loss in mine["losses"]] == pytest.approx([loss for _, loss in its["losses"]], abs=1e-4)
        assert mine["validation"]["loss"] == pytest.approx(its["validation"]["loss"], abs=1e-3)
        here, there = (load_file(Path(each["adapter"]) / "adapter_model.safetensors") for each in (outcome, other))
        assert here.keys() == there.keys()


def spied(monkeypatch: pytest.MonkeyPatch, most: int = 99) -> list[int]:
    """Sizes of the packs that were begun; of those larger than ``most`` memory runs out, on the way."""
    sizes: list[int] = []

    def spy(base: Any, models: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(models))
        if len(models) > most:
            train_packed(base, models, *args, **kwargs | {"until": 10})
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train_packed(base, models, *args, **kwargs)

    monkeypatch.setattr(workbench, "train_packed", spy)
    return sizes


def test_trials_measured_together_are_those_measured_alone(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = spied(monkeypatch)
    bench = workbench_of(assignment(zoo, "llama", tmp_path))
    start = time.perf_counter()
    together = bench.measure(requests(zoo, "a"))
    assert sum(each["measurement"]["seconds"]["training"] for each in together) < time.perf_counter() - start
    assert sizes == [3]
    assert_alike(together, alone(bench, requests(zoo, "b")))
    assert [outcome["measurement"]["packed"] for outcome in together] == [3] * 3
    for outcome in together:
        assert outcome["measurement"]["latency"] == PROFILE
        assert bench.test(outcome["adapter"])["loss"] > 0


def test_a_pack_stops_on_the_way_and_goes_on_by_what_is_there(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of three has its checkpoint from elsewhere, of another step: it cannot be in the pass of the others."""
    sizes = spied(monkeypatch)
    bench = workbench_of(assignment(zoo, "llama", tmp_path))
    some = requests(zoo, "a")
    stopped = bench.measure(some[:2], until=10)
    assert [(outcome["status"], outcome["steps"]) for outcome in stopped] == [("stopped", 10)] * 2
    bench.measure(some[2:], until=20)
    ended = bench.measure(some)
    assert sizes == [2, 2]
    assert [outcome["measurement"]["continued_from"] for outcome in ended] == [10, 10, 20]
    assert_alike(ended, alone(bench, requests(zoo, "b")))
    assert not list((tmp_path / "adapters").glob("*.checkpoint*"))


def test_a_pack_that_does_not_fit_is_halved_once_and_for_all(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = spied(monkeypatch, most=2)
    bench = workbench_of(assignment(zoo, "llama", tmp_path))
    some = [*requests(zoo, "a"), Request(Placement.of(["q_proj"], 4), "a3", PROFILE)]
    together = bench.measure(some)
    assert sizes == [4, 2, 2]
    assert_alike(together[:3], alone(bench, requests(zoo, "b")))
    bench.measure([replace(request, name=f"c{request.name}") for request in some])
    assert sizes == [4, 2, 2, 2, 2]


def test_adapters_of_a_pack_that_diverged_are_let_go_at_once(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the next collection of cycles, which may be trials away."""
    held: list[weakref.ref[Any]] = []

    def spy(base: Any, models: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        held.extend(map(weakref.ref, models))
        return train_packed(base, models, *args, **kwargs)

    monkeypatch.setattr(workbench, "train_packed", spy)
    bench = workbench_of(assignment(zoo, "llama", tmp_path, training=replace(TRAINING, learning_rate=1e30)))
    gc.disable()
    try:
        outcomes = bench.measure(requests(zoo, "a"))
        assert [each() for each in held] == [None] * 3
    finally:
        gc.enable()
    assert "failed" in {outcome["status"] for outcome in outcomes}


@pytest.mark.parametrize("trials", [1, 3])
def test_memory_is_freed_when_no_error_holds_it_any_more(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    still: list[bool] = []

    def short(*_: Any, **__: Any) -> None:
        activations = torch.zeros(3)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    bench = workbench_of(assignment(zoo, "llama", tmp_path, training=replace(TRAINING, steps=1)))
    with monkeypatch.context() as patched:
        patched.setattr(workbench, "train_packed", short)
        patched.setattr(workbench, "train", short)
        patched.setattr(workbench, "free_memory", lambda: still.append(held[-1]() is not None))
        failed = bench.measure(requests(zoo, "a")[:trials])
        bench.measure(requests(zoo, "b")[:1])
    assert [outcome["status"] for outcome in failed] == ["failed"] * trials
    assert still == [False] * len(still)
    assert len(still) == len(held) - 1
    assert bench.measure(requests(zoo, "c")[:1])[0]["status"] == "complete"


def test_a_pack_that_meets_another_error_is_trained_one_by_one_this_once(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing of memory; the packs to come are as large as ever."""
    sizes: list[int] = []

    def fails_once(base: Any, models: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(models))
        if len(sizes) == 1:
            train_packed(base, models, *args, **kwargs | {"until": 10})
            raise RuntimeError("shapes do not match\nmore lines")
        return train_packed(base, models, *args, **kwargs)

    monkeypatch.setattr(workbench, "train_packed", fails_once)
    bench = workbench_of(assignment(zoo, "llama", tmp_path))
    apart = bench.measure(requests(zoo, "a"))
    assert_alike(apart, alone(bench, requests(zoo, "b")))
    assert [each["measurement"]["not_packed"] for each in apart] == ["RuntimeError: shapes do not match"] * 3
    assert not any("packed" in each["measurement"] for each in apart)
    together = bench.measure(requests(zoo, "c"))
    assert [each["measurement"]["packed"] for each in together] == [3] * 3
    assert not any("not_packed" in each["measurement"] for each in together)
    assert sizes == [3, 3]


def test_what_is_kept_on_the_way_outlives_the_process(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = assignment(zoo, "llama", tmp_path, checkpoint_seconds=1e-9)
    some = requests(zoo, "a")

    def killed(base: Any, models: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        train_packed(base, models, *args, **kwargs | {"until": 21})
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(workbench, "train_packed", killed)
        with pytest.raises(KeyboardInterrupt):
            workbench_of(given).measure(some)
    bench = workbench_of(given)
    ended = bench.measure(some)
    assert [outcome["measurement"]["continued_from"] for outcome in ended] == [20] * 3
    assert_alike(ended, alone(bench, requests(zoo, "b")))


def test_a_trial_that_fails_leaves_the_others_alone(zoo: Zoo, tmp_path: Path) -> None:
    bench = workbench_of(assignment(zoo, "llama", tmp_path, max_ratio=1.5))
    some = requests(zoo, "a")
    slow = Request(Placement.of(["o_proj"], 4), "slow", {"ratio": 1.6})
    huge = Request(Placement.of(["q_proj"], 10**13), "huge", PROFILE)
    outcomes = bench.measure([some[0], slow, huge, *some[1:]])
    assert [outcome["status"] for outcome in outcomes] == ["complete", "infeasible", "failed", "complete", "complete"]
    assert outcomes[2]["reason"].startswith("out of memory")
    assert outcomes[0]["measurement"]["packed"] == 3


def test_a_device_that_is_broken_for_good_is_no_result(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of a pack, which is not tried again here, nor of a trial alone."""

    def illegal(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    bench = workbench_of(assignment(zoo, "llama", tmp_path))
    monkeypatch.setattr(workbench, "train_packed", illegal)
    with pytest.raises(torch.AcceleratorError):
        bench.measure(requests(zoo, "a"))
    monkeypatch.setattr(workbench, "train", illegal)
    with pytest.raises(torch.AcceleratorError):
        bench.measure(requests(zoo, "a")[:1])


def test_every_one_that_diverges_says_so(zoo: Zoo, tmp_path: Path) -> None:
    bench = workbench_of(assignment(zoo, "llama", tmp_path, training=replace(TRAINING, learning_rate=1e30)))
    together, others = bench.measure(requests(zoo, "a")), alone(bench, requests(zoo, "b"))
    assert [outcome["reason"] for outcome in together] == [other["reason"] for other in others]
    assert together[1]["status"] == "failed"
    assert together[1]["reason"] == "the training loss became nan by step 10: try a lower --learning-rate"


def test_an_encoder_is_trained_one_by_one(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = spied(monkeypatch)
    bench = workbench_of(assignment(zoo, "bert", tmp_path))
    together = bench.measure(requests(zoo, "a", "bert"))
    others = alone(bench, requests(zoo, "b", "bert"))
    assert sizes == []
    assert [outcome["adapter_sha256"] for outcome in together] == [other["adapter_sha256"] for other in others]
