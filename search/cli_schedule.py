"""Commands that run a search again and again: schedules, their daemon and their history."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from objectives.errors import RequestError
from search import outside
from search.home import Home, has_catalog, home_of, known_home, place_of, read_home
from search.options import as_json, asked_for, request, stores
from search.output import print_json

_FIXED = ("name", "series", "home", "storage", "tracking_uri")
_name = click.argument("name")


@click.group()
def schedule() -> None:
    """Run a search every night, or whenever a cron expression says; `run` is the daemon that does it.

    \b
    Example:
      python -m search schedule add tickets --cron "0 2 * * *" -- --model ./llama --data ./tickets
      python -m search schedule run
    """


@schedule.command()
@_name
@click.option("--cron", required=True, metavar="EXPR", help="Minute, hour, day, month and weekday.")
@click.option("--timezone", default="UTC", show_default=True, metavar="ZONE", help="IANA name, as Europe/Berlin.")
@click.option(
    "--misfire",
    type=click.Choice(("once", "skip")),
    default="once",
    show_default=True,
    help="After an outage: run the last night that was missed, or none.",
)
@click.option("--notify", metavar="URL|env:NAME", help="Webhook (as of Slack) that hears how nights end.")
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- RUN FLAGS]")
@stores
@as_json
def add(
    name: str,
    cron: str,
    timezone: str,
    misfire: str,
    notify: str | None,
    flags: tuple[str, ...],
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Add schedule NAME; what follows -- are flags of `python -m search run`, read in this folder.

    \b
    Example:
      python -m search schedule add tickets --cron "0 2 * * *" --timezone Asia/Tokyo -- --model ./llama --data ./tickets
    """
    outside.schedule(name)
    if notify is not None:
        outside.webhook(notify)
    if tracking_uri is not None:
        click.echo(
            "note: --tracking-uri is not kept with the schedule: give it to `python -m search schedule run`, whose "
            "MLflow the nights of all schedules write to",
            err=True,
        )
    _check(flags)
    from search.catalog import schedules
    from search.schedule import utc_now

    place = home_of(home, storage, tracking_uri)
    with _opened(place) as catalog:
        record = schedules.add_schedule(
            catalog, name, cron, timezone, misfire, flags, _here(), utc_now(), notify, place.flags()
        )
    if as_json:
        print_json(_plain(record))
    else:
        click.echo(
            f"{name} runs next at {record.next_at:%Y-%m-%d %H:%M} UTC, while "
            f"`python -m search schedule run{place.flags()}` runs"
        )


@schedule.command("list")
@stores
@as_json
def list_(home: str | None, storage: str | None, tracking_uri: str | None, as_json: bool, debug: bool) -> None:
    """List all schedules, with the champion of each: the placement whose adapter its nights found best.

    \b
    Example:
      python -m search schedule list
    """
    from search.catalog import schedules

    rows: list[dict[str, Any]] = []
    if has_catalog(place := place_of(home, storage, tracking_uri)):
        with _opened(place) as catalog:
            rows = [_with_champion(catalog, record) for record in schedules.all_schedules(catalog)]
    columns = ("name", "cron", "timezone", "misfire", "paused", "next_at", "champion")
    _print(rows, columns, as_json, "No schedule yet: python -m search schedule add makes one.")


@schedule.command()
@_name
@stores
def remove(name: str, home: str | None, storage: str | None, tracking_uri: str | None, debug: bool) -> None:
    """Remove schedule NAME and its history; a night that runs is ended, and all searches stay.

    \b
    Example:
      python -m search schedule remove tickets
    """
    from search.catalog import schedules

    with _opened(known_home(home, storage, tracking_uri)) as catalog:
        schedules.remove_schedule(catalog, name)


@schedule.command()
@_name
@stores
def pause(name: str, home: str | None, storage: str | None, tracking_uri: str | None, debug: bool) -> None:
    """Start no more nights of schedule NAME until `unpause`; one that runs goes on.

    \b
    Example:
      python -m search schedule pause tickets
    """
    _pause(name, True, home, storage, tracking_uri)


@schedule.command()
@_name
@stores
def unpause(name: str, home: str | None, storage: str | None, tracking_uri: str | None, debug: bool) -> None:
    """Start nights of schedule NAME again; those that passed meanwhile are not made up for.

    \b
    Example:
      python -m search schedule unpause tickets
    """
    _pause(name, False, home, storage, tracking_uri)


@schedule.command()
@_name
@click.option("--last", type=click.IntRange(1), metavar="N", help="Show the newest N only.")
@stores
@as_json
def history(
    name: str,
    last: int | None,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Show the nights of schedule NAME, newest first: when, what came of it, what it cost, and who became champion.

    \b
    Example:
      python -m search schedule history tickets
    """
    from search.catalog import schedules
    from search.catalog.champions import champions

    place = read_home(home, storage, tracking_uri)
    with _opened(place) as catalog:
        nights = schedules.nights(catalog, name, last)
        names = {search.id: search.name for search in catalog.searches(name)}
        decided = {names[each.search_id]: each for each in champions(catalog, name)}
    rows = []
    for night in nights:
        found = decided.get(night.search)
        rows.append(_plain(night) | {"champion": found and found.why, "verdict": found and found.verdict})
    columns = ("tick", "search", "status", "result", "started_at", "ended_at", "seconds", "steps", "champion")
    _print(rows, columns, as_json, f"No night of {name} yet: python -m search schedule run{place.flags()} runs them.")


@schedule.command()
@stores
def run(home: str | None, storage: str | None, tracking_uri: str | None, debug: bool) -> None:
    """Run the nights of all schedules as they come due, until Ctrl-C or SIGTERM; several such daemons share the work.

    Each night's progress goes to a file in the home's folder `nights`.

    \b
    Example:
      python -m search schedule run
    """
    from search.schedule import Daemon

    place = home_of(home, storage, tracking_uri)

    def command(record: Any, night: Any, again: bool) -> list[str]:
        program, there = [sys.executable, "-m", "search"], ["--home", str(place.folder)]
        if again and catalog.find(night.search) is not None:
            return [*program, "resume", night.search, *there]
        return [*program, "run", "--name", night.search, "--series", record.name, *there, *record.flags]

    with _opened(place) as catalog:
        click.echo("nights run as they come due (Ctrl-C ends this)", err=True)
        Daemon(catalog, place.night_logs, command, environment=place.environment()).run()


@click.command("run", add_help_option=False)
@request
@stores
def _run_flags(config: str | None, data: tuple[str, ...], debug: bool, **flags: Any) -> None:
    # Not what the environment says: that is of the stores that the schedule has, too.
    source = click.get_current_context().get_parameter_source
    given = [each for each in _FIXED if source(each) is ParameterSource.COMMANDLINE]
    flags = {key: value for key, value in flags.items() if key not in _FIXED}
    if given:
        option = "--" + given[0].replace("_", "-")
        raise RequestError(
            f"{option} after -- is not a night's to choose: each has a name, and the schedule's series and stores"
        )
    specs = asked_for(config, data, flags)
    if len(specs) > 1:
        raise RequestError(f"{len(specs)} data sets are given: add a schedule for each")
    if (seed := specs[0].training_seed) is not None:
        raise RequestError(
            f"--training-seed {seed} would be that of every night, and each is to train under a new one: leave it out"
        )


def _here() -> str:
    """The folder that nights run in. Raises RequestError where it was deleted, or has a name that no catalog keeps."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError as error:
        raise RequestError("this folder was deleted, and nights would run in it: go to one that is there") from error
    if not outside.is_text(here):
        raise RequestError(
            f"this folder, {here!r}, has a name that is no text, and nights would run in it: go to another"
        )
    return here


def _check(flags: tuple[str, ...]) -> None:
    """Raises RequestError or click's own errors for what ``run`` would refuse before it begins."""
    _run_flags.main(list(flags), prog_name="python -m search run", standalone_mode=False)


@contextmanager
def _opened(place: Home) -> Iterator[Any]:
    from search.catalog.store import Catalog

    with closing(Catalog(place.storage)) as catalog:
        yield catalog


def _pause(name: str, paused: bool, *place: str | None) -> None:
    from search.catalog import schedules
    from search.schedule import utc_now

    with _opened(known_home(*place)) as catalog:
        schedules.pause(catalog, name, paused, utc_now())


def _with_champion(catalog: Any, record: Any) -> dict[str, Any]:
    from search.catalog.champions import current

    found = current(catalog, record.name)
    trial = None if found is None else catalog.trial(found.champion_search, found.champion_trial)
    return _plain(record) | {"champion": trial and trial.placement.label, "why": found and found.why}


def _plain(record: Any) -> dict[str, Any]:
    hidden = ("owner", "heartbeat_at")
    values = asdict(record)
    if values.get("notify") is not None:
        from search.notify import shown

        values["notify"] = shown(values["notify"])
    return {
        key: value.isoformat() if isinstance(value, datetime) else value
        for key, value in values.items()
        if key not in hidden
    }


def _print(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool, none: str) -> None:
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(none)
        return
    from search.console import open_console, show

    header = [column.replace("_", " ") + (" (UTC)" if column in _TIMES else "") for column in columns]
    cells = [[_cell(column, row[column]) for column in columns] for row in rows]
    show(open_console(sys.stdout), header, cells, len(columns))


_TIMES = ("tick", "next_at", "started_at", "ended_at")


def _cell(column: str, value: Any) -> str:
    """As a person reads it; --json has times and seconds as they are."""
    if value is None:
        return ""
    if column in _TIMES:
        return f"{datetime.fromisoformat(value):%Y-%m-%d %H:%M}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.0f}" if isinstance(value, float) else str(value)
