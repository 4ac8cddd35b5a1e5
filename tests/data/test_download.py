"""Fetching, from servers on this machine."""

import gzip
import hashlib
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from data_helpers import made

from fmnist_xp.data import Dataset, download, export, fashion_mnist, fetch, idx, load_fashion_mnist, published
from fmnist_xp.errors import DataError

IMAGES = "train-images-idx3-ubyte.gz"


pytestmark = pytest.mark.usefixtures("downloads")


class Server(ThreadingHTTPServer):
    """Serves `files`; `status` answers everything, `cuts` breaks that many answers in the middle."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.status = 200
        self.cuts: dict[str, int] = {}
        self.answered: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that only asks whether anyone is there hangs up early."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.answered.append(name)
        content = self.server.files.get(name, b"")
        self.send_response(self.server.status if content else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.cuts.get(name, 0):
            self.server.cuts[name] -= 1
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def files(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small made files on the server, with their checksums for the published ones."""
    export(made(20), made(10, 1), tmp_path / "served", "idx")
    names = [f"{name}.gz" for name in idx.NAMES]
    server.files = {name: (tmp_path / "served" / name).read_bytes() for name in names}
    table = {
        name: published.Published(
            hashlib.md5(content).hexdigest(),
            hashlib.sha256(gzip.decompress(content)).hexdigest(),
            len(content),
            len(gzip.decompress(content)),
        )
        for name, content in server.files.items()
    }
    monkeypatch.setattr(published, "FILES", table)
    return server.files


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the synthetic set be small: here only whether it comes matters."""
    small = tuple(Dataset(d.images, d.labels, "synthetic", "drawn") for d in (made(20), made(10)))
    monkeypatch.setattr(fashion_mnist, "make_synthetic", lambda: small)


def assert_made(splits: tuple[Dataset, Dataset]) -> None:
    for read, expected in zip(splits, (made(20), made(10, 1)), strict=True):
        assert np.array_equal(read.images, expected.images)
        assert np.array_equal(read.labels, expected.labels)


def test_four_files_are_fetched_once(server: Server, files: dict[str, bytes], cache: Path) -> None:
    folder = fetch(server.url)
    assert folder.parent == cache
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    asked = len(server.answered)
    assert fetch(server.url) == folder
    assert len(server.answered) == asked


def test_auto_fetches_and_later_needs_no_server(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMNIST_XP_URL", server.url + "/")
    assert_made(load_fashion_mnist())
    asked = len(server.answered)
    assert_made(load_fashion_mnist("auto"))
    assert len(server.answered) == asked


def test_the_argument_comes_before_the_variable(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMNIST_XP_URL", "http://127.0.0.1:9/nobody")
    assert_made(load_fashion_mnist(url=server.url))


def test_the_same_content_compressed_otherwise_is_accepted(server: Server, files: dict[str, bytes]) -> None:
    server.files[IMAGES] = gzip.compress(gzip.decompress(files[IMAGES]), 1)
    assert (fetch(server.url) / IMAGES).read_bytes() == server.files[IMAGES]


def test_other_content_is_refused_with_both_sums(server: Server, files: dict[str, bytes]) -> None:
    other = gzip.decompress(files[IMAGES])[:-1] + b"\x00"
    server.files[IMAGES] = gzip.compress(other)
    for start in (fetch, lambda url: load_fashion_mnist("auto", url=url)):
        with pytest.raises(DataError, match=IMAGES) as raised:
            start(server.url)
        assert not isinstance(raised.value, download.OutOfReachError)
        assert hashlib.sha256(other).hexdigest() in str(raised.value)
        assert published.FILES[IMAGES].sha256 in str(raised.value)
    assert not (download.fetched_folder() / IMAGES).exists()


def test_what_is_no_gzip_is_refused(server: Server, files: dict[str, bytes]) -> None:
    server.files[IMAGES] = b"<html>please log in</html>"
    with pytest.raises(DataError, match=f"{IMAGES}: what came is no whole gzip file"):
        fetch(server.url)


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_status_is_an_error_not_a_synthetic_set(
    server: Server, files: dict[str, bytes], status: int
) -> None:
    server.status = status
    with pytest.raises(DataError, match=str(status)) as raised:
        load_fashion_mnist("auto", url=server.url)
    assert not isinstance(raised.value, download.OutOfReachError)
    assert IMAGES in str(raised.value)


def test_a_broken_connection_is_begun_again_whole(server: Server, files: dict[str, bytes]) -> None:
    server.cuts = {"t10k-images-idx3-ubyte.gz": 2}
    folder = fetch(server.url)
    assert server.cuts == {"t10k-images-idx3-ubyte.gz": 0}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_connection_that_keeps_breaking_is_an_error(server: Server, files: dict[str, bytes]) -> None:
    server.cuts = {"train-labels-idx1-ubyte.gz": 99}
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: the connection broke 3 times"):
        load_fashion_mnist("auto", url=server.url)
    assert [path.name for path in download.fetched_folder().iterdir()] == [IMAGES]


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, files: dict[str, bytes]) -> None:
    path = fetch(server.url) / IMAGES
    path.write_bytes(files[IMAGES][:-20])
    fetch(server.url)
    assert path.read_bytes() == files[IMAGES]


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_silence_means_one_warning_and_the_synthetic_set(
    silent: str, drawn: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with caplog.at_level(logging.WARNING, "fmnist_xp"):
        train, _ = load_fashion_mnist("auto", url=silent)
    assert train.name == "synthetic"
    (record,) = caplog.records
    assert silent in record.getMessage()
    assert "using synthetic images instead" in record.getMessage()
    with pytest.raises(download.OutOfReachError, match="no answer within"):
        fetch(silent)


def test_a_name_that_takes_for_ever_to_look_up_is_silence_too(drawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
    with pytest.raises(download.OutOfReachError, match=r"no answer within 0\.3 s"):
        fetch("http://fashion.invalid")
    over.set()


def test_a_refused_connection_means_the_synthetic_set(drawn: None, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert load_fashion_mnist("auto", url=f"http://127.0.0.1:{port}")[0].name == "synthetic"
    assert "refused" in caplog.text


def test_an_address_that_is_none_is_an_error() -> None:
    with pytest.raises(DataError, match="not an address to fetch from") as raised:
        load_fashion_mnist("auto", url="fashion")
    assert not isinstance(raised.value, download.OutOfReachError)


def test_two_at_once_both_end_with_whole_files(server: Server, files: dict[str, bytes]) -> None:
    failures: list[Exception] = []

    def start() -> None:
        try:
            fetch(server.url)
        except DataError as error:
            failures.append(error)

    both = [threading.Thread(target=start) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert not failures
    assert {path.name: path.read_bytes() for path in download.fetched_folder().iterdir()} == files


def test_a_cache_that_cannot_be_written(
    server: Server,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "file" / "cache"))
    assert_made(load_fashion_mnist("auto", url=server.url))
    assert "cannot be written" in caplog.text
    with pytest.raises(DataError, match="cannot be made"):
        fetch(server.url)


def test_a_bar_is_drawn_on_a_terminal_only(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fetch(server.url)
    assert capsys.readouterr().err == ""
    (folder / IMAGES).unlink()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch(server.url)
    assert IMAGES in capsys.readouterr().err
