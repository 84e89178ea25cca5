"""Hold a search while it runs: a thread renews the lease; whoever has lost it writes nothing more."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType

from objectives.errors import LeaseLost, RequestError, StoreError
from search.catalog.leases import EXPIRY_S
from search.catalog.store import Catalog


def is_held(name: str, holder: str) -> RequestError:
    return RequestError(f"search {name} is being run by {holder}: wait for it, or stop it first")


class Lease:
    """A context in which this process is the search's only owner."""

    def __init__(self, catalog: Catalog, search_id: str, name: str) -> None:
        self._catalog = catalog
        self._id = search_id
        self._name = name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Raises RequestError if another process holds the search."""
        if other := self._catalog.take(self._id):
            raise is_held(self._name, other)
        self._thread.start()
        return self

    def check(self) -> None:
        """Raises LeaseLost if another process has taken the search."""
        if not self._catalog.is_owner(self._id):
            raise LeaseLost(
                f"search {self._name} was taken over by another process while this one did not answer: what was "
                "measured until then is kept, and this one ends"
            )

    def _beat(self) -> None:
        while not self._ended.wait(EXPIRY_S / 3):
            # A database that is away now may be back before the lease expires.
            with contextlib.suppress(StoreError):
                if not self._catalog.renew(self._id):
                    return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(StoreError):  # it expires
            self._catalog.release(self._id)
