"""Commands over several tasks: searches of the standard list, and their comparison."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import click

from search.home import home_of, read_home
from search.options import GIVEN, as_json, asked_for, question, stores, trials
from search.output import print_json, print_result, write_page
from search.spec import SearchSpec


@click.command()
@question
@trials
@stores
@as_json
def ablate(
    config: str | None,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    as_json: bool,
    debug: bool,
    data: tuple[str, ...],
    **flags: Any,
) -> None:
    """Train the placements that people copy, and no others, on every data set, and compare them across tasks.

    They are: attention output, with the down projection, q + v, attention, MLP, all linear; with the middle one of
    --ranks. Each data set has a search of its own, which `resume` continues.

    \b
    Example:
      python -m search ablate --model ./llama --data ./tickets --data ./mails --ranks 8
    """
    specs, place = asked_for(config, data, flags), home_of(home, storage, tracking_uri)
    print_several(specs, place, as_json, standard_list=True)


def print_several(specs: Sequence[SearchSpec], home: Any, as_json: bool, *, standard_list: bool = False) -> None:
    """Run one search for each spec, and print their comparison."""
    from search.several import run_each

    document = run_each(specs, home, standard_list=standard_list)
    if as_json:
        print_json(document)
    elif document["comparison"]:
        _print_comparison(document["comparison"])
    else:
        for each in document["searches"]:
            print_result(each, as_json, home.flags())


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME NAME...")
@click.option("--max-tpot-ratio", type=float, metavar="X", help="The default may be up to X times as slow as the base.")
@click.option(
    "--split",
    type=click.Choice(("validation", "test")),
    default="validation",
    show_default=True,
    help="Of which all figures are; test was read for fronts alone.",
)
@click.option(
    "--baseline",
    metavar="PLACEMENT",
    help="Tell the default against this one, as 'q_proj+v_proj r8'.  [default: that of the searches]",
)
@click.option("--out", type=GIVEN, metavar="FILE.html", help="Also write a page with heat map and tables.")
@stores
@as_json
def compare(
    names: tuple[str, ...],
    max_tpot_ratio: float | None,
    split: str,
    baseline: str | None,
    out: str | None,
    home: str | None,
    storage: str | None,
    tracking_uri: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Compare placements across the searches NAME, each of one task: gain, regret, and one robust default.

    The model must be the same; placements that all searches completed are compared.

    \b
    Example:
      python -m search compare llama-tickets llama-mails --max-tpot-ratio 1.3
    """
    SearchSpec(max_tpot_ratio=max_tpot_ratio, baseline=baseline)  # refuses what run refuses
    from search.across import comparison_document
    from search.catalog.store import Catalog

    place = read_home(home, storage, tracking_uri)
    with closing(Catalog(place.storage)) as catalog:
        document = comparison_document(
            catalog, names, split=split, max_tpot_ratio=max_tpot_ratio, baseline=baseline, flags=place.flags()
        )
    if out is not None:
        from dashboards.report import comparison_page

        write_page(comparison_page(document), out, quiet=as_json)
    if as_json:
        print_json(document)
    else:
        _print_comparison(document)


def _print_comparison(document: dict[str, Any]) -> None:
    from search.terminal import print_comparison

    print_comparison(document, sys.stdout)
