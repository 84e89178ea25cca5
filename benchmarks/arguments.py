"""What the command lines of these programs share: types of arguments, and errors as sentences."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from objectives.errors import RequestError


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return number


def positives(text: str) -> list[int]:
    """Whole numbers of at least 1, with commas between."""
    return [positive(part) for part in text.split(",")]


def whole_numbers(text: str) -> list[int]:
    """With commas between, such as seeds."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers with commas between") from None


def some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A type: names with commas between, each of them ``known``."""

    def names(text: str) -> list[str]:
        given = text.split(",")
        if unknown := sorted(set(given) - set(known)):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is unknown: choose from {', '.join(known)}")
        return given

    return names


def absolute(place: str) -> str:
    """The whole path of what is there; anything else, such as a hub id, as it is."""
    return str(Path(place).resolve()) if Path(place).exists() else place


@contextmanager
def sentences(parser: argparse.ArgumentParser) -> Iterator[None]:
    """What is wrong with a request ends the program as a wrong argument does: a sentence, and exit code 2."""
    try:
        yield
    except RequestError as error:
        parser.error(str(error))
