"""Where a search keeps its state: a folder, a database and an MLflow, as flags, variables or defaults name them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from objectives.errors import RequestError
from objectives.secrets import SECRET, redacted
from search import outside

if TYPE_CHECKING:
    from objectives.storage import Storage
    from search.catalog.records import SearchRecord
    from search.catalog.store import Catalog


@dataclass(frozen=True)
class Home:
    """Where a search keeps its state."""

    folder: Path
    storage: str  # SQLAlchemy URL of catalog and study
    tracking: str | None  # MLflow URI that was asked for

    @classmethod
    def at(cls, folder: Path, storage: str | None, tracking: str | None) -> Home:
        return cls(folder, _absolute(storage) or _sqlite(folder / "search.db"), _absolute(tracking))

    def mlflow(self, search: SearchRecord | None = None) -> str:
        """URI of the MLflow that was asked for; else the one that the search had last, else this home's own.

        Raises RequestError where the search's had a user or password, which are not kept.
        """
        kept = (search and search.facts.get("tracking")) or ""
        if self.tracking is None and search and SECRET in kept:
            raise RequestError(
                f"search {search.name} writes to MLflow at {kept}, whose user and password are not kept: give them "
                "again with --tracking-uri or SEARCH_TRACKING_URI"
            )
        return self.tracking or kept or self._own_mlflow()

    def mlflow_kept(self) -> str:
        """The MLflow of :meth:`mlflow` as a search's row keeps it: without secrets; empty for this home's own, since a
        home may be moved."""
        return "" if self.mlflow() == self._own_mlflow() else redacted(self.mlflow())

    def _own_mlflow(self) -> str:
        return _sqlite(self.folder / "mlflow.db")

    @property
    def mlflow_artifacts(self) -> Path:
        """Of an MLflow that is a database; a server keeps them itself."""
        return self.folder / "mlartifacts"

    @property
    def night_logs(self) -> Path:
        """Of schedules; a file NAME.log for each search."""
        return self.folder / "nights"

    @property
    def api_logs(self) -> Path:
        """Of submissions to the API; a file NAME.log for each search."""
        return self.folder / "logs"

    def adapters(self, search: SearchRecord) -> Storage:
        """Of this search alone: in this home, or where its ``--adapters`` says."""
        from objectives.storage import storage_at

        return storage_at(f"{self._adapters(search)}/{search.id}")

    def delete_adapters(self, search: SearchRecord) -> None:
        """All of this search, and what its workers left."""
        from objectives.storage import storage_at

        storage_at(self._adapters(search)).delete(search.id)

    def _adapters(self, search: SearchRecord) -> str:
        return str(search.spec.get("adapters") or self.folder / "adapters")

    def flags(self, *, anywhere: bool = False) -> str:
        """What has to follow a command of ours, one that is printed for a person, to find this home; nothing for the
        one that is found without.

        ``anywhere``: it is read later and by others, who have neither this folder nor this environment, which is a
        daemon's if that began this process.
        """
        usual = None
        if not anywhere:
            with suppress(RequestError):  # the current folder was deleted, and a long search may end in it all the same
                usual = _folder(None)
        flags = "" if self.folder == usual else f" --home {shlex.quote(str(self.folder))}"
        shown = redacted(self.storage)
        # A password is not printed, so that the environment's own URL is left to it.
        alone = anywhere and shown == self.storage
        expected = Home.at(self.folder, None, None) if alone else place_of(str(self.folder), None, None)
        return flags if expected.storage == self.storage else f"{flags} --storage {shlex.quote(shown)}"

    def environment(self) -> dict[str, str]:
        """For a command of ours that is to use this home, beside ``--home``: any user of the machine may read a command
        line, and URLs may hold passwords.

        The folder is not among them: who reads in a log what that command printed has no daemon's environment, so that
        :meth:`flags` is to name it.
        """
        asked = {} if self.tracking is None else {"SEARCH_TRACKING_URI": self.tracking}
        return {"SEARCH_STORAGE": self.storage} | asked


def _absolute(url: str | None) -> str | None:
    """A database's file as seen from any folder: nights run, and searches are resumed, from others."""
    kind, separator, file = (url or "").partition(":///")
    if not kind.startswith("sqlite") or file[:1] in ("", ":"):
        return url
    file = os.path.expanduser(file)  # noqa: PTH111 - pathlib refuses an unknown ~user
    return f"{kind}{separator}{file if file.startswith('/') else f'{_escaped(Path.cwd())}/{file}'}"


def _sqlite(file: Path) -> str:
    return f"sqlite:///{_escaped(file)}"


def _escaped(path: Path) -> str:
    """A folder's name may hold what a URL takes for its own; the rest as it is, since MLflow reads no escapes."""
    return str(path).replace("%", "%25").replace("?", "%3F")


def home_of(*place: str | None) -> Home:
    """The home of --home, --storage and --tracking-uri, with a folder that can be written."""
    home = place_of(*place)
    _make(home.folder)
    return home


def known_home(*place: str | None) -> Home:
    """As :func:`home_of`, of a home that has a catalog: no question makes one. Raises RequestError where none is."""
    home = read_home(*place)
    _make(home.folder)
    return home


def read_home(*place: str | None) -> Home:
    """As :func:`known_home`, for what writes nothing: the folder may be one that only others can write."""
    home = place_of(*place)
    if not has_catalog(home):
        raise RequestError(
            f"nothing is recorded in {home.storage!r}, which is not there: "
            "give the --home or --storage that it has, or begin one with `python -m search run`"
        )
    return home


def has_catalog(home: Home) -> bool:
    from search.catalog.connect import is_there, parse

    return is_there(parse(home.storage))


def place_of(home: str | None, storage: str | None, tracking_uri: str | None) -> Home:
    for flag, value in (("--home", home), ("--storage", storage), ("--tracking-uri", tracking_uri)):
        if value is not None and not value.strip():
            raise RequestError(f"{flag} is empty: give a value, or leave the option out")
    asked = storage or os.environ.get("SEARCH_STORAGE"), tracking_uri or os.environ.get("SEARCH_TRACKING_URI")
    place = Home.at(_folder(home), *asked)
    whole = {"--home": str(place.folder), "--storage": place.storage, "--tracking-uri": place.tracking or ""}
    for flag, value in whole.items():
        outside.text(value, flag)
    return place


@contextmanager
def opened(name: str, *place: str | None) -> Iterator[tuple[Catalog, SearchRecord]]:
    """The catalog of a home, and its search NAME."""
    from search.catalog.store import Catalog

    home = read_home(*place)
    with closing(Catalog(home.storage)) as catalog:
        search = catalog.search(name)
        catalog.follow_adapters(search.id, home.adapters(search))
        yield catalog, search


def _folder(home: str | None) -> Path:
    """``--home``, else SEARCH_HOME, else ``./.search``. Raises RequestError where the current folder was deleted."""
    folder = Path(os.path.expanduser(home or os.environ.get("SEARCH_HOME") or ".search"))  # noqa: PTH111
    try:
        return folder.absolute()
    except FileNotFoundError as error:
        raise RequestError(
            f"home {folder} would be in this folder, which was deleted: go to one that is there, or give a full path"
        ) from error


def _make(folder: Path) -> None:
    """The home's folder, which is made if missing. Raises RequestError if it cannot be written."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        # Its catalog may hold webhooks, and logs say what was done: whether the group may read them, the umask says.
        folder.mkdir(0o770, parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RequestError(
            f"home {folder} cannot be written ({error.strerror}): choose another with --home or SEARCH_HOME"
        ) from error
