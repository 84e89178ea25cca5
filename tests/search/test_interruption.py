"""Signals are not lost, whatever runs when they come."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from objectives.errors import Interrupted, ModelError
from search.interruption import Interruption

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@SIGNALS
def test_a_signal_raises_and_the_handlers_before_are_back_after(number: signal.Signals) -> None:
    before = signal.getsignal(number), sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), Interruption():
        send(number)
    assert (signal.getsignal(number), sys.unraisablehook) == before


@SIGNALS
def test_what_a_finaliser_swallows_is_raised_at_the_next_check(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    class Thing:
        pass

    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        thing = Thing()
        reference = weakref.ref(thing, lambda _: send(number))
        interruption.check()
        del thing
        assert reference() is None
        interruption.check()
    assert capfd.readouterr().err == ""


@SIGNALS
@pytest.mark.parametrize("where", ["import", "logging"])
def test_code_that_takes_locks_by_hand_is_let_finish(
    number: signal.Signals, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception right behind its acquire() left the lock taken: Ray, which imports in a thread, hung for ever."""

    class Sent(int):
        """Reading one of these sends the signal, without a Python frame of its own: it comes in the reader's."""

        find_spec = level = property(signal.raise_signal)
        parent = None

    with pytest.raises(KeyboardInterrupt) as caught, Interruption():
        if where == "import":
            monkeypatch.setattr(sys, "meta_path", [Sent(number)])
            with contextlib.suppress(ImportError, TypeError):
                importlib.import_module("no_module_of_this_name")
        else:
            logger = logging.Logger("locks")
            logger.parent = Sent(number)  # type: ignore[assignment]  # what is asked for its level
            logger.getEffectiveLevel()
        time.sleep(10)
    assert Path(caught.traceback[-2].path) == Path(__file__)  # and then the handler


@SIGNALS
def test_what_a_library_makes_of_it_is_an_interruption(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), Interruption():
        try:
            send(number)
        except KeyboardInterrupt:
            raise ModelError("transformers cannot be imported: choose another model") from None


def test_an_interruption_that_is_explained_stays_so() -> None:
    with pytest.raises(Interrupted, match="all kept"), Interruption():
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raise Interrupted("interrupted with 1 of 4 trials done, all kept") from None


def test_other_errors_pass() -> None:
    with pytest.raises(ModelError), Interruption():
        raise ModelError("no such model")


@SIGNALS
def test_a_handler_that_another_installs_is_replaced_again(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        signal.signal(number, signal.SIG_IGN)
        interruption.install()
        send(number)


@SIGNALS
def test_a_second_signal_does_not_cut_off_what_the_first_one_ends(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    with pytest.raises(KeyboardInterrupt), Interruption():
        try:
            send(number)
        except KeyboardInterrupt:
            send(number)
            said.append("continue with ...")
            monkeypatch.setattr("search.interruption._DEAF_S", -1.0)  # as if the end took for ever
            send(number)
            said.append("never")
    assert said == ["continue with ..."]


def test_other_lost_errors_are_shown_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: shown.append(lost.exc_type))

    class Thing:
        def __del__(self) -> None:
            raise ValueError

    with Interruption():
        thing = Thing()
        del thing
    assert shown == [ValueError]


def test_in_another_thread_signals_are_the_main_threads() -> None:
    """As where a notebook or a service runs a search beside other things."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook

    def within() -> tuple[object, ...]:
        with Interruption() as interruption:
            interruption.install()
            interruption.check()
            return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(within).result() == before
