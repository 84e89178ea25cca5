"""Notifications, to a real server that fails at first."""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Callable

import pytest

from search.notify import notify, shown


def test_a_server_that_fails_twice_hears_it_the_third_time(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, texts = server
    monkeypatch.setenv("HOOK", url)
    assert notify("env:HOOK", "night s: complete", (0.01, 0.01))
    assert texts == ["night s: complete"] * 3


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (302, "the server answered 302, a redirect: give --notify of the schedule the URL that it leads to"),
        (404, "the server answered 404: check --notify of the schedule"),
    ],
)
def test_a_refusal_that_will_not_change_is_said_once(
    code: int, said: str, answering: Callable[[int], tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """urllib would follow a redirect without the text, and call that delivered."""
    url, asked = answering(code)
    assert not notify(url, "x", (0.01, 0.01))
    assert asked == ["POST /secret"]
    assert capsys.readouterr().err == f"a notification was not delivered: {said}\n"


def test_a_user_and_password_in_the_url_are_given_to_the_server(
    answering: Callable[[int], tuple[str, list[str]]],
) -> None:
    url, asked = answering(200)
    assert notify(url.replace("//", "//me:p%40ss:@"), "x", ())
    assert asked == [f"POST /secret Basic {b64encode(b'me:p@ss:').decode()}"]


def test_a_path_of_any_letters_is_sent_as_browsers_send_it(answering: Callable[[int], tuple[str, list[str]]]) -> None:
    url, asked = answering(200)
    assert notify(f"{url}/größe?an=모두%20&b", "x", ())
    assert asked == ["POST /secret/gr%C3%B6%C3%9Fe?an=%EB%AA%A8%EB%91%90%20&b"]


@pytest.mark.parametrize(("name", "known_as"), [("bücher.example", "xn--bcher-kva.example"), ("日本", "xn--wgv71a")])
def test_an_international_name_of_a_server_is_written_in_ascii(
    name: str,
    known_as: str,
    answering: Callable[[int], tuple[str, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """urllib would write the first one into the header Host in Latin-1, and could not write the second."""
    url, asked = answering(200)
    looked_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest: looked_up("127.0.0.1", *rest))
    assert notify(url.replace("127.0.0.1", f"me:pä@{name}"), "x", ())
    assert asked == [f"POST /secret Basic {b64encode('me:pä'.encode()).decode()} {known_as}"]


def test_a_server_that_is_busy_is_asked_again(answering: Callable[[int], tuple[str, list[str]]]) -> None:
    url, asked = answering(429)
    assert not notify(url, "x", (0.01, 0.01))
    assert asked == ["POST /secret"] * 3


def test_a_variable_that_is_not_set_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_HOOK", raising=False)
    assert not notify("env:NO_HOOK", "x")
    assert "NO_HOOK is not set where the daemon runs: set it" in capsys.readouterr().err
    for url in (
        "hooks.example/secret",
        "file:///dev/null",
        "ftp://hooks.example/secret",
        "https://hooks.example/se\ncret",
    ):
        monkeypatch.setenv("NO_HOOK", url)
        assert not notify("env:NO_HOOK", "x")
        assert capsys.readouterr().err == (
            "a notification was not delivered: what --notify of the schedule gives is no http or https URL: "
            "correct it\n"
        )


def test_what_keeps_a_server_away_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert not notify(f"http://127.0.0.1:{closed.getsockname()[1]}/secret", "x", (0.01,))
    assert capsys.readouterr().err == (
        "a notification was not delivered: ConnectionRefusedError, 2 times: check --notify of the schedule, and that "
        "server\n"
    )


def test_the_url_is_never_shown(server: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    url, _ = server
    assert not notify(url, "x", (0.01,))
    assert not notify("env:NO_SUCH_VARIABLE", "x", ())
    assert "secret" not in capsys.readouterr().err
    assert shown(url) == "***"
