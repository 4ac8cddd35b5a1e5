"""Images mirrored and shifted, anew in every epoch."""

import itertools
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath

import fmnist_xp as fx
from fmnist_xp.backend import CpuBackend, CudaBackend, CudaGraphBackend
from fmnist_xp.nn.draws import Draws
from fmnist_xp.train.augmentation import Changes

SIDE = 6


def pictures(rows: int = 700) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, SIDE, SIDE)).astype("uint8")


def ways_of(image: np.ndarray, mirror: bool, shift: int) -> set[bytes]:
    """Every image that one may become, by padding with the edge and cutting out."""
    padded = np.pad(image, shift, mode="edge")
    cuts = [
        padded[down : down + SIDE, right : right + SIDE]
        for down in range(2 * shift + 1)
        for right in range(2 * shift + 1)
    ]
    return {cut.tobytes() for cut in cuts} | ({cut[:, ::-1].tobytes() for cut in cuts} if mirror else set())


@pytest.mark.parametrize(("mirror", "shift"), [(True, 0), (False, 1), (True, 2), (False, 5)])
def test_each_way_is_mirrored_or_shifted_and_no_other(mirror: bool, shift: int) -> None:
    image = pictures(1)[0]
    sources = fx.Augmentation(mirror, shift).sources(SIDE * SIDE)
    made = {image.reshape(-1)[places].tobytes() for places in sources}
    assert made == ways_of(image, mirror, shift)
    assert len(sources) == (1 + mirror) * (2 * shift + 1) ** 2
    assert np.array_equal(sources[0], np.arange(SIDE * SIDE))


def changed(backend: Any, values: np.ndarray, epoch: int, seed: int = 0, numbers: Any = None) -> np.ndarray:
    numbers = np.arange(len(values)) if numbers is None else numbers
    changes = Changes(fx.Augmentation(True, 1, seed), backend, SIDE * SIDE)
    draws = Draws(backend.asarray(numbers, "uint32"), backend.xp.full(1, epoch, "uint32"))
    return backend.to_host(changes(backend.asarray(values), draws))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_small_shifts_are_more_likely_and_each_epoch_and_seed_draws_anew(dtype: str) -> None:
    image = pictures(1)[0].astype(dtype)
    rows = np.repeat(image.reshape(1, -1), 9600, axis=0)
    first = changed(CpuBackend(1), rows, 0)
    found, counts = np.unique(first, axis=0, return_counts=True)
    assert {row.tobytes() for row in found} == ways_of(image, True, 1)
    # Of 32 equal parts, none in either direction has four, one direction alone two, and both one; mirrored, the same.
    parts = {}
    for vertical, horizontal in itertools.product((-1, 0, 1), repeat=2):
        padded = np.pad(image, 1, mode="edge")[1 - vertical :, 1 - horizontal :][:SIDE, :SIDE]
        for way in (padded, padded[:, ::-1]):
            parts[way.tobytes()] = (2 - abs(vertical)) * (2 - abs(horizontal))
    expected = np.array([9600 / 32 * parts[row.tobytes()] for row in found])
    # χ² with 17 degrees of freedom exceeds 54 with a probability of 10⁻⁵.
    assert ((counts - expected) ** 2 / expected).sum() < 54
    for epoch, seed in ((1, 0), (0, 1)):
        same = (changed(CpuBackend(1), rows, epoch, seed) == first).all(axis=1).mean()
        assert abs(same - sum((part / 32) ** 2 for part in parts.values())) < 0.015


def test_devices_and_blocks_draw_the_same() -> None:
    rows = pictures(100).reshape(100, -1)
    expected = changed(CpuBackend(1), rows, 3)
    some = np.array([70, 3, 41])
    assert np.array_equal(changed(CpuBackend(1), rows[some], 3, numbers=some), expected[some])
    assert np.array_equal(changed(CudaBackend(cupy=StandInCupy()), rows, 3), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "must change something"),
        ({"mirror": "yes"}, "mirror must be True or False, got 'yes'"),
        ({"shift": -1}, "shift must be at least 0, got -1"),
        ({"shift": 8}, "shift must be at most 7, got 8"),
        ({"mirror": True, "seed": 0.5}, "seed must be"),
    ],
)
def test_arguments_that_are_none_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fx.Augmentation(**arguments)


def network(backend: Any = "cpu", dtype: str = "float64", inputs: int = SIDE * SIDE) -> fx.Sequential:
    layers = [fx.Dense(inputs, 16), fx.ReLU(), fx.Dense(16, 4)]
    return fx.Sequential(layers, backend=backend, seed=0, dtype=dtype)


def fit(model: fx.Sequential, X: Any, epochs: int = 4, **options: Any) -> np.ndarray:
    y = np.arange(len(X)) % 4
    options = {"augmentation": fx.Augmentation(True, 1), "optimizer": "adam", "verbose": 0, **options}
    model.fit(X, y, epochs=epochs, **options)
    return model.backend.to_host(model.parameters).copy()


def test_the_gradient_is_that_of_the_changed_images() -> None:
    X = pictures()
    model = network()
    fit(model, X, epochs=1)
    expected = network()
    images = changed(CpuBackend(1), X.reshape(700, -1), 0)
    fit(expected, images, epochs=1, augmentation=None, dense=True)
    np.testing.assert_allclose(model.gradients, expected.gradients, rtol=1e-9, atol=1e-12)


def test_blocks_kinds_of_rows_and_threads_make_no_difference() -> None:
    X = pictures()
    first = fit(network(), X)
    for other in (
        fit(network(), X, block_rows=100),
        fit(network(), X, dense=True),
        fit(network(), np.asarray(fx.Pixels(X))),
    ):
        np.testing.assert_allclose(other, first, rtol=1e-6, atol=1e-8)
    bits = [fit(network(CpuBackend(threads), "float32"), X, block_rows=50) for threads in (1, 2, 3)]
    assert np.array_equal(bits[0], bits[1])
    assert np.array_equal(bits[0], bits[2])


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_device_changes_the_same_with_graphs_and_without(dtype: str, floats: bool) -> None:
    X: Any = np.asarray(fx.Pixels(pictures(90))) if floats else pictures(90)
    sgd: dict[str, Any] = {"optimizer": fx.SGD, "epochs": 12, "log_every": 4}
    expected = fit(network(CpuBackend(1)), X, **sgd)
    plain = StandInCupy()
    graphs = StandInCupy()
    tolerance = 1e-6 if dtype == "float64" else 2e-2
    for backend in (CudaBackend(cupy=plain), CudaGraphBackend(cupy=graphs, nvmath=make_nvmath(graphs))):
        for rows in (None, 40):
            found = fit(network(backend, dtype), X, **sgd, block_rows=rows)
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert graphs.launches


def test_a_resumed_training_changes_what_it_would_have_changed(tmp_path: Any) -> None:
    X = pictures(90)
    whole = fit(network(), X, epochs=6)
    fit(network(), X, epochs=3, checkpoint=tmp_path)
    assert np.array_equal(fit(network(), X, epochs=6, checkpoint=tmp_path, resume=True), whole)
    with pytest.raises(fx.RunError, match="other rows"):
        fit(network(), X, epochs=6, checkpoint=tmp_path, resume=True, augmentation=fx.Augmentation(True))


def test_held_out_rows_are_not_changed() -> None:
    X, y = pictures(90), np.arange(90) % 4
    model, optimizer = network(), fx.SGD(1e-300)
    history = model.fit(
        X, y, epochs=1, optimizer=optimizer, validation_data=(X, y), augmentation=fx.Augmentation(True, 1), verbose=0
    )
    metrics = network().evaluate(X, y)
    assert history.validation_loss[0] == pytest.approx(metrics.loss, rel=1e-12)
    assert history.loss[0] != pytest.approx(metrics.loss, rel=1e-6)


@pytest.mark.parametrize(
    ("inputs", "augmentation", "message"),
    [
        (35, fx.Augmentation(True), "rows of 35 numbers are none"),
        (36, fx.Augmentation(shift=6), "shift must be less than the 6 pixels"),
        (36, {"mirror": True}, "augmentation must be an Augmentation"),
    ],
)
def test_rows_that_cannot_be_changed_are_refused(inputs: int, augmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(network(inputs=inputs), np.zeros((8, inputs)), augmentation=augmentation)
