"""Download of the four IDX files into the user's cache."""

import os
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fmnist_xp.data import published
from fmnist_xp.data.cache import FETCHED, NO_FOLDER, cache_folder
from fmnist_xp.errors import DataError
from fmnist_xp.files import replacing

TIMEOUT = 10.0
"""Seconds of silence after which a server counts as unreachable, or a connection as broken."""
PATIENCE = 30.0
"""Seconds that a file may take at any rate."""
LOWEST_RATE = 20_000
"""Average bytes a second required after that. So no attempt lasts longer than `PATIENCE` plus the time that the
file's `Published.limit` takes at this rate: 40 minutes for the largest file, 30 s for the labels."""
WHOLE = 3600.0
"""Seconds that all files may take together, over all addresses and attempts."""
ATTEMPTS = 3
"""How often a download is tried, each time from the start, when the connection breaks."""


class OutOfReachError(DataError):
    """There is no network, no address answers, or requests, which does the asking, is not installed."""


def fetched_folder() -> Path | None:
    """Return the folder of the cache where `fetch` puts the files (it need not exist), or None without a cache."""
    cache = cache_folder()
    return cache / FETCHED if cache else None


def fetch(url: str | None = None, progress: bool = True, folder: Path | None = None) -> Path:
    """Make sure that the four .gz files are in `folder`, by default in the cache; return the folder.

    They come from `url`, else `$FMNIST_XP_URL`, else the first of `published.ADDRESSES` that has them; each is an
    address below which the four files lie. A correct file is left alone; a wrong one is kept until its replacement
    is verified. A file gets its name only when it is complete and verified, so two processes may fetch at once.
    `progress` shows a bar, on a terminal.

    OutOfReachError, a DataError, if no address answers within `TIMEOUT`, or requests is not installed; DataError
    for an error status, a wrong checksum, more bytes than the file has, a connection that keeps breaking or is slower
    than `LOWEST_RATE`, more than `WHOLE` seconds in all, no cache, or a folder that cannot be written.
    """
    chosen = url or os.environ.get("FMNIST_XP_URL")
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
        try:
            import requests  # noqa: F401
        except ImportError as error:
            raise OutOfReachError(f"downloads need requests ({error}): pip install requests") from error
    failures: list[DataError] = []
    deadline = time.monotonic() + WHOLE
    for address in (chosen,) if chosen else published.ADDRESSES:
        try:
            while missing:
                _fetch_file(f"{address.rstrip('/')}/{missing[0]}", folder / missing[0], deadline, show)
                del missing[0]
            return folder
        except DataError as error:
            failures.append(error)
            if time.monotonic() > deadline:
                break
        except OSError as error:
            raise DataError(f"{folder / missing[0]}: cannot be written ({error.strerror or error})") from error
    reasons = "; ".join(map(str, failures))
    if all(isinstance(failure, OutOfReachError) for failure in failures):
        raise OutOfReachError(f"{reasons}; check the connection, or name another address (--url, FMNIST_XP_URL)")
    raise DataError(f"{reasons}; name another address (--url, FMNIST_XP_URL)")


def _is_right(path: Path, name: str) -> bool:
    with suppress(DataError, OSError):
        if path.is_file():  # opening a FIFO would block
            published.verify(path, name)
            return True
    return False


def _fetch_file(url: str, path: Path, deadline: float, show: bool) -> None:
    content = published.as_gzip(_received(url, published.FILES[path.name], deadline, show), path.name)
    if path.is_fifo():  # nobody's but ours: else `replacing` would refuse
        path.unlink()
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        try:
            published.verify(temporary, path.name)
        except DataError as error:
            raise DataError(f"{url.removesuffix(path.name)}{error}") from error


def _received(url: str, expected: published.Published, deadline: float, show: bool) -> bytes:
    """Return what the server sends, starting again if the connection breaks."""
    import requests
    import urllib3

    attempts = 0
    while True:
        attempts += 1
        transfer = _Transfer(url, expected.limit)
        transfer.start()
        try:
            _watch(transfer, expected, deadline, show)
        finally:
            transfer.stop()
        if (failure := transfer.failure) is None:
            return bytes(transfer.content)
        if isinstance(failure, requests.HTTPError):
            answer = str(failure).partition(" for url")[0]
            raise DataError(f"{url}: the server answers {answer}") from failure
        if transfer.response is None:
            if isinstance(failure, requests.Timeout):
                raise _no_answer(url) from failure
            if isinstance(failure, requests.ConnectionError):
                raise OutOfReachError(f"{_address(url)}: {_reason(failure)}") from failure
            if isinstance(failure, requests.TooManyRedirects | requests.exceptions.InvalidHeader):
                raise DataError(f"{url}: its answer is of no use ({_reason(failure)})") from failure
            if isinstance(failure, requests.RequestException | ValueError):
                raise DataError(f"{url}: not an address to fetch from ({_reason(failure)})") from failure
        if not isinstance(failure, urllib3.exceptions.HTTPError | OSError):
            raise failure
        if attempts == ATTEMPTS:
            raise DataError(f"{url}: the connection broke {ATTEMPTS} times ({_reason(failure)})") from failure


def _watch(transfer: "_Transfer", expected: published.Published, deadline: float, show: bool) -> None:
    """Wait for the end of a transfer; raise if it does not begin, or gets too slow, too late or too large."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    if not transfer.answered.wait(TIMEOUT):
        raise _no_answer(transfer.url)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    begun = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task(transfer.url.rpartition("/")[2], total=expected.size_gz)
        alive = True
        while alive:
            transfer.join(0.1)
            alive = transfer.is_alive()
            bar.update(task, completed=len(transfer.content))
            now = time.monotonic()
            seconds = now - begun
            if alive and now > deadline:
                raise DataError(f"{transfer.url}: not done {WHOLE:,.0f} s after the first request")
            if alive and len(transfer.content) < LOWEST_RATE * (seconds - PATIENCE):
                raise DataError(
                    f"{transfer.url}: {len(transfer.content):,} bytes in {seconds:.0f} s, "
                    f"slower than {LOWEST_RATE:,} a second"
                )
    if len(transfer.content) > expected.limit:
        raise DataError(f"{transfer.url}: more than the {expected.limit:,} bytes that the file can have")


class _Transfer(threading.Thread):
    """A request and its answer, on a thread that another one waits for.

    On a thread, because no timeout covers name lookup, several addresses, redirects and slow headers as a whole. The
    bytes are kept as they were sent, whatever `Content-Encoding` says; see `published.as_gzip`.
    """

    def __init__(self, url: str, limit: int) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.limit = limit
        self.answered = threading.Event()
        self.response: Any = None
        self.content = bytearray()
        self.failure: Exception | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        """Receive at most one chunk more than `limit` bytes; leave any error in `failure`."""
        import requests

        try:
            with requests.get(
                self.url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}
            ) as self.response:
                self.answered.set()
                self.response.raise_for_status()
                for chunk in self.response.raw.stream(1 << 14, decode_content=False):
                    self.content += chunk
                    if self._stopped.is_set() or len(self.content) > self.limit:
                        return
        except Exception as error:  # for the waiting thread to raise
            self.failure = error
        finally:
            self.answered.set()

    def stop(self) -> None:
        """End the thread if it still runs: at once where urllib3 (from 2.3) can, else with the next chunk."""
        self._stopped.set()
        shutdown = getattr(getattr(self.response, "raw", None), "shutdown", None)
        if self.is_alive() and shutdown:
            # The answer may have ended meanwhile.
            with suppress(OSError, ValueError, RuntimeError):
                shutdown()


def _no_answer(url: str) -> OutOfReachError:
    return OutOfReachError(f"{_address(url)}: no answer within {TIMEOUT:g} s")


def _address(url: str) -> str:
    """Return the folder of a URL: where no server answers, the file's name tells nothing."""
    return f"{url.rpartition('/')[0]}/"


def _reason(error: BaseException) -> str:
    """Return the innermost reason in words: requests wraps the error two or three times."""
    inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, Exception)), None)
    if isinstance(inner, Exception):
        return _reason(inner)
    words = str(getattr(error, "strerror", None) or error).split(": ", 1)[-1]
    # urllib3 puts the system's words after its own, with or without brackets.
    return re.sub(r"^.*\[Errno -?\d+\] (.*?)\)?$", r"\1", words)
