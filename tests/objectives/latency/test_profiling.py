"""A dozen measurements, and what is said of all placements; on an engine whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from objectives.latency.additive import AdditiveModel
from objectives.latency.in_process import TransformersEngine
from objectives.latency.paired import Ratio
from objectives.latency.profiling import MOST_ROWS, Shelf, design, held_out, profile_model
from objectives.latency.settings import LatencySettings
from objectives.model import meta_model
from objectives.modules import module_space
from objectives.placement import BASE, Placement
from tests.objectives.latency.simulated import SimulatedEngine
from tests.objectives.tiny import CONFIGURATIONS, Zoo

SETTINGS = LatencySettings(max_seconds=60)


def simulated(space: Any) -> SimulatedEngine:
    generator = np.random.default_rng(0)
    return SimulatedEngine({group.name: generator.uniform(0.05, 0.13) for group in space.groups})


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mamba", "bert"])
def test_every_placement_has_a_row_near_its_truth(zoo: Zoo, name: str) -> None:
    space = zoo.space(name)
    engine = simulated(space)
    profiles = profile_model(engine, space, [4, 8], SETTINGS, seed=0)
    assert len(profiles.rows) == 2 * min(MOST_ROWS, 2 ** len(space.groups) - 1)
    errors: dict[str, list[float]] = {"measured": [], "predicted": []}
    for row in profiles.rows:
        truth = engine.truth(Placement.of(row["targets"], row["rank"]))
        errors[row["source"]].append(abs(row["ratio"] / truth - 1))
        assert row["ratio_ci"][0] < row["ratio"] < row["ratio_ci"][1]
        assert row["class"] == Placement.of(row["targets"], row["rank"]).label
    assert np.median(errors["measured"]) < 0.01
    assert not errors["predicted"] or np.median(errors["predicted"]) < 0.03
    assert profiles.base["ratio"] == pytest.approx(1, abs=0.02)
    if len(space.groups) > 3:
        assert np.median([check["error"] for check in profiles.checks]) < 0.05


def test_what_is_measured(zoo: Zoo) -> None:
    space = zoo.space("llama")
    assert len(design(space, 8)) == 7 + 2 + 1
    assert {p.label for p in held_out(space, 8)} == {
        "k_proj+o_proj+q_proj+v_proj r8",
        "down_proj+gate_proj+up_proj r8",
    }
    engine = simulated(space)
    profiles = profile_model(engine, space, [8], SETTINGS, seed=0)
    assert set(engine.opened) == {BASE, *design(space, 8), *held_out(space, 8)}
    measured = {frozenset(row["targets"]) for row in profiles.rows if row["source"] == "measured"}
    assert measured == {frozenset(p.groups) for p in engine.opened if not p.is_base}


def test_all_that_was_measured_of_a_rank_predicts_the_others_of_it(zoo: Zoo) -> None:
    """Those too that were predicted first, to check predictions."""
    space = zoo.space("llama")
    rows = profile_model(simulated(space), space, [4, 8], SETTINGS, seed=0).rows
    for rank in (4, 8):
        of_rank = {frozenset(row["targets"]): row for row in rows if row["rank"] == rank}
        model = AdditiveModel({parts: Ratio.of(row) for parts, row in of_rank.items() if row["source"] == "measured"})
        predicted = {parts: row["ratio"] for parts, row in of_rank.items() if row["source"] == "predicted"}
        assert predicted == pytest.approx({parts: model.predict(parts).value for parts in predicted})


def test_a_shelf_that_has_all_leaves_nothing_to_measure(zoo: Zoo) -> None:
    space = zoo.space("llama")
    kept: dict[str, dict[str, Any]] = {}
    shelf = Shelf(kept.get, kept.__setitem__)
    first = profile_model(simulated(space), space, [8], SETTINGS, seed=0, shelf=shelf)
    again = simulated(space)
    second = profile_model(again, space, [8], SETTINGS, seed=1, shelf=shelf)
    assert again.opened == []
    assert [row["ratio"] for row in second.rows] == [row["ratio"] for row in first.rows]
    assert len(kept) == 13


def test_what_settled_for_a_wide_interval_is_measured_again_for_a_narrow_one(zoo: Zoo) -> None:
    """`latency --half-width 0.3` left profiles that a search, and `latency` with its defaults, took for good ones."""
    space = zoo.space("bert")
    kept: dict[str, dict[str, Any]] = {}
    shelf = Shelf(kept.get, kept.__setitem__)

    def opened(half_width: float, settled: bool) -> list[Placement]:
        engine = SimulatedEngine({group.name: 0.1 for group in space.groups}, noise=0.5)
        asked = LatencySettings(half_width=half_width, max_seconds=0.0)
        rows = profile_model(engine, space, [8], asked, seed=0, shelf=shelf).rows
        assert {row["settled"] for row in rows if row["source"] == "measured"} == {settled}
        return engine.opened

    assert opened(half_width=0.5, settled=True)
    assert opened(half_width=0.5, settled=True) == []
    assert opened(half_width=0.001, settled=False)
    assert opened(half_width=0.001, settled=False) == [], "no more is to be had in that time"
    assert opened(half_width=0.5, settled=True) == [], (
        "for this goal it is enough, though it was out of time for its own"
    )


def test_many_bands_are_listed_by_size() -> None:
    config = CONFIGURATIONS["llama"]()
    space = module_space(meta_model(config, "causal"), config, "causal", bands=2)
    profiles = profile_model(simulated(space), space, [8], SETTINGS, seed=0)
    assert len(space.groups) == 14
    assert len(profiles.rows) == MOST_ROWS
    assert {len(row["targets"]) for row in profiles.rows if row["source"] == "predicted"} == {2, 3}


def test_an_encoder_is_profiled_by_its_passes(zoo: Zoo) -> None:
    settings = LatencySettings(prompt_tokens=8, output_tokens=3, max_seconds=0.0)
    engine = TransformersEngine(zoo.base("bert"), zoo.space("bert"), settings)
    profiles = profile_model(engine, zoo.space("bert"), [4], settings, seed=0)
    assert all(row["axis"] == "ttft" for row in profiles.rows)
    assert profiles.base["tpot_p50_ms"] is None
    assert profiles.base["ttft_p50_ms"] > 0
