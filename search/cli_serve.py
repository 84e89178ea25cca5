"""Commands of the service: the API, its tokens, and the secrets of a deployment."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click

from search.home import has_catalog, home_of, known_home, place_of
from search.names import SCOPES
from search.options import GIVEN, as_json, stores
from search.output import print_json


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; any other is open to the network.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8321, show_default=True)
@click.option(
    "--allow",
    multiple=True,
    type=GIVEN,
    metavar="DIR",
    help="Folder that requests may name models and data in. Several.",
)
@click.option(
    "--endpoint", multiple=True, type=GIVEN, metavar="URL", help="Server that requests may measure latency on. Several."
)
@click.option(
    "--at-once", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Searches side by side."
)
@stores
def serve(
    host: str,
    port: int,
    allow: tuple[str, ...],
    endpoint: tuple[str, ...],
    at_once: int,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    debug: bool,
) -> None:
    """Offer searches over HTTP: submit, watch, cancel, resume, export; with bearer tokens (docs/api.md).

    \b
    Example:
      python -m search token add me --scope write
      python -m search serve --allow /srv/models --allow /srv/data
    """
    from search.api.server import run_server

    run_server(
        home_of(home, storage, tracking_uri),
        host,
        port,
        roots=[Path(folder) for folder in allow],
        endpoints=endpoint,
        at_once=at_once,
    )


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. A name under which others reach it has to stand in MLFLOW_SERVER_ALLOWED_HOSTS.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@stores
def ui(host: str, port: int, home: str | None, storage: str | None, tracking_uri: str | None, debug: bool) -> None:
    """Serve the MLflow UI of this home's newest search, and print its address there.

    \b
    Example:
      python -m search ui --port 5001
    """
    from search.catalog.connect import clear_errors, is_there, parse
    from search.catalog.store import Catalog
    from search.listening import listening
    from search.mlflow_store import follow_artifacts, open_store, server_environment
    from search.tracking import page_of, refuse_unknown_kind

    place = home_of(home, storage, tracking_uri)
    with closing(Catalog(place.storage)) as catalog:
        searches = catalog.searches()
    uri = place.mlflow(searches[0] if searches else None)
    kept = replace(place, tracking=uri).mlflow_kept()
    searches = [each for each in searches if each.facts.get("tracking") in (None, kept)]  # others are not there
    refuse_unknown_kind(uri)
    if uri.startswith(("http://", "https://")):
        click.echo(f"the searches are at {page_of(uri, searches)}")
        return
    if uri.startswith("sqlite") and is_there(url := parse(uri)):
        with clear_errors(url):  # what is wrong with the file MLflow would tell by a traceback
            open_store(uri)
    for listener in listening(host, port):  # MLflow would tell of a port that is taken among all else that it tells
        listener.close()
    server = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    click.echo(f"MLflow UI at {page_of(server, searches)} (Ctrl-C ends it)", err=True)
    artifacts = place.mlflow_artifacts
    follow_artifacts(uri, artifacts)
    command = [sys.executable, "-m", "mlflow", "server", "--default-artifact-root", str(artifacts)]
    command += ["--host", host, "--port", str(port)]
    sys.stdout.flush()
    os.execve(sys.executable, command, os.environ | server_environment(uri))


@click.group()
def token() -> None:
    """Add, list and remove the bearer tokens of the API. The catalog keeps their hashes alone."""


@token.command("add")
@click.argument("name")
@click.option("--scope", type=click.Choice(SCOPES), required=True, help="What it may do; write includes read.")
@click.option("--days", type=click.IntRange(1, 36500), metavar="N", help="Valid for so long.  [default: until removed]")
@stores
def add(
    name: str,
    scope: str,
    days: int | None,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    debug: bool,
) -> None:
    """Make a token and print it, this once.

    \b
    Example:
      python -m search token add dashboard --scope read --days 90
    """
    from search.catalog.store import Catalog
    from search.catalog.tokens import add_token

    place = home_of(home, storage, tracking_uri)
    with closing(Catalog(place.storage)) as catalog:
        click.echo(add_token(catalog, name, scope, days, place.flags()))


@token.command("list")
@stores
@as_json
def list_(home: str | None, storage: str | None, tracking_uri: str | None, as_json: bool, debug: bool) -> None:
    """List the tokens by name, without what they are.

    \b
    Example:
      python -m search token list
    """
    from search.catalog.store import Catalog
    from search.catalog.tokens import tokens

    found = []
    if has_catalog(place := place_of(home, storage, tracking_uri)):
        with closing(Catalog(place.storage)) as catalog:
            found = tokens(catalog)
    if as_json:
        print_json(
            [
                {
                    "name": each.name,
                    "scope": each.scope,
                    "created_at": each.created_at.isoformat(),
                    "expires_at": each.expires_at and each.expires_at.isoformat(),
                    "expired": each.expired,
                }
                for each in found
            ]
        )
        return
    if not found:
        click.echo("No token yet: python -m search token add makes one.")
    for each in found:
        end = each.expires_at and f"{'expired' if each.expired else 'expires'} {each.expires_at:%Y-%m-%d %H:%M} UTC"
        click.echo(f"{each.name}  {each.scope}  {end or 'until removed'}")


@token.command("remove")
@click.argument("name")
@stores
def remove(name: str, home: str | None, storage: str | None, tracking_uri: str | None, debug: bool) -> None:
    """Remove a token; the next request with it is turned down.

    \b
    Example:
      python -m search token remove dashboard
    """
    from search.catalog.store import Catalog
    from search.catalog.tokens import remove_token

    with closing(Catalog(known_home(home, storage, tracking_uri).storage)) as catalog:
        remove_token(catalog, name)


@click.command()
def env() -> None:
    """Print random passwords for docker-compose.yml, which starts with none of its own (docs/compose.md).

    \b
    Example:
      (umask 077; python -m search env > .env)
    """
    if sys.stdout.isatty():
        click.echo("these are secrets: send them to a file, as in python -m search env > .env", err=True)
    for name in SECRETS:
        click.echo(f"{name}={secrets.token_urlsafe(24)}")


#: What docker-compose.yml refuses to start without.
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "RAY_AUTH_TOKEN")
