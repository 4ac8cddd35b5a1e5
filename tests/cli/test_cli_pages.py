"""The commands that the guides show, one after the other on small data."""

import gzip
import re
import shlex
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import cv2
import numpy as np
import pytest
from character_helpers import letters, printed
from script_helpers import ROOT

NEEDS = {"report": "plotly", "model.onnx": "onnx", "rows.onnx": "onnx", "hub/model.onnx": "onnx", "model.pt": "torch"}

SHORTER = {"2000": "60"}  # epochs


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [code for kind, code in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text) if kind == language]


def commands(page: str) -> list[list[str]]:
    """Return the arguments of each line of a page's blocks, without what has a package that is not installed."""
    lines = [line for block in blocks(page, "") for line in block.splitlines() if line.startswith("fmnist-xp ")]
    found = [shlex.split(line, comments=True)[1:] for line in lines]
    return [words for words in found if all(find_spec(NEEDS[word]) for word in words if word in NEEDS)]


@pytest.mark.parametrize("page", ["data.md", "export.md", "photographs.md", "runs.md", "training.md"])
def test_commands_of_a_page_work_one_after_the_other(
    command: Callable[..., Any],
    workplace: Path,
    finished_run: Path,
    idx_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: str,
) -> None:
    monkeypatch.setenv("FMNIST_XP_DATA", str(idx_folder))
    shutil.copytree(finished_run, workplace / "runs" / "adam-cpu-s0")
    photograph = np.full((80, 80, 3), 255, np.uint8)
    cv2.rectangle(photograph, (20, 10), (60, 70), (90, 40, 30), -1)
    for name in ("shoe.jpg", "coat.png", "photo.jpg", "wardrobe/shoe.jpg", "more/shoe.jpg"):
        (workplace / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(workplace / name), photograph)
    (workplace / "gzip").mkdir()
    for name, content in letters(
        (printed(ascii_uppercase, 3, first=1), printed(ascii_uppercase, 1, first=1))
    ).items():
        packed = name.endswith("ubyte")
        path = workplace / "gzip" / f"{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    for settings in blocks(page, "toml"):
        (workplace / "mine.toml").write_text(settings.replace("epochs = 200", "epochs = 20"))
    lines = commands(page)
    assert lines
    for words in lines:
        whole = words[0] == "train" and not {"--resume", "--config"} & {*words}
        short = ["--device", "cpu", "--epochs", "20"] if whole else []
        answer = command(*(SHORTER.get(word, word) for word in words), *short)
        assert answer.code == 0, (words, answer.err)
