"""What is recommended against what is used today: first and whole, read on test, and told with its interval."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from objectives.placement import Placement
from search.catalog.store import Catalog
from search.prepare import Prepared
from search.result import result_document
from search.series import Before, Known
from search.spec import SearchSpec
from search.strategy.space import PlacementSpace
from tests.search.recorded import evaluation, record_task
from tests.search.searched import GROUPS, STEPS, Searched, outcome

FACTS = {"task": "classification", "data_hash": "d", "template": "", "kind": "causal", "labels": ["a"]}
FACTS |= {"notes": [], "versions": {}, "command": ""}


@pytest.mark.parametrize("strategy", ["additive", "tpe"])
def test_it_is_trained_first_to_its_end_and_read_on_test_off_the_front(tmp_path: Path, strategy: str) -> None:
    """Of all with three groups, which cost the same, the one that is worth least: a front may have others."""
    alike = (Placement.of(groups, 8) for groups in itertools.combinations(GROUPS, 3))
    mine = min(alike, key=lambda placement: outcome(placement, None)["measurement"]["validation"]["accuracy"])
    with closing(Searched(tmp_path, strategy, pack=1, baseline=mine)) as searched:
        searched.run(1)
        first, *others = searched.trials()
        assert (first.placement, first.status, first.steps) == (mine, "complete", STEPS)
        assert all(trial.placement != mine for trial in others)
        on_front = searched.plan._trials.front()
        tested = {trial.number for trial in searched.trials() if trial.test is not None}
        assert 0 not in on_front and tested == {0, *on_front}


def test_the_lead_is_of_the_rows_that_both_were_scored_on(tmp_path: Path) -> None:
    spec = {"baseline": "q_proj r8", "batch_size": 16}
    with closing(Catalog(f"sqlite:///{tmp_path}/s.db")) as catalog:
        search = record_task(catalog, "s", {"o_proj": 80, "q_proj": 50}, facts=FACTS, spec=spec)
        untested = result_document(catalog, search)["baseline"]
        catalog.record_test(search.id, 1, evaluation(60))
        found = result_document(catalog, search)["baseline"]
        named_none = record_task(catalog, "t", {"o_proj": 80}, facts=FACTS, spec={"batch_size": 16})
        unnamed = result_document(catalog, named_none)["baseline"]
        other = record_task(catalog, "u", {"o_proj": 80}, facts=FACTS, spec=spec | {"baseline": "o_proj r8"})
        itself = result_document(catalog, other)["baseline"]
        begun = record_task(catalog, "v", {"o_proj": 80}, facts=FACTS, spec=spec)
        waiting = result_document(catalog, begun)["baseline"]
    assert (found["trial"], found["label"], found["status"]) == (1, "q_proj r8", "complete")
    assert (found["accuracy"], found["validation_accuracy"], found["tpot_ratio"]) == (0.6, 0.5, 1.1)
    assert found["difference"] == pytest.approx(0.15) and found["test_rows"] == 100
    # 15 of 100 rows are right in one of the two alone, so that the difference errs by sqrt(0.15 * 0.85 / 100), nearly.
    low, high = found["difference_ci"]
    assert (high - low) / 2 == pytest.approx(1.96 * (0.15 * 0.85 / 100) ** 0.5, rel=0.05)
    assert (untested["accuracy"], untested["difference"], untested["test_rows"]) == (None, None, None)
    assert unnamed is None
    assert (itself["accuracy"], itself["difference"], itself["difference_ci"]) == (0.75, None, None)
    assert (waiting["label"], waiting["trial"], waiting["status"]) == ("q_proj r8", None, None)


def test_in_a_series_the_champion_is_still_measured_first() -> None:
    champion, mine = Placement.of(["o_proj"], 8), Placement.of(["q_proj"], 8)
    known = Known(champion, 1, 1.1, 0.8, 0.02, (), None)
    space = PlacementSpace(("o_proj", "q_proj"), (8,))

    def prepared(baseline: Placement) -> Prepared:
        return Prepared(SearchSpec(budget=2), {}, cast(Any, None), space, {}, Before(known=(known,)), baseline)

    assert prepared(mine).again == [champion, mine]
    assert prepared(champion).again == [champion]
