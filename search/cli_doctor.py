"""The command that says whether a home is whole, and mends it."""

from __future__ import annotations

import sys

import click

from search.home import known_home
from search.names import NO_SEARCH
from search.options import as_json, stores
from search.output import print_json


@click.command()
@click.argument("name", required=False)
@click.option("--fix", is_flag=True, help="Mend what can be mended without training.")
@stores
@as_json
def doctor(
    name: str | None,
    fix: bool,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Say whether catalog, study, MLflow and adapters agree, for search NAME or all; exit code 1 if they do not.

    \b
    Example:
      python -m search doctor --fix
    """
    from search.doctor import examine

    documents = examine(known_home(home, storage, tracking_uri), name, fix=fix)
    if as_json:
        print_json(documents)
    else:
        if not documents:
            click.echo(NO_SEARCH)
        for document in documents:
            click.echo(f"{document['search']}: {document['status']}, {document['holder'] or 'run by nobody'}")
            for kind in ("mended", "problems"):
                for sentence in document[kind]:
                    click.echo(f"  {kind.removesuffix('s')}: {sentence}")
    unread = {document["mlflow"] for document in documents} - {None}
    for reason in unread:
        click.echo(f"MLflow cannot be reached, so its runs were not compared ({reason}); nothing is lost", err=True)
    if any(document["problems"] for document in documents):
        sys.exit(1)
