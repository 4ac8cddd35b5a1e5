"""`fmnist-xp cache`, and `--no-synthetic` on every command that loads data."""

import re
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fmnist_xp.data.cache import NO_FOLDER, CacheFile

Command = Callable[..., Any]


def test_info_and_clear(command: Command, tmp_path: Path, workplace: Path, idx_folder: Path) -> None:
    cache = tmp_path / "cache"
    command("data", "info", "--data", idx_folder).assert_went_well()
    (cache / "letter.txt").write_text("mine")
    (decoded,) = cache.glob("decoded-*")
    answer = command("cache", "info")
    answer.assert_went_well()
    assert answer.lines[0].startswith(f"{cache}: ")
    assert answer.lines[0].endswith("MB of at most 1,000.0 MB")
    assert decoded.name in answer.out
    told = "".join(line.split("│")[-2] for line in answer.lines if line.startswith("│"))
    assert f"decoded data set: IDX files in {idx_folder}".replace(" ", "") in told.replace(" ", "")
    assert "letter" not in answer.out
    size = decoded.stat().st_size / 1e6
    answer = command("cache", "clear")
    answer.assert_went_well()
    assert answer.out == f"removed 1 file, {size:.1f} MB\n"
    assert [path.name for path in cache.iterdir()] == ["letter.txt"]
    answer = command("cache", "clear")
    answer.assert_went_well()
    assert answer.out == "removed 0 files, 0.0 MB\n"
    answer = command("cache", "info")
    answer.assert_went_well()
    assert len(answer.lines) == 1


def test_table_lists_most_recently_used_file_first(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    moments = [datetime(2026, 1, 2, 3, 4).timestamp(), datetime(2025, 11, 30, 23, 59).timestamp()]
    files = [
        CacheFile(folder / "old.gz", 5_000_000_000_000, moments[1], "file as fetched", "http://a"),
        CacheFile(folder / "a" / "new", 1_234_567, moments[0], "decoded data set", "[b] " + "c" * 40),
    ]
    monkeypatch.setattr("fmnist_xp.data.cache.cache_files", lambda: files)
    monkeypatch.setenv("FMNIST_XP_CACHE_SIZE", "12345678")
    answer = command("cache", "info")
    answer.assert_went_well()
    assert answer.lines[0] == f"{folder}: 5,000,001.2 MB of at most 12,345,678.0 MB"
    rows = [re.split("[│┃]", line)[1:-1] for line in answer.lines if line[0] in "│┃"]
    told = "decoded data set: [b] "
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["MB", "last used", "file, what it is, its source"],
        ["1.2", "2026-01-02", "a/new"],
        ["", "", told.rstrip()],
        ["", "", "c" * 40],
        ["5,000,000.0", "2025-11-30", "old.gz"],
        ["", "", "file as fetched: http://a"],
    ]
    assert [row[0] for row in rows[:2]] == ["          MB ", "         1.2 "]
    assert max(map(len, answer.lines[1:])) <= 80
    assert command("cache", "info", "--json").document() == {
        "folder": str(folder), "bytes": 5_000_001_234_567, "max_bytes": 12_345_678_000_000,
        "files": [
            {
                "path": str(file.path), "size": file.size, "used": file.used, "kind": file.kind,
                "source": file.source,
            }
            for file in reversed(files)
        ],
    }  # fmt: skip
    monkeypatch.setattr("fmnist_xp.data.cache.clear_cache", lambda: files)
    assert command("cache", "clear").out == "removed 2 files, 5,000,001.2 MB\n"


def test_missing_cache_is_reported(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.data.cache.cache_folder", lambda: None)
    monkeypatch.setattr("fmnist_xp.data.cache.cache_files", list)
    answer = command("cache", "info")
    answer.assert_went_well()
    assert answer.out == f"no cache: {NO_FOLDER}\n"
    found = command("cache", "info", "--json").document()
    assert found == {"folder": None, "bytes": 0, "max_bytes": 10**9, "files": []}


@pytest.mark.parametrize("verb", ["info", "clear"])
def test_an_unusable_cache_folder_is_one_line(
    command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    (workplace / "file").write_text("mine")
    monkeypatch.setenv("FMNIST_XP_CACHE", str(workplace / "file"))
    command("cache", verb).assert_failed(1, "file: cannot be read", "FMNIST_XP_CACHE")
    monkeypatch.setenv("FMNIST_XP_CACHE", "~no-such-user-here")
    command("cache", verb).assert_failed(1, "FMNIST_XP_CACHE=~no-such-user-here")


def test_an_invalid_cache_size_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_XP_CACHE_SIZE", "much")
    command("cache", "info").assert_failed(1, "FMNIST_XP_CACHE_SIZE=much", "megabytes")


COMMANDS = {
    "train": ("train", "adam", "--epochs", 1, "--device", "cpu"),
    "reproduce": ("reproduce", "--epochs", 1, "--device", "cpu"),
    "parity": ("parity", "--epochs", 1, "--device", "cpu"),
    "data info": ("data", "info"),
    "data export": ("data", "export", "exported"),
}


@pytest.mark.usefixtures("downloads", "small_synthetic")
@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_synthetic_images_can_be_ruled_out(
    command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("FMNIST_XP_URL", nobody)
    command(*arguments, "--no-synthetic").assert_failed(1, nobody, "check the connection", "ruled out")
    command(*arguments, "--data", "synthetic", "--no-synthetic").assert_failed(1, "ruled out", "--no-synthetic")
    assert not list(workplace.iterdir())


def test_synthetic_images_can_be_ruled_out_of_an_evaluation(
    command: Command, workplace: Path, small_synthetic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(
        "train", "adam", "--data", "synthetic", "--epochs", 1, "--device", "cpu", "--out", "run"
    ).assert_went_well()
    command("evaluate", "run", "--device", "cpu").assert_went_well()
    command("evaluate", "run", "--device", "cpu", "--no-synthetic").assert_failed(1, "ruled out")
