"""Names, paths and addresses that mean to lead elsewhere: on every route with a parameter and on the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.errors import RequestError
from search import outside
from search.api.app import application
from search.api.supervisor import Supervisor
from search.catalog import Catalog
from search.catalog.tokens import add_token
from search.catalog.tokens import tokens as known
from search.cli import cli
from search.config import read_config
from search.home import Home
from search.spec import SearchSpec
from tests.api.conftest import Service, record_search, service

__all__ = ["service"]  # a fixture of the API's tests

NAMES = [
    "..",
    ".",
    "../demo",
    "../../etc/passwd",
    "demo/../demo",
    "/etc/passwd",
    "//demo",
    "..\\demo",
    "demo\\..\\x",
    "C:\\x",
    "demo\0",
    "\0",
    "demo\n",
    "%2e%2e%2f",
    "%2e%2e",
    "..%2fdemo",
    "%252e%252e%252f",
    "%00",
    "．．／demo",  # full-width dots and slash
    "‥",
    "dem\u00f6",
    "demo\u202e",
    "\u2215etc",
    "~root",
    "~",
    "$HOME",
    "-demo",
    "--debug",
    "demo;ls",
    "demo' OR '1'='1",
    "demo%",
    " demo",
    "demo ",
    "",
    "a" * 101,
    "file:///etc/passwd",
]
each_name = pytest.mark.parametrize("name", NAMES, ids=ascii)


def files(service: Service) -> list[Path]:
    """Of its home; SQLite's own come and go."""
    found = service.home.folder.rglob("*")
    return sorted(path for path in found if not path.name.endswith(("-wal", "-shm", "-journal")))


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all that is refused: none of it may change anything there."""
    folder = tmp_path_factory.mktemp("refusing")
    home, root = Home.at(folder / "home", None, None), folder / "allowed"
    (root / "data").mkdir(parents=True)
    (root / "data" / "train.csv").write_text("text,label\nx,a\n")
    with closing(Catalog(home.storage)) as catalog:
        record_search(catalog, home, "demo")
        tokens = {"write": add_token(catalog, "write", "write")}
        app = application(catalog, home, Supervisor(catalog, home, at_once=1), roots=[root])
        service = Service(app, catalog, home, root, tokens)
        before, searches = files(service), catalog.searches()
        yield service
        assert files(service) == before
        assert catalog.searches() == searches
        assert service.client().get("/submissions").json() == []
        assert [token.name for token in known(catalog)] == ["write"]


@each_name
def test_no_route_takes_such_a_name(refusing: Service, name: str) -> None:
    client = refusing.client()
    before = files(refusing)
    for once in (quote(name, safe=""), quote(quote(name, safe=""), safe="")):
        for method, path in [
            ("GET", "/searches/{}"),
            ("GET", "/searches/{}/front"),
            ("GET", "/searches/{}/events"),
            ("GET", "/searches/{}/adapter"),
            ("GET", "/submissions/{}"),
            ("POST", "/searches/{}/cancel"),
            ("POST", "/searches/{}/resume"),
        ]:
            answer = client.request(method, path.format(once), follow_redirects=False)
            if once == "." and path.endswith("/{}"):  # clients take it away, and ask for the list
                assert (answer.status_code, answer.json()) == (200, client.get(path.removesuffix("/{}")).json())
                continue
            # What decodes to other segments is another path, and no route; redirects stay on this server.
            assert answer.status_code in (307, 404, 405, 422)
            if answer.status_code == 307:
                assert answer.headers["location"].startswith("http://testserver/")
            assert "root:" not in answer.text
    submitted = client.post("/searches", json={"name": name})
    assert submitted.status_code == 422
    pick = client.get("/searches/demo/adapter", params={"pick": name})
    assert pick.status_code == 422
    assert client.get("/submissions").json() == []
    assert files(refusing) == before


@each_name
def test_no_command_takes_such_a_name(refusing: Service, name: str, tmp_path: Path) -> None:
    home = ["--home", str(refusing.home.folder)]
    outside_before = sorted(tmp_path.iterdir())
    for command in (
        ["run", f"--name={name}"],
        ["ablate", f"--data={refusing.root / 'data'}", "--data=x", f"--name={name}"],
        ["token", "add", "--scope", "read", "--", name],
        ["token", "remove", "--", name],
        ["show", "--", name],
        ["resume", "--", name],
        ["export", f"--out={tmp_path / 'out'}", "--", name],
        ["export", f"--out={tmp_path / 'out'}", f"--pick={name}", "demo"],
        ["report", f"--out={tmp_path / 'out.html'}", "--", name],
        ["recipe", "--for=peft", "--", name],
        ["recipe", "--for=peft", f"--pick={name}", "demo"],
    ):
        split = command.index("--") if "--" in command else len(command)
        with pytest.raises(RequestError):
            cli.main([*command[:split], *home, *command[split:]], standalone_mode=False)
    assert sorted(tmp_path.iterdir()) == outside_before
    with pytest.raises(RequestError, match="must start with a letter or digit"):
        SearchSpec(name=name)


@given(st.text(max_size=40))
def test_a_name_is_one_plain_file_name_or_refused(text: str) -> None:
    try:
        name = outside.name(text)
    except RequestError:
        return
    assert name == text
    assert name.isascii()
    assert Path("/x", name).parent == Path("/x")
    assert os.path.normpath(f"/x/{name}") == f"/x/{name}"


def test_a_configuration_file_holds_no_other_names(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text('name: "../x"\n')
    with pytest.raises(RequestError, match=r"^--name '../x' must start with"):
        SearchSpec(**read_config(file))


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """An allowed folder, and beside it one that is not, with links from the first to the second."""
    root, secret = tmp_path / "root", tmp_path / "root-secret"
    for folder in (root / "data", root / "mixed", root / "clone" / "data", secret):
        folder.mkdir(parents=True)
        (folder / "train.csv").write_text("text,label\nx,a\n")
    (root / "link").symlink_to(secret)
    (root / "inner").symlink_to(root / "data")
    (root / "data" / "round").symlink_to(root / "data")
    (root / "loop").symlink_to(root / "loop")
    (root / "mixed" / "test.csv").symlink_to(secret / "train.csv")
    (root / "clone" / "data" / "test.csv").symlink_to(secret / "train.csv")
    (root / "clone" / "round").symlink_to(root / "clone")
    (root / "by link").mkdir()
    (root / "by link" / "data").symlink_to(root / "clone" / "data")
    (root / "file.csv").symlink_to(secret / "train.csv")
    return {"root": root, "secret": secret}


def paths(places: dict[str, Path]) -> dict[str, str]:
    root = str(places["root"])
    return {
        "parent": f"{root}/../root-secret",
        "deep": f"{root}/data/../../root-secret",
        "sibling": f"{root}-secret",
        "absolute": "/etc",
        "link": f"{root}/link",
        "through a link": f"{root}/link/train.csv",
        "linked file": f"{root}/file.csv",
        "link within": f"{root}/mixed",
        "link within a folder of it": f"{root}/clone",
        "link within a folder that is linked": f"{root}/by link",
        "loop": f"{root}/loop",
        "nul": f"{root}/data\0/../../root-secret",
        "encoded": f"{root}/%2e%2e/root-secret",
        "twice encoded": f"{root}/%252e%252e/root-secret",
        "backslash": f"{root}\\..\\root-secret",
        "full width": f"{root}/．．/root-secret",
        "relative": "data",
        "dots": "../root/data",
        "home": "~",
        "empty": "",
        "hub": "org/model",
        "url": f"file://{root}/data",
        "remote": "s3://bucket/data",
        "surrogate": f"{root}/\udcff",
        "long": f"{root}/{'a' * 3000}",
        "gone": f"{root}/gone",
    }


KINDS = list(paths({"root": Path("/r"), "secret": Path("/s")}))


@pytest.fixture
def only_root(refusing: Service, places: dict[str, Path]) -> Iterator[None]:
    """The allowed folder is the only one of the service."""
    before, refusing.app.state.roots = refusing.app.state.roots, (places["root"],)
    yield
    refusing.app.state.roots = before


@pytest.mark.usefixtures("only_root")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["model", "data"])
def test_no_path_leads_out_of_an_allowed_folder(
    refusing: Service, places: dict[str, Path], kind: str, field: str
) -> None:
    given = paths(places)[kind]
    with pytest.raises(RequestError) as refusal:
        outside.path(given, [places["root"]], field)
    assert str(refusal.value) == (
        f"{field} {given!r} is no absolute path of something in a folder that this server may read "
        f"({places['root']}): copy it there, or let the server's owner add --allow"
    )
    body = json.dumps({field: given})
    answer = refusing.client().post("/searches", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert refusing.client().get("/submissions").json() == []


def test_what_lies_in_an_allowed_folder_is_taken_by_its_real_path(places: dict[str, Path]) -> None:
    root = places["root"]
    data = str(root / "data")
    for way in (data, f"{data}/", f"{root}/mixed/../data", f"{root}/inner", f"{root}/./data"):
        assert outside.path(way, [places["secret"], root], "data") == data
    with pytest.raises(RequestError, match=r"\(none, since the server was started without --allow\)"):
        outside.path(data, [], "data")


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "http://a@h", "file:///etc/passwd", "http://h/..", "http://H"]
)
def test_only_listed_servers_are_asked(service: Service, url: str) -> None:
    service.app.state.endpoints = ("http://h",)
    asked: dict[str, Any] = {"engine": "openai", "endpoint": url}
    assert service.client().post("/searches", json=asked).status_code == 422
    assert service.client().post("/searches", json=asked | {"endpoint": "http://h"}).status_code == 202
