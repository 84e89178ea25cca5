"""Searches of a series: what the next one knows, measures again, and decides; on a real catalog and study."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest

from benchmarks.replay import Silent
from objectives.errors import NoTrialSucceeded, RequestError
from objectives.placement import Placement
from search.catalog.champions import champions, current, decide
from search.catalog.records import ChampionRecord, TrialRecord
from search.catalog.store import Catalog
from search.champion import crown
from search.home import Home
from search.plan import SearchPlan
from search.prepare import Prepared, prepare
from search.run import Run, start
from search.series import Before, Known, _known, _question, following, seeded
from search.spec import SearchSpec
from search.strategy.space import PlacementSpace
from search.study import Study
from tests.faults.replayed import FACTS
from tests.search.recorded import evaluation, latency

SPACE = PlacementSpace(("k_proj", "o_proj", "q_proj"), (8,))
REFERENCES = {Placement.of(["o_proj"], 8): "o_proj only", Placement.of(["q_proj"], 8): "q_proj only"}


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> str:
    """SQLite, except in a test that is given both."""
    url: str = request.getfixturevalue(getattr(request, "param", "sqlite"))
    return url


def night(
    catalog: Catalog,
    name: str,
    right: dict[str, int],
    *,
    data: str = "d",
    budget: int = 3,
    alpha: str = "2r",
    gpus: float = 0.0,
    ratios: Mapping[str, float] | None = None,
    on_test: Mapping[str, int] | None = None,
    failing: str | None = None,
) -> tuple[Prepared, ChampionRecord]:
    """One search of the series; placements that ``right`` does not name have 20 of 100 rows right, on the
    test split those that ``on_test`` does not name as many as on validation, and those that ``ratios`` does not name a
    latency by the number of their groups."""
    spec = seeded(
        catalog,
        SearchSpec(
            name=name,
            series="s",
            budget=budget,
            steps=200,
            ranks=(8,),
            strategy="grid",
            learning_rate=1e-3,
            alpha=alpha,
            gpus_per_trial=gpus,
        ),
    )
    prepared = Prepared(spec, FACTS | {"data_hash": data}, cast(Any, None), SPACE, REFERENCES)
    prepared = following(catalog, prepared)
    search = catalog.create_search(name, spec.to_json(), prepared.facts)
    before = prepared.before
    again = before.again(budget)
    study = Study(
        catalog.url, search.id, SPACE, strategy="grid", references=list(REFERENCES), budget=budget, seed=0, steps=200,
        known=before.known, again=again,
    )  # fmt: skip
    plan = SearchPlan(
        catalog, study, search.id, budget=budget, references=REFERENCES, watcher=Silent(), steps=200, settle=False,
        champion=None if before.champion is None else before.champion.placement,
    )  # fmt: skip
    plan.reconcile()
    while not plan.done() and (job := plan.next()) is not None:
        rows = right.get("+".join(job.placement.groups) if job.placement else "", 20)
        if job.kind == "test" and job.number is not None:
            rows = (right | dict(on_test or {})).get("+".join(catalog.trial(search.id, job.number).groups), 20)
        if job.kind == "trial":
            assert job.placement is not None
            measurement = {
                "validation": evaluation(rows) | {"loss": 1 - rows / 100},
                "latency": latency(
                    (ratios or {}).get("+".join(job.placement.groups), 1 + 0.1 * len(job.placement.groups))
                ),
                "losses": [],
                "parameters": 1,
            }
            outcome: dict[str, Any] = {"status": "complete", "reason": None, "steps": 200, "measurement": measurement}
            ended = outcome | {"adapter": "replayed"}
            if "+".join(job.placement.groups) == failing:
                ended = {"status": "failed", "reason": "it diverged", "steps": 20, "measurement": {}}
            plan.finished(job, ended)
        elif job.kind == "base":
            plan.finished(job, {"validation": evaluation(10), "latency": latency(1.0), "latency_context": "replayed"})
        else:
            plan.finished(job, evaluation(rows))
    catalog.set_status(search.id, "complete")
    decided = crown(catalog, search, "s", before)
    assert decided is not None
    return prepared, decided


def test_nights_build_on_each_other_until_the_data_changes(catalog: Catalog) -> None:
    first, crowned = night(catalog, "s-1", {"o_proj": 60})
    assert (first.before.known, crowned.verdict) == ((), "crowned")
    assert first.spec.training_seed == 0

    second, changed = night(catalog, "s-2", {"o_proj": 60, "k_proj+q_proj": 90, "k_proj+o_proj": 30})
    assert second.spec.training_seed == 1
    assert {each.times for each in second.before.known} == {1}
    trials = catalog.trials(catalog.search("s-2").id)
    assert len(trials) == 3
    assert trials[0].placement == Placement.of(["o_proj"], 8)  # the champion first, though it is known
    known = {each.placement for each in second.before.known}
    assert not known & {trial.placement for trial in trials[1:]}
    assert trials[0].test is not None
    study = optuna.load_study(study_name=catalog.search("s-2").id, storage=catalog.url)
    assert len(study.trials) == len(known) + 3
    assert changed.verdict in ("changed", "kept")

    third, decided = night(catalog, "s-3", {"o_proj": 60, "k_proj+q_proj": 90})
    assert third.before.searches == ("s-2", "s-1")
    assert decided.verdict in ("changed", "kept")

    fourth, afresh = night(catalog, "s-4", {"q_proj": 50}, data="other")
    assert fourth.before.known == ()
    assert afresh.verdict == "crowned"
    assert afresh.why.startswith("the data changed since search s-3: it starts afresh; champion of series s: q_proj r8")
    assert "series s: the data changed since search s-3: it starts afresh" in fourth.facts["notes"]
    assert next(each.search_id for each in champions(catalog, "s")) == catalog.search("s-4").id


def test_a_series_of_an_earlier_version_starts_afresh_where_the_default_has_changed(catalog: Catalog) -> None:
    night(catalog, "s-1", {"o_proj": 60})
    first = catalog.search("s-1")
    catalog.set_spec(first.id, first.spec | {"label_weight": 0.0})  # as the catalog's migration leaves it
    changed, crowned = night(catalog, "s-2", {"o_proj": 60})
    assert not changed.before.known
    assert crowned.why.startswith("--label-weight (0.0, now 4.0) changed since search s-1: it starts afresh")


def test_a_series_starts_afresh_under_another_alpha(catalog: Catalog) -> None:
    night(catalog, "s-1", {"o_proj": 60})
    assert night(catalog, "s-2", {"o_proj": 60})[0].before.known
    changed, crowned = night(catalog, "s-3", {"o_proj": 60}, alpha="16")
    assert not changed.before.known
    assert crowned.why.startswith('--alpha ("2r", now "16") changed since search s-2: it starts afresh')


def test_a_series_starts_afresh_on_another_kind_of_device(catalog: Catalog) -> None:
    night(catalog, "s-1", {"o_proj": 60})
    changed, crowned = night(catalog, "s-2", {"o_proj": 60}, gpus=1.0)
    assert not changed.before.known
    assert crowned.why.startswith("the kind of device changed since search s-1: it starts afresh")
    assert night(catalog, "s-3", {"o_proj": 60}, gpus=0.5)[0].before.known


@pytest.mark.parametrize("storage", ["sqlite", "postgres"], indirect=True)
def test_a_search_that_is_resumed_late_does_not_bring_an_old_champion_back(catalog: Catalog) -> None:
    _, first = night(catalog, "s-1", {"o_proj": 60}, budget=2)
    late = catalog.create_search("s-2", catalog.search("s-1").spec, catalog.search("s-1").facts)
    _, changed = night(catalog, "s-3", {"o_proj": 60, "k_proj": 90}, budget=3)
    assert changed.verdict == "changed"
    old = catalog.trial(first.champion_search, first.champion_trial)
    decide(catalog, late.id, "s", "kept", old, "champion of series s unchanged", {})
    assert current(catalog, "s") == changed
    assert [each.search_id for each in champions(catalog, "s")][1] == late.id


@pytest.mark.parametrize("storage", ["sqlite", "postgres"], indirect=True)
def test_a_champion_stays_while_the_lead_is_within_its_interval(catalog: Catalog) -> None:
    night(catalog, "s-1", {"o_proj": 60}, budget=2)
    _, kept = night(catalog, "s-2", {"o_proj": 60, "k_proj": 61}, budget=3)
    assert kept.verdict == "kept"
    _, changed = night(catalog, "s-3", {"o_proj": 60, "k_proj": 90}, budget=3)
    assert changed.verdict == "changed"
    low, high = changed.figures["difference_ci"]
    assert 0 < low < changed.figures["difference"] < high
    assert "the adapter stays" not in changed.why


def test_the_challenger_is_what_the_search_recommends_and_not_the_most_accurate(catalog: Catalog) -> None:
    """k_proj is within one standard error of k_proj+q_proj, and faster."""
    night(catalog, "s-1", {"o_proj": 60}, budget=2)
    _, changed = night(catalog, "s-2", {"o_proj": 60, "k_proj": 88, "k_proj+q_proj": 90}, budget=7)
    assert changed.verdict == "changed"
    challenger = changed.figures["challenger"]
    assert (challenger["label"], challenger["tpot_ratio_ci"]) == ("k_proj r8", pytest.approx([1.08, 1.12]))
    assert catalog.trial(changed.champion_search, changed.champion_trial).placement.label == "k_proj r8"


def test_a_champion_that_stays_although_another_is_faster_says_how_to_take_that_one(catalog: Catalog) -> None:
    ratios = {"o_proj": 1.3}
    night(catalog, "s-1", {"o_proj": 60}, budget=2, ratios=ratios)
    _, kept = night(catalog, "s-2", {"o_proj": 60, "k_proj": 60}, budget=3, ratios=ratios)
    assert kept.verdict == "kept"
    assert (
        "recommended is k_proj r8 (test accuracy 0.600 [0.502, 0.691], TPOT x1.10), which is not better beyond the "
        "interval (+0.000 [-0.020, 0.020] on the same 100 rows), but faster: "
        "`python -m search export s-2 --pick recommended --out DIR` takes it; the adapter stays that of s-1"
    ) in kept.why
    _, as_fast = night(catalog, "s-3", {"o_proj": 60, "k_proj": 60}, budget=3, ratios={"o_proj": 1.13})
    assert "recommended is k_proj r8" in as_fast.why
    assert "but faster" not in as_fast.why, "the intervals of the latencies, 0.02 to each side, overlap"


def test_a_champion_stays_where_its_own_trial_failed(catalog: Catalog) -> None:
    """However good what the night recommends: nothing was scored on the same rows under the same seed."""
    night(catalog, "s-1", {"o_proj": 60}, budget=2)
    _, kept = night(catalog, "s-2", {"k_proj": 90}, budget=3, failing="o_proj")
    assert (kept.verdict, kept.champion_search) == ("kept", catalog.search("s-1").id)
    assert kept.why == ("champion of series s unchanged: o_proj r8, which was not measured again (it diverged)")
    assert (kept.figures["label"], kept.figures["accuracy"]) == ("o_proj r8", None)
    assert kept.figures["challenger"]["accuracy"] == 0.9
    assert "difference" not in kept.figures


def test_a_challenger_that_is_worse_on_the_test_split_is_not_praised_for_its_speed(catalog: Catalog) -> None:
    ratios = {"o_proj": 1.3}
    night(catalog, "s-1", {"o_proj": 60}, budget=2, ratios=ratios)
    _, kept = night(catalog, "s-2", {"o_proj": 60, "k_proj": 60}, budget=3, ratios=ratios, on_test={"k_proj": 30})
    assert kept.verdict == "kept"
    assert "recommended is k_proj r8 (test accuracy 0.300 [" in kept.why
    assert "which is worse (-0.300 [" in kept.why
    assert "but faster" not in kept.why


def test_what_is_said_of_a_champion_that_was_trained_again_is_not_said_of_its_adapter(catalog: Catalog) -> None:
    night(catalog, "s-1", {"o_proj": 60}, budget=2)
    _, again = night(catalog, "s-2", {"o_proj": 70}, budget=2)
    assert again.champion_search == catalog.search("s-1").id
    assert again.why.startswith("champion of series s unchanged: o_proj r8 (test accuracy 0.700 [")
    assert "measured again and recommended again; the adapter stays that of s-1, test accuracy 0.600 [" in again.why
    _, other = night(catalog, "s-3", {"o_proj": 60, "k_proj": 61}, budget=3)
    assert "; the adapter stays that of s-1, test accuracy 0.600 [" in other.why


@pytest.mark.parametrize("ended", [False, True])
def test_of_two_searches_that_begin_at_one_moment_the_second_is_refused(
    ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a series holds is asked before Ray starts, and once more when the search gets its row."""
    home = Home.at(tmp_path, None, None)

    @contextmanager
    def meanwhile(*_: object) -> Iterator[Callable[[], None]]:
        with closing(Catalog(home.storage)) as other:
            made = other.create_search("first", SearchSpec(series="s", training_seed=0).to_json(), {})
            assert other.take(made.id) is None
            if ended:
                other.set_status(made.id, "interrupted")
                other.release(made.id)
            yield lambda: None

    monkeypatch.setattr("search.run.ray_session", meanwhile)
    monkeypatch.setattr("search.run.check_gpus", lambda *_: None)
    refused = "began at the same moment: start again" if ended else "search first of series s is being run by process"
    with pytest.raises(RequestError, match=refused):
        start(SearchSpec(series="s", budget=1, workers=1), home, io.StringIO())
    with closing(Catalog(home.storage)) as catalog:
        assert [search.name for search in catalog.searches()] == ["first"]


def test_a_series_is_entered_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its row and its lease a search is one that nobody runs."""
    home, both, over = Home.at(tmp_path, None, None), threading.Barrier(2), threading.Event()

    @contextmanager
    def at_once(*_: object) -> Iterator[Callable[[], None]]:
        both.wait(60)
        yield lambda: None

    def taken_late(catalog: Catalog, search_id: str) -> str | None:
        time.sleep(0.5)
        return take(catalog, search_id)

    def asked() -> str:
        try:
            start(SearchSpec(series="s", budget=1, workers=1), home, io.StringIO())
        except RequestError as error:
            over.set()
            return str(error)
        except NoTrialSucceeded:
            return "run"
        return "with a trial"

    prepare(SearchSpec())  # imports of transformers are not for two threads at once
    take = Catalog.take
    monkeypatch.setattr(Catalog, "take", taken_late)
    monkeypatch.setattr("search.run.ray_session", at_once)
    monkeypatch.setattr("search.run.check_gpus", lambda *_: None)

    def run_to_end(run: Run, *_: object) -> None:
        over.wait(60)
        run._tracker.stop(60.0)

    monkeypatch.setattr(Run, "_run_to_end", run_to_end)
    with ThreadPoolExecutor(2) as pool:
        first, second = sorted(pool.map(lambda _: asked(), range(2)), key=len)
    assert first == "run"
    assert second.startswith("search demo of series s is being run by process")
    with closing(Catalog(home.storage)) as catalog:
        assert [search.name for search in catalog.searches()] == ["demo"]


def test_a_training_seed_is_had_once(catalog: Catalog) -> None:
    seeds = []
    for given in (None, 1, None, None):
        spec = seeded(catalog, SearchSpec(series="s", training_seed=given))
        catalog.create_search(f"n{len(seeds)}", spec.to_json(), FACTS)
        seeds.append(spec.training_seed)
    assert seeds == [0, 1, 2, 3]


def known(group: str, accuracy: float | None, times: int = 1) -> Known:
    return Known(Placement.of([group], 8), times, 1.1, accuracy, None if accuracy is None else 0.02, (), accuracy)


def test_what_is_known_is_the_mean_of_what_was_trained_to_the_end_else_the_newest() -> None:
    def trial(status: str, figure: float, ratio: float) -> TrialRecord:
        measured = {"latency": {"ratio": ratio}, "losses": [[20, figure]]}
        if status == "complete":
            measured["validation"] = {"accuracy": figure, "standard_error": 0.02, "loss": figure}
        placement = Placement.of(["o_proj"], 8)
        return cast(
            TrialRecord,
            SimpleNamespace(placement=placement, status=status, latency=measured["latency"], measurement=measured),
        )

    stopped = [trial("stopped", 0.9, 1.3), trial("stopped", 0.8, 1.5)]  # the newest first
    (known,) = _known([*stopped, trial("complete", 0.6, 1.1), trial("complete", 0.7, 1.2)])
    assert (known.times, known.losses) == (2, ((20, 0.6),))
    assert (known.ratio, known.accuracy, known.final) == pytest.approx((1.15, 0.65, 0.65))
    (known,) = _known(stopped)
    assert (known.times, known.ratio, known.accuracy, known.losses) == (0, 1.3, None, ((20, 0.9),))


@pytest.mark.parametrize("fact", ["data_hash", "structure", "model_digest", "template", "scoring"])
def test_what_makes_another_question(fact: str) -> None:
    spec = SearchSpec().to_json()
    assert _question({fact: "other"}, spec) != _question({fact: "one"}, spec) == _question({fact: "one"}, spec)


def test_what_may_be_better_and_is_known_little_is_measured_again_with_half_of_the_budget() -> None:
    before = Before(
        known=(
            known("best", 0.60),
            known("behind", 0.57),  # by more than a standard error
            known("well", 0.599, times=3),
            known("twice", 0.595, times=2),
            known("near", 0.585),
            known("nearer", 0.59),
            known("stopped", None, times=0),
        )
    )

    def again(budget: int, champion: str | None = None) -> list[str]:
        placement = champion and Placement.of([champion], 8)
        trial = cast(TrialRecord, SimpleNamespace(placement=placement)) if champion else None
        return [each.groups[0] for each in replace(before, champion=trial).again(budget)]

    assert again(20) == ["best", "nearer", "near", "twice"]
    assert again(5) == ["best", "nearer", "near"]
    assert again(2) == again(1) == ["best"]
    assert again(20, champion="near") == ["near", "best", "nearer", "behind", "twice"]
    assert again(20, champion="stopped")[0] == "best", "where it was never trained to the end"

    def told(budget: int, champion: str) -> list[str]:
        trial = cast(TrialRecord, SimpleNamespace(placement=Placement.of([champion], 8)))
        return replace(before, searches=("a",), champion=trial).notes("s", budget)

    known_at_no_cost = "series s: placements that earlier searches measured are known at no cost: 7; "
    assert told(1, "near") == [f"{known_at_no_cost}the champion near r8 is measured again first"]
    more = "is measured again first, then 1 other known little that may be better"
    assert told(3, "near") == [f"{known_at_no_cost}the champion near r8 {more}"]
    assert told(3, "stopped") == [f"{known_at_no_cost}the most accurate of them {more}"]


def test_a_search_knows_what_began_before_it_of_its_own_question(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = [night(catalog, name, {}, data=data)[0] for name, data in (("a", "d"), ("b", "e"), ("c", "d"))]
    assert [each.before.searches for each in prepared] == [(), (), ()]
    latest, _ = night(catalog, "n", {}, data="d")
    assert latest.before.searches == ("c",), "other data came between it and the first"

    def again(name: str | None) -> tuple[str, ...]:
        began = None if name is None else catalog.search(name).created_at
        return following(catalog, latest, began).before.searches

    assert (again("c"), again("n"), again(None)) == ((), ("c",), ("n", "c"))
    monkeypatch.setattr("search.series._LOOK_BACK", 1)
    assert again(None) == ("n",)


def test_what_broke_a_limit_is_known_and_what_failed_is_not(catalog: Catalog) -> None:
    prepared, _ = night(catalog, "a", {})
    search = catalog.create_search("b", prepared.spec.to_json(), prepared.facts)
    for number, status in enumerate(("infeasible", "stopped", "failed")):
        measurement = {"latency": latency(1.5), "losses": [[10, 2.0], [20, None]]}  # it diverged
        catalog.add_trial(search.id, number, Placement.of([f"{status}_proj"], 8), None)
        assert catalog.record(search.id, number, status, measurement=measurement)
    found = {each.placement.groups[0]: each for each in following(catalog, prepared).before.known}
    assert "failed_proj" not in found
    for status in ("infeasible", "stopped"):
        each = found[f"{status}_proj"]
        assert (each.times, each.ratio, each.accuracy, each.losses) == (0, 1.5, None, ())
