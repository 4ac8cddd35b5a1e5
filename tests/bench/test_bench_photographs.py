import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from run_helpers import probabilities, read_idx
from typer.testing import CliRunner

from bench import grounds, photographs, report
from bench.commands import app
from bench.grounds import GARMENT, GROUNDS, SIDE, make_scene
from fmnist_xp.data import make_synthetic


@pytest.fixture(scope="module")
def garment() -> np.ndarray:
    return make_synthetic(10, 10)[0].images[1]


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_garment_lies_where_it_is_said_to(garment: np.ndarray, ground: str) -> None:
    """It has its own shape, and around it is only ground."""
    photograph, cover = make_scene(garment, ground, np.random.default_rng(0))
    assert photograph.shape[:2] == cover.shape == (SIDE, SIDE)
    assert not np.concatenate(
        [cover[:4].ravel(), cover[-4:].ravel(), cover[:, :4].ravel(), cover[:, -4:].ravel()]
    ).any()
    assert cover.mean() == pytest.approx((garment > grounds.FAINT).mean() * (GARMENT / SIDE) ** 2, rel=0.1)
    again = make_scene(garment, ground, np.random.default_rng(0))
    assert np.array_equal(again.photograph, photograph)
    assert not np.array_equal(make_scene(garment, ground, np.random.default_rng(1)).photograph, photograph)


def test_a_garment_has_its_shade_back_on_white_and_keeps_its_pixels_on_black() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 4:24] = 200
    for ground, around, within in (("white", 255, 55), ("black, garment light", 0, 200)):
        photograph, cover = make_scene(image, ground, np.random.default_rng(0))
        inner = cv2.erode(cover.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
        outer = cv2.dilate(cover.astype(np.uint8), np.ones((15, 15), np.uint8)) == 0
        assert np.unique(photograph[outer]).tolist() == [around]
        assert np.abs(photograph[inner].astype(int) - within).max() <= 1


def test_a_garment_of_the_opposite_colour_is_no_darker_than_its_ground() -> None:
    image = np.full((28, 28), 127, np.uint8)
    image[:4] = image[-4:] = image[:, :4] = image[:, -4:] = 0
    photograph, cover = make_scene(image, "coloured, garment of the opposite colour", np.random.default_rng(0))
    grey = cv2.cvtColor(photograph, cv2.COLOR_BGR2GRAY).astype(int)
    assert abs(np.median(grey[cover]) - np.median(grey[~cover])) <= 2
    assert np.abs(np.median(photograph[cover], axis=0) - np.median(photograph[~cover], axis=0)).max() > 60


def test_dots_are_black_or_white_and_as_many_as_the_shade(garment: np.ndarray) -> None:
    photograph, _ = make_scene(garment, "white, 1-bit dither", np.random.default_rng(0))
    smooth, _ = make_scene(garment, "white", np.random.default_rng(0))
    assert set(np.unique(photograph)) == {0, 255}
    assert photograph.mean() == pytest.approx(smooth.mean(), rel=0.01)


def test_wood_and_cloth_are_not_plain() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[10:18, 10:18] = 255
    for ground in ("wood", "cloth"):
        photograph, cover = make_scene(image, ground, np.random.default_rng(0))
        assert 5 < cv2.cvtColor(photograph, cv2.COLOR_BGR2GRAY)[~cover].std() < 60


def test_a_run_is_measured(
    run_folder: Path, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "GROUNDS", {"white": GROUNDS["white"]})
    monkeypatch.setattr(photographs, "ROWS", 15)
    answer = CliRunner().invoke(app, ["photographs", str(run_folder), "--out", str(tmp_path), "--first", "5"])
    assert answer.exit_code == 0, answer.output
    assert answer.output == f"{tmp_path / 'photographs-cpu.json'}\n"
    record = json.loads((tmp_path / "photographs-cpu.json").read_text())
    assert record["command"] == "python -m bench photographs RUN --first 5"
    assert str(run_folder) not in json.dumps(record)
    assert record["settings"]["test_rows"] == [5, 20]
    found = record["results"]["grounds"]
    assert list(found) == ["untouched", "white"]
    images, labels = read_idx(idx_folder, "t10k")
    expected = probabilities(run_folder / "model.safetensors", images[5:20])
    right = expected.argmax(axis=1) == labels[5:20]
    sure = expected.max(axis=1) >= record["settings"]["sure"]
    assert found["untouched"]["accuracy"] == pytest.approx(right.mean())
    assert found["untouched"]["without_warning"] == pytest.approx(sure.mean())
    if sure.any():
        assert found["untouched"]["accuracy_without_warning"] == pytest.approx(right[sure].mean())
    assert (found["untouched"]["refused"], found["untouched"]["overlap"]) == (0, None)
    assert found["white"]["overlap"] > 0.9


def sample(**changes: Any) -> dict[str, Any]:
    one = {"accuracy": 0.8, "refused": 2, "doubtful": 0.1, "without_warning": 0.75, "accuracy_without_warning": 0.9,
           "overlap": 0.95}  # fmt: skip
    settings = {"run": "adam · cpu", "best_epoch": 110, "test_rows": [0, 1000], "sure": 0.7}
    return {
        "settings": settings | changes,
        "results": {"grounds": {"untouched": one | {"overlap": None}, "wood": one}},
    }


def test_the_table_has_a_line_for_each_ground() -> None:
    table, note = photographs.tables(sample())
    assert "| untouched | 0.800 | 2 | – | 75% | 0.900 |\n| wood | 0.800 | 2 | 0.95 | 75% | 0.900 |\n" in table
    assert note.startswith("Test images 0 to 999. Run: adam · cpu, epoch 110.")
    assert "Run: adam · cpu. " in photographs.tables(sample(best_epoch=None))[1]


def test_the_page_of_photographs_has_the_measured_table() -> None:
    root = Path(report.__file__).parents[1]
    record = json.loads((root / "bench/results/photographs-cpu.json").read_text())
    assert photographs.tables(record)[0] in (root / "docs/photographs.md").read_text()
    assert photographs.tables(record)[0] in (root / "bench/README.md").read_text()
