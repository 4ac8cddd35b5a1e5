"""The lines of the README's command block, one after the other on small data, and then once more."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import cv2
import numpy as np
import pytest
from character_helpers import letters, printed

from fmnist_xp.experiments import EXPERIMENTS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
# Left out: what needs a network, a GPU or 60,000 images.
ELSEWHERE = ("data fetch", "parity --device cuda", "bench")
SHORTER = {"reproduce": ["--epochs", "3", "--quiet", "--seeds", "2"], "train": ["--device", "cpu", "--quiet"]}
TRAINED_AGAIN = ["train", "adam"]
EXTRAS = {"report": "plotly", "--tensorboard": "tensorboard", "model.onnx": "onnx"}


def lines() -> list[list[str]]:
    """Return the arguments of each line."""
    block = README.split("## The command")[1].split("```")[1]
    found = [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("fmnist-xp ")]
    assert len(found) > 15
    return [words for words in found if not " ".join(words).startswith(ELSEWHERE)]


@pytest.fixture
def short_experiments() -> Iterator[None]:
    """Let every experiment have 20 epochs, whoever has imported them."""
    before = {name: experiment.epochs for name, experiment in EXPERIMENTS.items()}
    for experiment in EXPERIMENTS.values():
        object.__setattr__(experiment, "epochs", 20)  # they are frozen
    yield
    for name, epochs in before.items():
        object.__setattr__(EXPERIMENTS[name], "epochs", epochs)


@pytest.mark.usefixtures("short_experiments")
def test_every_line_works_after_every_other(
    command: Callable[..., Any],
    workplace: Path,
    small_synthetic: Any,
    idx_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FMNIST_XP_DATA", str(idx_folder))
    photograph = np.full((80, 80, 3), 255, np.uint8)
    cv2.rectangle(photograph, (20, 10), (60, 70), (90, 40, 30), -1)
    for folder in (".", "wardrobe", "more"):
        (workplace / folder).mkdir(exist_ok=True)
        cv2.imwrite(str(workplace / folder / "shoe.jpg"), photograph)
    (workplace / "mine.toml").write_text('base = "quick"\n[network]\nhidden = [8]\ndropout = 0.1\n', encoding="utf-8")
    (workplace / "letters").mkdir()
    for name, content in letters(
        (printed(ascii_uppercase, 3, first=1), printed(ascii_uppercase, 1, first=1))
    ).items():
        (workplace / "letters" / name).write_bytes(content)
    for time in (1, 2):
        for words in lines():
            if any(word in words for word, package in EXTRAS.items() if not _installed(package)):
                continue
            if time == 2 and "export" in words:
                continue  # to a folder or a file that is there: refused, as it should be
            if time == 2 and words[0] == "train" and words != TRAINED_AGAIN:
                continue  # a new folder for each, as for that one
            answer = command(*words, *SHORTER.get(words[0], []))
            assert answer.code == 0, (words, answer.err)
    runs = sorted(path.name for path in (workplace / "runs").iterdir())
    assert {"adam-cpu-s0", "adam-cpu-s0-2"} <= set(runs)
    trained = [words for words in [*lines(), TRAINED_AGAIN] if words[0] == "train" and "--resume" not in words]
    assert len(runs) == len(trained) - (not _installed("tensorboard"))


def test_the_block_names_every_command(command: Callable[..., Any]) -> None:
    listed = re.findall(r"^  ([a-z]+)  ", command("--help").out.split("Commands:")[1], flags=re.MULTILINE)
    assert {words[0] for words in lines()} | {"bench", "parity"} >= {*listed}


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None
