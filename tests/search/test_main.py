"""What the command line says where click has more than a line to say."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from objectives.errors import RequestError
from search.__main__ import main
from search.catalog import Catalog
from search.home import Home
from search.listening import listening
from search.output import write_page
from tests.commands import call, call_json, free_port
from tests.disks import Disk, disk

__all__ = ["disk"]  # a fixture


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str) -> str:
    monkeypatch.setattr(sys, "argv", ["search", *args])
    with pytest.raises(SystemExit) as left:
        main(list(args))
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("group", [[], ["schedule"], ["token"]])
def test_a_bare_command_shows_its_help_whole(
    group: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = said(capsys, monkeypatch, *group)
    assert shown.startswith(f"Usage: {' '.join(['python -m search', *group])} [OPTIONS] COMMAND")
    assert "error:" not in shown
    assert "; see" not in shown


def test_a_choice_that_is_missing_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(capsys, monkeypatch, "recipe", "demo") == (
        "error: Missing option '--for'. Choose from: peft, trl, llama-factory, axolotl, vllm; "
        "see `python -m search recipe --help`\n"
    )


@pytest.mark.parametrize(
    "asked",
    [
        ("show", "x"),
        ("resume", "x"),
        ("export", "x", "--out", "y"),
        ("report", "x", "--out", "y"),
        ("recipe", "x", "--for", "peft"),
        ("compare", "x", "y"),
        ("doctor",),
    ],
)
def test_a_home_that_is_not_there_is_named_and_not_made(
    asked: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "mistyped"
    assert said(capsys, monkeypatch, *asked, "--home", str(home)) == (
        f"error: nothing is recorded in 'sqlite:///{home}/search.db', which is not there: "
        "give the --home or --storage that it has, or begin one with `python -m search run`\n"
    )
    assert not home.exists()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("list",), "No search yet: python -m search run starts one."),
        (("token", "list"), "No token yet: python -m search token add makes one."),
        (("schedule", "list"), "No schedule yet: python -m search schedule add makes one."),
    ],
)
def test_an_empty_list_says_so(asked: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    assert call(*asked, "--home", str(tmp_path / "new")).stdout == sentence + "\n"
    assert call_json(*asked, "--home", str(tmp_path / "new")) == []
    assert not (tmp_path / "new").exists(), "a question makes no catalog"


def test_a_terminal_obeys_nothing_that_an_error_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "\\u001b]52;c;cm0gLXJm\\u0007 \\u202etxt é"}')
    told = said(capsys, monkeypatch, "modules", "--model", str(tmp_path / "model"))
    assert "has model type `\\x1b]52;c;cm0gLXJm\\x07 \\u202etxt é` but" in told, "a library's words"
    assert not {"\x1b", "\x07", "\u202e"} & set(told)


def test_a_fault_of_the_program_is_told_in_a_line_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any, **__: Any) -> None:
        raise RuntimeError("\nno answer of postgresql://me:s3cret@db/search.\nmore")

    monkeypatch.setattr("search.cli.cli.main", fault)
    with pytest.raises(SystemExit) as end:
        main(["list"])
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "error: RuntimeError: no answer of postgresql://***@db/search. This is a fault of the program: run again with "
        "--debug to see where\n"
    )


@pytest.mark.parametrize("target", ["foo", "ftp://host/x", "env:", "https://"])
def test_a_webhook_that_is_no_url_is_refused(
    target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add = ("schedule", "add", "s", "--cron", "0 2 * * *", "--home", str(tmp_path), "--notify", target)
    assert said(capsys, monkeypatch, *add) == (
        "error: --notify is neither an http or https URL nor env:NAME: give one of them\n"
    )


def test_a_ui_that_cannot_be_served_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = ("ui", "--home", str(tmp_path))
    assert said(capsys, monkeypatch, *asked, "--tracking-uri", "ftp://host/x") == (
        "error: tracking URI 'ftp://host/x' is neither a database nor a server, where MLflow 3 keeps its runs: write "
        "it like sqlite:///folder/mlflow.db or http://host:5000.\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert said(capsys, monkeypatch, *asked, "--port", port) == (
            f"error: cannot listen on 127.0.0.1 port {port} (Address already in use): give another --host or --port\n"
        )
    (tmp_path / "mlflow.db").write_text("something else, and long enough to be looked at" * 9)
    assert said(capsys, monkeypatch, *asked) == (
        f"error: database 'sqlite:///{tmp_path}/mlflow.db': the file is something else than a SQLite database: choose "
        "another --home or --storage.\n"
    )


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_name_that_no_machine_can_have_is_not_listened_to(host: str) -> None:
    with pytest.raises(RequestError) as refusal:
        listening(host, 80)
    assert str(refusal.value) == (
        f"cannot listen on {host} port 80 (no machine can have that name): give another --host or --port"
    )


def test_a_name_is_listened_to_where_one_of_its_addresses_is_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """In many containers `localhost` has an address of IPv6 too, and no IPv6."""
    elsewhere, here = ((socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in ("192.0.2.1", "127.0.0.1"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [elsewhere, here])
    (listener,) = listening("localhost", 0)
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [elsewhere])
    with pytest.raises(RequestError, match=r"^cannot listen on localhost port 0 \(Cannot assign requested address\): "):
        listening("localhost", 0)


def test_a_ui_tells_nobody_the_password_of_its_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Command lines can be read by all users of a machine."""
    begun: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *process: begun.append(process))
    monkeypatch.delenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", raising=False)
    monkeypatch.setenv("MLFLOW_WORKERS", "3")
    uri = "postgresql://me:s3cret@db/mlflow"
    main(["ui", "--home", str(tmp_path), "--port", str(free_port()), "--tracking-uri", uri])
    ((_, command, variables),) = begun
    assert not any("s3cret" in word for word in command)
    assert variables["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://me:s3cret@db/mlflow"
    settings = variables["MLFLOW_WORKERS"], variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"]
    assert settings == ("3", "false"), "ours where a user has none"


def test_a_ui_tells_nobody_the_password_of_its_server(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["ui", "--home", str(tmp_path), "--tracking-uri", "https://me:s3c/r@t@mlflow.example:5000/here/"])
    assert capsys.readouterr().out == "the searches are at https://mlflow.example:5000/here/\n"


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "http://127.0.0.1:5000"), ("::1", "http://[::1]:5000")])
def test_a_ui_names_an_address_that_a_browser_opens(
    host: str, address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.execve", lambda *_: None)
    monkeypatch.setattr("search.listening.listening", lambda host, port: [])  # IPv6 is not everywhere
    main(["ui", "--home", str(tmp_path), "--host", host])
    assert capsys.readouterr().err == f"MLflow UI at {address} (Ctrl-C ends it)\n"


def test_a_server_gets_all_that_its_command_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.delenv("SEARCH_STORAGE", raising=False)
    monkeypatch.setattr("search.api.server.run_server", lambda *place, **more: asked.append((place, more)))
    allowed = ["--allow", "/srv", "--allow", "/data", "--endpoint", "http://engine:8000", "--at-once", "3"]
    main(["serve", "--home", str(tmp_path), "--host", "::1", "--port", "8400", *allowed])
    more = {"roots": [Path("/srv"), Path("/data")], "endpoints": ("http://engine:8000",), "at_once": 3}
    assert asked == [((Home.at(tmp_path, None, None), "::1", 8400), more)]


def test_a_ui_opens_at_the_newest_search_that_is_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Not at one that was written to another MLflow, nor at one that this MLflow has not heard of yet."""
    server = "http://mlflow.example:5000"
    with closing(Catalog(Home.at(tmp_path, None, None).storage)) as catalog:
        for name, tracking, run in (("a", server, "1a"), ("b", server, "1b"), ("c", "", "1c"), ("d", server, None)):
            search = catalog.create_search(name, {}, {"tracking": tracking})
            if run is not None:
                catalog.set_mlflow_search(search.id, "7", run)
    page = f"the searches are at {server}/#/experiments/7/runs/1b?workflowType=machine_learning\n"
    main(["ui", "--home", str(tmp_path)])
    assert capsys.readouterr().out == page
    main(["ui", "--home", str(tmp_path), "--tracking-uri", server])
    assert capsys.readouterr().out == page
    main(["ui", "--home", str(tmp_path), "--tracking-uri", "http://another:5000"])
    assert capsys.readouterr().out == "the searches are at http://another:5000\n"


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (None, "/manifest.json cannot be read (No such file or directory): give the folder that `export` wrote"),
        ("[]", "/manifest.json is not what `export` writes: export the adapter again"),
        ("{}", "/manifest.json is not what `export` writes: export the adapter again"),
        (
            '{"spec": {}, "test": null}',
            " has no test figure to compare with, as the front of a search has once it has ended: export one of its "
            "trials then",
        ),
    ],
)
def test_what_is_no_export_is_not_verified(
    manifest: str | None,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    assert said(capsys, monkeypatch, "verify", str(tmp_path)) == f"error: {tmp_path}{sentence}\n"


@pytest.mark.parametrize("asked", [("show",), ("schedule", "history"), ("token", "remove"), ("resume",)])
def test_a_name_that_is_no_text_is_unknown(asked: tuple[str, ...], tmp_path: Path) -> None:
    """A byte of another encoding, which no database takes."""
    call("token", "add", "t", "--scope", "read", "--home", str(tmp_path))
    assert "is named '\\udcff'" in call(*asked, "\udcff", "--home", str(tmp_path), code=2).stderr


def test_a_page_that_does_not_fit_leaves_the_one_before(tmp_path: Path, disk: Disk) -> None:
    disk(tmp_path / "volume", 64)
    page = tmp_path / "volume" / "page.html"
    write_page("before", str(page), quiet=True)
    with pytest.raises(RequestError) as caught:
        write_page("x" * 100_000, str(page))
    assert str(caught.value) == f"--out {page} cannot be written (No space left on device): choose another file"
    assert page.read_text() == "before"
    assert list(page.parent.iterdir()) == [page]


def test_a_page_replaces_what_a_link_leads_to_and_keeps_its_rights(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    page, link = tmp_path / "site" / "page.html", tmp_path / "link.html"
    page.write_text("before")
    page.chmod(0o640)
    link.symlink_to(page)
    write_page("after", str(link), quiet=True)
    assert (link.is_symlink(), page.read_text(), page.stat().st_mode & 0o777) == (True, "after", 0o640)
    write_page("nowhere", "/dev/null", quiet=True)
    assert not Path("/dev/null").is_file()


def test_a_page_goes_into_a_pipe_and_in_the_place_of_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    """As in ``--out /dev/stdout | less``: what such a link says is no path."""
    reads, writes = os.pipe()
    write_page("piped", f"/dev/fd/{writes}", quiet=True)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        assert pipe.read() == "piped"
    (loop := tmp_path / "loop").symlink_to("loop")
    write_page("page", str(loop), quiet=True)
    assert loop.read_text() == "page"


@pytest.mark.parametrize(("out", "why"), [("", "Is a directory"), ("no/page.html", "No such file or directory")])
def test_where_no_page_can_be_written_is_said(tmp_path: Path, out: str, why: str) -> None:
    with pytest.raises(RequestError) as caught:
        write_page("page", str(tmp_path / out))
    assert str(caught.value) == f"--out {tmp_path / out} cannot be written ({why}): choose another file"
