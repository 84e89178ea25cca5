"""Who is the champion of a series when one of its searches has ended: the one before, unless a better one was found."""

from __future__ import annotations

from typing import Any

from dashboards.format import decimal, interval, latency_name, metric_name, with_interval
from dashboards.words import export_command
from search.catalog import champions
from search.catalog.records import ChampionRecord, SearchRecord, TrialRecord
from search.catalog.store import Catalog
from search.comparison import Bounded, Measured, lead
from search.result import result_document
from search.series import Before


def crown(catalog: Catalog, search: SearchRecord, series: str, before: Before) -> ChampionRecord | None:
    """Decide, once, and record it; None if no trial of the search succeeded.

    What the search recommends takes the place of the champion if it is more accurate on the test split beyond the 95%
    interval of the difference, both trained in this search and scored on the same rows. One comparison a search: the
    challenger is chosen on validation, by the rule that weighs latency too, so the test rows decide nothing else.
    """
    document = result_document(catalog, search)
    if document["recommended"] is None:
        return None
    trials = {trial.number: trial for trial in catalog.trials(search.id)}
    challenger = trials[document["recommended"]["trial"]]
    champion = before.champion
    if champion is None:
        afresh = f"{before.changed}; champion" if before.changed else "champion"
        why = f"{afresh} of series {series}: {_in_words(challenger, document)}, as {search.name} recommends"
        return champions.decide(catalog, search.id, series, "crowned", challenger, why, _figures(challenger))
    again = next((trial for trial in trials.values() if trial.placement == champion.placement), None)
    verdict, why, difference = _decided(champion, again, challenger, document)
    figures = _figures(again) | {"challenger": _figures(challenger)}
    if difference is not None:
        figures |= {"difference": difference.value, "difference_ci": [difference.low, difference.high]}
    holder = challenger if verdict == "changed" else champion
    if verdict == "kept" and again is not None and again.test:
        # What was trained this time is another adapter, under another seed: its figures are not the champion's own.
        begun = catalog.search_of(champion.search_id).name
        why += f"; the adapter stays that of {begun}, {_test(champion, document)}"
    return champions.decide(catalog, search.id, series, verdict, holder, f"champion of series {series} {why}", figures)


def _decided(
    champion: TrialRecord, again: TrialRecord | None, challenger: TrialRecord, document: dict[str, Any]
) -> tuple[str, str, Bounded | None]:
    """``again`` is the champion's trial in this search. The verdict, its reason, and the challenger's lead."""
    if again is None or not again.test:
        reason = "its turn did not come" if again is None else again.reason or f"its trial is {again.status}"
        return "kept", f"unchanged: {champion.placement.label}, which was not measured again ({reason})", None
    old, new = _in_words(again, document), _in_words(challenger, document)
    if again.number == challenger.number:
        return "kept", f"unchanged: {old}, measured again and recommended again", None
    assert challenger.test
    ahead = lead(Measured.of(challenger.test), Measured.of(again.test))
    on_rows = f"{ahead.value:+.3f} {interval([ahead.low, ahead.high])} on the same {again.test['rows']} rows"
    if ahead.low > 0:
        return "changed", f"changed from {old} to {new}: {on_rows}", ahead
    why = f"unchanged: {old}, measured again; recommended is {new}, which is "
    why += f"worse ({on_rows})" if ahead.high < 0 else f"not better beyond the interval ({on_rows})"
    if ahead.high >= 0 and _is_faster(challenger, again):
        why += f", but faster: `{export_command(document)}` takes it"
    return "kept", why, ahead


def _is_faster(one: TrialRecord, other: TrialRecord) -> bool:
    """Beyond the intervals of both."""
    mine, theirs = (trial.latency.get("ratio_ci") for trial in (one, other))
    return bool(mine and theirs and mine[1] < theirs[0])


def _in_words(trial: TrialRecord, document: dict[str, Any]) -> str:
    latency = f"{latency_name(document['latency_axis'])} x{decimal(_figures(trial)['tpot_ratio'], 2)}"
    return f"{trial.placement.label} ({_test(trial, document)}, {latency})"


def _test(trial: TrialRecord, document: dict[str, Any]) -> str:
    found = _figures(trial)
    return f"test {metric_name(document['metric'])} {with_interval(found['accuracy'], found['accuracy_ci'])}"


def _figures(trial: TrialRecord | None) -> dict[str, Any]:
    """As this search measured them; None for what it did not."""
    test = (trial and trial.test) or {}
    latency = ((trial and trial.measurement) or {}).get("latency") or {}
    return {
        "label": trial and trial.placement.label,
        "trial": trial and trial.number,
        "accuracy": test.get("accuracy"),
        "accuracy_ci": test.get("accuracy_ci"),
        "tpot_ratio": latency.get("ratio"),
        "tpot_ratio_ci": latency.get("ratio_ci"),
    }
