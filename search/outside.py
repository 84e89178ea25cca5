"""What comes from outside and ends up in a path, a query or a connection passes here, and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from objectives.errors import RequestError
from objectives.secrets import redacted
from search.names import PICKS

#: Of a search, as a whole string. It is also the name of files.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
#: Where adapters go: ``s3://BUCKET/PREFIX``, or a folder. Keys would be kept with the search, for all to see.
ADAPTERS = (
    r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/(?!\.\.?(/|$))[^/?#@\\\x00-\x1f\x7f]+)*/?"
    r"|(?![A-Za-z][A-Za-z0-9+.-]*://)[^\x00]*[^\x00\s][^\x00]*"
)
#: Of a schedule, in characters.
LONGEST_SCHEDULE = 80
#: As ``export --pick`` takes it.
PICK = r"recommended|knee|best|trial=[0-9]{1,9}"
_PASSWORDS_OF_MANUALS = {
    "admin", "changeme", "change-me", "default", "example", "minioadmin", "mlflow", "mysecretpassword", "pass",
    "password", "password1234", "postgres", "root", "secret", "test", "user",
}  # fmt: skip


def is_name(given: str) -> bool:
    return re.fullmatch(NAME, given) is not None


def is_text(given: str) -> bool:
    """Whether a database takes it: no bytes of another encoding, no NUL."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in given)


def text(given: str, what: str) -> str:
    """Raises RequestError for what MLflow, Ray and pages of reports could not write: late, and not by a sentence."""
    if not is_text(given):
        why = "holds a NUL character: leave it out"
        if "\0" not in given:
            why = "is no text in UTF-8: rename it, or give another"
        raise RequestError(f"{what} {redacted(given)!r} {why}")
    return given


def name(given: str, what: str = "--name") -> str:
    """Raises RequestError for what cannot be the name of a search, of a series or of a token."""
    if not is_name(given):
        raise RequestError(
            f"{what} {given!r} must start with a letter or digit and hold only letters, digits, '.', '_' and "
            "'-', 100 at most"
        )
    return given


def schedule(given: str) -> str:
    """Raises RequestError for what cannot be the name of a schedule: a night's search adds date and time to it."""
    if not is_name(given) or len(given) > LONGEST_SCHEDULE:
        raise RequestError(
            f"schedule {given!r} must start with a letter or digit and hold only letters, digits, '.', '_' and '-', "
            f"{LONGEST_SCHEDULE} at most, since its nights add date and time"
        )
    return given


def adapters(given: str) -> str:
    """Raises RequestError for what is neither a folder nor ``s3://BUCKET/PREFIX``, without repeating a key."""
    if not re.fullmatch(ADAPTERS, given):
        if re.search(r"://.*[@?]", given, re.DOTALL):
            raise RequestError(
                "--adapters holds credentials or options: give s3://BUCKET/PREFIX alone, keys as AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment, and a server other than AWS as AWS_ENDPOINT_URL"
            )
        raise RequestError(f"--adapters {given!r} is neither a folder nor s3://BUCKET/PREFIX: give one of them")
    return given


def folder(given: Path) -> Path:
    """Where to write a folder, ``~`` being the user's. Raises RequestError for the address of a server."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(given)):  # a Path has one slash for two
        raise RequestError(f"--out {given} is no folder of this machine: give one, and copy it there afterwards")
    return Path(os.path.expanduser(given))  # noqa: PTH111 - pathlib refuses an unknown ~user


def pick(given: str) -> int | str:
    """``recommended``, ``knee`` or ``best``, or the number of a trial. Raises RequestError for anything else."""
    if not re.fullmatch(PICK, given):
        raise RequestError(f"--pick {given} is unknown: give {PICKS}")
    kind, _, number = given.partition("=")
    return int(number) if number else kind


def path(given: str, roots: Sequence[Path], what: str) -> str:
    """The full path, without links, of a file or folder that lies in one of ``roots`` with all that it holds.

    Raises RequestError otherwise; the sentence tells nothing of what lies outside, not even whether it exists.
    """
    try:
        real = Path(given).resolve(strict=True) if Path(given).is_absolute() else None
        within = real is not None and all(_within(each, roots) for each in _all_of(real))
    except (OSError, ValueError, RuntimeError):  # gone, NUL, a circle of links
        within = False
    if not within:
        allowed = ", ".join(map(str, roots)) or "none, since the server was started without --allow"
        raise RequestError(
            f"{what} {given!r} is no absolute path of something in a folder that this server may read "
            f"({allowed}): copy it there, or let the server's owner add --allow"
        )
    return str(real)


def _all_of(real: Path) -> Iterator[Path]:
    """The path, and where all that is in it is in truth, as links may lead out of the root: clones of data sets are
    read at any depth. Who stops at the first one outside looks at nothing there."""
    yield real
    found, waiting = {real}, [real]
    while waiting:
        if (folder := waiting.pop()).is_dir():
            for entry in folder.iterdir():
                if (each := entry.resolve()) not in found:
                    yield each
                    found.add(each)
                    waiting.append(each)


def _within(real: Path, roots: Sequence[Path]) -> bool:
    return any(real.is_relative_to(root.resolve()) for root in roots)


def webhook(given: str) -> str:
    """A URL, or the variable that has it. Raises RequestError for all else, which may be secret and is not told."""
    if not re.fullmatch(r"https?://[^\s/]+\S*|env:\w+", given):
        raise RequestError("--notify is neither an http or https URL nor env:NAME: give one of them")
    return given


def endpoint(given: str, allowed: Sequence[str]) -> str:
    """One of the servers that were allowed, letter by letter. Raises RequestError for any other address."""
    if given not in allowed:
        raise RequestError(
            f"endpoint {given!r} is none that this server may ask ({', '.join(allowed) or 'none'}): let the server's "
            "owner add --endpoint"
        )
    return given


def refuse_passwords_of_manuals(url: str, what: str) -> None:
    """Raises RequestError for a URL whose password stands in some manual, or is the name of its user."""
    try:
        parts = urlsplit(url)
    except ValueError:  # said by what opens it
        return
    asked = dict(parse_qsl(parts.query))  # where libpq takes both, too
    user, password = parts.username or asked.get("user", ""), parts.password or asked.get("password")
    if password is not None and password.lower() in _PASSWORDS_OF_MANUALS | {user.lower()}:
        raise RequestError(f"{what} has a default password: set another, such as `python -m search env` makes")
