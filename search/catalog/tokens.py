"""Who may ask the API what: bearer tokens, of which the catalog keeps a hash alone."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from objectives.errors import RequestError
from search import outside
from search.catalog.models import Token
from search.catalog.records import record_of
from search.catalog.store import Catalog
from search.names import SCOPES

#: Makes a token recognisable to people and to scanners of published secrets.
PREFIX = "lts_"


@dataclass(frozen=True)
class TokenRecord:
    """`scope` is read or write; write includes read."""

    name: str
    scope: str
    created_at: datetime
    expires_at: datetime | None

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def may(self, scope: str) -> bool:
        return SCOPES.index(scope) <= SCOPES.index(self.scope)


def digest_of(secret: str) -> str:
    # A slow hash would protect a weak secret; this one has 256 random bits.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def add_token(catalog: Catalog, name: str, scope: str, days: int | None = None, home_flags: str = "") -> str:
    """A new secret, which can be read nowhere afterwards. Raises RequestError for a name that is wrong or taken;
    ``home_flags``, those of :meth:`Home.flags`, are for the remedy that it names."""
    secret = PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    row = Token(
        name=outside.name(name, "token"),
        digest=digest_of(secret),
        scope=scope,
        created_at=now,
        expires_at=None if days is None else now + timedelta(days=days),
    )
    try:
        with catalog.writing() as session:
            session.add(row)
    except IntegrityError:
        raise RequestError(
            f"a token named {name!r} exists already: choose another name, or remove it with "
            f"`python -m search token remove {name}{home_flags}`"
        ) from None
    return secret


def tokens(catalog: Catalog) -> list[TokenRecord]:
    """By name."""
    with catalog.reading() as session:
        return [record_of(TokenRecord, row) for row in session.scalars(select(Token).order_by(Token.name))]


def remove_token(catalog: Catalog, name: str) -> None:
    """Raises RequestError for an unknown name."""
    with catalog.writing() as session:
        named = delete(Token).where(Token.name == name).returning(Token.name)
        removed = session.scalar(named) if outside.is_text(name) else None
    if removed is None:
        known = ", ".join(repr(token.name) for token in tokens(catalog))
        raise RequestError(f"no token is named {name!r}: " + (f"known are {known}." if known else "none exists."))


def holder(catalog: Catalog, secret: str) -> TokenRecord | None:
    """The token with this secret, expired or not."""
    digest = digest_of(secret)
    found = None
    with catalog.reading() as session:
        for row in session.scalars(select(Token)):
            # All of them, each in constant time: how long an answer takes tells nothing.
            if hmac.compare_digest(row.digest, digest):
                found = record_of(TokenRecord, row)
    return found
