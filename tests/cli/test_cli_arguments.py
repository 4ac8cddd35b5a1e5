"""The calls that each command makes: with defaults, with every option, and as a Python function."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from fmnist_xp import backend as backends
from fmnist_xp import data as package_data
from fmnist_xp import evaluation, prediction, runs, speed
from fmnist_xp import reproduce as reproduction
from fmnist_xp.backend import PRECISIONS, CpuBackend
from fmnist_xp.cli import data, measure, options, train
from fmnist_xp.cli import runs as run_commands
from fmnist_xp.cli.app import app
from fmnist_xp.cli.console import out
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.parity import suite
from fmnist_xp.parity.suite import choose_sides
from fmnist_xp.prediction import Prediction
from fmnist_xp.ranks import Ranks
from fmnist_xp.runs import Settings
from fmnist_xp.train.engines import ENGINES

Command = Callable[..., Any]
Call = tuple[str, tuple[Any, ...], dict[str, Any]]
BACKEND = CpuBackend(1)
CONTEXT = typer.Context(typer.main.get_command(app))
RUN, OTHER, IMAGE = Path("a-run"), Path("other"), Path("image.png")


class Asked(Exception):
    """Ends a command at its final call."""


# With their modules, which are imported before any of them is patched.
ENDS: tuple[tuple[Any, str], ...] = (
    (speed, "measure_speed"),
    (suite, "run_parity"),
    (evaluation, "evaluate_run"),
    (prediction, "predict_images"),
    (evaluation, "plot_runs"),
    (evaluation, "plot_dataset"),
    (runs, "train_run"),
    (runs, "resume_run"),
    (runs, "list_runs"),
    (reproduction, "reproduce"),
    (package_data, "fetch"),
    (package_data, "export"),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, small_data: Any) -> list[Call]:
    """Return the list of recorded calls; the data set is a small one, and the backend `BACKEND`."""
    calls: list[Call] = []

    def noting(module: Any, name: str, answer: Any = None) -> None:
        def note(*arguments: Any, **more: Any) -> Any:
            more = {key: value.size if isinstance(value, Ranks) else value for key, value in more.items()}
            calls.append((name, arguments, more))
            if answer is None:
                raise Asked
            return answer

        monkeypatch.setattr(module, name, note)

    noting(backends, "get_backend", BACKEND)
    noting(package_data, "load_fashion_mnist", small_data)
    for module, name in ENDS:
        noting(module, name)
    return calls


def backend(device: str = "auto", threads: int | None = None, graphs: bool | None = None) -> Call:
    return "get_backend", (device,), {"threads": threads, "graphs": graphs, "comm": None}


def load(source: str = "auto", allow_synthetic: bool = True, **url: Any) -> Call:
    return "load_fashion_mnist", (source,), {**url, "allow_synthetic": allow_synthetic}


def compare(precision: str | None, folder: str, epochs: int) -> Any:
    sides = choose_sides(BACKEND, precision)
    return lambda data: ("run_parity", (sides, data[0], Path(folder)), {"epochs": epochs, "note": out.print})


CLASSES = {"classes": None}
HOW = {"verbose": 1, "checkpoint_every": None, "keep_going": False, "tensorboard": None, "ranks": 1}


def train_run(settings: Settings, folder: str | None, **more: Any) -> Any:
    return lambda data: ("train_run", (settings, *data, BACKEND, folder and Path(folder)), HOW | more)


def resume_run(**more: Any) -> Any:
    return lambda data: ("resume_run", (RUN, *data, BACKEND), HOW | more)


def reproduce(folder: str, **more: Any) -> Any:
    return lambda data: ("reproduce", (*data, BACKEND, Path(folder)), more)


# The function with its required arguments, the same command line, and the calls that both make.
DEFAULTS: dict[str, tuple[Callable[[], object], tuple[str, ...], list[Any]]] = {
    "bench": (
        measure.bench,
        ("bench",),
        [
            backend(),
            ("measure_speed", (BACKEND, "float32", 20), {"block_rows": None, "dense": None, "engine": "plain"}),
        ],
    ),
    "parity": (measure.parity, ("parity",), [backend(), load(), compare(None, "parity-cpu", 20)]),
    "evaluate": (
        lambda: run_commands.evaluate(RUN),
        ("evaluate", "a-run"),
        [backend(), ("evaluate_run", (RUN, None, BACKEND), {"allow_synthetic": True, "best": False} | CLASSES)],
    ),
    "predict": (
        lambda: run_commands.predict(RUN, [IMAGE]),
        ("predict", "a-run", "image.png"),
        [backend(), ("predict_images", (RUN, [IMAGE], BACKEND), {"best": False, "show": None})],
    ),
    "plot": (
        lambda: run_commands.plot([RUN]),
        ("plot", "a-run"),
        [("plot_runs", ([RUN], Path("plots")), {"notebook": False})],
    ),
    "train": (
        lambda: train.train(CONTEXT),
        ("train",),
        [
            backend(),
            load(url=None, **CLASSES),
            train_run(
                Settings(EXPERIMENTS["quick"], seed=0, precision="float32", log_every=10, block_rows=None),
                None,
                source="auto",
                force=False,
                **CLASSES,
            ),
        ],
    ),
    "reproduce": (
        train.reproduce,
        ("reproduce",),
        [
            backend(),
            load(),
            reproduce(
                "reproduce",
                seeds=1,
                epochs=None,
                source="auto",
                engine="plain",
                verbose=True,
                names=[*EXPERIMENTS],
            ),
        ],
    ),
    "runs": (run_commands.runs, ("runs",), [("list_runs", (Path("runs"),), {})]),
    "data info": (
        data.info,
        ("data", "info"),
        [load(url=None, **CLASSES), lambda data: ("plot_dataset", (data[0], Path()), {})],
    ),
    "data fetch": (data.fetch, ("data", "fetch"), [("fetch", (None,), {})]),
    "data export": (
        lambda: data.export(OTHER),
        ("data", "export", "other"),
        [load(**CLASSES), lambda data: ("export", (*data, OTHER, "png"), {})],
    ),
}

OPTIONS: dict[str, tuple[str, list[Any]]] = {
    "bench": (
        "bench --device cpu --precision float64 --epochs 3 --threads 2 --no-graphs --block-rows 70 --dense-rows "
        "--engine fused",
        [
            backend("cpu", 2, False),
            ("measure_speed", (BACKEND, "float64", 3), {"block_rows": 70, "dense": True, "engine": "fused"}),
        ],
    ),
    "parity": (
        "parity --device cuda:1 --precision float32 --epochs 4 --data x --no-synthetic --threads 3 --graphs "
        "--out other",
        [backend("cuda:1", 3, True), load("x", allow_synthetic=False), compare("float32", "other", 4)],
    ),
    "evaluate": (
        "evaluate a-run --data x --no-synthetic --classes 0,1 --best --device cpu --threads 2 --quiet --json",
        [
            backend("cpu", 2),
            ("evaluate_run", (RUN, "x", BACKEND), {"allow_synthetic": False, "best": True, "classes": "0,1"}),
        ],
    ),
    "predict": (
        "predict a-run image.png other --best --device cpu --show seen --json",
        [backend("cpu"), ("predict_images", (RUN, [IMAGE, OTHER], BACKEND), {"best": True, "show": Path("seen")})],
    ),
    "plot": (
        "plot a-run other --out image.png --notebook",
        [("plot_runs", ([RUN, OTHER], IMAGE), {"notebook": True})],
    ),
    "train": (
        "train momentum --device cpu --data x --no-synthetic --url http://x --classes fashion --epochs 7 --seed 3 "
        "--precision float64 --log-every 2 --out other --force --checkpoint-every 4 --validation 0.25 --keep-best "
        "--patience 5 --keep-going --hidden 1,30 --learning-rate 0.5 --decay 0.25 --momentum 0.75 --l2 0.125 "
        "--activation tanh --dropout 0.5 --label-smoothing 0.0625 "
        "--threads 2 --no-graphs --engine fused --block-rows 70 --sorted-rows --tensorboard image.png --quiet",
        [
            backend("cpu", 2, False),
            load("x", allow_synthetic=False, url="http://x", classes="fashion"),
            train_run(
                Settings(
                    replace(
                        EXPERIMENTS["momentum"],
                        epochs=7,
                        hidden=(1, 30),
                        learning_rate=0.5,
                        decay=0.25,
                        momentum=0.75,
                        l2=0.125,
                        activation="tanh",
                        dropout=0.5,
                        label_smoothing=0.0625,
                    ),
                    seed=3,
                    precision="float64",
                    engine="fused",
                    log_every=2,
                    block_rows=70,
                    dense_rows=False,
                    validation=0.25,
                    keep_best=True,
                    patience=5,
                ),
                "other",
                source="x",
                classes="fashion",
                force=True,
                verbose=0,
                checkpoint_every=4,
                keep_going=True,
                tensorboard=IMAGE,
            ),
        ],
    ),
    "train with another optimizer": (
        "train momentum --optimizer adam --decay 0.25",
        [
            backend(),
            load(url=None, **CLASSES),
            train_run(
                Settings(
                    replace(EXPERIMENTS["momentum"], optimizer="adam", learning_rate=0.001, decay=0.25, momentum=0.0)
                ),
                None,
                source="auto",
                force=False,
                **CLASSES,
            ),
        ],
    ),
    "reproduce": (
        "reproduce best sgd --seeds 2 --epochs 7 --device cpu --data x --no-synthetic --threads 2 --no-graphs "
        "--engine fused --out other --quiet",
        [
            backend("cpu", 2, False),
            load("x", allow_synthetic=False),
            reproduce("other", seeds=2, epochs=7, source="x", engine="fused", verbose=False, names=["sgd", "best"]),
        ],
    ),
    "train in silence": (
        "train --dense-rows --json",
        [
            backend(),
            load(url=None, **CLASSES),
            train_run(
                Settings(EXPERIMENTS["quick"], dense_rows=True),
                None,
                source="auto",
                force=False,
                verbose=0,
                **CLASSES,
            ),
        ],
    ),
    "runs": ("runs other --json", [("list_runs", (OTHER,), {})]),
    "data info": (
        "data info --data x --no-synthetic --url http://x --classes 0,1 --out other",
        [
            load("x", allow_synthetic=False, url="http://x", classes="0,1"),
            lambda data: ("plot_dataset", (data[0], OTHER), {}),
        ],
    ),
    "data fetch": ("data fetch --url http://x", [("fetch", ("http://x",), {})]),
    "data export": (
        "data export other --format idx --data x --no-synthetic --classes 0,1",
        [load("x", allow_synthetic=False, classes="0,1"), lambda data: ("export", (*data, OTHER, "idx"), {})],
    ),
}


def with_data(calls: list[Any], data: Any) -> list[Call]:
    return [call(data) if callable(call) else call for call in calls]


def test_choices_are_the_names_in_the_tables() -> None:
    assert list(train.ExperimentName) == list(EXPERIMENTS) == ["sgd", "momentum", "adam", "quick", "best"]
    assert list(options.PrecisionName) == list(PRECISIONS)
    assert list(options.EngineName) == list(ENGINES)
    assert list(data.ExportFormat) == list(package_data.FORMATS)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(command: Command, asked: list[Call], small_data: Any, name: str) -> None:
    function, arguments, calls = DEFAULTS[name]
    expected = with_data(calls, small_data)
    command(*arguments)
    assert asked == expected
    asked.clear()
    with pytest.raises(Asked):
        function()
    assert asked == expected


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option(command: Command, asked: list[Call], small_data: Any, name: str) -> None:
    line, calls = OPTIONS[name]
    command(*line.split())
    assert asked == with_data(calls, small_data)


@pytest.mark.parametrize(
    ("options", "source", "changes"),
    [
        ("", "the run's own", {}),
        (
            "--data x --epochs 70 --checkpoint-every 4 --keep-going --tensorboard image.png --quiet",
            "x",
            {"epochs": 70, "verbose": 0, "checkpoint_every": 4, "keep_going": True, "tensorboard": IMAGE},
        ),
        ("momentum --seed 3 --hidden 32,16 --validation 0.25 --patience 5", "the run's own", {}),  # as it has them
    ],
)
def test_options_of_a_resumed_run(
    command: Command,
    asked: list[Call],
    small_data: Any,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    source: str,
    changes: dict[str, Any],
) -> None:
    own = Settings(replace(EXPERIMENTS["momentum"], hidden=(32, 16)), seed=3, validation=0.25, patience=5)
    config = {"data": {"name": "custom", "source": "the run's own"}}
    monkeypatch.setattr("fmnist_xp.runs.training.settings_to_resume", lambda *_arguments: (config, own))
    command("train", "--resume", "a-run", *options.split())
    expected = [backend(), load(source, url=None, **CLASSES), resume_run(**{"epochs": None} | changes)]
    assert asked == with_data(expected, small_data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--out other", "leave --out out"),
        ("--force", "leave --force out"),
        ("--classes fashion", "leave --classes out"),
        ("adam", "experiment adam: a-run has momentum, and goes on with that"),
        ("--engine fused", "engine fused: a-run has plain, and goes on with that"),
        ("momentum --seed 4", "seed 4: a-run has 3"),
        ("momentum --hidden 64,64", "hidden (64, 64): a-run has (32, 16)"),
        ("momentum --keep-best", "keep best True: a-run has False"),
        ("momentum --log-every 7", "log every 7: a-run has 10"),
        ("momentum --dense-rows", "dense rows True: a-run has None"),
    ],
)
def test_options_that_a_resumed_run_cannot_take(
    command: Command, asked: list[Call], monkeypatch: pytest.MonkeyPatch, options: str, words: str
) -> None:
    own = Settings(replace(EXPERIMENTS["momentum"], hidden=(32, 16)), seed=3, validation=0.25, patience=5)
    config = {"data": {"name": "custom", "source": "x"}}
    monkeypatch.setattr("fmnist_xp.runs.training.settings_to_resume", lambda *_arguments: (config, own))
    command("train", "--resume", "a-run", *options.split()).assert_failed(2, words)
    assert asked == [backend()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--keep-best", "keep_best needs images held out for validation: --validation FRACTION"),
        ("--patience 3", "patience needs images held out for validation: --validation FRACTION"),
        ("--validation 0", "validation must be above 0 and below 1, such as 0.1, got 0"),
        ("--validation 1", "got 1;"),
        ("momentum --optimizer adam --momentum 0.5", "adam has no momentum: leave it out"),
        ("sgd --optimizer adm", "optimizer must be one of sgd, adam"),
        ("sgd --activation reul", "got 'reul'; did you mean relu?; see fmnist-xp train --help"),
        ("sgd --activation dense", "activation must be one of relu, "),
        ("sgd --dropout 1", "dropout must be at least 0 and below 1, got 1.0"),
        ("sgd --label-smoothing -0.1", "label_smoothing must be at least 0 and below 1, got -0.1"),
        ("sgd --config x.toml", "--config is given beside the experiment sgd: leave one of them out"),
        (
            "--config x.toml --resume run",
            "--config is given beside --resume, which goes on with a run's own settings",
        ),
        ("--config nowhere.toml", "--config nowhere.toml: No such file or directory: name a run's folder"),
        ("--validation nan", "got nan"),
        ("--patience 0", "--patience"),
        ("--checkpoint-every 0", "--checkpoint-every"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(
    command: Command, asked: list[Call], options: str, words: str
) -> None:
    command("train", *options.split()).assert_failed(2, words)
    assert asked == []


def test_classes_of_a_photograph(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ranking = [("Bag", 0.5), ("Coat", 0.25), ("Shirt", 0.1234), ("Dress", 0.1), ("Sandal", 0.0266)]
    found = [Prediction(IMAGE, ranking)]
    monkeypatch.setattr("fmnist_xp.prediction.predict_images", lambda *_arguments, **_more: found)
    shown = "image.png: Bag 50.0%, Coat 25.0%, Shirt 12.3%\n"
    assert command("predict", "a-run", "image.png").out == shown
    run_commands.predict(RUN, [IMAGE])
    assert capsys.readouterr().out == shown
    assert command("predict", "a-run", "image.png", "--top", 1).out == "image.png: Bag 50.0%\n"


def test_widths_must_be_positive_integers(command: Command) -> None:
    for text in ("1000000000", "0", "30,", "x" * 100):
        answer = command("train", "--hidden", text)
        assert answer.err == (
            f"fmnist-xp: --hidden must be widths such as 128,128, got {text[:80]!r}; see fmnist-xp train --help\n"
        )
