"""Who asks: a bearer token, and whether its scope is enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBearer

from search.catalog.tokens import TokenRecord, holder

#: For the description alone: the guard in app.py has read the header before a route is looked for.
_bearer = HTTPBearer(
    auto_error=False,
    description="A token of `python -m search token add NAME --scope read|write`. The scope write includes read.",
)


def token_of(request: Request) -> TokenRecord | None:
    """The valid token in the request's header; None if there is none, or a wrong or an expired one."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    token = holder(request.app.state.catalog, secret) if scheme.lower() == "bearer" and secret else None
    return None if token is None or token.expired else token


def requires(scope: str) -> Callable[..., None]:
    """The dependency of every route that is not open: 403 where the token's scope is not enough."""

    def check(request: Request, _: Annotated[Any, Depends(_bearer)]) -> None:
        token: TokenRecord | None = request.state.token
        if token is None or not token.may(scope):
            has = f"token {token.name} has the scope {token.scope}" if token else "there is no token"
            raise HTTPException(403, f"{has}, and this needs {scope}")

    check.scope = scope  # type: ignore[attr-defined]
    return check
