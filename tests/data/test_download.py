"""Fetching, from servers on this machine."""

import errno
import gc
import gzip
import hashlib
import logging
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from data_helpers import made

from fmnist_xp.data import Dataset, download, export, fashion_mnist, fetch, idx, load_fashion_mnist, published
from fmnist_xp.errors import DataError

requests = pytest.importorskip("requests", reason="requests, which only downloads need, is not installed")
urllib3 = pytest.importorskip("urllib3")

IMAGES = "train-images-idx3-ubyte.gz"


pytestmark = pytest.mark.usefixtures("downloads")


class Server(ThreadingHTTPServer):
    """Serves `files`; `status` answers everything, `cuts` breaks that many answers in the middle.

    `encodings` are what was asked for as `Accept-Encoding`. `headers` are sent in place of `Content-Length`. Where
    `pause` is set, answers go on for 128 MiB, `piece` bytes at a time, with so many seconds between them; with none,
    as fast as they can.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.status = 200
        self.cuts: dict[str, int] = {}
        self.answered: list[str] = []
        self.encodings: list[str | None] = []
        self.headers: dict[str, str] | None = None
        self.pause: float | None = None
        self.piece = 1
        self.over = threading.Event()

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
        self.server.encodings.append(self.headers["Accept-Encoding"])
        content = self.server.files.get(name, b"")
        self.send_response(self.server.status if content else 404)
        headers = self.server.headers
        for header, value in ({"Content-Length": str(len(content))} if headers is None else headers).items():
            self.send_header(header, value)
        self.end_headers()
        if self.server.pause is not None:
            piece, sent = self.server.piece if self.server.pause else 1 << 16, 0
            while not self.server.over.wait(self.server.pause) and sent < 1 << 27:
                self.wfile.write(b"\x1f" * piece)
                sent += piece
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
    server.over.set()
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
    assert server.encodings == ["identity"] * 4
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


def test_auto_in_the_variable_is_auto(
    server: Server,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a cache that is not there yet, below folders that are not."""
    caplog.set_level(logging.INFO, "fmnist_xp")
    monkeypatch.setenv("FMNIST_XP_DATA", "auto")
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "some" / "where"))
    assert_made(load_fashion_mnist(url=server.url))
    assert sorted(path.name for path in (tmp_path / "some" / "where" / "fashion-mnist").iterdir()) == sorted(files)
    assert not caplog.records


def test_what_is_fetched_and_right_is_read_and_not_verified_at_each_start(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, dataset in (("train", made(20)), ("test", made(10, 1))):
        monkeypatch.setitem(published.SORTED_SHA256, split, published.sorted_sha256(dataset))
    assert load_fashion_mnist(url=server.url)[0].name == "fashion-mnist"
    monkeypatch.setattr(published, "verify", None)
    assert load_fashion_mnist(url=server.url)[0].name == "fashion-mnist"


def test_synthetic_in_the_variable_is_drawn(drawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_XP_DATA", "synthetic")
    for source in ("drawn", "drawn by make_synthetic"):  # the second comes from the cache
        train, _ = load_fashion_mnist()
        assert (train.name, train.source) == ("synthetic", source)


def test_a_folder_that_is_not_there_is_made_with_those_above_it(
    server: Server, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "some" / "where"
    assert fetch(server.url, folder=folder) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_file_that_cannot_be_put_into_its_place_is_named(
    server: Server, files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "here" / IMAGES / "in the way").mkdir(parents=True)
    with pytest.raises(DataError) as raised:
        fetch(server.url, folder=tmp_path / "here")
    assert str(raised.value) == f"{tmp_path / 'here' / IMAGES}: cannot be written ({os.strerror(errno.EISDIR)})"


def test_without_a_cache_there_is_nowhere_to_fetch_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FMNIST_XP_CACHE")
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert download.fetched_folder() is None
    with pytest.raises(DataError, match=r"^there is no cache to fetch into: its folder is unknown without pooch"):
        fetch()


def test_without_requests_it_is_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(download.OutOfReachError, match=r"^downloads need requests \(.+\): pip install requests$"):
        fetch()


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
    with pytest.raises(
        DataError, match=rf"^{server.url}/{IMAGES}: what came is no whole gzip file \(.*\); name another address"
    ):
        fetch(server.url)


def test_a_file_of_the_most_bytes_that_it_can_have_is_taken(server: Server, files: dict[str, bytes]) -> None:
    padded = files[IMAGES].ljust(published.FILES[IMAGES].limit, b"\0")
    server.files[IMAGES] = padded
    assert (fetch(server.url) / IMAGES).read_bytes() == padded


@pytest.mark.parametrize(
    ("status", "words"), [(404, "404 Client Error: Not Found"), (500, "500 Server Error: Internal Server Error")]
)
def test_an_error_status_is_an_error_not_a_synthetic_set(
    server: Server, files: dict[str, bytes], status: int, words: str
) -> None:
    server.status = status
    with pytest.raises(DataError) as raised:
        load_fashion_mnist("auto", url=server.url)
    assert not isinstance(raised.value, download.OutOfReachError)
    assert str(raised.value) == (
        f"{server.url}/{IMAGES}: the server answers {words}; name another address (--url, FMNIST_XP_URL)"
    )


def test_a_broken_connection_is_begun_again_whole(server: Server, files: dict[str, bytes]) -> None:
    server.cuts = {"t10k-images-idx3-ubyte.gz": 2}
    folder = fetch(server.url)
    assert server.cuts == {"t10k-images-idx3-ubyte.gz": 0}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_connection_that_keeps_breaking_is_an_error(server: Server, files: dict[str, bytes]) -> None:
    server.cuts = {"train-labels-idx1-ubyte.gz": 99}
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: the connection broke 3 times"):
        load_fashion_mnist("auto", url=server.url)
    assert server.answered == [IMAGES] + ["train-labels-idx1-ubyte.gz"] * 3
    assert [path.name for path in download.fetched_folder().iterdir()] == [IMAGES]


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, files: dict[str, bytes]) -> None:
    path = fetch(server.url) / IMAGES
    path.write_bytes(files[IMAGES][:-20])
    fetch(server.url)
    assert path.read_bytes() == files[IMAGES]


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda _: gzip.compress(b"other")])
def test_damaged_files_in_the_cache_never_change_what_is_loaded(
    server: Server,
    files: dict[str, bytes],
    nobody: str,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "fmnist_xp")
    path = fetch(server.url) / IMAGES
    path.write_bytes(damage(files[IMAGES]))
    with pytest.raises(DataError, match="are damaged, and cannot be fetched again"):
        load_fashion_mnist("auto", url=nobody)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: ")
    assert record.getMessage().endswith("; fetching it again")
    assert_made(load_fashion_mnist("auto", url=server.url))
    assert path.read_bytes() == files[IMAGES]


def test_another_data_set_in_the_place_of_the_fetched_is_not_taken(
    server: Server, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = fetch(server.url)
    export(made(20, 7), made(10, 8), tmp_path / "other", "idx")
    for name in files:
        (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert_made(load_fashion_mnist("auto", url=server.url))


def test_drawn_images_can_be_ruled_out(nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"cannot be fetched .* ruled out") as raised:
        load_fashion_mnist("auto", url=nobody, allow_synthetic=False)
    assert nobody in str(raised.value)
    assert "check the connection" in str(raised.value)
    with pytest.raises(
        DataError,
        match=r"^synthetic: drawn images are ruled out \(--no-synthetic\); name the folder of real ones$",
    ):
        load_fashion_mnist("synthetic", allow_synthetic=False)
    monkeypatch.setenv("FMNIST_XP_DATA", "synthetic")
    with pytest.raises(DataError, match="FMNIST_XP_DATA=synthetic"):
        load_fashion_mnist(allow_synthetic=False)
    export(made(20), made(10, 1), tmp_path / "idx", "idx")
    assert_made(load_fashion_mnist(tmp_path / "idx", allow_synthetic=False))


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
    assert record.getMessage() == (
        f"Fashion-MNIST cannot be fetched ({silent}/: no answer within 0.3 s; check the connection, or name another "
        "address (--url, FMNIST_XP_URL)); using synthetic images instead"
    )
    with pytest.raises(download.OutOfReachError, match="no answer within"):
        fetch(silent)


def test_a_name_that_takes_for_ever_to_look_up_is_silence_too(drawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    over = threading.Event()
    keeps_the_process: list[bool] = []

    def look_up(*_: object, **__: object) -> list[object]:
        keeps_the_process.append(not threading.current_thread().daemon)
        over.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(download.OutOfReachError, match=r"no answer within 0\.3 s"):
        fetch("http://fashion.invalid")
    over.set()
    assert keeps_the_process == [False]


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
    folder = tmp_path / "file" / "cache" / "fashion-mnist"
    said = f"{folder}: cannot be written; the data set is fetched at each start"
    assert caplog.messages[0] == said
    with pytest.raises(DataError, match="cannot be made"):
        fetch(server.url)
    folder = tmp_path / "cache" / "fashion-mnist"
    monkeypatch.setenv("FMNIST_XP_CACHE", str(folder.parent))
    temporary = tempfile.TemporaryFile

    def read_only(*arguments: object, dir: Path | None = None) -> object:
        if dir == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return temporary(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    caplog.clear()
    assert_made(load_fashion_mnist("auto", url=server.url))
    assert caplog.messages == [f"{folder}: cannot be written; the data set is fetched at each start"]
    assert not list(folder.iterdir())


def test_a_bar_is_drawn_on_a_terminal_only(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fetch(server.url)
    assert capsys.readouterr().err == ""
    (folder / IMAGES).unlink()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch(server.url)
    size = f"{len(files[IMAGES]) / 1000:.1f}"
    *_, line = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", capsys.readouterr().err).split("\r")
    assert re.fullmatch(rf"{IMAGES} ━+ {size}/{size} kB 0:00:00\n", line)


FORMS = {
    "labelled, and so inflated by whoever believes it": lambda content: content,
    "inflated on the way": gzip.decompress,
    "compressed once more": gzip.compress,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_content_encoding_is_undone_by_content(
    server: Server, files: dict[str, bytes], form: Callable[[bytes], bytes]
) -> None:
    right = dict(files)
    server.files = {name: form(content) for name, content in files.items()}
    server.headers = {"Content-Encoding": "gzip"}
    folder = fetch(server.url)
    for name, content in right.items():
        assert gzip.decompress((folder / name).read_bytes()) == gzip.decompress(content)
    assert_made(load_fashion_mnist())


@pytest.mark.parametrize("length", ["many", "", "-5", "1e3"])
def test_a_length_that_is_no_number_is_passed_over(server: Server, files: dict[str, bytes], length: str) -> None:
    server.headers = {"Content-Length": length}
    folder = fetch(server.url)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


# urllib3 leaves the socket of such an answer to the garbage collector, which complains of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_lengths_are_an_error(server: Server, files: dict[str, bytes]) -> None:
    server.headers = {"Content-Length": "5, 6"}
    with pytest.raises(DataError, match=f"{IMAGES}: its answer is of no use") as raised:
        fetch(server.url)
    assert not isinstance(raised.value, download.OutOfReachError)
    del raised
    gc.collect()


def test_a_server_that_sends_without_end_is_left(server: Server, files: dict[str, bytes]) -> None:
    server.headers, server.pause = {}, 0
    limit = published.FILES[IMAGES].limit
    with pytest.raises(DataError, match=f"{IMAGES}: more than the {limit:,} bytes that the file can have") as raised:
        fetch(server.url)
    assert not isinstance(raised.value, download.OutOfReachError)
    assert server.answered == [IMAGES]
    assert not list(download.fetched_folder().iterdir())


@pytest.mark.parametrize("limit", [1000, 1 << 14])
def test_no_more_is_kept_of_an_answer_than_a_chunk_beyond_the_limit(
    server: Server, files: dict[str, bytes], limit: int
) -> None:
    server.headers, server.pause = {}, 0
    transfer = download._Transfer(f"{server.url}/{IMAGES}", limit)
    transfer.start()
    transfer.join()
    assert limit < len(transfer.content) <= limit + (1 << 14)


@pytest.mark.skipif(not hasattr(urllib3.HTTPResponse, "shutdown"), reason="urllib3 is older than 2.3")
def test_an_answer_that_trickles_ends_when_it_is_stopped(server: Server, files: dict[str, bytes]) -> None:
    server.headers, server.pause = {}, 0.01
    transfer = download._Transfer(f"{server.url}/{IMAGES}", 1000)
    transfer.start()
    transfer.answered.wait()
    transfer.stop()
    transfer.join(30)
    assert not transfer.is_alive()


def test_an_answer_ends_with_the_next_chunk_where_it_cannot_be_stopped_at_once(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(urllib3.HTTPResponse, "shutdown", raising=False)
    server.headers, server.pause = {}, 0
    transfer = download._Transfer(f"{server.url}/{IMAGES}", 100_000_000)
    transfer.start()
    transfer.answered.wait()
    transfer.stop()
    transfer.join()
    assert len(transfer.content) < 100_000_000


@pytest.mark.parametrize("error", [OSError, ValueError, RuntimeError])
def test_an_answer_that_ends_while_it_is_stopped_is_no_failure(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def gone(self: object) -> None:
        raise error

    monkeypatch.setattr(urllib3.HTTPResponse, "shutdown", gone, raising=False)
    monkeypatch.setattr(download, "PATIENCE", 0.0)
    server.headers, server.pause = {}, 0.01
    with pytest.raises(DataError, match="slower than 20,000 a second"):
        fetch(server.url)


def test_a_rate_is_of_all_seconds_so_far(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here over a million bytes a second come, and 200,000 must; the time for all is what ends it."""
    monkeypatch.setitem(published.FILES, IMAGES, replace(published.FILES[IMAGES], size=1 << 30))
    monkeypatch.setattr(download, "PATIENCE", 0.0)
    monkeypatch.setattr(download, "LOWEST_RATE", 200_000)
    server.piece = 1 << 14
    monkeypatch.setattr(download, "WHOLE", 0.4)
    server.headers, server.pause = {}, 0.01
    with pytest.raises(DataError, match="not done 0 s after the first request"):
        fetch(server.url)


def test_a_server_that_trickles_is_left(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    server.headers, server.pause = {}, 0.01
    with pytest.raises(DataError, match=r"slower than 20,000 a second") as raised:
        load_fashion_mnist("auto", url=server.url)
    assert not isinstance(raised.value, download.OutOfReachError)
    assert server.answered == [IMAGES]


def test_all_files_together_have_a_time_as_a_whole(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the rate of each attempt, and however many addresses are left."""
    monkeypatch.setattr(download, "WHOLE", 0.3)
    monkeypatch.setattr(published, "ADDRESSES", (server.url, f"{server.url}/again"))
    server.headers, server.pause = {}, 0.01
    with pytest.raises(DataError, match=r"not done 0 s after the first request; name another"):
        fetch(folder=tmp_path / "here")
    assert server.answered == [IMAGES]


def test_a_server_that_falls_silent_after_its_answer_is_no_server_out_of_reach(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.headers, server.pause = {}, 60
    with pytest.raises(DataError, match="the connection broke 3 times") as raised:
        load_fashion_mnist("auto", url=server.url)
    assert not isinstance(raised.value, download.OutOfReachError)


def test_headers_that_trickle_are_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    over = threading.Event()

    def trickle(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.02):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        with pytest.raises(download.OutOfReachError, match=r"no answer within 0\.3 s"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}")
        over.set()
        thread.join()


@pytest.mark.parametrize("times", [1, 2])
def test_a_small_file_around_much_more_is_refused_unread(server: Server, files: dict[str, bytes], times: int) -> None:
    bomb = bytes(10_000_000)
    for _ in range(times):
        bomb = gzip.compress(bomb)
    assert len(bomb) < published.FILES[IMAGES].limit
    assert len(published.as_gzip(bomb, IMAGES)) < 2 * published.FILES[IMAGES].limit
    server.files[IMAGES] = bomb
    size = published.FILES[IMAGES].size
    with pytest.raises(DataError, match=f"{IMAGES}: holds more than the {size:,} bytes of the published file"):
        fetch(server.url)


def test_a_file_of_ones_own_is_kept_until_there_is_a_better_one(
    server: Server, files: dict[str, bytes], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / IMAGES).write_bytes(b"mine")
    right = server.files.pop(IMAGES)
    with pytest.raises(DataError, match="404"):
        fetch(server.url, folder=mine)
    assert (mine / IMAGES).read_bytes() == b"mine"
    server.files[IMAGES] = gzip.compress(b"something else")
    with pytest.raises(DataError, match="SHA-256"):
        fetch(server.url, folder=mine)
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == {IMAGES: b"mine"}
    server.files[IMAGES] = right
    fetch(server.url, folder=mine)
    assert (mine / IMAGES).read_bytes() == right


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(server: Server, files: dict[str, bytes]) -> None:
    folder = fetch(server.url)
    (folder / IMAGES).unlink()
    os.mkfifo(folder / IMAGES)
    assert_made(load_fashion_mnist("auto", url=server.url))
    assert (folder / IMAGES).read_bytes() == files[IMAGES]


@pytest.mark.skipif(os.name != "posix", reason="file modes are of POSIX systems")
def test_files_are_as_readable_as_the_mask_says(server: Server, files: dict[str, bytes], cache: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = fetch(server.url)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o640"}
    assert oct(folder.stat().st_mode & 0o777) == "0o750"


@pytest.fixture
def nobody() -> str:
    """An address where nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_addresses_are_asked_in_turn(
    server: Server, files: dict[str, bytes], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "ADDRESSES", (nobody, server.url + "/", "http://127.0.0.1:9/never-asked"))
    assert_made(load_fashion_mnist())
    assert server.answered == list(files)


def test_what_one_address_has_given_is_not_asked_of_the_next(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cuts = {"t10k-images-idx3-ubyte.gz": download.ATTEMPTS}
    monkeypatch.setattr(published, "ADDRESSES", (server.url, server.url))
    assert_made(load_fashion_mnist())
    assert server.answered.count(IMAGES) == 1


def test_where_no_address_gives_the_files_each_is_named(
    server: Server, files: dict[str, bytes], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status = 503
    monkeypatch.setattr(published, "ADDRESSES", (nobody, server.url))
    with pytest.raises(DataError) as raised:
        load_fashion_mnist()
    assert not isinstance(raised.value, download.OutOfReachError)
    for words in (nobody, "refused", server.url, "503", "--url"):
        assert words in str(raised.value)


def test_out_of_reach_is_where_none_answers(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "ADDRESSES", (f"{nobody}/a", f"{nobody}/b"))
    with pytest.raises(download.OutOfReachError, match=r"/a/: .*/b/: .*check the connection"):
        fetch()


def test_an_address_that_is_named_is_the_only_one(
    server: Server, files: dict[str, bytes], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "ADDRESSES", (server.url,))
    with pytest.raises(download.OutOfReachError):
        fetch(nobody)
    monkeypatch.setenv("FMNIST_XP_URL", nobody)
    with pytest.raises(download.OutOfReachError):
        fetch()
    assert not server.answered


def test_known_addresses_are_https_first() -> None:
    assert [address.partition(":")[0] for address in published.ADDRESSES] == ["https", "https", "http"]


WORDS = {
    "the system's, without a file": (
        OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/ca.pem"),
        os.strerror(errno.ENOENT),
    ),
    "what stands behind the first colon": (Exception("a host: no route: 3: 4"), "no route: 3: 4"),
    "the system's, in brackets": (Exception("failed ([Errno 7] No luck)"), "No luck"),
}


@pytest.mark.parametrize(("cause", "words"), WORDS.values(), ids=WORDS)
def test_why_nothing_answers_is_said_in_few_words(
    monkeypatch: pytest.MonkeyPatch, cause: Exception, words: str
) -> None:
    def fail(url: str, **_options: object) -> None:
        raise requests.ConnectionError(cause)

    monkeypatch.setattr(requests, "get", fail)
    with pytest.raises(download.OutOfReachError) as raised:
        fetch("http://one.invalid/X/")
    assert str(raised.value) == (
        f"http://one.invalid/X/: {words}; check the connection, or name another address (--url, FMNIST_XP_URL)"
    )


def test_no_answer_as_requests_has_it_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, **_options: object) -> None:
        raise requests.ReadTimeout

    monkeypatch.setattr(requests, "get", fail)
    with pytest.raises(download.OutOfReachError, match=r"^http://one\.invalid/: no answer within 10 s; check"):
        fetch("http://one.invalid")


def test_where_nothing_answers_each_address_stands_with_the_systems_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the name of a file, and without what requests and urllib3 wrap around it."""

    def refuse(url: str, **_options: object) -> None:
        host = url.split("/")[2]
        words = f"Failed to resolve '{host}' ([Errno -2] Name or service not known)"
        cause = urllib3.exceptions.NameResolutionError(host, None, OSError(-2, "Name or service not known"))  # type: ignore[arg-type]
        assert words in str(cause)
        raise requests.ConnectionError(urllib3.exceptions.MaxRetryError(None, url, cause))  # type: ignore[arg-type]

    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setattr(published, "ADDRESSES", ("https://one.invalid/data/", "http://two.invalid/"))
    monkeypatch.delenv("FMNIST_XP_URL", raising=False)
    with pytest.raises(download.OutOfReachError) as raised:
        fetch()
    assert str(raised.value) == (
        "https://one.invalid/data/: Name or service not known; http://two.invalid/: Name or service not known; "
        "check the connection, or name another address (--url, FMNIST_XP_URL)"
    )
