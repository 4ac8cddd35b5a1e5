"""Downloads, from servers on this machine."""

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
from data_helpers import noise

from fmnist_xp.data import Dataset, download, export, fashion_mnist, fetch, idx, load_fashion_mnist, published
from fmnist_xp.errors import DataError

requests = pytest.importorskip("requests", reason="requests, which only downloads need, is not installed")
urllib3 = pytest.importorskip("urllib3")

IMAGES = "train-images-idx3-ubyte.gz"


pytestmark = pytest.mark.usefixtures("downloads")


class Server(ThreadingHTTPServer):
    """Serves `files` with `status`; `cuts` is how many answers for a file break off in the middle.

    `encodings` records the `Accept-Encoding` of requests. `headers` replaces `Content-Length`. If `pause` is set,
    answers go on for 128 MiB, `piece` bytes every `pause` seconds; if it is 0, as fast as possible.
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
        """Print nothing when a client hangs up early."""


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
    """Small files on the server, whose checksums replace the published ones."""
    export(noise(20), noise(10, 1), tmp_path / "served", "idx")
    names = list(idx.FORM.roles.values())
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
def tiny_synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the synthetic set by a tiny one."""
    small = tuple(Dataset(d.images, d.labels, "synthetic", "drawn") for d in (noise(20), noise(10)))
    monkeypatch.setattr(fashion_mnist, "make_synthetic", lambda: small)


def assert_is_noise(splits: tuple[Dataset, Dataset]) -> None:
    for read, expected in zip(splits, (noise(20), noise(10, 1)), strict=True):
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
    assert_is_noise(load_fashion_mnist())
    asked = len(server.answered)
    assert_is_noise(load_fashion_mnist("auto"))
    assert len(server.answered) == asked


def test_the_argument_overrides_the_variable(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMNIST_XP_URL", "http://127.0.0.1:9/nobody")
    assert_is_noise(load_fashion_mnist(url=server.url))


def test_auto_in_the_variable_means_auto(
    server: Server,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a cache folder that does not exist yet, nor do its parents."""
    caplog.set_level(logging.INFO, "fmnist_xp")
    monkeypatch.setenv("FMNIST_XP_DATA", "auto")
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "some" / "where"))
    assert_is_noise(load_fashion_mnist(url=server.url))
    assert sorted(path.name for path in (tmp_path / "some" / "where" / "fashion-mnist").iterdir()) == sorted(files)
    assert not caplog.records


def test_fetched_files_are_not_verified_again_at_each_start(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, dataset in (("train", noise(20)), ("test", noise(10, 1))):
        monkeypatch.setitem(published.SORTED_SHA256, split, published.sorted_sha256(dataset))
        monkeypatch.setitem(published.LENGTHS, split, len(dataset))
    assert load_fashion_mnist(url=server.url)[0].name == "fashion-mnist"
    monkeypatch.setattr(published, "verify", None)
    assert load_fashion_mnist(url=server.url)[0].name == "fashion-mnist"


def test_synthetic_in_the_variable_gives_synthetic_images(
    tiny_synthetic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMNIST_XP_DATA", "synthetic")
    for source in ("drawn", "drawn by make_synthetic"):  # the second comes from the cache
        train, _ = load_fashion_mnist()
        assert (train.name, train.source) == ("synthetic", source)


def test_a_missing_folder_is_created_with_its_parents(
    server: Server, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "some" / "where"
    assert fetch(server.url, folder=folder) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_file_that_cannot_be_written_is_named(server: Server, files: dict[str, bytes], tmp_path: Path) -> None:
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


def test_without_requests_the_error_says_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(download.OutOfReachError, match=r"^downloads need requests \(.+\): pip install requests$"):
        fetch()


def test_the_same_content_compressed_differently_is_accepted(server: Server, files: dict[str, bytes]) -> None:
    server.files[IMAGES] = gzip.compress(gzip.decompress(files[IMAGES]), 1)
    assert (fetch(server.url) / IMAGES).read_bytes() == server.files[IMAGES]


def test_other_content_is_refused_with_both_checksums(server: Server, files: dict[str, bytes]) -> None:
    other = gzip.decompress(files[IMAGES])[:-1] + b"\x00"
    server.files[IMAGES] = gzip.compress(other)
    for start in (fetch, lambda url: load_fashion_mnist("auto", url=url)):
        with pytest.raises(DataError, match=IMAGES) as raised:
            start(server.url)
        assert not isinstance(raised.value, download.OutOfReachError)
        assert hashlib.sha256(other).hexdigest() in str(raised.value)
        assert published.FILES[IMAGES].sha256 in str(raised.value)
    assert not (download.fetched_folder() / IMAGES).exists()


def test_a_file_that_is_not_gzip_is_refused(server: Server, files: dict[str, bytes]) -> None:
    server.files[IMAGES] = b"<html>please log in</html>"
    with pytest.raises(
        DataError, match=rf"^{server.url}/{IMAGES}: what came is no whole gzip file \(.*\); name another address"
    ):
        fetch(server.url)


def test_a_file_of_the_maximum_size_is_accepted(server: Server, files: dict[str, bytes]) -> None:
    padded = files[IMAGES].ljust(published.FILES[IMAGES].limit, b"\0")
    server.files[IMAGES] = padded
    assert (fetch(server.url) / IMAGES).read_bytes() == padded


@pytest.mark.parametrize(
    ("status", "words"), [(404, "404 Client Error: Not Found"), (500, "500 Server Error: Internal Server Error")]
)
def test_an_error_status_does_not_lead_to_the_synthetic_set(
    server: Server, files: dict[str, bytes], status: int, words: str
) -> None:
    server.status = status
    with pytest.raises(DataError) as raised:
        load_fashion_mnist("auto", url=server.url)
    assert not isinstance(raised.value, download.OutOfReachError)
    assert str(raised.value) == (
        f"{server.url}/{IMAGES}: the server answers {words}; name another address (--url, FMNIST_XP_URL)"
    )


def test_a_broken_connection_is_retried_from_the_start(server: Server, files: dict[str, bytes]) -> None:
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
    assert_is_noise(load_fashion_mnist("auto", url=server.url))
    assert path.read_bytes() == files[IMAGES]


def test_another_data_set_in_place_of_the_fetched_one_is_not_used(
    server: Server, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = fetch(server.url)
    export(noise(20, 7), noise(10, 8), tmp_path / "other", "idx")
    for name in files:
        (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert_is_noise(load_fashion_mnist("auto", url=server.url))


def test_synthetic_images_can_be_ruled_out(nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    export(noise(20), noise(10, 1), tmp_path / "idx", "idx")
    assert_is_noise(load_fashion_mnist(tmp_path / "idx", allow_synthetic=False))


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_silence_means_one_warning_and_the_synthetic_set(
    silent: str, tiny_synthetic: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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


def test_an_endless_name_lookup_counts_as_silence(tiny_synthetic: None, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_refused_connection_means_the_synthetic_set(tiny_synthetic: None, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert load_fashion_mnist("auto", url=f"http://127.0.0.1:{port}")[0].name == "synthetic"
    assert "refused" in caplog.text


def test_an_invalid_address_is_an_error() -> None:
    with pytest.raises(DataError, match="not an address to fetch from") as raised:
        load_fashion_mnist("auto", url="fashion")
    assert not isinstance(raised.value, download.OutOfReachError)


def test_two_fetches_at_once_both_get_complete_files(server: Server, files: dict[str, bytes]) -> None:
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
    assert_is_noise(load_fashion_mnist("auto", url=server.url))
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
    assert_is_noise(load_fashion_mnist("auto", url=server.url))
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
    "labelled, which a client may act on": lambda content: content,
    "decompressed on the way": gzip.decompress,
    "compressed once more": gzip.compress,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_content_encoding_is_recognized_by_content(
    server: Server, files: dict[str, bytes], form: Callable[[bytes], bytes]
) -> None:
    right = dict(files)
    server.files = {name: form(content) for name, content in files.items()}
    server.headers = {"Content-Encoding": "gzip"}
    folder = fetch(server.url)
    for name, content in right.items():
        assert gzip.decompress((folder / name).read_bytes()) == gzip.decompress(content)
    assert_is_noise(load_fashion_mnist())


@pytest.mark.parametrize("length", ["many", "", "-5", "1e3"])
def test_a_content_length_that_is_not_a_number_is_ignored(
    server: Server, files: dict[str, bytes], length: str
) -> None:
    server.headers = {"Content-Length": length}
    folder = fetch(server.url)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


# urllib3 leaves the socket of such an answer to the garbage collector, which warns about it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_content_lengths_are_an_error(server: Server, files: dict[str, bytes]) -> None:
    server.headers = {"Content-Length": "5, 6"}
    with pytest.raises(DataError, match=f"{IMAGES}: its answer is of no use") as raised:
        fetch(server.url)
    assert not isinstance(raised.value, download.OutOfReachError)
    del raised
    gc.collect()


def test_a_server_that_sends_endlessly_is_abandoned(server: Server, files: dict[str, bytes]) -> None:
    server.headers, server.pause = {}, 0
    limit = published.FILES[IMAGES].limit
    with pytest.raises(DataError, match=f"{IMAGES}: more than the {limit:,} bytes that the file can have") as raised:
        fetch(server.url)
    assert not isinstance(raised.value, download.OutOfReachError)
    assert server.answered == [IMAGES]
    assert not list(download.fetched_folder().iterdir())


@pytest.mark.parametrize("limit", [1000, 1 << 14])
def test_an_answer_is_received_up_to_one_chunk_beyond_the_limit(
    server: Server, files: dict[str, bytes], limit: int
) -> None:
    server.headers, server.pause = {}, 0
    transfer = download._Transfer(f"{server.url}/{IMAGES}", limit)
    transfer.start()
    transfer.join()
    assert limit < len(transfer.content) <= limit + (1 << 14)


def stopped(server: Server, pause: float, limit: int) -> download._Transfer:
    """Return a transfer that was stopped once the endless answer had begun."""
    server.headers, server.pause = {}, pause
    transfer = download._Transfer(f"{server.url}/{IMAGES}", limit)
    transfer.start()
    transfer.answered.wait()
    transfer.stop()
    transfer.join(30)
    return transfer


@pytest.mark.skipif(not hasattr(urllib3.HTTPResponse, "shutdown"), reason="urllib3 is older than 2.3")
def test_a_slow_answer_ends_when_it_is_stopped(server: Server, files: dict[str, bytes]) -> None:
    assert not stopped(server, 0.01, 1000).is_alive()


def test_an_answer_ends_with_the_next_chunk_if_it_cannot_be_stopped_at_once(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(urllib3.HTTPResponse, "shutdown", raising=False)
    transfer = stopped(server, 0, 100_000_000)
    assert not transfer.is_alive()
    assert len(transfer.content) < 100_000_000


@pytest.mark.parametrize("error", [OSError, ValueError, RuntimeError])
def test_an_answer_that_ends_while_it_is_stopped_is_no_error(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def gone(self: object) -> None:
        raise error

    monkeypatch.setattr(urllib3.HTTPResponse, "shutdown", gone, raising=False)
    monkeypatch.setattr(download, "PATIENCE", 0.0)
    server.headers, server.pause = {}, 0.01
    with pytest.raises(DataError, match="slower than 20,000 a second"):
        fetch(server.url)


def test_the_rate_is_the_average_so_far(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server sends over a million bytes a second where 200,000 are required; the time limit ends it."""
    monkeypatch.setitem(published.FILES, IMAGES, replace(published.FILES[IMAGES], size=1 << 30))
    monkeypatch.setattr(download, "PATIENCE", 0.0)
    monkeypatch.setattr(download, "LOWEST_RATE", 200_000)
    server.piece = 1 << 14
    monkeypatch.setattr(download, "WHOLE", 0.4)
    server.headers, server.pause = {}, 0.01
    with pytest.raises(DataError, match="not done 0 s after the first request"):
        fetch(server.url)


def test_a_slow_server_is_abandoned(server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    server.headers, server.pause = {}, 0.01
    with pytest.raises(DataError, match=r"slower than 20,000 a second") as raised:
        load_fashion_mnist("auto", url=server.url)
    assert not isinstance(raised.value, download.OutOfReachError)
    assert server.answered == [IMAGES]


def test_all_files_together_have_a_time_limit(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the rate of each attempt, and however many addresses remain."""
    monkeypatch.setattr(download, "WHOLE", 0.3)
    monkeypatch.setattr(published, "ADDRESSES", (server.url, f"{server.url}/again"))
    server.headers, server.pause = {}, 0.01
    with pytest.raises(DataError, match=r"not done 0 s after the first request; name another"):
        fetch(folder=tmp_path / "here")
    assert server.answered == [IMAGES]


def test_a_server_that_falls_silent_after_its_answer_is_not_out_of_reach(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.headers, server.pause = {}, 60
    with pytest.raises(DataError, match="the connection broke 3 times") as raised:
        load_fashion_mnist("auto", url=server.url)
    assert not isinstance(raised.value, download.OutOfReachError)


def test_slow_headers_count_as_silence(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_gzip_bomb_is_refused_unread(server: Server, files: dict[str, bytes], times: int) -> None:
    bomb = bytes(10_000_000)
    for _ in range(times):
        bomb = gzip.compress(bomb)
    assert len(bomb) < published.FILES[IMAGES].limit
    assert len(published.as_gzip(bomb, IMAGES)) < 2 * published.FILES[IMAGES].limit
    server.files[IMAGES] = bomb
    size = published.FILES[IMAGES].size
    with pytest.raises(DataError, match=f"{IMAGES}: holds more than the {size:,} bytes of the published file"):
        fetch(server.url)


def test_a_wrong_file_is_kept_until_its_replacement_is_verified(
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
def test_a_fifo_in_place_of_a_file_does_not_block(server: Server, files: dict[str, bytes]) -> None:
    folder = fetch(server.url)
    (folder / IMAGES).unlink()
    os.mkfifo(folder / IMAGES)
    assert_is_noise(load_fashion_mnist("auto", url=server.url))
    assert (folder / IMAGES).read_bytes() == files[IMAGES]


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has file modes")
def test_files_have_the_mode_of_the_umask(server: Server, files: dict[str, bytes], cache: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = fetch(server.url)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o640"}
    assert oct(folder.stat().st_mode & 0o777) == "0o750"


@pytest.fixture
def nobody() -> str:
    """An address at which no server answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_addresses_are_tried_in_turn(
    server: Server, files: dict[str, bytes], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "ADDRESSES", (nobody, server.url + "/", "http://127.0.0.1:9/never-asked"))
    assert_is_noise(load_fashion_mnist())
    assert server.answered == list(files)


def test_a_file_from_one_address_is_not_requested_from_the_next(
    server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cuts = {"t10k-images-idx3-ubyte.gz": download.ATTEMPTS}
    monkeypatch.setattr(published, "ADDRESSES", (server.url, server.url))
    assert_is_noise(load_fashion_mnist())
    assert server.answered.count(IMAGES) == 1


def test_if_no_address_has_the_files_each_is_named(
    server: Server, files: dict[str, bytes], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status = 503
    monkeypatch.setattr(published, "ADDRESSES", (nobody, server.url))
    with pytest.raises(DataError) as raised:
        load_fashion_mnist()
    assert not isinstance(raised.value, download.OutOfReachError)
    for words in (nobody, "refused", server.url, "503", "--url"):
        assert words in str(raised.value)


def test_out_of_reach_means_that_no_address_answers(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "ADDRESSES", (f"{nobody}/a", f"{nobody}/b"))
    with pytest.raises(download.OutOfReachError, match=r"/a/: .*/b/: .*check the connection"):
        fetch()


def test_a_given_address_is_the_only_one_tried(
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
        requests.ConnectionError(OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/ca.pem")),
        os.strerror(errno.ENOENT),
    ),
    "what follows the first colon": (requests.ConnectionError(Exception("a host: no route: 3: 4")), "no route: 3: 4"),
    "the system's, in brackets": (requests.ConnectionError(Exception("failed ([Errno 7] No luck)")), "No luck"),
    "a timeout": (requests.ReadTimeout(), "no answer within 10 s"),
}


@pytest.mark.parametrize(("error", "words"), WORDS.values(), ids=WORDS)
def test_the_reason_for_no_answer_is_short(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def fail(url: str, **_options: object) -> None:
        raise error

    monkeypatch.setattr(requests, "get", fail)
    with pytest.raises(download.OutOfReachError) as raised:
        fetch("http://one.invalid/X/")
    assert str(raised.value) == (
        f"http://one.invalid/X/: {words}; check the connection, or name another address (--url, FMNIST_XP_URL)"
    )


def test_each_address_is_listed_with_the_systems_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the name of a file, and without the wrapping of requests and urllib3."""

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
