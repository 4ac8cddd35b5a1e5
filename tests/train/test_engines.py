import logging
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy

from fmnist_xp import SGD, Adam, Dense, Dropout, LayerNorm, Pixels, ReLU, Sequential, Tanh
from fmnist_xp.backend import Backend, CpuBackend, CudaBackend
from fmnist_xp.backend.base import ELEMENTWISE, elementwise
from fmnist_xp.errors import DeviceError
from fmnist_xp.nn import CategoricalCrossentropy, Layer, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.optim import LBFGS
from fmnist_xp.registry import REGISTRY
from fmnist_xp.train.augmentation import Augmentation
from fmnist_xp.train.fused.batch import unfit
from fmnist_xp.train.rows import as_bytes

GENERATOR = np.random.default_rng(0)
PIXELS = Pixels(GENERATOR.integers(0, 256, (40, 16), dtype="uint8"))
LABELS = GENERATOR.integers(0, 10, 40)


class OwnDense(Dense):
    """A layer of the user's own."""


def gpu(**options: Any) -> CudaBackend:
    return CudaBackend(cupy=StandInCupy(**options))


def layers(*widths: int, between: type[Layer] = ReLU) -> list[Layer]:
    made: list[Layer] = []
    for inputs, outputs in pairwise(widths):
        made += [Dense(inputs, outputs), between()]
    return made[:-1]


def test_chain_of_dense_and_relu_fits() -> None:
    for widths in ((16, 16, 2), (784, 128, 128, 10), (48, 100, 17, 33, 128)):
        for dtype in ("float32", "float16", "bfloat16"):
            network = Sequential(layers(*widths), backend=gpu(), dtype=dtype)
            for optimizer in (SGD(), SGD(0.1, momentum=0.5, nesterov=True), Adam(ema=0.9)):
                assert unfit(network, optimizer) == ""


@pytest.mark.parametrize(
    ("network", "options", "expected"),
    [
        (layers(16, 16, 10, between=Tanh), {}, "layers other than Dense, ReLU, …, Dense"),
        ([Dense(16, 16), ReLU(), Dropout(0.5), Dense(16, 10)], {}, "layers other than"),
        ([Dense(16, 16), LayerNorm(16), ReLU(), Dense(16, 10)], {}, "layers other than"),
        ([OwnDense(16, 16), ReLU(), Dense(16, 10)], {}, "layers other than"),
        ([Dense(16, 10)], {}, "layers other than"),
        ([Dense(16, 16), ReLU(), Dense(16, 10), ReLU()], {}, "layers other than"),
        (layers(16, 15, 10), {}, "hidden layers of [15]: it has 16 to 128"),
        (layers(16, 64, 129, 10), {}, "hidden layers of [64, 129]"),
        (layers(16, 64, 129), {}, "129 classes: it has 128 at most"),
        (layers(17, 16, 10), {}, "17 inputs: it has multiples of 16"),
        (layers(16, 16, 10), {"dtype": "float64"}, "float64: it has float16, bfloat16, float32"),
        (layers(16, 16, 10), {"dtype": "tf32"}, "tf32: it has"),
        (
            layers(16, 16, 10),
            {"loss": SoftmaxCategoricalCrossentropy(label_smoothing=0.1)},
            "softmax with categorical cross-entropy, without smoothing",
        ),
        ([*layers(16, 16, 10), Softmax()], {"loss": CategoricalCrossentropy()}, "layers other than"),
    ],
)
def test_what_does_not_fit_is_named(network: list[Layer], options: dict[str, Any], expected: str) -> None:
    assert expected in unfit(Sequential(network, backend=gpu(), **options), SGD())


def test_optimizers_that_need_more_than_a_parameter_do_not_fit() -> None:
    class OwnOptimizer(SGD):
        """One that is not registered."""

    network = Sequential(layers(16, 16, 10), backend=gpu())
    for optimizer in (LBFGS(), SGD(clip_norm=1.0), OwnOptimizer()):
        assert (
            unfit(network, optimizer)
            == f"{optimizer!r}: it has optimizers that are a formula for each parameter alone"
        )


def test_registered_optimizers_of_ones_own(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overriding(SGD):
        def update_params(self, target: Any, coefficients: Any = None) -> None:
            super().update_params(target, coefficients)

    class Cubic(SGD):
        def _update(self, backend: Any, vectors: Any, coefficients: Any) -> None:
            backend.compute(cubic, *vectors, *coefficients)

    @elementwise
    def cubic(xp: Any, parameters: Any, gradients: Any, rate: Any) -> None:
        xp.subtract(parameters, rate * xp.power(gradients, 3), out=parameters)

    monkeypatch.delitem(ELEMENTWISE, "cubic")

    for kind in (Overriding, Cubic):
        monkeypatch.setitem(REGISTRY, kind.__name__, kind)
    network = Sequential(layers(16, 16, 10), backend=gpu())
    assert "optimizers that are a formula" in unfit(network, Overriding())
    network.fit(PIXELS, LABELS, epochs=1, optimizer=Cubic(0.1), engine="fused", verbose=0)
    assert "Cubic(learning_rate=0.1): its update cannot be read as C (" in caplog.text
    assert "'power'" in caplog.text


def test_device_without_tensor_cores_for_it_does_not_fit() -> None:
    for backend in (CpuBackend(1), gpu(major=7)):
        network = Sequential(layers(16, 16, 10), backend=backend)
        expected = f"{backend.name} ({backend.device_name}): it needs compute capability 8.0"
        assert unfit(network, SGD()) == expected
        with pytest.raises(DeviceError, match="runs no CUDA kernels" if backend.name == "cpu" else "bfloat16"):
            backend.kernel("", "") if backend.name == "cpu" else backend.precision("bfloat16")


def test_shared_memory_that_is_missing_is_told() -> None:
    backend = gpu()
    network = Sequential(layers(16, 128, 128, 10), backend=backend)
    backend.shared_bytes = 96 * 1024  # as some GPUs have it, of which a float32 network of this width needs all
    assert unfit(network, SGD()) == ""
    backend.shared_bytes -= 1
    assert unfit(network, SGD()) == "[16, 128, 128, 10] in float32: 98304 bytes of shared memory, of 98303"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"block_rows": 20}, "block_rows"),
        ({"dense": False}, "rows without their background"),
        ({"sample_weight": np.ones(40)}, "weighted rows"),
        ({"augmentation": Augmentation(mirror=True)}, "augmented rows"),
    ],
)
def test_rows_that_do_not_fit_are_named(
    options: dict[str, Any], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    results = []
    for engine in ("fused", "plain"):
        network = Sequential(layers(16, 16, 10), backend=gpu(), seed=1)
        network.fit(PIXELS, LABELS, epochs=2, engine=engine, verbose=0, **options)
        results.append(network.parameters.get())
    np.testing.assert_array_equal(*results)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.message == f"the fused engine does not take {expected}; the plain one trains"


def test_precision_of_the_fused_engine_alone_is_refused_by_the_plain_one() -> None:
    network = Sequential(layers(16, 16, 10), backend=gpu(), dtype="bfloat16")
    with pytest.raises(ValueError, match='bfloat16 is for the fused engine alone, ask for it: engine="fused", or'):
        network.fit(PIXELS, LABELS, epochs=1, verbose=0)
    network = Sequential(layers(16, 15, 10), backend=gpu(), dtype="bfloat16")
    with pytest.raises(ValueError, match=r"alone, which does not take hidden layers of \[15\]: it has 16 to 128"):
        network.fit(PIXELS, LABELS, epochs=1, engine="fused", verbose=0)


@pytest.mark.parametrize("backend", [CpuBackend(1), gpu()], ids=str)
def test_bytes_come_back_from_the_floats_that_were_made_of_them(backend: Backend) -> None:
    every = np.arange(256, dtype="uint8").reshape(16, 16)
    for rows in (Pixels(every), backend.asarray(np.asarray(Pixels(every))), backend.asarray(every / 127.5 - 1)):
        found = as_bytes(backend, rows)
        assert found is not None
        assert found.dtype == "uint8"
        np.testing.assert_array_equal(backend.to_host(found), every)


@pytest.mark.parametrize("other", [np.nan, np.inf, 1.01, -1.01, 0.001, 2 / 3])
def test_floats_that_are_no_bytes_are_not_taken(other: float) -> None:
    rows = np.full((3, 4), -1, "float32")
    assert as_bytes(CpuBackend(1), rows) is not None
    rows[1, 2] = other
    assert as_bytes(CpuBackend(1), rows) is None
