"""Fetching the four IDX files into the user's cache."""

import logging
import os
import sys
import threading
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from fmnist_xp.data import published
from fmnist_xp.data.cache import NO_FOLDER, cache_folder
from fmnist_xp.errors import DataError

TIMEOUT = 10.0
"""Seconds without a sign of life after which a server counts as not there."""
ATTEMPTS = 3
"""How often a file is begun again, whole, when the connection breaks."""


class OutOfReachError(DataError):
    """The network is not there, nothing at the address answers, or pooch, which would ask, is not installed."""


def fetched_folder() -> Path | None:
    """Return the folder of the cache where `fetch` puts the files, which need not exist, or None without a cache."""
    cache = cache_folder()
    return cache / "fashion-mnist" if cache else None


def is_fetched(folder: Path) -> bool:
    """Return whether the four files are in `folder`."""
    return all((folder / name).is_file() for name in published.FILES)


def fetch(url: str | None = None, progress: bool = True, folder: Path | None = None) -> Path:
    """Make sure that the four .gz files lie in `folder`, by default in the cache; return the folder.

    They come from `url`, else `$FMNIST_XP_URL`, else `published.ADDRESS`: the address under which the four
    files lie. A file that is there and right is left alone. A file appears under its name only when it is
    whole and verified, so two processes may do this at once. `progress`: a bar, on a terminal.

    OutOfReachError, a DataError, where nothing answers within `TIMEOUT`, or pooch is not installed; DataError for an
    error status, a wrong checksum, a connection that keeps breaking, no cache, or a folder that cannot be written.
    """
    base = (url or os.environ.get("FMNIST_XP_URL") or published.ADDRESS).rstrip("/")
    folder = folder or fetched_folder()
    if folder is None:
        raise DataError(f"there is no cache to fetch into: {NO_FOLDER}")
    show = progress and sys.stderr.isatty()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror}); set FMNIST_XP_CACHE to another") from error
    missing = [name for name in published.FILES if not _is_right(folder / name, name)]
    if missing:
        _check_libraries()
        _wait_for_answer(f"{base}/{missing[0]}")
    for name in missing:
        _fetch_file(f"{base}/{name}", folder, name, show)
    return folder


def _is_right(path: Path, name: str) -> bool:
    if not path.is_file():
        return False
    try:
        published.verify(path, name)
    except DataError:
        path.unlink(missing_ok=True)
        return False
    return True


def _check_libraries() -> None:
    """Raise OutOfReachError where pooch, or requests, which it brings along, cannot be imported."""
    try:
        for name in ("pooch", "requests"):
            import_module(name)
    except ImportError as error:
        raise OutOfReachError(f"downloads need pooch ({error}): pip install pooch") from error


def _wait_for_answer(url: str) -> None:
    """Raise OutOfReachError unless the server says something, if only an error, within `TIMEOUT`.

    On a thread, because looking up a name and trying one address after another obey no timeout as a whole.
    """
    import requests

    failures: list[Exception] = []

    def ask() -> None:
        try:
            requests.get(url, stream=True, timeout=TIMEOUT).close()
        except (requests.RequestException, ValueError) as error:
            failures.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(TIMEOUT)
    if asking.is_alive() or any(isinstance(error, requests.Timeout) for error in failures):
        raise _no_answer(url, f"no answer within {TIMEOUT:g} s")
    for error in failures:
        if isinstance(error, requests.ConnectionError):
            raise _no_answer(url, _reason(error)) from error
        raise DataError(f"{url}: not an address to fetch from ({_reason(error)})") from error


def _fetch_file(url: str, folder: Path, name: str, show: bool) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.ERROR)

    def download(url: str, output_file: str, _: object) -> None:
        with _Bar(name) if show else nullcontext(False) as bar:
            pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT)(url, output_file, None)
        # Here and not through pooch's known_hash, which knows the .gz only; see published.verify.
        published.verify(Path(output_file), name)

    for attempt in range(1, ATTEMPTS + 1):
        try:
            pooch.retrieve(url, known_hash=None, fname=name, path=folder, downloader=download)
            return
        except requests.HTTPError as error:
            answer = str(error).partition(" for url")[0]
            raise DataError(f"{url}: the server answers {answer}; try another address") from error
        except (requests.Timeout, requests.ConnectionError) as error:
            raise _no_answer(url, _reason(error)) from error
        except requests.RequestException as error:
            if attempt == ATTEMPTS:
                raise DataError(f"{url}: the connection broke {ATTEMPTS} times ({_reason(error)})") from error
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be written ({error.strerror or error})") from error


def _no_answer(url: str, reason: str) -> OutOfReachError:
    return OutOfReachError(f"{url}: {reason}; check the connection, or name another address (--url, FMNIST_XP_URL)")


def _reason(error: BaseException) -> str:
    """Return the innermost reason in words: requests wraps what happened two or three times over."""
    reason: Any = error
    while True:
        inner = getattr(reason, "reason", None) or next((a for a in reason.args if isinstance(a, Exception)), None)
        if not isinstance(inner, Exception):
            return str(getattr(reason, "strerror", None) or reason).split(": ", 1)[-1]
        reason = inner


class _Bar:
    """A rich progress bar in the form pooch expects: `total` is set, then `update`, `reset` and `close` called."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn(name), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True)
        )
        self._task = self._progress.add_task(name, total=None)
        self._progress.start()

    def __enter__(self) -> Self:
        """Return the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back, whether or not pooch came as far as closing the bar."""
        self.close()

    @property
    def total(self) -> float | None:
        """Bytes to come."""
        return self._progress.tasks[self._task].total

    @total.setter
    def total(self, value: float) -> None:
        self._progress.update(self._task, total=value)

    def update(self, amount: float) -> None:
        """Count `amount` bytes more."""
        self._progress.advance(self._task, amount)

    def reset(self) -> None:
        """Start again at 0, as pooch does before it fills the bar once more at the end."""
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._progress.stop()
