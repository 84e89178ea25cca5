"""Writes docs/cli.md from the command line's own help.

python -m docs.make_cli            writes the page
python -m docs.make_cli --check    exits with 1 if the page is not what this run would write
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from search.cli import cli

PAGE = Path(__file__).with_name("cli.md")
HEAD = """\
# Command line

Written by `python -m docs.make_cli`; `--check` verifies it. `python -m search COMMAND --help` shows the same.

Exit codes: 0 done; 1 a fault of the program, workers that died again and again, or problems that `doctor` found; 2 the
request is wrong, a disk or database refuses, or `verify` measured another figure; 3 no trial succeeded; 130 interrupted
(`resume` continues). A result goes to standard output, progress to standard error.
"""


def page() -> str:
    # The table is drawn from click's objects, not from its rendered help, whose layout changes between versions.
    return "\n".join([HEAD, *(_section(name, command) for name, command in commands())])


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by what is typed for it, as in ``token add``."""
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {part}", each) for part, each in command.commands.items())
        else:
            yield name, command


def _section(name: str, command: click.Command) -> str:
    prose, _, example = inspect.cleandoc(command.help or "").partition("\n\n\b\n")
    prose = re.sub(r"(?<!\n)\n(?!\n)", " ", prose)
    named = [(str(p.metavar or p.name).upper(), p.required) for p in command.params if isinstance(p, click.Argument)]
    arguments = [name if required or name.startswith("[") else f"[{name}]" for name, required in named]
    lines = [f"## {name}", "", f"`{' '.join(['python -m search', name, *arguments, '[OPTIONS]'])}`", "", prose, ""]
    if example:
        commands = [line.strip() for line in example.splitlines()[1:]]
        lines += ["```sh", *commands, "```", ""]
    if options := [_row(p) for p in command.params if isinstance(p, click.Option)]:
        lines += ["| option | |", "| --- | --- |", *options]
    return "\n".join([*lines, ""] if options else lines)


def _row(option: click.Option) -> str:
    value = "" if option.is_flag else " " + (option.metavar or _kind(option.type))
    meaning = option.help or ""
    if option.required:
        meaning += " Required."
    if option.show_default:
        meaning += f" [default: {option.default}]"
    cells = (f"`{'`, `'.join(option.opts)}{value}`", re.sub(r" {2,}", " ", meaning).strip())
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(kind: object) -> str:
    if isinstance(kind, click.Choice):
        return "|".join(kind.choices)
    return "N" if kind is click.INT or isinstance(kind, click.IntRange) else "TEXT"


def main(arguments: list[str]) -> int:
    text = page()
    if "--check" not in arguments:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is out of date: run python -m docs.make_cli", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
