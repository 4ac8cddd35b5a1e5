import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_helpers import hide
from run_helpers import contents, read_json

from fmnist_xp.reporting import command_line

Command = Callable[..., Any]


@pytest.fixture
def libraries() -> None:
    for name in ("plotly", "jinja2"):
        pytest.importorskip(name, reason="Plotly and Jinja2, which reports are made with, are not installed")


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("option", ["-o", "--out"])
def test_one_page_and_nothing_else_is_written(
    command: Command, run_folder: Path, finished_run: Path, workplace: Path, option: str
) -> None:
    answer = command("report", run_folder, option, "page.html", "--device", "cpu")
    answer.assert_went_well()
    assert answer.lines == ["written to page.html"]
    assert list(contents(workplace)) == ["page.html"]
    assert contents(run_folder) == contents(finished_run)
    first = (workplace / "page.html").read_bytes()
    assert b"plotly.js v" in first
    command("report", run_folder, option, "page.html", "--device", "cpu").assert_went_well()
    assert (workplace / "page.html").read_bytes() == first


@pytest.mark.usefixtures("libraries")
def test_by_default_it_is_report_html(command: Command, run_folder: Path, workplace: Path, tmp_path: Path) -> None:
    second = shutil.copytree(run_folder, tmp_path / "<script>alert(1)<")
    command("report", run_folder, second, "--device", "cpu").assert_went_well()
    text = (workplace / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;" in text
    assert "<script>alert(1)" not in text


@pytest.mark.usefixtures("libraries")
def test_what_is_missing_is_a_line(command: Command, run_folder: Path, workplace: Path) -> None:
    (run_folder / "model.safetensors").unlink()
    answer = command("report", run_folder, "--device", "cpu")
    answer.assert_failed(0, "a-run: No confusion matrix, mistakes and weights", "model.safetensors")
    assert (workplace / "report.html").is_file()


def test_without_plotly_it_says_what_to_install(
    command: Command, run_folder: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "plotly")
    command("report", run_folder, "--device", "cpu").assert_failed(1, 'pip install "fmnist-xp[report]"')
    assert contents(workplace) == {}


@pytest.mark.usefixtures("libraries")
def test_errors_are_one_line(command: Command, run_folder: Path, workplace: Path) -> None:
    command("report", "nowhere", "--device", "cpu").assert_failed(1, "nowhere", "fmnist-xp train")
    command("report", run_folder, "-o", ".", "--device", "cpu").assert_failed(2, "report.html", "folder")
    os.mkfifo("pipe")
    command("report", run_folder, "-o", "pipe", "--device", "cpu").assert_failed(1, "pipe", "no regular file")
    assert Path("pipe").is_fifo()
    command("report").assert_failed(2, "RUN...")


@pytest.mark.parametrize(
    "arguments",
    [
        "adam --epochs 3",
        "sgd --hidden 32,16 --learning-rate 0.5 --decay 1e-05 --momentum 0.3 --l2 0 --epochs 3 --seed 7 "
        "--log-every 1 --precision float64 --block-rows 50 --dense-rows",
        "momentum --epochs 2 --momentum 0 --sorted-rows",
    ],
)
def test_the_command_on_the_page_trains_the_same_run(
    command: Command, idx_folder: Path, workplace: Path, arguments: str
) -> None:
    options = ("--device", "cpu", "--data", idx_folder, "--out", "first")
    command("train", *arguments.split(), *options).assert_went_well()
    config = read_json(workplace / "first" / "config.json")
    program, *again = shlex.split(command_line(config, "custom"))
    assert program == "fmnist-xp"
    command(*again, "--out", "second").assert_went_well()
    assert read_json(workplace / "second" / "config.json") == config
    for name in ("history.csv", "model.safetensors"):
        assert (workplace / "second" / name).read_bytes() == (workplace / "first" / name).read_bytes()
