"""Commands and their flags. Heavy imports wait inside the commands, so that help is quick."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from objectives.errors import RequestError
from objectives.latency.settings import LatencySettings
from search.cli_across import ablate, compare, print_several
from search.cli_bridges import recipe, schema
from search.cli_doctor import doctor
from search.cli_remove import remove
from search.cli_schedule import schedule
from search.cli_serve import env, serve, token, ui
from search.home import has_catalog, home_of, known_home, opened, place_of
from search.names import PICKS
from search.options import (
    GIVEN,
    as_json,
    asked_for,
    debug,
    latency_protocol,
    request,
    stores,
    structure,
    trust_remote_code,
)
from search.output import print_json, print_result, write_page
from search.spec import SearchSpec, parse_numbers, parse_ranks


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="lora-target-search")
def cli() -> None:
    """Which modules should a LoRA adapter target, on your model, your task and your hardware?

    Trains and measures placements, and gives the front of accuracy against serving latency, one recommended placement
    with its evidence, and the trained adapter.

    \b
    Example:
      python -m search run --model ./llama --data ./tickets.jsonl --budget 40
      python -m search export llama-tickets --out ./adapter
    """


@cli.command()
@request
@stores
@as_json
def run(
    config: str | None,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    as_json: bool,
    debug: bool,
    data: tuple[str, ...],
    **flags: Any,
) -> None:
    """Search the placements of one model on one task, or on several, one after another.

    With no flags at all, a small model and task that ship with the package are searched.

    \b
    Example:
      python -m search run --model ./llama --data ./tickets --budget 24 --steps 200 --ranks 8
    """
    specs, place = asked_for(config, data, flags), home_of(home, storage, tracking_uri)
    if len(specs) > 1:
        print_several(specs, place, as_json)
        return
    from search.run import start

    print_result(start(specs[0], place), as_json, place.flags())


@cli.command()
@click.argument("name")
@click.option("--budget", type=click.IntRange(1), metavar="N", help="New budget, counted from the start of the search.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Trials side by side.")
@click.option(
    "--max-hours",
    type=float,
    metavar="H",
    help="As for run, counted from now.  [default: as last given]",
)
@click.option("--ray-address", metavar="A", help="Where the search's Ray cluster is now.  [default: as last given]")
@stores
@as_json
def resume(
    name: str,
    budget: int | None,
    workers: int | None,
    max_hours: float | None,
    ray_address: str | None,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Continue search NAME to its budget after an interruption, or to a larger one.

    \b
    Example:
      python -m search resume demo --budget 60
    """
    from search.run import resume as continue_search

    place = known_home(home, storage, tracking_uri)
    document = continue_search(
        name, place, budget=budget, workers=workers, max_hours=max_hours, ray_address=ray_address
    )
    print_result(document, as_json, place.flags())


def _document(name: str, *place: str | None) -> dict[str, Any]:
    from search.result import result_document

    with opened(name, *place) as (catalog, search):
        return result_document(catalog, search)


for each in (ablate, compare, recipe, schema, doctor, remove, schedule, serve, token, env, ui):
    cli.add_command(each)


@cli.command()
@click.argument("name")
@stores
@as_json
def show(
    name: str, home: str | None, storage: str | None, tracking_uri: str | None, as_json: bool, debug: bool
) -> None:
    """Show the result of search NAME, also while it runs.

    \b
    Example:
      python -m search show demo --json
    """
    place = (home, storage, tracking_uri)
    print_result(_document(name, *place), as_json, place_of(*place).flags())


@cli.command("list")
@click.option("--last", type=click.IntRange(1), metavar="N", help="Show the newest N only.")
@stores
@as_json
def list_(
    last: int | None, home: str | None, storage: str | None, tracking_uri: str | None, as_json: bool, debug: bool
) -> None:
    """List all searches, newest first.

    \b
    Example:
      python -m search list --last 20
    """
    from search.catalog.pages import page
    from search.catalog.store import Catalog
    from search.result import result_rows

    rows = []
    if has_catalog(place := place_of(home, storage, tracking_uri)):
        with closing(Catalog(place.storage)) as catalog:
            rows = result_rows(catalog, catalog.searches() if last is None else page(catalog, last)[0])
    if as_json:
        print_json(rows)
    else:
        from search.terminal import print_list

        print_list(rows, sys.stdout)


@cli.command()
@click.argument("name")
@click.option("--pick", default="recommended", show_default=True, metavar="WHICH", help=f"One of {PICKS}.")
@click.option("--out", required=True, type=GIVEN, metavar="DIR", help="New or empty folder for the adapter.")
@stores
@as_json
def export(
    name: str,
    pick: str,
    out: str,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Copy a trained adapter of search NAME to a folder that PEFT loads, with a manifest of where it comes from.

    \b
    Example:
      python -m search export demo --pick recommended --out ./adapter
    """
    from search.export import export_adapter

    with opened(name, home, storage, tracking_uri) as (catalog, search):
        manifest = export_adapter(catalog, search, pick, Path(out))
    if as_json:
        print_json(manifest)
    else:
        click.echo(
            f"{manifest['label']} (trial {manifest['trial']}) of {name} is in {out}; {out}/README.md shows its use"
        )


@cli.command()
@click.argument("folder", type=GIVEN, metavar="DIR")
@click.option("--model", metavar="DIR|HUB_ID", help="Base model.  [default: the manifest's]")
@click.option("--data", metavar="DIR|FILE|HUB_ID", help="Data.  [default: the manifest's]")
@trust_remote_code
@as_json
@debug
def verify(
    folder: str, model: str | None, data: str | None, trust_remote_code: bool | None, as_json: bool, debug: bool
) -> None:
    """Load an exported adapter with PEFT and measure it again on the test split of its search.

    \b
    Example:
      python -m search verify ./adapter
    """
    from dashboards.format import metric_name
    from search.export import verify_adapter

    result = verify_adapter(Path(folder), model, data, bool(trust_remote_code))
    if as_json:
        print_json(result)
    else:
        metric = metric_name(result["metric"])
        click.echo(f"test {metric}: recorded {result['recorded']!r}, measured again {result['measured']!r}")
    if result["measured"] != result["recorded"]:
        raise RequestError(
            f"{folder} measures {result['measured']!r} instead of {result['recorded']!r}: another device or version "
            "rounds differently (see the manifest), or model, data or adapter have changed"
        )


@cli.command()
@click.argument("name")
@click.option("--out", type=GIVEN, metavar="FILE.html", help="The page to write.")
@click.option(
    "--figures",
    type=GIVEN,
    metavar="DIR",
    help="Folder for the figures as SVG and PNG; needs the extra figures, and Chromium.",
)
@stores
def report(
    name: str,
    out: str | None,
    figures: str | None,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    debug: bool,
) -> None:
    """Write search NAME as one self-contained HTML page, its figures as files, or both.

    \b
    Example:
      python -m search report demo --out demo.html --figures ./figures
    """
    from dashboards.report import report_page

    if out is None and figures is None:
        raise click.UsageError("nothing to write: give --out FILE.html, --figures DIR, or both")
    place = home, storage, tracking_uri
    document = _document(name, *place)
    if out is not None:
        write_page(report_page(document, place_of(*place).flags()), out)
    if figures is not None:
        from dashboards.pictures import write_pictures

        for path in write_pictures(document, Path(figures)):
            click.echo(f"{path} written")


@cli.command()
@structure
@click.option("--rank", type=click.IntRange(1), default=8, show_default=True, help="At which parameters are counted.")
@as_json
@debug
def modules(
    model: str | None,
    bands: int | None,
    trust_remote_code: bool | None,
    rank: int,
    as_json: bool,
    debug: bool,
) -> None:
    """Show what an adapter can target on a model, what it costs, and what was left out. A config.json is enough.

    \b
    Example:
      python -m search modules --model ./llama --bands 3
    """
    from search.inspection import modules_document

    document = modules_document(
        SearchSpec(model=model, bands=1 if bands is None else bands, trust_remote_code=bool(trust_remote_code)), rank
    )
    if as_json:
        print_json(document)
    else:
        from search.terminal import print_modules

        print_modules(document, sys.stdout)


@cli.command()
@structure
@click.option("--ranks", default="8", show_default=True, metavar="R,R", help="LoRA ranks to measure.")
@latency_protocol
@click.option("--home", metavar="DIR", help="Folder of the catalog.  [default: $SEARCH_HOME or ./.search]")
@click.option(
    "--storage",
    metavar="URL",
    envvar="SEARCH_STORAGE",
    help="SQLAlchemy URL of the catalog.  [default: $SEARCH_STORAGE or SQLite in the home]",
)
@as_json
@debug
def latency(
    model: str | None,
    bands: int | None,
    trust_remote_code: bool | None,
    ranks: str,
    engine: str | None,
    endpoint: str | None,
    prompt_tokens: int,
    output_tokens: int,
    concurrency: str,
    graphs: bool,
    half_width: float,
    max_seconds: float,
    fresh: bool,
    seed: int,
    home: str | None,
    storage: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Show what unmerged adapters cost when served: a dozen placements measured, the others predicted; no training.

    \b
    Example:
      python -m search latency --model ./llama --ranks 8,64
    """
    from search.latency import latency_command

    spec = SearchSpec(
        model=model,
        bands=1 if bands is None else bands,
        trust_remote_code=bool(trust_remote_code),
        ranks=parse_ranks(ranks),
        seed=seed,
        engine=engine or "transformers",
        endpoint=endpoint,
    )
    settings = LatencySettings(
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        half_width=half_width,
        max_seconds=max_seconds,
        graphs=graphs,
    )
    document = latency_command(
        spec, settings, parse_numbers("--concurrency", concurrency), home_of(home, storage, None).storage, fresh=fresh
    )
    if as_json:
        print_json(document)
    else:
        from search.terminal import print_latency

        print_latency(document, sys.stdout)
