"""Signals that ask a training to end: it ends after the epoch under way, with what was learned."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def noted_interrupts(always: bool = False) -> Iterator[list[int]]:
    """Yield a list that the first SIGINT, SIGTERM or SIGHUP is entered in; a second one does what it did before.

    One that is ignored (nohup) stays so. One that would end the process at once is noted where `always`, and sent
    again when the block ends.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield noted
        return
    before: dict[int, Any] = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        # None is a handler that was not set from Python, and could not be put back.
        if handler not in (None, signal.SIG_IGN) and (always or handler is not signal.SIG_DFL):
            before[number] = handler

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
        if noted and before[noted[0]] is signal.SIG_DFL:
            os.kill(os.getpid(), noted[0])
