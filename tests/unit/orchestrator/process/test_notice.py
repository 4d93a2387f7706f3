"""Notice by signals: the first one is heeded, one that comes with it is the same, a later one ends the process."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from orchestrator.process import notice, signals


@pytest.mark.parametrize("number", notice.SIGNALS)
def test_a_signal_is_notice_and_a_second_one_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    now, before = time.monotonic(), signal.getsignal(number)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with signals.as_interrupts(), notice.heeded() as taken:
        assert not taken()
        signal.raise_signal(number)
        assert taken()
        for again in notice.SIGNALS:  # a process and its group get one each
            signal.raise_signal(again)
        now += 2
        with pytest.raises(signals.AskedToEndError, match=number.name):
            signal.raise_signal(number)
    assert taken.reason == number.name
    assert taken.source is None
    assert signal.getsignal(number) == before


def test_a_second_signal_goes_to_whom_it_went_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now, heard = time.monotonic(), list[int]()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with notice.heeded():
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
            now += 2
            with pytest.raises(signals.AskedToEndError):
                signal.raise_signal(signal.SIGTERM)
            assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_source_that_does_not_answer_keeps_no_other_from_being_heard() -> None:
    over, heard = threading.Event(), threading.Event()

    def hangs() -> str | None:
        over.wait(20)
        return None

    def knows() -> str | None:
        heard.set()
        return "it knows"

    try:
        with notice.asked([hangs, knows]) as taken:
            assert heard.wait(5)
            deadline = time.monotonic() + 5
            while not taken() and time.monotonic() < deadline:
                time.sleep(0.001)
            assert (taken.reason, taken.source) == ("it knows", knows)
    finally:
        over.set()


def test_ctrl_c_and_a_closed_terminal_are_no_notice() -> None:
    assert not {signal.SIGINT, signal.SIGHUP} & set(notice.SIGNALS)
