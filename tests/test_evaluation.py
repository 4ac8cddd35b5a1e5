import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from run_helpers import CLASSES, probabilities, read_idx, read_json, read_picture, reference_metrics

from fmnist_xp import evaluation
from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import CLASS_NAMES, Dataset, make_synthetic
from fmnist_xp.errors import DataError, RunError
from fmnist_xp.evaluation import evaluate_run, plot_dataset, plot_runs, predict_images
from fmnist_xp.report import plots
from fmnist_xp.report.notebook import notebook_history
from fmnist_xp.runs import dataset_sha256, load_run

CPU = CpuBackend(2)
pytestmark = pytest.mark.usefixtures("workplace")


def test_evaluation_uses_the_test_images(run_folder: Path, idx_folder: Path) -> None:
    report = evaluate_run(run_folder, None, CPU)
    images, labels = read_idx(idx_folder, "t10k")
    accuracy, loss = reference_metrics(run_folder / "model.safetensors", images, labels)
    assert report.metrics.accuracy == pytest.approx(accuracy, abs=0.006)
    assert report.metrics.loss == pytest.approx(loss, rel=1e-5)
    assert report.rows == 200
    assert [score.name for score in report.scores] == list(CLASSES)
    assert [score.support for score in report.scores] == np.bincount(labels).tolist()
    # Accuracy is recall weighted by support, whichever way it is counted.
    hits = sum(score.recall * score.support for score in report.scores)
    assert hits / 200 == pytest.approx(report.metrics.accuracy)
    assert report.picture == run_folder / "confusion.png"
    read_picture(report.picture)


def test_confusion_matrix_counts_true_and_predicted_classes(
    run_folder: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    monkeypatch.setattr(plots, "confusion_figure", lambda matrix, **more: drawn.append((matrix, more)))
    monkeypatch.setattr(evaluation, "save_figure", lambda _figure, path: path)
    evaluate_run(run_folder, None, CPU)
    images, labels = read_idx(idx_folder, "t10k")
    predicted = probabilities(run_folder / "model.safetensors", images).argmax(axis=1)
    expected = np.zeros((10, 10), int)
    for truth, guess in zip(labels, predicted, strict=True):
        expected[truth, guess] += 1
    ((matrix, more),) = drawn
    np.testing.assert_array_equal(matrix, expected)
    for words in ("adam", "seed 1", "200"):
        assert words in more["title"]


def test_named_source_is_not_compared_with_the_runs(run_folder: Path, small_synthetic: Any) -> None:
    report = evaluate_run(run_folder, "synthetic", CPU)
    assert (report.dataset, report.rows) == ("synthetic", 200)


def change(path: Path, **fields: Any) -> None:
    """Change fields of the JSON object in `path`."""
    path.write_text(json.dumps({**read_json(path), **fields}))


def test_changed_images_are_an_error(run_folder: Path, idx_folder: Path) -> None:
    dataset = read_json(run_folder / "result.json")["dataset"]
    message = (
        f"{run_folder} was trained on {{}}, but its source {idx_folder} now gives other images ({dataset['name']}): "
        "name the images to test on with --data"
    )
    for changed in ({"sha256": "0" * 64}, {"name": "another"}):
        change(run_folder / "result.json", dataset={**dataset, **changed})
        with pytest.raises(RunError) as caught:
            evaluate_run(run_folder, None, CPU)
        assert str(caught.value) == message.format({**dataset, **changed}["name"])
        assert not (run_folder / "confusion.png").exists()


def test_synthetic_run_is_tested_on_synthetic_images(run_folder: Path, small_synthetic: Any) -> None:
    """Whatever the source was: "auto" may find other images by now."""
    train, test = small_synthetic
    dataset = {**read_json(run_folder / "result.json")["dataset"], "name": "synthetic"}
    change(run_folder / "result.json", dataset={**dataset, "sha256": dataset_sha256(train, test)})
    change(run_folder / "config.json", data={"source": "nowhere"})
    report = evaluate_run(run_folder, None, CPU)
    assert (report.dataset, report.rows) == ("synthetic", 200)


@pytest.mark.parametrize("source", [None, "synthetic"])
def test_synthetic_images_can_be_ruled_out(run_folder: Path, small_synthetic: Any, source: str | None) -> None:
    dataset = {**read_json(run_folder / "result.json")["dataset"], "name": "synthetic"}
    change(run_folder / "result.json", dataset={**dataset, "sha256": dataset_sha256(*small_synthetic)})
    with pytest.raises(DataError, match="drawn images are ruled out"):
        evaluate_run(run_folder, source, CPU, allow_synthetic=False)


def test_title_of_the_confusion_matrix(
    run_folder: Path, small_synthetic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "confusion_figure", lambda _matrix, **more: more)
    monkeypatch.setattr(evaluation, "save_figure", lambda figure, path: drawn.append((path, figure)) or path)
    report = evaluate_run(run_folder, "synthetic", CPU)
    name = read_json(run_folder / "result.json")["dataset"]["name"]
    title = f"adam · cpu · seed 1 · {name} (400 images), tested on 200 synthetic images"
    assert drawn == [(run_folder / "confusion.png", {"class_names": CLASS_NAMES, "title": title})]
    assert report.picture == run_folder / "confusion.png"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_diverged_model_is_an_error(run_folder: Path, idx_folder: Path, tmp_path: Path, value: float) -> None:
    network = load_run(run_folder).load_network(CPU)
    network.dense[-1].biases[0, 3] = value
    network.save(run_folder / "model.safetensors")
    image = read_idx(idx_folder, "t10k")[0][0]
    assert cv2.imwrite(str(tmp_path / "image.png"), image)
    with pytest.raises(RunError, match=r"the model in .*a-run holds numbers that are not finite: .* diverged; train"):
        list(predict_images(run_folder, [tmp_path / "image.png"], CPU))


def test_missing_images_are_an_error(run_folder: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        evaluate_run(run_folder, "nowhere", CPU)


def test_predictions_keep_the_order_of_the_photographs(run_folder: Path, idx_folder: Path, tmp_path: Path) -> None:
    images = read_idx(idx_folder, "t10k")[0]
    borders = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    chosen = np.flatnonzero(np.median(borders, axis=1) == 0)[:4][::-1]
    paths = []
    for index in chosen:
        paths.append(tmp_path / f"{index}.png")
        assert cv2.imwrite(str(paths[-1]), images[index])
    found = list(predict_images(run_folder, paths, CPU))
    assert [path for path, _ranking in found] == paths
    expected = probabilities(run_folder / "model.safetensors", images[chosen])
    for (_path, ranking), row in zip(found, expected, strict=True):
        assert [name for name, _probability in ranking] == [CLASSES[i] for i in np.argsort(-row)]
        assert [probability for _name, probability in ranking] == pytest.approx(sorted(row, reverse=True), abs=1e-5)


def test_predicting_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        list(predict_images(tmp_path / "nowhere", [tmp_path / "image.png"], CPU))


def test_pictures_of_runs_are_returned(run_folder: Path, tmp_path: Path) -> None:
    pictures = plot_runs([run_folder], tmp_path / "out")
    assert sorted(pictures) == sorted((tmp_path / "out").rglob("*.png"))
    assert len(pictures) == 3


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The recorded calls of the plots: history, folder and keyword arguments."""
    calls: list[Any] = []

    def run_figures(history: Any, **more: Any) -> Any:
        return {"run.png": (history.epoch, more)}

    def comparison_figures(histories: Any, **more: Any) -> Any:
        return {"comparison.png": ({name: history.epoch for name, history in histories.items()}, more)}

    def save_figures(figures: Any, folder: Path) -> list[Path]:
        ((name, (epochs, more)),) = figures.items()
        calls.append((epochs, folder, more))
        return [folder / name]

    monkeypatch.setattr(plots, "run_figures", run_figures)
    monkeypatch.setattr(plots, "comparison_figures", comparison_figures)
    monkeypatch.setattr(evaluation, "save_figures", save_figures)
    return calls


def test_pictures_of_one_run(run_folder: Path, noted: list[Any]) -> None:
    assert plot_runs([run_folder], Path("out")) == [Path("out", "a-run", "run.png")]
    title = load_run(run_folder).title
    expected = {"title": title, "experiment": "adam", "notebook": None}
    assert noted == [([0, 10, 20, 30], Path("out", "a-run"), expected)]


def test_notebook_curve_belongs_to_the_experiment(run_folder: Path, noted: list[Any]) -> None:
    plot_runs([run_folder], Path("out"), notebook=True)
    assert noted[0][2]["notebook"] == notebook_history("adam")
    change(run_folder / "result.json", experiment="another")
    with pytest.raises(RunError, match="the notebook has no experiment 'another'"):
        plot_runs([run_folder], Path("out"), notebook=True)


def test_several_runs_are_compared_under_their_names(run_folder: Path, noted: list[Any], tmp_path: Path) -> None:
    second = Path(shutil.copytree(run_folder, tmp_path / "second"))
    dataset = read_json(run_folder / "result.json")["dataset"]
    pictures = [Path("out", name) for name in ("a-run/run.png", "second/run.png", "comparison.png")]
    assert plot_runs([run_folder, second], Path("out")) == pictures
    curves = {"a-run": [0, 10, 20, 30], "second": [0, 10, 20, 30]}
    assert noted[-1] == (curves, Path("out"), {"title": f"2 runs on {dataset['name']}"})
    change(second / "result.json", dataset={**dataset, "name": "another"})
    plot_runs([run_folder, second], Path("out"))
    assert noted[-1][2] == {"title": f"2 runs on another, {dataset['name']}"}


def test_runs_with_equal_names_get_their_paths(run_folder: Path, noted: list[Any], tmp_path: Path) -> None:
    twin = Path(shutil.copytree(run_folder, tmp_path / "elsewhere" / "a-run"))
    plot_runs([run_folder, twin], Path("out"))
    expected = ["-".join(folder.resolve().parts[1:]) for folder in (run_folder, twin)]
    assert list(noted[-1][0]) == expected
    assert expected[1].endswith("-elsewhere-a-run")
    assert [folder.name for _history, folder, _more in noted[:2]] == expected


def test_one_run_named_twice_is_an_error(run_folder: Path, noted: list[Any], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run_folder)
    for again in (run_folder, tmp_path / "link"):
        with pytest.raises(RunError, match=r"^the same run folder is named twice: name each once$"):
            plot_runs([run_folder, again], Path("out"))
    assert noted == []


def test_contents_of_the_data_set_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    for name in ("samples_figure", "grey_values_figure"):
        monkeypatch.setattr(plots, name, lambda *arrays, **more: drawn.append((arrays, more)))
    monkeypatch.setattr(evaluation, "save_figures", lambda figures, folder: [folder / name for name in figures])
    dataset = make_synthetic(40, 20)[0]
    name = CLASSES[dataset.labels[0]]
    paths = [tmp_path / "synthetic-samples.png", tmp_path / "synthetic-grey-values.png"]
    assert plot_dataset(dataset, tmp_path) == paths
    (samples, samples_more), (grey, grey_more) = drawn
    assert samples[0] is dataset.images
    assert samples[1] is dataset.labels
    np.testing.assert_array_equal(grey[0], dataset.images[0])
    assert samples_more == {"class_names": CLASS_NAMES, "title": "synthetic, training images"}
    assert grey_more == {"title": f"synthetic, training image 0: {name}"}


NAMES = ["$x$", r"$\foo$", "caf\udce9", "\x1b[31m", "a" * 200]


@pytest.mark.filterwarnings("ignore:(Glyph|constrained_layout)")
@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_kind_are_drawn(run_folder: Path, tmp_path: Path, name: str) -> None:
    change(run_folder / "result.json", experiment=name, device=name)
    second = Path(shutil.copytree(run_folder, tmp_path / name))
    assert len(plot_runs([run_folder, second], Path("out"))) == 7
    read_picture(evaluate_run(run_folder, None, CPU).picture)


def test_pictures_of_a_data_set(tmp_path: Path) -> None:
    dataset = make_synthetic(40, 20)[0]
    samples, grey = plot_dataset(dataset, tmp_path)
    assert {samples.parent, grey.parent} == {tmp_path}
    assert samples != grey
    assert all("synthetic" in path.name for path in (samples, grey))
    assert not np.array_equal(read_picture(samples), read_picture(grey))


def test_pictures_of_a_data_set_that_lacks_a_class(tmp_path: Path) -> None:
    whole = make_synthetic(40, 20)[0]
    kept = whole.labels > 3
    for picture in plot_dataset(Dataset(whole.images[kept], whole.labels[kept], "custom", "made"), tmp_path):
        read_picture(picture)
