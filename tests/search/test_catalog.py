"""The contract of the catalog, which every backend keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, event, text

from objectives.errors import RequestError, StoreError
from objectives.placement import BASE, Placement
from search.catalog import Catalog
from search.catalog.migrate import config
from search.catalog.models import Base
from search.catalog.outbox import backlog, delivered, pending, undelivered
from search.catalog.profiles import good_profile, profile_of, replace_profile, store_profile
from tests import forked
from tests.commands import environment
from tests.search.recorded import begin_when

O_PROJ = Placement.of(["o_proj"], 8)


def repeated(action: Callable[[int], Any], times: int = 8) -> list[Any]:
    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(action, range(times)))


def test_a_search_is_read_as_it_was_written(catalog: Catalog) -> None:
    before = datetime.now(UTC)
    made = catalog.create_search("trec", {"model": "m", "ranks": [4, 8]}, {"data_hash": "ab"})
    assert catalog.search("trec") == catalog.search_of(made.id) == made
    assert (made.status, made.elapsed_s, made.base, made.reason) == ("running", 0.0, None, None)
    assert before <= made.created_at <= datetime.now(UTC)
    assert made.created_at.utcoffset() == timedelta(0)
    assert [(row.kind, row.search_id, row.trial) for row in pending(catalog)] == [("search", made.id, None)]


def test_a_name_that_exists_is_refused_and_nothing_is_written(catalog: Catalog) -> None:
    made = catalog.create_search("trec", {}, {})
    catalog.add_trial(made.id, 0, O_PROJ, None)
    with pytest.raises(RequestError) as refusal:
        catalog.create_search("trec", {}, {})
    assert str(refusal.value) == (
        "a search named 'trec' exists already (running, 1 trial): choose another --name, "
        "or continue it with `python -m search resume trec`"
    )
    assert len(catalog.searches()) == backlog(catalog) == 1


def test_an_unknown_name_is_answered_with_known_ones(catalog: Catalog) -> None:
    with pytest.raises(
        RequestError, match=r"^no search is named 'x': none exists in '\w+.*' yet, `python -m search run`"
    ):
        catalog.search("x")
    for number in range(7):
        catalog.create_search(f"s{number}", {}, {})
    with pytest.raises(RequestError) as refusal:
        catalog.search("x")
    assert str(refusal.value) == "no search is named 'x': known are 's6', 's5', 's4', 's3', 's2' and 2 more."


def test_searches_come_newest_first(catalog: Catalog) -> None:
    for name in "abc":
        catalog.create_search(name, {}, {})
    assert [search.name for search in catalog.searches()] == ["c", "b", "a"]


def test_seconds_add_up_over_resumes(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    catalog.set_status(made.id, "interrupted", "Ctrl-C", elapsed_s=2.5)
    stopped = catalog.search("a")
    assert (stopped.status, stopped.reason, stopped.elapsed_s) == ("interrupted", "Ctrl-C", 2.5)
    assert stopped.ended_at is not None
    catalog.set_status(made.id, "running")
    assert (catalog.search("a").ended_at, catalog.search("a").reason) == (None, None)
    catalog.set_status(made.id, "complete", elapsed_s=1.5)
    assert (catalog.search("a").status, catalog.search("a").elapsed_s) == ("complete", 4.0)
    assert [row.kind for row in pending(catalog)] == ["search", "result", "search", "result"]


def test_a_trial_is_read_as_it_was_written(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    catalog.add_trial(made.id, 3, O_PROJ, "o_proj only")
    asked = catalog.trial(made.id, 3)
    assert (asked.placement, asked.reference, asked.status, asked.attempts) == (O_PROJ, "o_proj only", "running", 1)
    assert catalog.record(
        made.id, 3, "complete", measurement={"parameters": 5}, steps=9, adapter="a/3", adapter_sha256="ff"
    )
    catalog.record_test(made.id, 3, {"accuracy": 0.5})
    (ended,) = catalog.trials(made.id)
    assert (ended.status, ended.measurement, ended.test) == ("complete", {"parameters": 5}, {"accuracy": 0.5})
    assert (ended.steps, ended.adapter, ended.adapter_sha256) == (9, "a/3", "ff")
    assert ended.ended_at is not None
    assert ended.ended_at >= ended.asked_at
    assert [(row.kind, row.trial) for row in pending(catalog)] == [("search", None), ("trial", 3)]


def test_trials_come_by_number_and_the_base_model_may_be_one(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    for number, placement in [(2, BASE), (0, O_PROJ), (1, Placement.of(["q_proj"], 8))]:
        catalog.add_trial(made.id, number, placement, None)
    assert [trial.number for trial in catalog.trials(made.id)] == [0, 1, 2]
    assert catalog.trial(made.id, 2).placement == BASE


@pytest.mark.parametrize(("number", "placement"), [(0, Placement.of(["q_proj"], 8)), (1, O_PROJ)])
def test_neither_a_number_nor_a_placement_repeats_within_a_search(
    catalog: Catalog, number: int, placement: Placement
) -> None:
    first, second = catalog.create_search("a", {}, {}), catalog.create_search("b", {}, {})
    catalog.add_trial(first.id, 0, O_PROJ, None)
    catalog.add_trial(second.id, 0, O_PROJ, None)
    with pytest.raises(ValueError, match="is a repeat"):
        catalog.add_trial(first.id, number, placement, None)


def test_a_late_result_changes_nothing(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    catalog.add_trial(made.id, 0, O_PROJ, None)
    assert catalog.record(made.id, 0, "failed", reason="out of memory", measurement=None)
    ended = catalog.trial(made.id, 0)
    assert not catalog.record(made.id, 0, "complete", measurement={"parameters": 5})
    catalog.restart(made.id, 0)
    assert catalog.trial(made.id, 0) == ended
    assert not catalog.record(made.id, 1, "complete", measurement=None)
    assert backlog(catalog) == 2


def test_of_many_results_at_once_one_counts(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    catalog.add_trial(made.id, 0, O_PROJ, None)
    counted = repeated(lambda number: catalog.record(made.id, 0, "complete", measurement={"by": number}))
    assert counted.count(True) == 1
    assert catalog.trial(made.id, 0).measurement == {"by": counted.index(True)}
    assert backlog(catalog) == 2


def test_a_result_and_its_outbox_row_stand_or_fall_together(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    catalog.add_trial(made.id, 0, O_PROJ, None)
    with create_engine(catalog.url).begin() as connection:
        connection.execute(text("ALTER TABLE catalog_outbox RENAME TO elsewhere"))
    with pytest.raises(Exception, match="catalog_outbox"):
        catalog.record(made.id, 0, "complete", measurement={})
    assert catalog.trial(made.id, 0).status == "running"


def test_a_restarted_trial_counts_its_attempts(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    catalog.add_trial(made.id, 0, O_PROJ, None)
    asked = catalog.trial(made.id, 0).asked_at
    catalog.restart(made.id, 0)
    assert (catalog.trial(made.id, 0).attempts, catalog.trial(made.id, 0).status) == (2, "running")
    assert catalog.trial(made.id, 0).asked_at > asked


def test_the_test_split_joins_the_base_measurement(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    catalog.set_base(made.id, {"accuracy": 0.2})
    catalog.record_test(made.id, None, {"accuracy": 0.3, "rows": 10})
    assert catalog.search("a").base == {"accuracy": 0.2, "test": {"accuracy": 0.3, "rows": 10}}
    with pytest.raises(KeyError):
        catalog.record_test(made.id, 7, {})
    with pytest.raises(KeyError):
        catalog.search_of("nobody")


def test_the_first_latency_profile_of_a_key_stands(catalog: Catalog) -> None:
    assert profile_of(catalog, "k") is None
    good = {"ratio": 1.2, "ratio_ci": [1.19, 1.21]}
    store_profile(catalog, "k", good | {"ratio_ci": [0.9, 1.5]})  # of a command that was content with less
    assert good_profile(catalog, "k") is None
    repeated(lambda number: store_profile(catalog, "k", good | {"by": number}))
    first = good_profile(catalog, "k")
    store_profile(catalog, "k", good | {"by": "later"})
    assert profile_of(catalog, "k") == good_profile(catalog, "k") == first is not None


def test_a_profile_that_was_asked_for_anew_replaces_the_old_one(catalog: Catalog) -> None:
    replace_profile(catalog, "k", {"by": 1})
    replace_profile(catalog, "k", {"by": 2})
    assert profile_of(catalog, "k") == {"by": 2}


def test_of_two_profiles_at_one_moment_one_stands_and_none_is_an_error(postgres: str) -> None:
    """The second looks, the first is stored, and only then the second writes."""
    good = {"ratio": 1.2, "ratio_ci": [1.19, 1.21]}
    with closing(Catalog(postgres)) as first, closing(Catalog(postgres)) as second:
        for put, key, stands in ((store_profile, "stored", 1), (replace_profile, "replaced", 2)):

            def between(*_: object) -> None:
                store_profile(first, key, good | {"by": 1})  # noqa: B023

            event.listen(second._engine, "after_cursor_execute", between, once=True)
            put(second, key, good | {"by": 2})
            assert profile_of(first, key) == good | {"by": stands}


def test_the_outbox_is_a_queue(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    for _ in range(3):
        catalog.set_status(made.id, "running")
    first, second, third, fourth = (row.id for row in pending(catalog))
    assert first < second < third < fourth
    delivered(catalog, second)
    undelivered(catalog, first, "no answer")
    assert [(row.id, row.attempts, row.error) for row in pending(catalog, 2)] == [
        (first, 1, "no answer"),
        (third, 0, None),
    ]
    assert backlog(catalog) == 3
    with create_engine(catalog.url).connect() as connection:
        kept = connection.scalars(text("SELECT id FROM catalog_outbox ORDER BY id")).all()
    assert kept == [first, third, fourth], "what was delivered takes no room"


def test_what_earlier_versions_have_delivered_is_not_delivered_again(storage: str) -> None:
    with closing(Catalog(storage)) as catalog:
        search = catalog.create_search("old", {}, {})
        catalog.set_status(search.id, "complete")
        told, waits = pending(catalog)
        engine = create_engine(catalog.url)
    with engine.begin() as connection:
        command.downgrade(config(connection), "0007")
        connection.execute(text(f"UPDATE catalog_outbox SET delivered_at = created_at WHERE id = {told.id}"))
    with closing(Catalog(storage)) as catalog:
        assert pending(catalog) == [waits]
        catalog.set_status(search.id, "running")
        assert [row.id for row in pending(catalog)] == [waits.id, waits.id + 1]
    engine.dispose()


@pytest.mark.parametrize("kept", ["a NUL \0", "half a pair \ud83d", "a path of another encoding \udcff"])
def test_text_that_a_database_cannot_read_keeps_no_other_search_from_mlflow(catalog: Catalog, kept: str) -> None:
    facts = {"plain": {"tracking": "http://mlflow"}, "odd": {"tracking": "http://mlflow", "data": kept}, "unknown": {}}
    tracked = [catalog.create_search(name, {}, of).id for name, of in facts.items()]
    catalog.create_search("elsewhere", {}, {"tracking": "http://other"})
    assert [row.search_id for row in pending(catalog, tracking="http://mlflow")] == tracked
    assert backlog(catalog, "http://mlflow") == 3
    assert backlog(catalog) == 4


def test_mlflow_ids_are_kept(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    catalog.add_trial(made.id, 0, O_PROJ, None)
    catalog.set_mlflow_search(made.id, "1", "parent")
    catalog.set_mlflow_trial(made.id, 0, "child")
    assert (catalog.search("a").mlflow_experiment_id, catalog.search("a").mlflow_run_id) == ("1", "parent")
    assert catalog.trial(made.id, 0).mlflow_run_id == "child"


def test_only_one_process_at_a_purpose(catalog: Catalog) -> None:
    other = Catalog(catalog.url)
    with catalog.sole("tracking") as mine, other.sole("tracking") as theirs, other.sole("another") as free:
        assert (mine, theirs, free) == (True, False, True)
    with other.sole("tracking") as theirs:
        assert theirs
    other.close()


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurement=st.dictionaries(st.text(), json_values), reason=st.text())
def test_any_measurement_survives(catalog: Catalog, measurement: dict[str, Any], reason: str) -> None:
    kept = {"any": measurement}  # the catalog reads settings, such as the series, which are checked before
    made = catalog.create_search(f"s{len(catalog.searches())}", kept, kept)
    catalog.add_trial(made.id, 0, O_PROJ, reason)
    catalog.record(made.id, 0, "failed", reason=reason, measurement=measurement)
    trial = catalog.trial(made.id, 0)
    assert (trial.measurement, trial.reason) == (measurement, reason.replace("\0", "\ufffd"))
    assert catalog.search_of(made.id).spec == kept


def test_what_is_not_finite_is_null(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    catalog.set_base(made.id, {"loss": float("nan"), "losses": [(1, float("inf"))], "text": "NaN \ud800"})
    assert catalog.search("a").base == {"loss": None, "losses": [[1, None]], "text": "NaN \ud800"}


# The database itself


def test_a_second_start_finds_everything(storage: str) -> None:
    first = Catalog(storage)
    made = first.create_search("a", {}, {})
    first.close()
    second = Catalog(storage)
    assert second.search("a") == made
    second.close()


def test_first_starts_at_once_all_succeed(storage: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with ExitStack() as stack:
        started = partial(forked.started, begin_when, go, storage, environment=environment())
        starts = [stack.enter_context(started(str(name))) for name in range(8)]
        go.touch()
        for start in starts:
            start.join(60)
        assert [start.exitcode for start in starts] == [0] * 8
    with closing(Catalog(storage)) as catalog:
        assert len(catalog.searches()) == 8


def test_optuna_lives_in_the_same_database(storage: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    catalog = Catalog(storage)
    made = catalog.create_search("a", {}, {})
    study = optuna.create_study(storage=catalog.url, study_name="a")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with closing(Catalog(storage)) as other:
        assert optuna.load_study(storage=other.url, study_name="a").best_value == 1.0
    assert catalog.searches() == [made]
    catalog.close()


def test_migrations_lead_to_the_models(catalog: Catalog) -> None:
    with create_engine(catalog.url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "catalog_version"})
        assert compare_metadata(context, Base.metadata) == []


def test_searches_of_earlier_versions_have_the_settings_that_they_ran_under(storage: str) -> None:
    catalog = Catalog(storage)
    catalog.create_search("old", {"budget": 7}, {})
    catalog.create_search("new", {"budget": 7, "alpha": "16", "label_weight": 2.0}, {})
    engine = create_engine(catalog.url)
    catalog.close()
    with engine.begin() as connection:
        command.downgrade(config(connection), "0006")
        connection.execute(text("UPDATE catalog_version SET version_num = '0005'"))
    catalog = Catalog(storage)
    assert catalog.search("old").spec == {"budget": 7, "alpha": "2r", "label_weight": 0.0}
    assert catalog.search("new").spec == {"budget": 7, "alpha": "16", "label_weight": 2.0}
    assert (catalog.search("old").alpha_at(8), catalog.search("old").label_weight) == (16, 0.0)
    with engine.begin() as connection:
        command.downgrade(config(connection), "0005")
    with engine.connect() as connection:
        specs = connection.execute(text("SELECT spec FROM catalog_searches")).scalars()
        assert [json.loads(spec) if isinstance(spec, str) else spec for spec in specs] == [{"budget": 7}] * 2


def test_a_database_of_a_newer_version_is_left_alone(storage: str) -> None:
    catalog = Catalog(storage)
    with create_engine(catalog.url).begin() as connection:
        connection.execute(text("UPDATE catalog_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"was written by a newer version of this program \(schema 9999\): upgrade"):
        Catalog(storage)
