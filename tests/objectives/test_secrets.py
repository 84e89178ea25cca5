"""What is said of places and errors holds no secret."""

from __future__ import annotations

import json

from objectives.secrets import redacted, said


def test_secrets_are_left_out() -> None:
    assert redacted("GET http://me:pw@h/x failed; postgresql://h/d?password=pw&x=1, token=abc") == (
        "GET http://***@h/x failed; postgresql://h/d?password=***&x=1, token=***"
    )
    assert redacted("--storage 'postgresql://me:q8/Zt+k@w@db/search' --tracking-uri https://h/x") == (
        "--storage 'postgresql://***@db/search' --tracking-uri https://h/x"
    ), "SQLAlchemy takes such a password"
    for quote in "'\"":
        assert redacted(f"storage postgresql://me:it{quote}s@db/search") == "storage postgresql://***@db/search"
    assert redacted("storage 'nonsense//me:pw@db/search'") == "storage 'nonsense//***@db/search'"
    assert json.loads(redacted('{"a": "x@y"}')) == {"a": "x@y"}


def test_of_an_error_its_kind_and_first_line_are_said() -> None:
    assert said(ValueError("no http://me:pw@h\nmore")) == "ValueError: no http://***@h"
    assert len(said(OSError("x" * 1000))) == 500
