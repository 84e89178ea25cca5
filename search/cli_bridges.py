"""Commands for other programs: a placement in the words of trainers and servers."""

from __future__ import annotations

import click

from search.names import PICKS, TOOLS
from search.options import opened, stores


@click.command()
@click.argument("name")
@click.option("--for", "tool", type=click.Choice(TOOLS), required=True, help="Who is to read it.")
@click.option("--pick", default="recommended", show_default=True, metavar="WHICH", help=f"One of {PICKS}.")
@stores
def recipe(
    name: str, tool: str, pick: str, home: str | None, storage: str | None, tracking_uri: str | None, debug: bool
) -> None:
    """Print the lines with which another tool trains a placement of search NAME anew, or serves its adapter.

    \b
    Example:
      python -m search recipe demo --for llama-factory > lora.yaml
      python -m search recipe demo --for vllm --pick knee
    """
    from search.recipes import recipe as written

    with opened(name, home, storage, tracking_uri) as (catalog, search):
        click.echo(written(catalog, search, pick, tool), nl=False)
