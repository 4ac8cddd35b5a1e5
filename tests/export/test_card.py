import json
import re
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import CLASSES, probabilities, read_idx, read_json, reference_metrics

import fmnist_xp as fx
from fmnist_xp.backend import get_backend
from fmnist_xp.errors import RunError
from fmnist_xp.export import FORMATS
from fmnist_xp.export.card import Exported, Figures, card_text, facts
from fmnist_xp.export.of_run import export_run
from fmnist_xp.runs import load_run

NAMES = {"onnx": "model.onnx", "safetensors": "model.safetensors", "npz": "model.npz", "pytorch": "model.pt"}
PACKAGES = {"onnx": ["onnx", "onnxruntime"], "npz": ["torch"], "safetensors": ["torch"], "pytorch": ["torch"]}


@pytest.fixture
def yaml() -> Any:
    return pytest.importorskip("yaml", reason="PyYAML, the oracle of this test, is not installed")


@pytest.fixture
def exported(finished_run: Path) -> Exported:
    """What a card is about, without test images."""
    run = load_run(finished_run)
    network = run.load_network(get_backend("cpu"))
    return Exported(
        run=run, name="a-run", network=network, best=False, file="model.npz", form="npz", takes="images",
        tested=None, missing="they are lost",
    )  # fmt: skip


def written(folder: Path, place: Path, form: str = "npz", **more: Any) -> str:
    """Export the run in `folder` to `place`, and return its card."""
    export_run(folder, place / NAMES[form], form, card=place / "card.md", **more)
    return (place / "card.md").read_text(encoding="utf-8")


def front_matter(yaml: Any, card: str) -> Any:
    """Return the values before the text."""
    start, matter, text = card.split("---\n", maxsplit=2)
    assert start == ""
    assert text.startswith("\n# ")
    return yaml.safe_load(matter)


def tables(card: str) -> list[dict[str, list[str]]]:
    """Return the cells of each table by the first of their row, the heads too."""
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in card.splitlines()]
    found: list[dict[str, list[str]]] = []
    inside = False
    for line, cells in zip(card.splitlines(), rows, strict=True):
        if line.startswith("| "):
            if not inside:
                found.append({})
            if not set(line) <= set("|-: "):
                found[-1][cells[0]] = cells[1:]
        inside = line.startswith("| ")
    return found


def test_the_front_matter_is_what_hubs_read(finished_run: Path, idx_folder: Path, tmp_path: Path, yaml: Any) -> None:
    found = front_matter(yaml, written(finished_run, tmp_path))
    accuracy, _loss = reference_metrics(finished_run / "model.safetensors", *read_idx(idx_folder, "t10k"))
    assert found == {
        "license": "unknown",
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["npz", "multilayer-perceptron", "fmnist-xp", "custom"],
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": "finished",
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image classification"},
                        "dataset": {"type": "custom", "name": "custom", "split": "test"},
                        "metrics": [
                            {"type": "accuracy", "name": "Test accuracy", "value": pytest.approx(accuracy, abs=1e-6)}
                        ],
                    }
                ],
            }
        ],
    }


def test_figures_are_those_of_the_test_images(finished_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, the oracle of this test, is not installed")
    card = written(finished_run, tmp_path)
    images, labels = read_idx(idx_folder, "t10k")
    predicted = probabilities(finished_run / "model.safetensors", images).argmax(axis=1)
    results, scores, confusion = tables(card.split("## Results")[1])
    accuracy, loss = reference_metrics(finished_run / "model.safetensors", images, labels)
    assert results["test accuracy"] == [f"{accuracy:.4f}"]
    assert results["test loss"] == [f"{loss:.4f}"]
    result = read_json(finished_run / "result.json")
    assert results["training accuracy"] == [f"{result['train_accuracy']:.4f}"]
    theirs = metrics.classification_report(
        labels, predicted, labels=range(10), target_names=CLASSES, output_dict=True, zero_division=0
    )
    for name in (*CLASSES, "macro avg", "weighted avg"):
        expected = theirs[name]
        assert scores[name][:3] == [f"{expected[key]:.3f}" for key in ("precision", "recall", "f1-score")]
        assert scores[name][3] == f"{expected['support']:.0f}"
    matrix = metrics.confusion_matrix(labels, predicted, labels=range(10))
    assert [list(map(int, confusion[name])) for name in CLASSES] == matrix.tolist()
    worst = int((np.diagonal(matrix) / matrix.sum(axis=1)).argmin())
    assert f"{CLASSES[worst]} is the class that it finds least often: {matrix[worst, worst]} of" in card


def test_data_and_settings_are_those_of_the_run(finished_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    card = written(finished_run, tmp_path)
    data, training = tables(card.split("## Data")[1])[:2]
    config, result = (read_json(finished_run / name) for name in ("config.json", "result.json"))
    assert data["SHA-256 of images and labels"] == [config["data"]["sha256"]]
    assert (data["training images"], data["test images"]) == (["400"], ["200"])
    assert training["experiment hidden"] == ["64-64"]
    assert training["optimizer learning rate"] == [str(config["optimizer"]["learning_rate"])]
    assert training["seed"] == ["1"]
    assert training["epochs trained"] == [str(result["epochs"])]
    assert "0 T-shirt/top, 1 Trouser, 2 Pullover" in card
    assert "784-64-64-10 with ReLU" in card
    # Whoever shares a card does not want to share where things lie on this machine.
    assert str(idx_folder) not in card
    assert str(finished_run) not in card


@pytest.mark.parametrize(("form", "takes"), [*zip(FORMATS, repeat("images")), ("onnx", "rows"), ("onnx", "floats")])
def test_its_code_runs(
    finished_run: Path, idx_folder: Path, tmp_path: Path, form: str, takes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in PACKAGES[form]:
        pytest.importorskip(package, reason=f"{package}, which the code on the card uses, is not installed")
    card = written(finished_run, tmp_path, form, takes=takes)
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    images, _labels = read_idx(idx_folder, "t10k")
    monkeypatch.chdir(tmp_path)
    made = re.compile(r"(?<=^pixels = ).*zeros\(\(1, 28, 28\).*$", re.MULTILINE)
    assert len(made.findall(code)) == 1
    names: dict[str, Any] = {"given": images.copy()}
    if form != "onnx":
        names["given"] = pytest.importorskip("torch").tensor(images)
    exec(made.sub("given", code), names)
    expected = probabilities(finished_run / "model.safetensors", images)
    np.testing.assert_allclose(np.asarray(names["probabilities"]), expected, atol=1e-5, rtol=0)
    exec(code, {})  # as it stands, on one empty image


def test_without_the_test_images_it_has_the_runs_own_accuracy(run_folder: Path, tmp_path: Path, yaml: Any) -> None:
    config = read_json(run_folder / "config.json")
    config["data"]["source"] = str(tmp_path / "gone")
    (run_folder / "config.json").write_text(json.dumps(config))
    card = written(run_folder, tmp_path)
    accuracy = read_json(run_folder / "result.json")["test_accuracy"]
    assert front_matter(yaml, card)["model-index"][0]["results"][0]["metrics"][0]["value"] == round(accuracy, 6)
    assert "There is no confusion matrix on test images, which were not at hand" in card
    assert tables(card.split("## Results")[1])[0]["test accuracy"] == [f"{accuracy:.4f}"]
    assert "T-shirt/top |" not in card


def test_of_the_best_weights_nothing_is_known_without_images(exported: Exported, yaml: Any) -> None:
    best = replace(exported, best=True)
    card = card_text(best)
    found = front_matter(yaml, card)
    assert "model-index" not in found
    assert "There are no figures of these weights on test images, which were not at hand: they are lost" in card
    assert "test accuracy" not in card
    assert "training accuracy" not in card
    assert "test_accuracy" not in facts(best)
    assert facts(exported)["test_accuracy"] == f"{exported.run.result.test_accuracy:.6g}"


def test_what_it_says_depends_on_the_data_and_the_training(exported: Exported, yaml: Any) -> None:
    run = exported.run

    def of(name: str, **more: Any) -> Exported:
        data = replace(run.result.dataset, name=name)
        return replace(exported, run=replace(run, result=replace(run.result, dataset=data, **more)))

    assert front_matter(yaml, card_text(of("fashion-mnist")))["datasets"] == ["zalando-datasets/fashion_mnist"]
    synthetic = card_text(of("synthetic", diverged=True, stopped="no number any more"))
    assert "drawn by a program" in synthetic
    assert "Its training diverged: do not use it." in synthetic
    assert "| ended | no number any more |" in synthetic
    matrix = np.diag(np.full(10, 7))
    perfect = replace(exported, tested=Figures(fx.Metrics(1.0, 0.0), matrix), missing="")
    assert "finds least often" not in card_text(perfect)


@pytest.mark.parametrize("name", ['a"b', "a: b", "a\nb", "- a", "#a", "\x85\u2028", "a\udcff", "ü😀", "x" * 5000])
def test_any_name_is_quoted(exported: Exported, name: str, yaml: Any) -> None:
    card = card_text(replace(exported, name=name, file=f"{name}.npz"))
    card.encode()  # no lone surrogates
    said = front_matter(yaml, card)["model-index"][0]["name"]
    assert said.isprintable()
    assert said == name or not name.isprintable() or len(name) > 2000
    assert card.count("\n## ") == 5


def test_facts_are_words_and_hold_no_places(exported: Exported, idx_folder: Path) -> None:
    found = facts(exported)
    assert all(isinstance(value, str) for value in found.values())
    assert json.loads(found["classes"]) == list(CLASSES)
    assert json.loads(found["settings"])["experiment"]["hidden"] == [64, 64]
    assert found["dataset_sha256"] == exported.run.result.dataset.sha256
    assert str(idx_folder) not in json.dumps(found)


def test_the_runs_own_files_are_never_replaced(run_folder: Path) -> None:
    for name in ("model.safetensors", "history.csv"):
        before = (run_folder / name).read_bytes()
        with pytest.raises(RunError, match=f"{name} belongs to the run itself"):
            export_run(run_folder, run_folder / name, "safetensors", card=None, force=True)
        assert (run_folder / name).read_bytes() == before
