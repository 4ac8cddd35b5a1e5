import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_helpers import contents, read_json, read_picture

import fmnist_xp.reproduce as module
from fmnist_xp.backend import CpuBackend
from fmnist_xp.blas import blas_name
from fmnist_xp.data import make_synthetic
from fmnist_xp.errors import RunError
from fmnist_xp.report import plots
from fmnist_xp.report.notebook import notebook_history
from fmnist_xp.reproduce import reproduce, write_report
from fmnist_xp.runs import load_run

CPU = CpuBackend(1)
EXPERIMENTS = ("sgd", "momentum", "adam")


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, Any]:
    return make_synthetic(30, 20)


def run(folder: Path, data: tuple[Any, Any], backend: CpuBackend = CPU, **more: Any) -> Path:
    arguments: dict[str, Any] = {"seeds": 1, "epochs": 2, "source": "made", "verbose": False, **more}
    return reproduce(*data, backend, folder, **arguments)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[Any, Any]) -> Path:
    """A finished reproduction of two epochs; read-only."""
    folder = tmp_path_factory.mktemp("finished") / "reproduce"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmnist_xp.report.plots.DPI", 30)
        run(folder, tiny)
    return folder


@pytest.fixture
def folder(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A writable copy of `finished`."""
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 30)
    return Path(shutil.copytree(finished, tmp_path / "reproduce"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders of the runs that are trained; no report is written."""
    names: list[str] = []
    train_run = module.train_run

    def noted(settings: Any, train: Any, test: Any, backend: Any, folder: Path, **more: Any) -> Any:
        names.append(folder.name)
        return train_run(settings, train, test, backend, folder, **more)

    monkeypatch.setattr(module, "train_run", noted)
    monkeypatch.setattr(module, "write_report", lambda _runs, folder: folder / "reproduce.md")
    return names


ALL = [f"{name}-s0" for name in EXPERIMENTS]


def test_runs_are_the_notebooks_experiments(finished: Path) -> None:
    for name, hidden, optimizer in (("sgd", 128, "SGD"), ("momentum", 64, "SGD"), ("adam", 64, "Adam")):
        config = read_json(finished / "runs" / f"{name}-s0" / "config.json")
        assert config["experiment"]["hidden"] == [hidden, hidden]
        assert config["optimizer"]["type"] == optimizer
        assert (config["experiment"]["epochs"], config["seed"], config["log_every"]) == (2, 0, 10)


def test_pictures_of_each_experiment(finished: Path) -> None:
    report = (finished / "reproduce.md").read_text(encoding="utf-8")
    for name in EXPERIMENTS:
        for quantity in ("accuracy", "loss"):
            read_picture(finished / f"{name}-seeds-{quantity}.png")
            assert f"({name}-seeds-{quantity}.png)" in report
        assert {path.name for path in (finished / name).iterdir()} == {
            "accuracy.png",
            "loss.png",
            "learning-rate.png",
        }
    read_picture(finished / "comparison-accuracy.png")
    assert "(comparison-accuracy.png)" in report


def test_finished_runs_are_reused(folder: Path, tiny: tuple[Any, Any], trained: list[str]) -> None:
    before = contents(folder / "runs")
    run(folder, tiny)
    assert trained == []
    assert contents(folder / "runs") == before


def test_more_seeds_train_only_the_new_ones(folder: Path, tiny: tuple[Any, Any], trained: list[str]) -> None:
    run(folder, tiny, seeds=2)
    assert trained == [f"{name}-s1" for name in EXPERIMENTS]
    assert [read_json(folder / "runs" / name / "config.json")["seed"] for name in trained] == [1, 1, 1]


@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_prints_the_log(
    tmp_path: Path, tiny: tuple[Any, Any], trained: list[str], capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    run(tmp_path, tiny, verbose=verbose)
    assert capsys.readouterr().out.count("epoch: 0, ") == (3 if verbose else 0)


def test_only_missing_runs_are_trained(folder: Path, tiny: tuple[Any, Any], trained: list[str]) -> None:
    """As after an interrupt."""
    shutil.rmtree(folder / "runs" / "momentum-s0")
    (folder / "runs" / "adam-s0" / "result.json").unlink()
    run(folder, tiny)
    assert trained == ["momentum-s0", "adam-s0"]


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


def test_a_changed_experiment_is_retrained(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of the package may change an experiment under the same name."""
    changed = {**module.EXPERIMENTS, "momentum": replace(module.EXPERIMENTS["momentum"], momentum=0.6)}
    monkeypatch.setattr(module, "EXPERIMENTS", changed)
    run(folder, tiny)
    assert trained == ["momentum-s0"]


@pytest.mark.parametrize(
    ("file", "text"),
    [("result.json", "{"), ("result.json", "{}"), ("history.csv", ""), ("config.json", None)],
    ids=["result cut short", "result without fields", "history empty", "no config"],
)
def test_a_damaged_run_is_retrained(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], file: str, text: str | None
) -> None:
    path = folder / "runs" / "sgd-s0" / file
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    run(folder, tiny)
    assert trained == ["sgd-s0"]
    assert load_run(folder / "runs" / "sgd-s0").result.epochs == 2


@pytest.mark.parametrize("file", ["result.json", "config.json", "history.csv"])
def test_a_run_with_a_pipe_for_a_file_is_retrained(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], file: str
) -> None:
    path = folder / "runs" / "sgd-s0" / file
    path.unlink()
    os.mkfifo(path)
    run(folder, tiny)
    assert trained == ["sgd-s0"]
    assert path.is_file()


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config.json", "seed", 5),
        ("config.json", "precision", "float64"),
        ("config.json", "log_every", 1),
        ("config.json", "block_rows", 64),
        ("config.json", "device_name", "another"),
        ("config.json", "experiment", {}),
        ("result.json", "epochs", 1),
        ("result.json", "blas", "openblas 0.3 (other kernels, pthreads)"),
        ("result.json", "dataset", {"name": "synthetic", "sha256": "0", "train_rows": 30, "test_rows": 20}),
    ],
)
def test_a_run_with_other_settings_is_retrained(
    folder: Path, tiny: tuple[Any, Any], trained: list[str], file: str, field: str, value: Any
) -> None:
    path = folder / "runs" / "adam-s0" / file
    path.write_text(json.dumps({**read_json(path), field: value}))
    run(folder, tiny)
    assert trained == ["adam-s0"]


def test_experiment_without_notebook_numbers_is_refused_before_training(
    tmp_path: Path, tiny: tuple[Any, Any], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = replace(module.EXPERIMENTS["adam"], name="wide")
    monkeypatch.setattr(module, "EXPERIMENTS", {**module.EXPERIMENTS, "wide": wide})
    with pytest.raises(RunError, match=r"^the notebook has no experiment 'wide': it has sgd, momentum, adam$"):
        run(tmp_path, tiny)
    assert trained == []
    assert contents(tmp_path) == {}


def test_report_in_full(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With recorded calls to the plots and a stub of the table."""
    calls: list[Any] = []

    def drawing(kind: str) -> Any:
        return lambda of, **more: {kind: (of, more)}

    def save_figures(figures: Any, folder: Path) -> list[Path]:
        ((kind, (of, more)),) = figures.items()
        calls.append((kind, of, folder, more))
        return [folder / f"{kind}.png"]

    for kind in ("run_figures", "seeds_figures", "comparison_figures"):
        monkeypatch.setattr(plots, kind, drawing(kind))
    monkeypatch.setattr(module, "save_figures", save_figures)
    monkeypatch.setattr(module, "reproduce_table", lambda results, histories: f"TABLE {list(results)}\n")
    first = {name: load_run(finished / "runs" / f"{name}-s0") for name in ("sgd", "adam")}
    second = replace(first["sgd"], result=replace(first["sgd"].result, seed=1))
    path = write_report({"sgd": [first["sgd"], second], "adam": [first["adam"]]}, tmp_path / "new")
    assert path == tmp_path / "new" / "reproduce.md"
    assert path.read_text(encoding="utf-8") == (
        "# The notebook's experiments, reproduced\n\n"
        f"2 full-batch epochs each on 30 images of synthetic on {CPU.device_name} "
        f"(cpu, float32; BLAS: {blas_name()}).\n\n"
        "TABLE ['sgd', 'adam']\n\n![seeds_figures](seeds_figures.png)\n\n![seeds_figures](seeds_figures.png)\n\n"
        "![comparison_figures](comparison_figures.png)\n"
    )
    histories = {name: one.history for name, one in first.items()}
    expected = []
    for name, seeds, of in (("sgd", "2 seeds", {0: 0, 1: 0}), ("adam", "seed 0", {0: 0})):
        notebook = notebook_history(name)
        title = f"{name} · cpu · {seeds} · synthetic"
        seed_histories = dict.fromkeys(of, histories[name])
        more = {"experiment": name, "notebook": notebook}
        expected += [
            ("seeds_figures", seed_histories, tmp_path / "new", {**more, "title": title}),
            ("run_figures", histories[name], tmp_path / "new" / name, {**more, "title": first[name].title}),
        ]
    title = "the three experiments, first seed · cpu · seed 0 · synthetic"
    assert calls == [*expected, ("comparison_figures", histories, tmp_path / "new", {"title": title})]


def test_an_interrupted_reproduction_is_resumed_by_the_next_call(
    tmp_path: Path, tiny: tuple[Any, Any], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run = module.train_run

    def interrupted(settings: Any, *arguments: Any, **more: Any) -> Any:
        if settings.experiment.name != "momentum":
            return train_run(settings, *arguments, **more)
        # Interrupted after one epoch of two.
        short = replace(settings, experiment=replace(settings.experiment, epochs=1))
        run = train_run(short, *arguments, **more)
        run.history.interrupted = True
        return run

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, tiny)
    assert trained == ["sgd-s0", "momentum-s0"]
    run(tmp_path, tiny)
    assert trained == ["sgd-s0", "momentum-s0", "momentum-s0", "adam-s0"]
    assert load_run(tmp_path / "runs" / "momentum-s0").result.epochs == 2


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_a_run_that_diverged_is_reported(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 30)
    wild = replace(module.EXPERIMENTS["sgd"], learning_rate=1e30)
    monkeypatch.setattr(module, "EXPERIMENTS", {**module.EXPERIMENTS, "sgd": wild})
    for _again in range(2):  # trained, and read back from its folder
        report = run(tmp_path, tiny, epochs=12, seeds=2).read_text(encoding="utf-8")
        row = next(line for line in report.splitlines() if line.startswith("| sgd |") and "test data loss" in line)
        assert "nan" in row
        read_picture(tmp_path / "sgd-seeds-loss.png")
        for name in ("run_figures", "seeds_figures", "comparison_figures"):  # drawn once, which is enough
            monkeypatch.setattr(plots, name, lambda *_arguments, **_more: {})
    assert read_json(tmp_path / "runs" / "sgd-s0" / "result.json")["test_loss"] is None


def test_report_of_comparable_runs_says_whether_the_notebook_is_in_range(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With test accuracies of a real reproduction put into the results."""
    for name in ("run_figures", "seeds_figures", "comparison_figures"):
        monkeypatch.setattr(plots, name, lambda *_arguments, **_more: {})
    runs = {}
    for name in EXPERIMENTS:
        one = load_run(folder / "runs" / f"{name}-s0")
        dataset = replace(one.result.dataset, name="fashion-mnist", train_rows=60_000, test_rows=10_000)
        shared = replace(one.result, dataset=dataset, epochs=1100, test_loss=0.4, train_loss=0.4)
        runs[name] = [
            replace(one, result=replace(shared, seed=seed, test_accuracy=accuracy))
            for seed, accuracy in ((0, 0.83), (1, 0.85))
        ]
    text = write_report(runs, tmp_path).read_text(encoding="utf-8")
    verdicts = {
        line.split("|")[1].strip(): line.split("|")[-2].strip()
        for line in text.splitlines()
        if "test accuracy" in line
    }
    # The notebook's: 0.837, 0.812, 0.864.
    assert verdicts == {"sgd": "yes", "momentum": "no", "adam": "no"}
    assert "synthetic" not in text.lower()
    assert "60,000 images of fashion-mnist" in text
    assert "1,100 full-batch epochs" in text
