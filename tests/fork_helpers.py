"""Work in a fork of the tests' process, or on a thread of its own."""

import os
import pickle
import select
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

PATIENCE = 120  # seconds: a child takes less than one, unless it waits for ever


def in_child(work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a fork of this process; fail where it raises or does not end."""
    reading, writing = os.pipe()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()  # of which Python 3.12 and newer warn where there are threads
    if child == 0:
        try:
            answer = True, work()
        except BaseException:
            answer = False, traceback.format_exc()
        try:
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    received = b""
    end = time.monotonic() + PATIENCE
    try:
        while True:
            ready, _, _ = select.select([reading], [], [], max(0, end - time.monotonic()))
            assert ready, "the child process does not end"
            part = os.read(reading, 1 << 16)
            if not part:
                break
            received += part
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)  # which is nothing to one that has ended
        os.waitpid(child, 0)
    assert received, "the child process ended early"
    went_well, result = pickle.loads(received)
    assert went_well, result
    return result


def in_thread(work: Callable[[], Any]) -> Any:
    """Return what `work` returns on a new thread."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]
