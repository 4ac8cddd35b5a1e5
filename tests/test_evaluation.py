from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from run_helpers import CLASSES, figures, probabilities, read_idx, read_picture

from fmnist_xp import evaluation
from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import Dataset, make_synthetic
from fmnist_xp.errors import DataError, RunError
from fmnist_xp.evaluation import evaluate_run, plot_dataset, plot_runs, predict_images

CPU = CpuBackend(2)
pytestmark = pytest.mark.usefixtures("workplace")


def test_evaluation_is_of_the_test_images(run_folder: Path, idx_folder: Path) -> None:
    report = evaluate_run(run_folder, None, CPU)
    images, labels = read_idx(idx_folder, "t10k")
    accuracy, loss = figures(run_folder / "model.safetensors", images, labels)
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


def test_confusion_matrix_is_of_truth_and_prediction(
    run_folder: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def plot_confusion(matrix: Any, path: Path, **more: Any) -> Path:
        drawn.append((matrix, more))
        return path

    monkeypatch.setattr(evaluation, "plot_confusion", plot_confusion)
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


def test_named_source_is_taken_without_questions(run_folder: Path, small_synthetic: Any) -> None:
    report = evaluate_run(run_folder, "synthetic", CPU)
    assert (report.dataset, report.rows) == ("synthetic", 200)


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
