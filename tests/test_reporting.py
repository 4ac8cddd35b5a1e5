import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_helpers import Page, hide, image
from run_helpers import CLASSES, probabilities, read_idx, read_json

from fmnist_xp.backend import CpuBackend
from fmnist_xp.errors import FmnistXpError, RunError
from fmnist_xp.reporting import command_line, gather, report_runs
from fmnist_xp.runs import load_run

CPU = CpuBackend(2)
REPORT = "Plotly and Jinja2, which reports are made with, are not installed"
pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def libraries() -> None:
    pytest.importorskip("plotly", reason=REPORT)
    pytest.importorskip("jinja2", reason=REPORT)


def change(path: Path, **fields: Any) -> None:
    """Change fields of the JSON object in `path`."""
    path.write_text(json.dumps({**read_json(path), **fields}))


@pytest.mark.usefixtures("libraries")
def test_page_of_a_run(run_folder: Path, idx_folder: Path) -> None:
    assert report_runs([run_folder], Path("page.html"), None, CPU) == []
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    images, labels = read_idx(idx_folder, "t10k")
    expected = probabilities(run_folder / "model.safetensors", images)
    predicted = expected.argmax(axis=1)
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (labels, predicted), 1)
    rows = page.table("Confusion matrix of a-run")[1:]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], int), matrix)

    wrong = np.flatnonzero(labels != predicted)
    most = wrong[np.argsort(-expected[wrong].max(axis=1))][:24]
    pictures = [picture for picture in page.all("img") if str(picture.attributes["alt"]).startswith("Test image")]
    assert [picture.attributes["alt"] for picture in pictures] == [
        f"Test image {number}, of class {CLASSES[labels[number]]}" for number in most
    ]
    for picture, number in zip(pictures, most, strict=True):
        np.testing.assert_array_equal(image(picture), images[number])
    captions = [caption.text for caption in page.all("figcaption")][: len(most)]
    assert captions == [
        f"{CLASSES[labels[number]]}taken for {CLASSES[predicted[number]]}, {expected[number].max():.1%}"
        for number in most
    ]


@pytest.mark.usefixtures("libraries")
def test_page_of_several_runs(run_folder: Path, tmp_path: Path) -> None:
    second = Path(shutil.copytree(run_folder, tmp_path / "<script>alert(1)<"))
    report_runs([run_folder, second], Path("new", "page.html"), None, CPU)
    page = Page(Path("new", "page.html").read_text(encoding="utf-8"))
    assert [title.text for title in page.all("h1")] == ["2 runs"]
    assert [row[0] for row in page.table("results")[1:]] == ["● a-run", "■ <script>alert(1)<"]
    assert len(page.all("script")) == 3


@pytest.mark.usefixtures("libraries")
def test_an_earlier_page_is_replaced_only_by_a_whole_one(run_folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("before")
    with pytest.raises(RunError, match="nowhere"):
        report_runs([run_folder, tmp_path / "nowhere"], page, None, CPU)
    with pytest.raises(RunError, match="twice"):
        report_runs([run_folder, run_folder], page, None, CPU)
    assert page.read_text() == "before"
    report_runs([run_folder], page, None, CPU)
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(OSError, match="a-run"):
        report_runs([run_folder], run_folder, None, CPU)


def test_where_images_are_missing_there_is_the_rest(run_folder: Path, tmp_path: Path) -> None:
    data = {**read_json(run_folder / "config.json")["data"], "source": str(tmp_path / "moved")}
    change(run_folder / "config.json", data=data)
    shown = gather(load_run(run_folder), "a-run", None, CPU)
    assert shown.judgement is None
    assert shown.weights is not None
    assert shown.weights.shape == (784, 64)
    (note,) = shown.notes
    assert note.startswith(f"No confusion matrix and mistakes: {tmp_path / 'moved'}: no such folder")


def test_images_may_have_moved(run_folder: Path, idx_folder: Path, tmp_path: Path) -> None:
    data = {**read_json(run_folder / "config.json")["data"], "source": str(tmp_path / "moved")}
    change(run_folder / "config.json", data=data)
    shown = gather(load_run(run_folder), "a-run", str(idx_folder), CPU)
    assert shown.notes == []
    assert shown.judgement is not None
    assert shown.judgement.matrix.sum() == 200


def test_other_images_are_not_taken_for_the_runs(run_folder: Path, small_synthetic: Any) -> None:
    shown = gather(load_run(run_folder), "a-run", "synthetic", CPU)
    assert shown.judgement is None
    assert "was trained on custom, but synthetic has other images (synthetic)" in shown.notes[0]


@pytest.mark.parametrize("damage", ["missing", "cut", "infinite"])
def test_without_a_model_there_is_the_rest(run_folder: Path, damage: str) -> None:
    model = run_folder / "model.safetensors"
    if damage == "missing":
        model.unlink()
    elif damage == "cut":
        model.write_bytes(model.read_bytes()[:-100])
    else:
        network = load_run(run_folder).load_network(CPU)
        network.dense[0].biases[0, 3] = np.inf
        network.save(model)
    shown = gather(load_run(run_folder), "a-run", None, CPU)
    assert (shown.judgement, shown.weights) == (None, None)
    assert shown.notes[0].startswith("No confusion matrix, mistakes and weights: ")
    assert shown.history.epoch == [0, 10, 20, 30]


def test_what_is_missing_is_reported(run_folder: Path, libraries: None) -> None:
    (run_folder / "model.safetensors").unlink()
    (note,) = report_runs([run_folder], Path("page.html"), None, CPU)
    assert note.startswith("a-run: No confusion matrix, mistakes and weights: ")
    assert note.removeprefix("a-run: ") in Page(Path("page.html").read_text(encoding="utf-8")).all("body")[0].text


def test_without_the_libraries_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "jinja2")
    with pytest.raises(FmnistXpError, match=r'pip install "fmnist-xp\[report\]"'):
        report_runs([Path("nowhere")], Path("page.html"), None, CPU)


CONFIG = {
    "experiment": {"name": "sgd", "hidden": [128, 128], "learning_rate": 1.0, "decay": 0.01, "momentum": 0.0},
    "seed": 0, "precision": "float32", "log_every": 10, "data": {"source": "auto"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "--device auto --data auto --seed 0"),
        ({"device": "cpu", "block_rows": 500}, "--device cpu --data auto --seed 0 --block-rows 500"),
        ({"data": {"source": "/a b"}}, "--device auto --data '/a b' --seed 0"),
        ({"device": "cuda:1", "graphs": True}, "--device cuda:1 --data auto --seed 0"),
        ({"device": "cuda", "graphs": False, "dense_rows": False},
         "--device cuda --data auto --seed 0 --sorted-rows --no-graphs"),
        ({"device": "cuda", "precision": "bfloat16", "engine": "fused", "graphs": False},
         "--device cuda --data auto --seed 0 --precision bfloat16 --engine fused --no-graphs"),
        ({"engine": "plain"}, "--device auto --data auto --seed 0"),
        ({"validation": 0.1, "keep_best": True, "patience": 50},
         "--device auto --data auto --seed 0 --validation 0.1 --keep-best --patience 50"),
        ({"validation": None, "keep_best": False, "patience": None}, "--device auto --data auto --seed 0"),
    ],
)  # fmt: skip
def test_command_of_a_config(changes: dict[str, Any], expected: str) -> None:
    assert command_line({**CONFIG, **changes}, "fashion-mnist") == f"fmnist-xp train sgd {expected}"


def test_command_of_a_synthetic_run() -> None:
    assert "--data synthetic" in command_line(CONFIG, "synthetic")


@pytest.mark.parametrize("name", ["mine", None, ["sgd"]])
def test_no_command_trains_an_experiment_of_ones_own(name: Any) -> None:
    assert command_line({**CONFIG, "experiment": {"name": name}}, "custom") == ""


@pytest.mark.parametrize(
    "experiment",
    [{"name": "mine"}, {"name": "sgd", "schedule": {"type": "constant"}}, {"name": "adam", "optimizer": "adamw"}],
)
def test_settings_without_options_come_from_the_runs_folder(experiment: dict[str, Any]) -> None:
    config = {**CONFIG, "experiment": experiment, "device": "cpu", "precision": "float64"}
    assert command_line(config, "custom") == ""
    command = command_line(config, "synthetic", Path("my runs"))
    assert command == "fmnist-xp train --config 'my runs' --device cpu --data synthetic"


def test_options_that_are_new_are_in_the_command() -> None:
    experiment = {**CONFIG["experiment"], "activation": "tanh", "dropout": 0.25, "label_smoothing": 0.5}
    command = command_line({**CONFIG, "experiment": experiment}, "custom", Path("run"))
    assert command.endswith("--activation tanh --dropout 0.25 --label-smoothing 0.5 --seed 0")
