import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_helpers import contents, read_history, read_json, read_picture

import fmnist_xp.reproduce as module
from fmnist_xp.backend import CpuBackend
from fmnist_xp.blas import blas_name
from fmnist_xp.data import make_synthetic
from fmnist_xp.model import Sequential
from fmnist_xp.reproduce import reproduce, write_report
from fmnist_xp.runs import load_run

CPU = CpuBackend(1)
NOTEBOOK = ("sgd", "momentum", "adam")
EXPERIMENTS = (*NOTEBOOK, "quick", "best")


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, Any]:
    return make_synthetic(30, 20)


def run(folder: Path, data: tuple[Any, Any], backend: CpuBackend = CPU, **more: Any) -> Path:
    arguments: dict[str, Any] = {"seeds": 1, "epochs": 2, "source": "made", "verbose": False, **more}
    arguments.setdefault("names", NOTEBOOK)
    return reproduce(*data, backend, folder, **arguments)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[Any, Any]) -> Path:
    """A finished reproduction of two epochs; read-only."""
    folder = tmp_path_factory.mktemp("finished") / "reproduce"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmnist_xp.report.plots.DPI", 30)
        run(folder, tiny, names=EXPERIMENTS)
    return folder


@pytest.fixture
def folder(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A writable copy of `finished`."""
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 30)
    return Path(shutil.copytree(finished, tmp_path / "reproduce"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders of the runs that are trained, and of those "… resumed"; no report is written."""
    names: list[str] = []
    train_run, resume_run = module.train_run, module.resume_run

    def noted(settings: Any, train: Any, test: Any, backend: Any, folder: Path, **more: Any) -> Any:
        names.append(folder.name)
        return train_run(settings, train, test, backend, folder, **more)

    def noted_resumed(folder: Path, *arguments: Any, **more: Any) -> Any:
        names.append(f"{folder.name} resumed")
        return resume_run(folder, *arguments, **more)

    monkeypatch.setattr(module, "train_run", noted)
    monkeypatch.setattr(module, "resume_run", noted_resumed)
    monkeypatch.setattr(module, "write_report", lambda _runs, folder: folder / "reproduce.md")
    return names


ALL = [f"{name}-s0" for name in NOTEBOOK]


def test_runs_are_the_experiments(finished: Path) -> None:
    for name, hidden, optimizer in (("sgd", 128, "SGD"), ("momentum", 64, "SGD"), ("adam", 64, "Adam")):
        config = read_json(finished / "runs" / f"{name}-s0" / "config.json")
        assert config["experiment"]["hidden"] == [hidden, hidden]
        assert config["optimizer"]["type"] == optimizer
    for name in EXPERIMENTS:
        config = read_json(finished / "runs" / f"{name}-s0" / "config.json")
        assert (config["experiment"]["epochs"], config["seed"], config["log_every"]) == (2, 0, 10)


def test_pictures_are_in_the_report(finished: Path) -> None:
    report = (finished / "reproduce.md").read_text(encoding="utf-8")
    curves = [f"{name}-{quantity}.png" for name in EXPERIMENTS for quantity in ("accuracy", "loss")]
    pictures = {"comparison-accuracy.png", "test-accuracy.png", *curves}
    for name in pictures:
        read_picture(finished / name)
        assert f"({name})" in report
    assert {path.name for path in finished.iterdir()} == {"runs", "reproduce.md", "seeds.csv", *pictures}


def test_metrics_of_each_seed_are_in_a_table(finished: Path) -> None:
    with (finished / "seeds.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["experiment"], row["seed"]) for row in rows] == [(name, "0") for name in EXPERIMENTS]
    for row in rows:
        folder = finished / "runs" / f"{row['experiment']}-s0"
        result = read_json(folder / "result.json")
        for metric in ("test_accuracy", "test_loss", "train_accuracy", "train_loss"):
            assert float(row[metric]) == result[metric]
        best = max(read_history(folder / "history.csv")["accuracy"])
        assert float(row["best_logged_accuracy"]) == best
        assert row["ended_in_dip"] == str(int(best - result["train_accuracy"] > 0.02))
    assert "[seeds.csv](seeds.csv)" in (finished / "reproduce.md").read_text(encoding="utf-8")


def test_finished_runs_are_reused(folder: Path, tiny: tuple[Any, Any], trained: list[str]) -> None:
    before = contents(folder / "runs")
    run(folder, tiny)
    assert trained == []
    assert contents(folder / "runs") == before


def test_more_seeds_train_only_the_new_ones(folder: Path, tiny: tuple[Any, Any], trained: list[str]) -> None:
    run(folder, tiny, seeds=2)
    assert trained == [f"{name}-s1" for name in NOTEBOOK]
    assert [read_json(folder / "runs" / name / "config.json")["seed"] for name in trained] == [1, 1, 1]


@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_prints_the_log(
    tmp_path: Path, tiny: tuple[Any, Any], trained: list[str], capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    run(tmp_path, tiny, verbose=verbose)
    assert capsys.readouterr().out.count("epoch: 0, ") == (3 if verbose else 0)


def test_only_missing_runs_are_trained(folder: Path, tiny: tuple[Any, Any], trained: list[str]) -> None:
    shutil.rmtree(folder / "runs" / "momentum-s0")
    (folder / "runs" / "adam-s0" / "result.json").unlink()
    run(folder, tiny)
    assert trained == ["momentum-s0", "adam-s0 resumed"]


@pytest.mark.parametrize("change", ["epochs", "data", "device"])
def test_other_settings_are_retrained(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change == "epochs":
        run(folder, tiny, epochs=3)
        assert load_run(folder / "runs" / "sgd-s0").result.epochs == 3
    elif change == "data":
        run(folder, make_synthetic(30, 20, seed=1))
    else:
        backend = CpuBackend(1)
        monkeypatch.setattr(backend, "device_name", "another processor")
        run(folder, tiny, backend)
    assert trained == ALL


def test_engine_is_that_of_all_runs_and_in_the_report(
    folder: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(folder, tiny, names=["sgd"], seeds=2, engine="fused").read_text(encoding="utf-8")
    for seed in (0, 1):
        assert load_run(folder / "runs" / f"sgd-s{seed}").config["engine"] == "fused"
    assert f"on {CPU.device_name} (cpu, float32, fused engine; BLAS: " in report


def test_a_changed_experiment_is_retrained(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of the package may change an experiment under the same name."""
    changed = {
        **module.EXPERIMENTS,
        "momentum": replace(module.EXPERIMENTS["momentum"], momentum=0.6),
    }
    monkeypatch.setattr(module, "EXPERIMENTS", changed)
    run(folder, tiny)
    assert trained == ["momentum-s0"]


@pytest.mark.parametrize(
    ("file", "text", "how"),
    [
        ("result.json", "{", "sgd-s0 resumed"),
        ("result.json", "{}", "sgd-s0 resumed"),
        ("history.csv", "", "sgd-s0 resumed"),
        ("config.json", None, "sgd-s0"),
        ("config.json", "{", "sgd-s0"),
    ],
    ids=["result cut short", "result without fields", "history empty", "no config", "config cut short"],
)
def test_a_damaged_run_is_whole_again(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], file: str, text: str | None, how: str
) -> None:
    """From its last checkpoint, at its end, where its settings can still be read."""
    path = folder / "runs" / "sgd-s0" / file
    before = {name: (path.parent / name).read_bytes() for name in ("model.safetensors", "history.csv")}
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    run(folder, tiny)
    assert trained == [how]
    assert load_run(path.parent).result.epochs == 2
    assert {name: (path.parent / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(("file", "how"), [("result.json", "sgd-s0 resumed"), ("config.json", "sgd-s0")])
def test_a_pipe_for_a_file_is_replaced(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], file: str, how: str
) -> None:
    path = folder / "runs" / "sgd-s0" / file
    path.unlink()
    os.mkfifo(path)
    run(folder, tiny)
    assert trained == [how]
    assert path.is_file()


def test_a_pipe_for_a_history_is_an_error(folder: Path, tiny: tuple[Any, Any]) -> None:
    path = folder / "runs" / "sgd-s0" / "history.csv"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"no regular file, and is not replaced: .*history\.csv"):
        run(folder, tiny)


def change(path: Path, field: str, value: Any) -> None:
    path.write_text(json.dumps({**read_json(path), field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 5),
        ("precision", "float64"),
        ("engine", "fused"),
        ("log_every", 1),
        ("block_rows", 64),
        ("validation", 0.1),
        ("device_name", "another"),
        ("experiment", {}),
    ],
)
def test_a_run_with_other_settings_is_retrained(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], field: str, value: Any
) -> None:
    change(folder / "runs" / "adam-s0" / "config.json", field, value)
    run(folder, tiny)
    assert trained == ["adam-s0"]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_run_with_damaged_checkpoints_is_retrained(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], kept: int
) -> None:
    """It is resumed from the one before, and trained from the start where there is none."""
    one = folder / "runs" / "adam-s0"
    before = (one / "model.safetensors").read_bytes()
    (one / "result.json").unlink()
    for path in sorted((one / "checkpoints").iterdir())[kept:]:
        path.write_bytes(b"damaged")
    run(folder, tiny)
    assert trained == ["adam-s0 resumed", *["adam-s0"] * (not kept)]
    assert (one / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("versions", [None, [], {}])
def test_an_unfinished_run_of_unknown_versions_is_retrained(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], versions: Any
) -> None:
    one = folder / "runs" / "adam-s0"
    (one / "result.json").unlink()
    change(one / "config.json", "versions", versions)
    run(folder, tiny)
    assert trained == ["adam-s0"]


def test_a_run_on_another_blas_is_retrained(folder: Path, tiny: tuple[Any, Any], trained: list[str]) -> None:
    other, one = "openblas 0.3 (other kernels, pthreads)", folder / "runs" / "adam-s0"
    change(one / "result.json", "blas", other)
    change(one / "config.json", "versions", {**read_json(one / "config.json")["versions"], "blas": other})
    run(folder, tiny)
    assert trained == ["adam-s0"]


def test_a_run_on_other_images_is_retrained(folder: Path, tiny: tuple[Any, Any], trained: list[str]) -> None:
    one = folder / "runs" / "adam-s0"
    for file, field in (("result.json", "dataset"), ("config.json", "data")):
        change(one / file, field, {**read_json(one / file)[field], "sha256": "0"})
    run(folder, tiny)
    assert trained == ["adam-s0"]


def test_a_run_that_ended_early_is_resumed(folder: Path, tiny: tuple[Any, Any], trained: list[str]) -> None:
    change(folder / "runs" / "adam-s0" / "result.json", "epochs", 1)
    run(folder, tiny)
    assert trained == ["adam-s0 resumed"]
    assert load_run(folder / "runs" / "adam-s0").result.epochs == 2


def test_some_experiments_are_trained_alone(tmp_path: Path, tiny: tuple[Any, Any], trained: list[str]) -> None:
    run(tmp_path, tiny, names=["adam", "quick"])
    assert trained == ["adam-s0", "quick-s0"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The recorded calls of the pictures: name, what is drawn, keyword arguments. None is drawn."""
    calls: list[Any] = []

    def stub(name: str, answer: Any) -> None:
        def noted(of: Any, **more: Any) -> Any:
            calls.append((name, of, more))
            return {f"{more['experiment']}.png": answer} if answer else f"figure of {name}"

        monkeypatch.setattr(module, name, noted)

    stub("seeds_figures", "figure")
    stub("medians_figure", None)
    stub("ends_figure", None)
    monkeypatch.setattr(module, "save_figures", lambda figures, folder: [folder / name for name in figures])
    return calls


def test_report_in_full(finished: Path, tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With recorded calls to the pictures and a stub of the table."""
    monkeypatch.setattr(module, "reproduce_table", lambda results, histories: f"TABLE {list(results)}\n")
    runs = {}
    for name in ("sgd", "adam"):
        one = load_run(finished / "runs" / f"{name}-s0")
        one = replace(one, result=replace(one.result, total_seconds=69.6))
        runs[name] = [one, replace(one, result=replace(one.result, seed=1, test_accuracy=0.5))]
    path = write_report(runs, tmp_path / "new")
    assert path == tmp_path / "new" / "reproduce.md"
    assert path.read_text(encoding="utf-8") == (
        "# The experiments, side by side\n\n"
        f"2 seeds of each experiment, full batch on 30 images of synthetic on {CPU.device_name} (cpu, float32; BLAS: "
        f"{blas_name()}): sgd 2 epochs in 70 s, adam 2 epochs in 70 s. The metrics of each are in "
        "[seeds.csv](seeds.csv).\n\n"
        "TABLE ['sgd', 'adam']\n\n![test-accuracy](test-accuracy.png)\n\n"
        "![comparison-accuracy](comparison-accuracy.png)\n\n![sgd](sgd.png)\n\n![adam](adam.png)\n"
    )
    histories = {name: [one.history for one in of_seeds] for name, of_seeds in runs.items()}
    accuracies = {name: [one.result.test_accuracy for one in of_seeds] for name, of_seeds in runs.items()}
    title = "2 seeds · cpu · synthetic"
    label = "Test accuracy after the last update"
    assert drawn == [
        ("ends_figure", accuracies, {"label": label, "title": title, "notebook": {}}),
        ("medians_figure", histories, {"title": title}),
        *(
            ("seeds_figures", histories[name], {"experiment": name, "title": f"{name} · {title}", "notebook": None})
            for name in ("sgd", "adam")
        ),
    ]


@pytest.mark.parametrize("killed", [False, True])
def test_an_interrupted_seed_goes_on_to_the_same_bits(
    tmp_path: Path, tiny: tuple[Any, Any], trained: list[str], monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """Ended after 11 of 22 epochs: with a result, or without one, as by a kill."""
    run(tmp_path / "whole", tiny, epochs=22)
    trained.clear()
    fit = Sequential.fit

    def interrupted(network: Sequential, *arguments: Any, epochs: int, **more: Any) -> Any:
        if "momentum" not in str(more["checkpoint"]):
            return fit(network, *arguments, epochs=epochs, **more)
        history = fit(network, *arguments, epochs=epochs // 2, **more)
        history.interrupted = True
        return history

    with monkeypatch.context() as patch:
        patch.setattr(Sequential, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "halved", tiny, epochs=22)
    assert trained == ["sgd-s0", "momentum-s0"]
    halved = tmp_path / "halved" / "runs" / "momentum-s0"
    assert read_json(halved / "result.json")["epochs"] == 11
    if killed:
        for name in ("result.json", "metrics.png", "model.safetensors"):
            (halved / name).unlink()
    run(tmp_path / "halved", tiny, epochs=22)
    assert trained == ["sgd-s0", "momentum-s0", "momentum-s0 resumed", "adam-s0"]
    result = read_json(halved / "result.json")
    assert (result["epochs"], result["interrupted"]) == (22, False)
    for name in NOTEBOOK:
        for file in ("model.safetensors", "history.csv"):
            whole = tmp_path / "whole" / "runs" / f"{name}-s0" / file
            assert (tmp_path / "halved" / "runs" / f"{name}-s0" / file).read_bytes() == whole.read_bytes()


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_a_run_that_diverged_is_reported_and_not_trained_again(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 30)
    wild = replace(module.EXPERIMENTS["sgd"], learning_rate=1e30)
    monkeypatch.setattr(module, "EXPERIMENTS", {**module.EXPERIMENTS, "sgd": wild})
    for _again in range(2):  # trained, and read back from its folder
        report = run(tmp_path, tiny, epochs=12, seeds=2).read_text(encoding="utf-8")
        assert "| sgd | test data loss | 2 not finite | — | — | — | — |" in report.splitlines()
        assert "sgd 12 epochs in" in report
        read_picture(tmp_path / "sgd-loss.png")
        monkeypatch.setattr(module, "train_run", None)
        monkeypatch.setattr(module, "resume_run", None)
    assert read_json(tmp_path / "runs" / "sgd-s0" / "result.json")["test_loss"] is None


def test_comparable_runs_are_compared_with_the_notebook(tmp_path: Path, finished: Path, drawn: list[Any]) -> None:
    """With test accuracies of a real reproduction put into the results."""
    runs = {}
    for name in (*NOTEBOOK, "quick"):
        one = load_run(finished / "runs" / f"{name}-s0")
        dataset = replace(one.result.dataset, name="fashion-mnist", train_rows=60_000, test_rows=10_000)
        epochs = 1100 if name in NOTEBOOK else 300
        shared = replace(one.result, dataset=dataset, epochs=epochs, test_loss=0.4, train_loss=0.4)
        config = {**one.config, "experiment": {**one.config["experiment"], "epochs": epochs}}
        runs[name] = [
            replace(one, config=config, result=replace(shared, seed=seed, test_accuracy=accuracy))
            for seed, accuracy in ((0, 0.83), (1, 0.85))
        ]
    text = write_report(runs, tmp_path).read_text(encoding="utf-8")
    found = {}
    for line in text.split("ended in a dip |")[1].splitlines():
        if line.startswith("| ") and not line.startswith("| ---") and len(found) < 4:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found[cells[0]] = cells[4:6]
    assert found == {
        "sgd": ["0.837", "1 of 2"],
        "momentum": ["0.812", "0 of 2"],
        "adam": ["0.864", "2 of 2"],
        "quick": ["—", "—"],
    }
    assert "synthetic" not in text.lower()
    assert "not comparable" not in text.lower()
    assert "60,000 images of fashion-mnist" in text
    assert "adam 1,100 epochs in" in text
    assert "quick 300 epochs in" in text
    beside = {name: more["notebook"] for name, _of, more in drawn if name != "medians_figure"}
    assert beside["ends_figure"] == {"sgd": 0.837, "momentum": 0.812, "adam": 0.864}
    seeds = [more["notebook"] for name, _of, more in drawn if name == "seeds_figures"]
    assert [history and history.accuracy[-1] for history in seeds] == [0.853, 0.829, 0.879, None]
