"""Who may ask what: every route has an answer, and no secret can be read anywhere."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import create_engine, text

from objectives.errors import RequestError
from search import outside
from search.catalog import Catalog
from search.catalog.tokens import add_token, holder, remove_token, tokens
from tests.api.conftest import Service
from tests.commands import call, call_json
from tests.json_reference import undescribed, unseen

OPEN = {"/health"}


def scopes(dependant: Any) -> set[str]:
    own = {dependant.call.scope} if hasattr(dependant.call, "scope") else set()
    return own.union(*map(scopes, dependant.dependencies))


def routes(service: Service) -> list[tuple[str, str, set[str]]]:
    """(method, path, scopes required) of all that the application answers, however it was added."""
    found = []

    def walk(each: Any) -> None:
        for route in each:
            if isinstance(route, APIRoute):
                found.extend((method, route.path, scopes(route.dependant)) for method in route.methods)
            elif hasattr(route, "original_router"):
                walk(route.original_router.routes)
            else:
                raise AssertionError(f"{route!r} is no route whose access is known")

    walk(service.app.routes)
    return found


def test_every_route_decides_who_may_use_it(service: Service) -> None:
    found = routes(service)
    assert len(found) >= 21
    for method, path, needed in found:
        if path in OPEN:
            assert method in ("GET", "HEAD")
            assert needed == set()
        else:
            assert needed == ({"read"} if method in ("GET", "HEAD") else {"write"}), path
        address = path.replace("{name}", "demo")
        nobody = service.client(None).request(method, address)
        assert nobody.status_code == (200 if path in OPEN else 401)
        if needed == {"write"}:
            reader = service.client("read").request(method, address)
            assert reader.status_code == 403
            assert reader.json()["detail"] == "token read has the scope read, and this needs write"


@pytest.mark.parametrize(
    "path",
    ["/docs", "/redoc", "/openapi.json", "/nowhere", "/health/", "//health", "/", "/health%09", "/he%0Aalth"],
)
def test_what_is_no_route_is_closed_too(service: Service, path: str) -> None:
    assert service.client(None).get(path).status_code == 401


def test_nothing_is_read_before_the_token(service: Service) -> None:
    assert service.client(None).post("/searches", content=b"{x").status_code == 401
    assert service.client(None).post("/searches", content=b" " * 70_000).status_code == 401


@pytest.mark.parametrize("secret", ["", "admin", "password", "changeme", "lts_", "token", "null", "read", "é"])
def test_no_default_secret_opens(service: Service, secret: str) -> None:
    basic = base64.b64encode(f"admin:{secret}".encode()).decode()
    for header in (f"Bearer {secret}", secret, f"Basic {basic}", "Bearer", f"Bearer  {service.tokens['read']} x"):
        answer = service.client(None).get("/searches", headers={"Authorization": header.encode()})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert service.client(None).get(f"/searches?token={service.tokens['read']}").status_code == 401


def test_a_token_ends_when_it_expires_or_is_removed(service: Service) -> None:
    secret = add_token(service.catalog, "brief", "read", days=1)
    ask = {"Authorization": f"Bearer {secret}"}
    client = service.client(None)
    assert client.get("/searches", headers=ask).status_code == 200
    with create_engine(service.catalog.url).begin() as connection:
        past = (datetime.now(UTC) - timedelta(seconds=1)).replace(tzinfo=None).isoformat(" ")
        connection.execute(text("UPDATE catalog_tokens SET expires_at = :past WHERE name = 'brief'"), {"past": past})
    assert client.get("/searches", headers=ask).status_code == 401
    lasting = {"Authorization": f"Bearer {service.tokens['read']}"}
    remove_token(service.catalog, "read")
    assert client.get("/searches", headers=lasting).status_code == 401


def test_the_catalog_keeps_no_secret(service: Service) -> None:
    secret = service.tokens["write"]
    assert len(secret) > 40
    for file in service.home.folder.iterdir():
        if file.is_file():
            assert secret.encode() not in file.read_bytes()
    found = holder(service.catalog, secret)
    assert found is not None
    assert (found.name, found.may("read"), found.may("write"), found.expired) == ("write", True, True, False)
    assert holder(service.catalog, secret + "x") is None


def test_tokens_on_the_command_line(tmp_path: Any) -> None:
    home = ("--home", str(tmp_path))
    secret = call("token", "add", "me", "--scope", "read", "--days", "2", *home).stdout.strip()
    listed = call("token", "list", *home).stdout
    assert secret not in listed
    (token,) = call_json("token", "list", *home)
    assert undescribed("token list", [token]) == unseen("token list", [token]) == []
    assert (token["name"], token["scope"], token["expired"]) == ("me", "read", False)
    twice = call("token", "add", "me", "--scope", "read", *home, code=2).stderr
    assert twice == (
        "error: a token named 'me' exists already: choose another name, or remove it with "
        f"`python -m search token remove me --home {tmp_path}`\n"
    )
    unknown = call("token", "remove", "you", *home, code=2).stderr
    assert unknown == "error: no token is named 'you': known are 'me'.\n"
    call("token", "remove", "me", *home)
    catalog = Catalog(f"sqlite:///{tmp_path / 'search.db'}")
    assert tokens(catalog) == []
    catalog.close()


def test_the_list_of_tokens_says_when_each_ends(service: Service) -> None:
    add_token(service.catalog, "brief", "read", days=1)
    begun = {token.name: token.created_at for token in tokens(service.catalog)}["brief"]
    home = ("--home", str(service.home.folder))
    ends = f"{begun + timedelta(days=1):%Y-%m-%d %H:%M} UTC"
    listed = call("token", "list", *home).stdout.splitlines()
    assert listed == [f"brief  read  expires {ends}", "read  read  until removed", "write  write  until removed"]
    with create_engine(service.catalog.url).begin() as connection:
        connection.execute(text("UPDATE catalog_tokens SET expires_at = '2020-01-02 03:04:05' WHERE name = 'brief'"))
    assert call("token", "list", *home).stdout.splitlines()[0] == "brief  read  expired 2020-01-02 03:04 UTC"


@pytest.mark.parametrize("password", ["postgres", "password", "changeme", "password1234", "minioadmin", "me"])
def test_a_password_of_a_manual_is_refused(password: str) -> None:
    with pytest.raises(RequestError) as refusal:
        outside.refuse_passwords_of_manuals(f"postgresql://me:{password}@db/search", "--storage")
    assert str(refusal.value) == ("--storage has a default password: set another, such as `python -m search env` makes")
    outside.refuse_passwords_of_manuals("postgresql://me:aK3-unlikely@db/search", "--storage")
    outside.refuse_passwords_of_manuals("sqlite:///home/search.db", "--storage")
