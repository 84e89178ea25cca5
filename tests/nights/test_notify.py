"""Notifications, to a real server that fails at first."""

from __future__ import annotations

import pytest

from search.notify import notify, shown


def test_a_server_that_fails_twice_hears_it_the_third_time(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, texts = server
    monkeypatch.setenv("HOOK", url)
    assert notify("env:HOOK", "night s: complete", (0.01, 0.01))
    assert texts == ["night s: complete"] * 3


def test_the_url_is_never_shown(server: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    url, _ = server
    assert not notify(url, "x", (0.01,))
    assert not notify("env:NO_SUCH_VARIABLE", "x", ())
    assert "secret" not in capsys.readouterr().err
    assert shown(url) == "***"
