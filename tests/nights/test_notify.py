"""Notifications, to a real server that fails at first."""

from __future__ import annotations

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
    monkeypatch.setenv("NO_HOOK", "hooks.example/secret")
    assert not notify("env:NO_HOOK", "x")
    said = capsys.readouterr().err
    assert "is no http or https URL: correct it" in said
    assert "secret" not in said


def test_the_url_is_never_shown(server: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    url, _ = server
    assert not notify(url, "x", (0.01,))
    assert not notify("env:NO_SUCH_VARIABLE", "x", ())
    assert "secret" not in capsys.readouterr().err
    assert shown(url) == "***"
