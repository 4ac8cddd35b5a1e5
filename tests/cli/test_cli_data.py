import functools
import gzip
import hashlib
import http.server
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from run_helpers import CLASSES, contents, read_idx, read_json, read_picture

from fmnist_xp.data import formats, published

Command = Callable[..., Any]
FILES = {f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")}


def read_folder(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, labels) of a folder `<label>/*.png`, by label and name."""
    paths = sorted(folder.glob("*/*.png"))
    images = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths]
    return np.stack(images), np.array([int(path.parent.name) for path in paths], np.uint8)


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def test_info(command: Command, workplace: Path, idx_folder: Path) -> None:
    answer = command("data", "info", "--data", idx_folder, "--out", "pictures")
    answer.assert_went_well()
    for prefix, split in (("train", "train"), ("t10k", "test")):
        images, labels = read_idx(idx_folder, prefix)
        assert f"{split}: {images.shape} uint8, custom, not the published images" in answer.lines
        assert f"  SHA-256 {digest(images, labels)}" in answer.lines
        scaled = images / 255
        assert f"pixel mean {scaled.mean():.4f}, deviation {scaled.std():.4f}" in answer.out
    rows = [line.split("│")[1:-1] for line in answer.lines if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        [f"{label} {name}", "40", "20"] for label, name in enumerate(CLASSES)
    ]
    assert all(row[1:] == ["    40 ", "   20 "] for row in rows)  # right below "train" and "test"
    header = next(line for line in answer.lines if line.startswith("┃"))
    assert [cell.strip() for cell in header.split("┃")[1:-1]] == ["class", "train", "test"]
    saved = [Path(line.removeprefix("saved ")) for line in answer.lines if line.startswith("saved ")]
    assert {path.parent for path in saved} == {Path("pictures")}
    assert len(saved) == 2
    for path in saved:
        assert read_picture(path).size > 10_000


def test_published_images_are_recognized(
    command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmnist_xp.data.info.is_published_split", lambda _split, _dataset: True)
    answer = command("data", "info", "--data", idx_folder)
    assert [line for line in answer.lines if line.endswith(", the published images")] == [
        "train: (400, 28, 28) uint8, custom, the published images",
        "test: (200, 28, 28) uint8, custom, the published images",
    ]


def test_json_has_what_the_files_hold(command: Command, workplace: Path, idx_folder: Path) -> None:
    found = command("data", "info", "--data", idx_folder, "--out", "pictures", "--json").document()
    assert list(found) == ["train", "test", "class_names", "pictures"]
    for prefix, split in (("train", "train"), ("t10k", "test")):
        images, labels = read_idx(idx_folder, prefix)
        mean, deviation = found[split].pop("pixel_mean"), found[split].pop("pixel_std")
        assert (mean, deviation) == (pytest.approx((images / 255).mean()), pytest.approx((images / 255).std()))
        assert found[split] == {
            "split": split, "name": "custom", "source": f"IDX files in {idx_folder}", "shape": list(images.shape),
            "dtype": "uint8", "class_counts": np.bincount(labels).tolist(), "sha256": digest(images, labels),
            "published": False,
        }  # fmt: skip
    assert found["class_names"] == list(CLASSES)
    assert found["pictures"] == ["pictures/custom-samples.png", "pictures/custom-grey-values.png"]
    assert contents(workplace).keys() == set(found["pictures"])


def test_info_of_synthetic_images_says_so(command: Command, workplace: Path, small_synthetic: Any) -> None:
    answer = command("data", "info", "--data", "synthetic")
    answer.assert_went_well()
    assert "synthetic" in answer.lines[0]
    assert all("synthetic" in path.name for path in workplace.glob("*.png"))
    assert len(list(workplace.glob("*.png"))) == 2


@pytest.mark.parametrize("formats", [("png", "idx"), ("idx", "png")])
def test_export_round_trip(command: Command, workplace: Path, small_synthetic: Any, formats: tuple[str, str]) -> None:
    first, second = formats
    for form, data in ((first, "synthetic"), (second, first)):
        answer = command("data", "export", form, "--format", form, "--data", data)
        answer.assert_went_well()
        assert form in answer.out
    assert {path.name for path in (workplace / "idx").iterdir()} == FILES | {"classes.txt"}
    for form in formats:
        assert (workplace / form / "classes.txt").read_text(encoding="utf-8") == "".join(f"{n}\n" for n in CLASSES)
    for split, prefix, dataset in zip(("train", "test"), ("train", "t10k"), small_synthetic, strict=True):
        order = np.argsort(dataset.labels, kind="stable")
        images, labels = read_folder(workplace / "png" / split)
        np.testing.assert_array_equal(images, dataset.images[order])
        np.testing.assert_array_equal(labels, dataset.labels[order])
        images, labels = read_idx(workplace / "idx", prefix)
        if second == "idx":  # read from a folder, which has the order of the labels
            order = np.arange(len(labels))[np.argsort(dataset.labels, kind="stable")]
        else:
            order = np.arange(len(labels))
        np.testing.assert_array_equal(images, dataset.images[order])
        np.testing.assert_array_equal(labels, dataset.labels[order])


def test_export_writes_images_by_default(command: Command, workplace: Path, small_synthetic: Any) -> None:
    command("data", "export", "images", "--data", "synthetic").assert_went_well()
    assert (workplace / "images" / "train" / "9" / "0000.png").is_file()


def test_export_overwrites_nothing(command: Command, workplace: Path, small_synthetic: Any) -> None:
    (workplace / "mine").mkdir()
    (workplace / "mine" / "letter.txt").write_text("dear")
    command("data", "export", "mine", "--data", "synthetic").assert_failed(1, "mine", "not an empty folder")
    assert contents(workplace) == {"mine/letter.txt": b"dear"}


@pytest.fixture
def address(downloads: None, idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve `idx_folder`; its files count as the published ones."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_arguments: object) -> None:
            """Say nothing of a client that asks whether one is there and leaves."""

    sums = {
        name: published.Published(
            hashlib.md5((idx_folder / name).read_bytes(), usedforsecurity=False).hexdigest(),
            hashlib.sha256(gzip.decompress((idx_folder / name).read_bytes())).hexdigest(),
            (idx_folder / name).stat().st_size,
            len(gzip.decompress((idx_folder / name).read_bytes())),
        )
        for name in sorted(FILES)
    }
    monkeypatch.setattr(published, "FILES", sums)
    with Server(("127.0.0.1", 0), functools.partial(Handler, directory=idx_folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("how", ["--url", "environment"])
def test_fetch_fills_the_cache_and_training_takes_it(
    command: Command,
    workplace: Path,
    tmp_path: Path,
    idx_folder: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    if how == "--url":
        answer = command("data", "fetch", "--url", address)
    else:
        monkeypatch.setenv("FMNIST_XP_URL", address)
        answer = command("data", "fetch")
    answer.assert_went_well()
    folder = Path(answer.out.strip())
    assert tmp_path / "cache" in folder.parents
    assert contents(folder) == {name: (idx_folder / name).read_bytes() for name in FILES}
    monkeypatch.setenv("FMNIST_XP_URL", "http://127.0.0.1:9/")  # where nobody answers
    command("train", "adam", "--epochs", 1, "--device", "cpu", "--out", "run").assert_went_well()
    assert read_json(workplace / "run" / "result.json")["dataset"]["train_rows"] == 400


def test_fetch_of_unpublished_files_is_one_line(
    command: Command, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {name: published.Published("0" * 32, "0" * 64, 10**6, 10**6) for name in published.FILES}
    monkeypatch.setattr(published, "FILES", wrong)
    command("data", "fetch", "--url", address).assert_failed(1, "SHA-256", "-ubyte.gz")
    assert not list((tmp_path / "cache").rglob("*-ubyte.gz"))


@pytest.mark.usefixtures("downloads")
def test_fetch_without_a_network_is_one_line(command: Command) -> None:
    answer = command("data", "fetch", "--url", "http://127.0.0.1:9/")
    answer.assert_failed(1, "http://127.0.0.1:9/: Connection refused; check the connection", "--url")


def test_fetch_without_requests_says_what_to_install(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    command("data", "fetch").assert_failed(1, "pip install requests")


def test_fetch_without_pooch_or_a_cache_says_what_to_install(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FMNIST_XP_CACHE")
    monkeypatch.setitem(sys.modules, "pooch", None)
    command("data", "fetch").assert_failed(1, "pip install pooch", "FMNIST_XP_CACHE")


def test_fetched_files_need_no_requests(
    command: Command, tmp_path: Path, idx_folder: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("data", "fetch", "--url", address).assert_went_well()
    monkeypatch.setitem(sys.modules, "requests", None)
    answer = command("data", "fetch")
    answer.assert_went_well()
    assert contents(Path(answer.out.strip())) == {name: (idx_folder / name).read_bytes() for name in FILES}
    command("train", "adam", "--epochs", 1, "--device", "cpu", "--out", "run").assert_went_well()


@pytest.mark.parametrize("form", ["png", "idx"])
@pytest.mark.parametrize("folder", [".", "link", "below/new"])
def test_export_into_the_current_folder_and_onto_a_link(
    command: Command, workplace: Path, tmp_path: Path, idx_folder: Path, folder: str, form: str
) -> None:
    target = workplace / folder
    if folder == "link":
        target = tmp_path / "linked"
        target.mkdir()
        (workplace / "link").symlink_to(target)
    command("data", "export", folder, "--format", form, "--data", idx_folder).assert_went_well()
    if form == "idx":
        assert {path.name for path in target.iterdir()} == {path.name for path in idx_folder.iterdir()}
    else:
        assert len(list(target.glob("train/*/*.png"))) == 400
        assert len(list(target.glob("test/*/*.png"))) == 200
    if folder == "link":
        assert (workplace / "link").is_symlink()
    reread, original = (
        [np.sort(split.images, axis=0).tobytes() if form == "png" else split.sha256 for split in formats.read(place)]
        for place in (target, idx_folder)
    )
    assert reread == original  # but for the order, which an image folder has of its own


@pytest.mark.parametrize("name", ["a [b] [red] \"a\" 'b'", "%s %d {x} $x `y` \\", "a\nb \x1b[31mb"])
def test_any_folder_name(
    command: Command, workplace: Path, idx_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / name).mkdir()
    monkeypatch.chdir(workplace / name)
    run = f"{name}/run"
    shutil.copytree(idx_folder, workplace / name / f"{name} data")
    arguments = ("adam", "--epochs", 1, "--device", "cpu", "--data", f"{name} data")
    answer = command("train", *arguments, "--out", run)
    answer.assert_went_well()
    assert "\x1b" not in answer.out
    command("train", *arguments, "--out", run).assert_failed(1, "holds a finished run")
    command("evaluate", run, "--device", "cpu").assert_went_well()
    command("plot", run, "--out", name).assert_went_well()
    assert (workplace / name / name / "run" / "loss.png").is_file()
    command("predict", run, f"{name}/none.png", "--device", "cpu").assert_failed(1, "none.png")
    command("evaluate", f"{name}/nowhere").assert_failed(1, "there is no run folder")
