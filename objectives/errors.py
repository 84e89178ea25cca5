"""Every error that reaches a user.

    SearchError
    ├── RequestError (ValueError)       the request is wrong: exit code 2
    │   ├── ModelError                  the model cannot be read, or has nothing to adapt
    │   ├── DataError                   the data cannot be read, or cannot be learned from
    │   ├── UnknownSearch               no search has that name
    │   └── StoreError (OSError)        the home folder, database or disk refuses: nothing is lost
    ├── NoTrialSucceeded                exit code 3
    └── Interrupted                     the search can be resumed: exit code 130
        └── LeaseLost                   another process runs it now

A message is one sentence or two: the value, the cause, the remedy.
"""

from __future__ import annotations


class SearchError(Exception):
    """Base of all errors that are reported without a traceback."""

    exit_code = 1


class RequestError(SearchError, ValueError):
    exit_code = 2


class ModelError(RequestError):
    pass


class DataError(RequestError):
    pass


class UnknownSearch(RequestError):
    pass


class StoreError(RequestError, OSError):
    pass


class NoTrialSucceeded(SearchError):
    exit_code = 3


class Interrupted(SearchError):
    exit_code = 130


class LeaseLost(Interrupted):
    pass


def first_line(error: BaseException) -> str:
    """What a library's error says, as a part of a sentence: its first line, with the next one where that only announces
    it, as the validators of configurations do."""
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    return (f"{first} {others[0].strip()}" if first.endswith(":") and others else first).rstrip(".: ")


def in_a_line(error: BaseException) -> str:
    """Its kind and what it says, as a part of a sentence."""
    return f"{type(error).__name__}: {first_line(error) if str(error).strip() else 'no message'}"


def counted(number: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
