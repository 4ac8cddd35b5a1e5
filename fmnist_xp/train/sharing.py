"""Numbered pieces of work, shared out among a backend's threads."""

import threading
from collections.abc import Callable

from fmnist_xp.backend import Backend


def share_out(backend: Backend, workers: int, count: int, work: Callable[[int, int], None]) -> None:
    """Call `work(worker, number)` for the numbers 0 to `count` − 1, in order, on as many threads as `workers`.

    Whoever is free takes the next number. Once a call has raised no other number is begun, and it is raised.
    """
    numbers = iter(range(count))
    lock = threading.Lock()
    failed = threading.Event()

    def take_turns(worker: int) -> None:
        try:
            while not failed.is_set():
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                work(worker, number)
        except BaseException:
            failed.set()
            raise

    backend.map(take_turns, workers)
