"""Hostile values for every option and argument of every command, as typer lists them."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from enum import EnumType
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from run_helpers import contents

from fmnist_xp import speed
from fmnist_xp.cli.app import app
from fmnist_xp.errors import FmnistXpError
from fmnist_xp.files import replacing

Command = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")

NUMBERS = ("-1", "0", "-0", "1e400", "-1e400", "1e-400", "1e308", "nan", "inf", str(10**30), "9" * 5000, "x", "", "٣")
WORDS = (
    "",
    " ",
    "x",
    "\0",
    "-",
    "--",
    "-x",
    "gpu",
    "CPU ",
    "cuda:",
    "cuda:-1",
    "cuda:99999999999",
    "cuda:٣",
    "\udcff",
)
WIDTHS = (",", "0", "1,,2", "1" * 400, "1," * 5000, "1" + ",1" * 2000, "-1", "1e3", "999999999,999999999", "٣", "²")
ADDRESSES = ("http://", "http://[", "ftp://x", "file:///etc/passwd", "http://127.0.0.1:9/", "http://\udcff.x/", "a:b")
PATHS = ("~nobody/x", "a\0b", "x" * 5000, "x/" * 5000, "\udcff", "a\nb\x1b[31m", "{file}", "{file}/below", "{folder}")
PATHS += ("/dev/null", "/dev/zero", "/proc/self/mem", "", "-", "--")
GIVEN = {"epochs": "1", "device": "cpu", "threads": "1", "folder": "new", "model": "model.onnx"}
"""Valid values for other parameters of these names."""


def parameters(command: Any = None, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield all parameters below `command` with the name of theirs; the --help that typer adds is none."""
    command = command or typer.main.get_command(app)
    for parameter in command.params:
        yield name, parameter
    for below, subcommand in getattr(command, "commands", {}).items():
        yield from parameters(subcommand, (*name, below))


ALL = {" ".join((*name, parameter.name)): (name, parameter) for name, parameter in parameters()}


def values(parameter: Any) -> tuple[str, ...]:
    kind = parameter.type_descriptor.annotation
    if parameter.name == "page":  # a file that is replaced: a faulty program that root runs would replace devices
        return (*(path for path in PATHS if not path.startswith(("/dev/", "/proc/"))), "{pipe}")
    if kind in (int, float):
        return NUMBERS
    if kind is bool or isinstance(kind, EnumType):
        return WORDS
    if kind in (Path, list[Path]):
        return PATHS
    return WORDS + WIDTHS + ADDRESSES + PATHS


@pytest.fixture
def places(
    tmp_path: Path, workplace: Path, idx_folder: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch,
    small_synthetic: Any,
) -> dict[str, str]:  # fmt: skip
    """Names for the values and for other parameters; what takes time and can't fail by an option is left out."""

    def save_figure(_figure: Any, path: Path) -> Path:
        with replacing(path):
            return path

    def run_parity(_pairs: Any, _train: Any, folder: Path, **_more: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        raise FmnistXpError("not compared")

    for place in ("report.drawing", "runs.training", "evaluation"):
        monkeypatch.setattr(f"fmnist_xp.{place}.save_figure", save_figure)
    monkeypatch.setattr("fmnist_xp.parity.suite.run_parity", run_parity)
    monkeypatch.setattr(speed, "measure_speed", partial(speed.measure_speed, rows=20))
    monkeypatch.setattr(speed, "gemm_sampler", lambda *_arguments: lambda: 1.0)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    run = shutil.copytree(finished_run, tmp_path / "run")
    return {
        "file": str(tmp_path / "file"), "folder": str(tmp_path / "folder"), "pipe": str(tmp_path / "pipe"),
        "data": str(idx_folder),
        "run_folder": str(run), "run_folders": str(run), "images": str(finished_run / "metrics.png"),
    }  # fmt: skip


def line(name: tuple[str, ...], parameter: Any, value: str, given: dict[str, str]) -> list[str]:
    """Return the arguments for a call in which `parameter` is `value`, and others are well `given`."""
    options, arguments = list(name), []
    for of, other in parameters():
        text = value if other.name == parameter.name else given.get(other.name)
        if of != name or text is None or (other.name == "data" and parameter.name == "url"):
            continue
        if other.opts[0].startswith("-"):
            options.append(f"{other.opts[0]}={text}")
        else:
            arguments.append(text)
    return options + arguments


@pytest.mark.skipif(sys.platform == "win32", reason="the names are POSIX's")
@pytest.mark.parametrize("case", ALL)
def test_hostile_values_end_in_one_line(
    command: Command, workplace: Path, places: dict[str, str], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, parameter = ALL[case]
    others = {**GIVEN, **places, "folder": "new"}
    for template in values(parameter):
        value = template
        for place in ("file", "folder", "pipe"):
            value = value.replace(f"{{{place}}}", places[place])
        before = contents(workplace)
        answer = command(*line(name, parameter, value, others))
        assert "unexpected" not in answer.err, (case, value[:80], answer)
        if answer.code:
            assert answer.code in (1, 2), (case, value[:80], answer)
            *warnings, _error = answer.err.splitlines()
            assert all("training has diverged" in warning for warning in warnings), (case, value[:80], answer)
            assert all(said.startswith("fmnist-xp: ") for said in answer.err.splitlines()), (case, answer)
            assert len(answer.err) < 3000, (case, value[:80], answer)
        else:
            assert all(said.startswith("fmnist-xp: ") for said in answer.err.splitlines()), (case, value, answer)
        if answer.code == 2:
            assert contents(workplace) == before, (case, value[:80], answer)
        for made in workplace.iterdir():
            shutil.rmtree(made) if made.is_dir() else made.unlink()


def test_every_command_is_covered() -> None:
    assert {case.rpartition(" ")[0] for case in ALL} == {
        "", "train", "evaluate", "predict", "plot", "report", "export", "reproduce", "bench", "parity",
        "runs", "devices", "data info", "data fetch", "data export", "cache info",
    }  # fmt: skip
