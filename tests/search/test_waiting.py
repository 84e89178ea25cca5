"""A wait is explained if it is long, and only then."""

from __future__ import annotations

import io
import threading

import pytest

from search.waiting import said_if_slow
from tests.waiting import wait_for


def wait_for_the_timer() -> None:
    """Until it has ended, of itself or since it was canceled."""
    wait_for(lambda: not any(isinstance(each, threading.Timer) for each in threading.enumerate()))


def test_a_long_wait_is_explained_once() -> None:
    stream = io.StringIO()
    with said_if_slow("reading data", stream, after_s=0.01):
        wait_for_the_timer()
    assert stream.getvalue() == "reading data\n"


def test_a_short_one_is_not_nor_one_that_ends_in_an_error() -> None:
    stream = io.StringIO()
    with said_if_slow("reading data", stream, after_s=5):
        pass
    with pytest.raises(ValueError, match="no data"), said_if_slow("reading data", stream, after_s=5):
        raise ValueError("no data")
    wait_for_the_timer()
    assert stream.getvalue() == ""


def test_a_stream_that_was_closed_is_nobodys_fault() -> None:
    stream = io.StringIO()
    stream.close()
    with said_if_slow("reading data", stream, after_s=0.01):
        wait_for_the_timer()
