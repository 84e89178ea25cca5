"""Commands for other programs: a placement for trainers and servers, and the schema of settings for editors."""

from __future__ import annotations

import click

from search.home import opened, place_of
from search.names import PICKS, TOOLS
from search.options import request, stores
from search.output import print_json


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

    place = (home, storage, tracking_uri)
    with opened(name, *place) as (catalog, search):
        click.echo(written(catalog, search, pick, tool, place_of(*place).flags()), nl=False)


@click.command()
def schema() -> None:
    """Print the JSON Schema of --config files, with which an editor checks and completes them.

    \b
    Example:
      python -m search schema > search.schema.json
    """
    from search.config import schema as written

    @request
    def flags() -> None:
        """Of `run`: their help describes the settings."""

    options = (option for option in click.command(flags).params if isinstance(option, click.Option))
    print_json(written({str(option.name): option.help or "" for option in options}))
