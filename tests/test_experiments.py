import dataclasses
import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.experiments import EXPERIMENTS, NOTEBOOK_EXPERIMENTS, Experiment
from fmnist_xp.nn import Dense, ReLU, SoftmaxCategoricalCrossentropy

CPU = CpuBackend(1)
NAMES = pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])


def test_experiments_match_the_notebook() -> None:
    assert list(NOTEBOOK_EXPERIMENTS) == ["sgd", "momentum", "adam"]
    assert {name: experiment.make_optimizer().config() for name, experiment in NOTEBOOK_EXPERIMENTS.items()} == {
        "sgd": {"learning_rate": 1.0, "decay": 0.01, "momentum": 0.0},
        "momentum": {"learning_rate": 1.0, "decay": 0.01, "momentum": 0.5},
        "adam": {"learning_rate": 0.02, "decay": 1e-5, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    }
    assert [type(e.make_optimizer()).__name__ for e in NOTEBOOK_EXPERIMENTS.values()] == ["SGD", "SGD", "Adam"]
    assert {experiment.epochs for experiment in NOTEBOOK_EXPERIMENTS.values()} == {1100}


@pytest.mark.parametrize(("name", "hidden"), [("sgd", 128), ("momentum", 64), ("adam", 64)])
def test_architecture_matches_the_notebook(name: str, hidden: int) -> None:
    network = NOTEBOOK_EXPERIMENTS[name].make_network(CPU, seed=1)
    assert [type(layer) for layer in network.layers] == [Dense, ReLU, Dense, ReLU, Dense]
    assert type(network.loss) is SoftmaxCategoricalCrossentropy
    assert network.widths == [784, hidden, hidden, 10]
    assert [sum(layer.penalty_strengths().values(), ()) for layer in network.dense] == [
        (0.0, 5e-4, 0.0, 5e-4),
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0),
    ]
    assert network.backend is CPU
    assert network.dtype == "float32"


# 5e-4 · 1e-4 · 784 · 128 = 0.00502, the notebook printed 0.00506; with 64 neurons 0.00251, printed 0.00248.
@pytest.mark.parametrize(
    ("name", "expected", "printed"),
    [("sgd", 0.00502, 0.00506), ("momentum", 0.00251, 0.00248), ("adam", 0.00251, 0.00248)],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_regularization_loss_at_the_start_is_the_expected_one(
    name: str, expected: float, printed: float, seed: int
) -> None:
    loss = float(NOTEBOOK_EXPERIMENTS[name].make_network(CPU, seed).regularization_loss())
    # The sum of n squared normals spreads by √(2n): 0.45 % for 128 neurons, 0.63 % for 64.
    assert loss == pytest.approx(expected, rel=0.02)
    assert loss == pytest.approx(printed, rel=0.03)


@NAMES
def test_seed_decides_the_weights(name: str) -> None:
    first, again, other = (NOTEBOOK_EXPERIMENTS[name].make_network(CPU, seed).parameters for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_any_dtype_and_depth() -> None:
    experiment = Experiment("deep", (5, 4, 3), "sgd", learning_rate=0.1, decay=0.0, momentum=0.9, l2=0.25)
    network = experiment.make_network(CPU, seed=1, dtype="float64")
    assert network.widths == [784, 5, 4, 3, 10]
    assert network.parameters.dtype == np.float64
    assert [layer.weight_regularizer_l2 for layer in network.dense] == [0.25, 0, 0, 0]
    assert experiment.make_optimizer().config() == {"learning_rate": 0.1, "decay": 0.0, "momentum": 0.9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": (64, 0)}, "n_neurons must be at least 1, got 0"),
        ({"l2": -1.0}, "weight_regularizer_l2 must be at least 0 and finite, got -1.0"),
    ],
)
def test_invalid_network_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(NOTEBOOK_EXPERIMENTS["sgd"], **change).make_network(CPU, seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"optimizer": "rmsprob"}, "optimizer must be one of sgd, .*, got 'rmsprob'; did you mean rmsprop"),
        ({"optimizer": "adagrad", "momentum": 0.5}, "^adagrad has no momentum: leave it out$"),
        (
            {"optimizer_options": {"nestrov": True}},
            "an option of sgd must be one of nesterov, .*did you mean nesterov",
        ),
        ({"optimizer_options": {"momentum": 0.5}}, "an option of sgd must be one of nesterov"),
        ({"schedule": {"type": "linear"}}, "the type of a schedule must be one of constant, .*, got 'linear'"),
        (
            {"schedule": {"type": "cosine", "epochs": 5}},
            "an option of the schedule cosine must be one of warmup, final",
        ),
        ({"decay": 0.1, "schedule": {"type": "cosine"}}, "decay is for a learning_rate that is a number"),
    ],
)
def test_invalid_optimizer_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(NOTEBOOK_EXPERIMENTS["sgd"], **change).make_optimizer()


def test_every_part_is_where_it_belongs() -> None:
    experiment = Experiment(
        "whole", (6, 5), "sgd", learning_rate=0.5, l2=0.25, activation="tanh", initializer="glorot_normal",
        layer_norm=True, dropout=0.5, label_smoothing=0.125, mirror=True, shift=2,
    )  # fmt: skip
    network = experiment.make_network(CPU, seed=7, classes=3)
    assert [type(layer).__name__ for layer in network.layers] == [
        "Dense", "LayerNorm", "Tanh", "Dropout", "Dense", "LayerNorm", "Tanh", "Dropout", "Dense",
    ]  # fmt: skip
    assert network.widths == [784, 6, 5, 3]
    assert [layer.initializer for layer in network.dense] == ["glorot_normal"] * 3
    assert [layer.weight_regularizer_l2 for layer in network.dense] == [0.25, 0, 0]
    dropped = [layer for layer in network.layers if type(layer).__name__ == "Dropout"]
    assert [layer.rate for layer in dropped] == [0.5, 0.5]
    assert dropped[0].seed != dropped[1].seed  # else both layers drop by the same draws
    assert network.loss.label_smoothing == 0.125
    augmentation = experiment.make_augmentation(7)
    assert augmentation is not None
    assert (augmentation.mirror, augmentation.shift, augmentation.seed) == (True, 2, 7)
    assert EXPERIMENTS["adam"].make_augmentation(7) is None


@pytest.mark.parametrize(
    ("loss", "last"),
    [
        ("softmax_categorical_crossentropy", "Dense"),
        ("categorical_crossentropy", "Softmax"),
        ("binary_crossentropy", "Sigmoid"),
        ("mean_squared_error", "Dense"),
    ],
)
def test_a_network_ends_with_what_its_loss_takes(loss: str, last: str) -> None:
    network = Experiment("it", (4,), "sgd", learning_rate=0.1, loss=loss).make_network(CPU, seed=1)
    assert type(network.layers[-1]).__name__ == last
    y = np.arange(20) % 10
    history = network.fit(np.eye(20, 784, dtype="float32"), y, epochs=2, verbose=0)
    assert np.isfinite(history.loss).all()


def test_a_schedule_begins_at_the_rate_and_has_the_epochs() -> None:
    """Half a cosine after a linear warm-up (Loshchilov & Hutter, 2017), by hand."""
    schedule = {"type": "cosine", "warmup": 1, "final": 0.1}
    optimizer = Experiment("it", (4,), "adam", learning_rate=0.5, epochs=5, schedule=schedule).make_optimizer()
    rates = []
    for _ in range(6):
        optimizer.pre_update_params()
        rates.append(optimizer.current_learning_rate)
        optimizer.post_update_params()
    falling = [0.1 + 0.4 * (1 + np.cos(np.pi * step / 4)) / 2 for step in range(5)]
    assert rates == pytest.approx([0.25, *falling])


def test_another_optimizer_begins_with_its_own_defaults() -> None:
    momentum = EXPERIMENTS["momentum"]
    assert momentum.with_optimizer("sgd") is momentum
    changed = momentum.with_optimizer("adamw")
    assert changed == dataclasses.replace(momentum, optimizer="adamw", learning_rate=0.001, decay=0.0, momentum=0.0)
    assert EXPERIMENTS["best"].with_optimizer("sgd").optimizer_options == {}
    with pytest.raises(ValueError, match="optimizer must be one of"):
        momentum.with_optimizer("sdg")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_trained_and_is_plain_json(name: str) -> None:
    experiment = EXPERIMENTS[name]
    experiment.check()
    values = json.loads(json.dumps(dataclasses.asdict(experiment)))
    assert Experiment(**values | {"hidden": tuple(values["hidden"])}) == experiment


def test_widths_must_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def checked(*hidden: int) -> None:
        dataclasses.replace(EXPERIMENTS["sgd"], hidden=hidden).check()

    # Weights and gradients of 784 × 10 + 10 × 5, of 4 bytes each.
    monkeypatch.setattr("fmnist_xp.experiments.memory_bytes", lambda: 63_120)
    checked(10, 5)
    monkeypatch.setattr("fmnist_xp.experiments.memory_bytes", lambda: 63_119)
    with pytest.raises(ValueError, match="choose narrower layers"):
        checked(10, 5)
    monkeypatch.setattr("fmnist_xp.experiments.memory_bytes", lambda: 3 * 2**30)
    message = "^hidden 1000000 takes 6 GiB for weights and gradients alone, and this machine has 3: choose narrower"
    with pytest.raises(ValueError, match=message):
        checked(1_000_000)
    with pytest.raises(ValueError, match=rf"^hidden {'999999,' * 11}999 takes 141,567 GiB for"):
        checked(*[999_999] * 20)
    monkeypatch.setattr("fmnist_xp.experiments.memory_bytes", lambda: None)
    widest = 2**40 // (8 * 784)
    checked(widest)
    with pytest.raises(ValueError, match=r"takes 1,024 GiB .* has 1,024: choose"):
        checked(widest + 1)


def test_experiments_are_immutable() -> None:
    with pytest.raises(TypeError):
        EXPERIMENTS["new"] = NOTEBOOK_EXPERIMENTS["sgd"]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        NOTEBOOK_EXPERIMENTS["sgd"].epochs = 1  # type: ignore[misc]


@pytest.fixture(scope="module")
def fashion_mnist() -> tuple[np.ndarray, np.ndarray]:
    """Return the 60,000 training rows, scaled, and their labels, read without the package."""
    folder = os.environ.get("FMNIST_XP_DATA")
    if not folder:
        pytest.skip("FMNIST_XP_DATA does not name a folder with the four IDX .gz files")
    images, labels = (
        np.frombuffer(gzip.decompress((Path(folder) / name).read_bytes())[header:], dtype="uint8")
        for name, header in (("train-images-idx3-ubyte.gz", 16), ("train-labels-idx1-ubyte.gz", 8))
    )
    return (images.reshape(-1, 784).astype("float32") - 127.5) / 127.5, labels


# The losses printed at epochs 0 and 10. At the start it is ln 10 plus the regularization loss, whatever the draw;
# at epoch 10 draws differ by about 0.1.
@pytest.mark.parametrize(
    ("name", "first", "tenth"), [("sgd", 2.308, 2.065), ("momentum", 2.305, 1.995), ("adam", 2.305, 1.166)]
)
def test_first_epochs_on_fashion_mnist_match_the_notebook(
    name: str, first: float, tenth: float, fashion_mnist: tuple[np.ndarray, np.ndarray]
) -> None:
    experiment = NOTEBOOK_EXPERIMENTS[name]
    network = experiment.make_network(CpuBackend(), seed=0)
    history = network.fit(*fashion_mnist, epochs=11, optimizer=experiment.make_optimizer(), verbose=False)
    assert history.loss == [pytest.approx(first, abs=0.002), pytest.approx(tenth, abs=0.3)]
