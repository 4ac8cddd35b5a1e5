from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy

from fmnist_xp.backend import Backend, CpuBackend, CudaBackend
from fmnist_xp.nn import Dense, Network, ReLU
from fmnist_xp.train.shift import Shift

BACKENDS: dict[str, Callable[[], Backend]] = {
    "cpu": lambda: CpuBackend(1),
    "stand-in": lambda: CudaBackend(1, cupy=StandInCupy(devices=2)),
}
GENERATOR = np.random.default_rng(3)
BASE, SCALE = GENERATOR.standard_normal((6, 1)), GENERATOR.standard_normal((6, 1))
ROWS = GENERATOR.standard_normal((11, 6))  # x′
DZ = GENERATOR.standard_normal((11, 4))  # gradient of the first layer's output
X = BASE.T + SCALE.T * ROWS


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]()


def make(backend: Backend) -> tuple[Network, Shift]:
    network = Network([Dense(6, 4), ReLU(), Dense(4, 3)], backend=backend, dtype="float64")
    fill(network.parameters, network, 1)
    return network, Shift(network, backend.asarray(BASE), backend.asarray(SCALE))


def fill(vector: Any, network: Network, seed: int) -> np.ndarray:
    """Fill a vector of the network with numbers, and return these."""
    values = np.random.default_rng(seed).standard_normal(vector.shape)
    vector[...] = network.backend.asarray(values)
    return values


def test_parameters_give_the_outputs_of_the_rows_that_are_meant(backend: Backend) -> None:
    with backend.computing():
        network, shift = make(backend)
        for seed in (2, 3):  # they follow the parameters, which change with each update
            parameters = fill(network.parameters, network, seed)
            weights, biases = parameters[:24].reshape(6, 4), parameters[24:28]
            shift.update()
            shifted = backend.to_host(shift.parameters)
            np.testing.assert_allclose(shifted[:24].reshape(6, 4), SCALE * weights, rtol=1e-14)
            np.testing.assert_allclose(shifted[24:], biases + BASE[:, 0] @ weights, rtol=1e-13)
            outputs = ROWS @ shifted[:24].reshape(6, 4) + shifted[24:]
            np.testing.assert_allclose(outputs, X @ weights + biases, rtol=1e-12, atol=1e-13)
            np.testing.assert_array_equal(backend.to_host(network.parameters), parameters)


def test_gradients_become_those_of_the_rows_that_are_meant(backend: Backend) -> None:
    with backend.computing():
        network, shift = make(backend)
        given = np.concatenate([(ROWS.T @ DZ).ravel(), DZ.sum(axis=0), np.arange(15.0)])
        network.gradients[...] = backend.asarray(given)
        shift.update()
        shift.unshift()
        gradients = backend.to_host(network.gradients)
    np.testing.assert_allclose(gradients[:24].reshape(6, 4), X.T @ DZ, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(gradients[24:], given[24:])  # the biases', and the layers behind
