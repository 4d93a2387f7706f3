"""Signals that ask a process to end: raised as Ctrl-C is, once, and never taken from who ignores them."""

from __future__ import annotations

import signal
import threading

import pytest

from orchestrator.process import signals


def test_the_signals_are_those_that_ask_to_end() -> None:
    assert signals.ENDING == (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    assert [signals.name_of(number) for number in (2, 15, 1, 10)] == ["Ctrl-C", "SIGTERM", "SIGHUP", "SIGUSR1"]


@pytest.mark.parametrize("number", signals.ENDING)
def test_a_signal_is_an_interrupt_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals.as_interrupts() as asked:
        asked.check()
        with pytest.raises(KeyboardInterrupt) as raised:
            signal.raise_signal(number)
        assert signals.why(raised.value) == number.name
        for again in signals.ENDING:
            signal.raise_signal(again)  # the rows are being written
        with pytest.raises(signals.AskedToEndError, match=number.name):
            asked.check()
    assert signal.getsignal(number) == before
    assert signals.why(KeyboardInterrupt()) == "Ctrl-C"


def test_what_is_ignored_stays_ignored_but_for_ctrl_c() -> None:
    heard = []
    numbers = (signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        with signals.handled_by(lambda number, _: heard.append(number), numbers):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGINT)  # a script's background jobs ignore it, and are sent it all the same
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN] * 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert heard == [signal.SIGINT]


def test_another_thread_changes_nothing() -> None:
    found = []

    def work() -> None:
        with signals.as_interrupts():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
