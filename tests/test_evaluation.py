import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from run_helpers import CLASSES, probabilities, read_history, read_idx, read_json, read_picture, reference_metrics
from safetensors.numpy import load_file

from fmnist_xp import evaluation
from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import CLASS_NAMES, Dataset, make_synthetic
from fmnist_xp.errors import DataError, RunError
from fmnist_xp.evaluation import distinct_names, evaluate_run, plot_dataset, plot_runs
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.prediction import predict_images
from fmnist_xp.report import plots
from fmnist_xp.report.notebook import notebook_history
from fmnist_xp.runs import Settings, dataset_sha256, load_run, train_run

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
    assert report.best_epoch is None
    assert report.pictures == [run_folder / "confusion.png", run_folder / "mistakes.png"]
    for picture in report.pictures:
        read_picture(picture)


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


def test_contents_and_titles_of_the_pictures(
    run_folder: Path, small_synthetic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(plots, "confusion_figure", lambda _matrix, **more: more)
    monkeypatch.setattr(evaluation, "mistakes_figure", lambda *arguments: arguments)
    monkeypatch.setattr(evaluation, "save_figure", lambda figure, path: drawn.setdefault(path.name, figure) and path)
    evaluate_run(run_folder, "synthetic", CPU)
    name = read_json(run_folder / "result.json")["dataset"]["name"]
    title = f"adam · epochs 40 · cpu · seed 1 · {name} (400 images)\ntested on 200 synthetic images"
    assert drawn["confusion.png"] == {"class_names": CLASS_NAMES, "title": title}
    images, labels, found, *names = drawn["mistakes.png"]
    test = small_synthetic[1]
    np.testing.assert_array_equal(images, test.images)
    np.testing.assert_array_equal(labels, test.labels)
    np.testing.assert_allclose(found, probabilities(run_folder / "model.safetensors", test.images), atol=1e-5)
    assert names == [CLASS_NAMES, title]


@pytest.fixture(scope="module")
def validated_run(tmp_path_factory: pytest.TempPathFactory, small_data: tuple[Any, Any], idx_folder: Path) -> Path:
    """A run with rows held out, whose best epoch is not its last; read-only."""
    folder = tmp_path_factory.mktemp("runs") / "validated"
    experiment = replace(EXPERIMENTS["adam"], epochs=30)
    settings = Settings(experiment, seed=1, validation=0.2, keep_best=True, log_every=3)
    train_run(settings, *small_data, CPU, folder, source=str(idx_folder), verbose=0)
    return folder


def test_the_best_epoch_is_evaluated(validated_run: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(plots, "confusion_figure", lambda _matrix, **more: titles.append(more["title"]))
    monkeypatch.setattr(evaluation, "mistakes_figure", lambda *arguments: titles.append(arguments[-1]))
    monkeypatch.setattr(evaluation, "save_figure", lambda _figure, path: path)
    history = read_history(validated_run / "history.csv")
    best = max(
        zip(
            history["validation_accuracy"],
            [-loss for loss in history["validation_loss"]],
            history["epoch"],
            strict=True,
        )
    )[-1]
    images, labels = read_idx(idx_folder, "t10k")
    for chosen, file in ((True, "model-best.safetensors"), (False, "model.safetensors")):
        report = evaluate_run(validated_run, str(idx_folder), CPU, best=chosen)
        accuracy, loss = reference_metrics(validated_run / file, images, labels)
        assert report.metrics.accuracy == pytest.approx(accuracy, abs=0.006)
        assert report.metrics.loss == pytest.approx(loss, rel=1e-5)
        assert report.best_epoch == best
        for title in titles:
            assert (f"\nepoch {best:.0f}, tested on" in title) == chosen
        assert len(titles) == 2
        titles.clear()


def test_best_epoch_needs_a_run_that_kept_it(run_folder: Path) -> None:
    message = f"^{run_folder} has no model-best.safetensors: train with --validation 0.1 --keep-best$"
    with pytest.raises(RunError, match=message):
        evaluate_run(run_folder, None, CPU, best=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("epoch", "best", "words"),
    [
        (None, False, "after epoch 30; train again with a lower learning rate"),
        (20, False, "at epoch 20; train again with a lower learning rate"),
        (20, True, "at epoch 20; train again with a lower learning rate, or take that of the best epoch with --best"),
    ],
)
def test_diverged_model_is_an_error(
    run_folder: Path, idx_folder: Path, tmp_path: Path, value: float, epoch: int | None, best: bool, words: str
) -> None:
    run = load_run(run_folder)
    network = run.load_network(CPU)
    if best:
        network.save(run_folder / "model-best.safetensors")
    network.dense[-1].biases[0, 3] = value
    network.save(run_folder / "model.safetensors")
    if epoch is not None:
        run.history.loss[run.history.epoch.index(epoch)] = value
        run.history.save(run_folder / "history.csv")
    image = read_idx(idx_folder, "t10k")[0][0]
    assert cv2.imwrite(str(tmp_path / "image.png"), image)
    message = f"^the model in {run_folder} holds numbers that are not finite: its training diverged {words}$"
    with pytest.raises(RunError, match=message):
        list(predict_images(run_folder, [tmp_path / "image.png"], CPU))
    with pytest.raises(RunError, match=message):
        evaluate_run(run_folder, None, CPU)
    assert not (run_folder / "confusion.png").exists()
    if best:
        evaluate_run(run_folder, None, CPU, best=True)


def test_diverged_run_without_a_model_is_an_error(run_folder: Path) -> None:
    (run_folder / "model.safetensors").unlink()
    change(run_folder / "result.json", diverged=True, stopped="the loss of epoch 20 is nan")
    message = (
        r"has no model, since its training has diverged \(the loss of epoch 20 is nan\): train again with a lower"
    )
    with pytest.raises(RunError, match=message):
        evaluate_run(run_folder, None, CPU)


def test_missing_images_are_an_error(run_folder: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        evaluate_run(run_folder, "nowhere", CPU)


def test_pictures_of_runs_are_returned(run_folder: Path, tmp_path: Path) -> None:
    pictures = plot_runs([run_folder], tmp_path / "out")
    assert sorted(pictures) == sorted((tmp_path / "out").rglob("*.png"))
    assert {path.name for path in pictures} == {"accuracy.png", "loss.png", "weights.png"}


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The recorded calls of the plots: what is drawn by file name, and the folder."""
    calls: list[Any] = []

    def save_figures(figures: Any, folder: Path) -> list[Path]:
        calls.append((figures, folder))
        return [folder / name for name in figures]

    monkeypatch.setattr(plots, "run_figures", lambda history, **more: {"run.png": (history.epoch, more)})
    monkeypatch.setattr(plots, "comparison_figures", lambda runs, **more: {"comparison.png": (runs, more)})
    monkeypatch.setattr(evaluation, "weights_figure", lambda weights, **more: (weights.tolist(), more))
    monkeypatch.setattr(evaluation, "save_figures", save_figures)
    return calls


def test_pictures_of_one_run(run_folder: Path, noted: list[Any]) -> None:
    assert plot_runs([run_folder], Path("out")) == [
        Path("out", "a-run", f"{name}.png") for name in ("run", "weights")
    ]
    title = load_run(run_folder).title
    weights = load_file(run_folder / "model.safetensors")["dense1.weights"].tolist()
    figures = {
        "run.png": ([0, 10, 20, 30], {"title": title, "experiment": "adam", "notebook": None}),
        "weights.png": (weights, {"title": title}),
    }
    assert noted == [(figures, Path("out", "a-run"))]


def test_curves_need_no_model(run_folder: Path, noted: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    (run_folder / "model.safetensors").unlink()
    assert plot_runs([run_folder], Path("out")) == [Path("out", "a-run", "run.png")]
    (record,) = caplog.records
    assert record.getMessage().startswith("the weights are not drawn: ")
    assert "model.safetensors" in record.getMessage()


def make_comparable(run_folder: Path) -> None:
    dataset = read_json(run_folder / "result.json")["dataset"]
    real = {**dataset, "name": "fashion-mnist", "train_rows": 60_000, "test_rows": 10_000}
    change(run_folder / "result.json", dataset=real)


def test_notebook_curve_belongs_to_the_experiment(run_folder: Path, noted: list[Any]) -> None:
    make_comparable(run_folder)
    plot_runs([run_folder], Path("out"), notebook=True)
    assert noted[0][0]["run.png"][1]["notebook"] == notebook_history("adam")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("experiment", {"hidden": [32]}, "hidden [32] instead of [64, 64]"),
        ("experiment", {"learning_rate": 0.1}, "learning rate 0.1 instead of 0.02"),
        ("validation", 0.1, "rows held out for validation"),
    ],
)
def test_notebook_curve_is_left_out_of_other_runs(
    run_folder: Path, noted: list[Any], caplog: pytest.LogCaptureFixture, field: str, value: Any, words: str
) -> None:
    make_comparable(run_folder)
    if isinstance(value, dict):
        value = {**read_json(run_folder / "config.json")[field], **value}
    change(run_folder / "config.json", **{field: value})
    plot_runs([run_folder], Path("out"), notebook=True)
    assert noted[0][0]["run.png"][1]["notebook"] is None
    assert [record.getMessage() for record in caplog.records] == [
        f"the notebook's curve is left out of {run_folder}: {words}"
    ]


def test_notebook_has_no_curve_for_other_experiments_and_images(
    run_folder: Path, noted: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    change(run_folder / "result.json", experiment="another")
    plot_runs([run_folder], Path("out"), notebook=True)
    assert noted[0][0]["run.png"][1]["notebook"] is None
    name = read_json(run_folder / "result.json")["dataset"]["name"]
    (record,) = caplog.records
    assert record.getMessage().endswith(f": the notebook has no experiment another; {name} data")


def test_several_runs_are_compared_under_their_names(run_folder: Path, noted: list[Any], tmp_path: Path) -> None:
    second = Path(shutil.copytree(run_folder, tmp_path / "second"))
    result = read_json(run_folder / "result.json")
    files = ("a-run/run.png", "a-run/weights.png", "second/run.png", "second/weights.png", "comparison.png")
    assert plot_runs([run_folder, second], Path("out")) == [Path("out", name) for name in files]
    figures, folder = noted[-1]
    runs, more = figures["comparison.png"]
    assert folder == Path("out")
    assert more == {"title": f"2 runs on {result['dataset']['name']}"}
    assert [run.name for run in runs] == ["a-run", "second"]
    for run in runs:
        assert run.experiment == "adam"
        assert run.history.epoch == [0, 10, 20, 30]
        assert (run.train_accuracy, run.test_accuracy) == (result["train_accuracy"], result["test_accuracy"])
        assert np.isnan(run.validation_accuracy)
    change(second / "result.json", dataset={**result["dataset"], "name": "another"})
    plot_runs([run_folder, second], Path("out"))
    assert noted[-1][0]["comparison.png"][1] == {"title": f"2 runs on another, {result['dataset']['name']}"}


def test_validation_accuracy_compared_is_the_last_logged(
    run_folder: Path, validated_run: Path, noted: list[Any]
) -> None:
    plot_runs([validated_run, run_folder], Path("out"))
    last = read_history(validated_run / "history.csv")["validation_accuracy"][-1]
    assert noted[-1][0]["comparison.png"][0][0].validation_accuracy == last


def test_runs_with_equal_names_get_as_much_of_their_paths_as_is_needed(
    run_folder: Path, noted: list[Any], tmp_path: Path
) -> None:
    twin = Path(shutil.copytree(run_folder, tmp_path / "elsewhere" / "a-run"))
    plot_runs([run_folder, twin], Path("out"))
    expected = [f"{tmp_path.name}-a-run", "elsewhere-a-run"]
    assert [run.name for run in noted[-1][0]["comparison.png"][0]] == expected
    assert [folder.name for _figures, folder in noted[:2]] == expected


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/x/a"], ["a"]),
        (["/x/a", "/x/b"], ["a", "b"]),
        (["/x/1/a", "/x/2/a", "/x/2/b"], ["1-a", "2-a", "2-b"]),
        (["/x/1/r/a", "/x/2/r/a"], ["1-r-a", "2-r-a"]),
        (["/a/b-c", "/a-b/c"], ["b-c", "c"]),
        (["/a-b", "/a/b", "/c/b", "/c/a-b"], ["1-a-b", "2-a-b", "3-c-b", "4-c-a-b"]),
    ],
)
def test_distinct_names(folders: list[str], names: list[str]) -> None:
    assert distinct_names([Path(folder) for folder in folders]) == names


def test_one_run_named_twice_is_an_error(run_folder: Path, noted: list[Any], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run_folder)
    for again in (run_folder, tmp_path / "link"):
        with pytest.raises(RunError, match=r"^the same run folder is named twice: name each once$"):
            plot_runs([run_folder, again], Path("out"))
    assert noted == []


def test_contents_of_the_data_set_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    for name in ("samples_figure", "grey_values_figure"):
        monkeypatch.setattr(evaluation, name, lambda *arrays, **more: drawn.append((arrays, more)))
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
def test_names_of_any_kind_are_drawn(
    run_folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 30)
    change(run_folder / "result.json", experiment=name, device=name)
    second = Path(shutil.copytree(run_folder, tmp_path / name))
    assert len(plot_runs([run_folder, second], Path("out"))) == 2 * 3 + 2
    for picture in evaluate_run(run_folder, None, CPU).pictures:
        read_picture(picture)


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
