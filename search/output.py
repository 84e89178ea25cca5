"""What commands print, and pages that they write."""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

import click

from objectives.errors import RequestError


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, ensure_ascii=False, allow_nan=False))


def print_result(document: dict[str, Any], as_json: bool, flags: str) -> None:
    """``flags`` are those by which a command finds the search: see :meth:`search.home.Home.flags`."""
    if as_json:
        print_json(document)
    else:
        from search import terminal

        terminal.print_result(document, sys.stdout, flags)


def write_page(page: str, out: str, *, quiet: bool = False) -> None:
    """The file is whole or as it was. Raises RequestError where it cannot be written."""
    file = Path(out)
    try:
        if file.exists() and not file.is_file():  # a pipe or a device is no file to replace
            file.write_text(page, encoding="utf-8")
        else:
            _replace(Path(os.path.realpath(file)), page)  # a link stays one
    except OSError as error:
        raise RequestError(f"--out {out} cannot be written ({error.strerror}): choose another file") from error
    if not quiet:
        click.echo(f"{out} written")


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{uuid.uuid4().hex}")
    try:
        partial.write_text(text, encoding="utf-8")
        if file.exists():
            shutil.copymode(file, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
