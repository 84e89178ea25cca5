"""A wait is explained if it is long, and only then."""

from __future__ import annotations

import io
import time

import pytest

from search.waiting import said_if_slow


def test_a_long_wait_is_explained_once() -> None:
    stream = io.StringIO()
    with said_if_slow("reading data", stream, after_s=0.01):
        time.sleep(0.2)
    assert stream.getvalue() == "reading data\n"


def test_a_short_one_is_not_nor_one_that_ends_in_an_error() -> None:
    stream = io.StringIO()
    with said_if_slow("reading data", stream, after_s=0.3):
        pass
    with pytest.raises(ValueError, match="no data"), said_if_slow("reading data", stream, after_s=0.3):
        raise ValueError("no data")
    time.sleep(0.5)
    assert stream.getvalue() == ""


def test_a_stream_that_was_closed_is_nobodys_fault() -> None:
    stream = io.StringIO()
    stream.close()
    with said_if_slow("reading data", stream, after_s=0.01):
        time.sleep(0.1)
