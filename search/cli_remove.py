"""The command that removes searches."""

from __future__ import annotations

import sys
from contextlib import closing

import click

from objectives.errors import RequestError, counted
from search.home import known_home
from search.options import as_json, stores
from search.output import print_json


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-mlflow", is_flag=True, help="Leave its runs, and what they keep, in MLflow.")
@stores
@as_json
def remove(
    names: tuple[str, ...],
    yes: bool,
    keep_mlflow: bool,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Delete searches with their trials, adapters, checkpoints and logs; what was exported stays.

    Their runs go to MLflow's trash, which keeps figures; adapters of this home's own MLflow are deleted, others go with
    the server's `mlflow gc`. The search of a series' champion is refused while others of the series stay.

    \b
    Example:
      python -m search remove demo tickets-0001
    """
    from search.catalog.store import Catalog
    from search.removal import removable
    from search.removal import remove as remove_one

    place = known_home(home, storage, tracking_uri)
    removed = []
    with closing(Catalog(place.storage)) as catalog:
        searches = removable(catalog, names)
        if not yes:
            kept = [trial for each in searches for trial in catalog.trials(each.id) if trial.adapter is not None]
            if not _agreed(", ".join(each.name for each in searches), counted(len(kept), "trained adapter"), as_json):
                click.echo("nothing was removed", err=True)
                return
        for search in searches:
            removed.append(document := remove_one(catalog, place, search, keep_mlflow=keep_mlflow))
            runs = "its runs in MLflow stay" if keep_mlflow else f"runs in MLflow's trash: {document['mlflow_runs']}"
            click.echo(f"{search.name} removed, with {counted(document['trials'], 'trial')}; {runs}", err=as_json)
            for folder in document["left"]:
                click.echo(f"note: adapters at {folder} are not of this home, and stay", err=True)
    if as_json:
        print_json(removed)


def _agreed(searches: str, adapters: str, as_json: bool) -> bool:
    """Raises RequestError where nobody can answer."""
    if as_json or not sys.stdin.isatty():
        raise RequestError(f"remove asks before it deletes {searches}, and nobody can answer here: add --yes")
    return click.confirm(f"Delete {searches} with {adapters}?", err=True)
