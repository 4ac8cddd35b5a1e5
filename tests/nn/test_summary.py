"""The table of a network's layers."""

import logging
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.standin import StandInCupy

from fmnist_xp.backend import Array, CudaBackend
from fmnist_xp.model import Sequential
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, Network, ReLU, Softmax, Tanh
from fmnist_xp.nn.summary import output_widths, summary_text


class Wider(Layer):
    """A layer of a user's own: nothing is known of its output but what follows."""

    def __init__(self, count: int = 0) -> None:
        super().__init__()
        if count:
            self.make_parameters(table=(count,))

    def forward(self, inputs: Array) -> Array:
        raise AssertionError("a table must not run a layer")

    def penalty_strengths(self) -> dict[str, tuple[float, float]]:
        return dict.fromkeys(self.tensors(), (0.5, 0.0))


# 784 · 64 + 64 = 50240, 64 · 64 + 64 = 4160, 64 · 10 + 10 = 650; 55,050 numbers of 4 bytes are 215.04 KiB.
def test_table_of_the_notebooks_network(capsys: pytest.CaptureFixture[str]) -> None:
    strong = {"weight_regularizer_l2": 5e-4, "bias_regularizer_l2": 5e-4}
    network = Sequential([Dense(784, 64, **strong), ReLU(), Dense(64, 64), ReLU(), Dense(64, 10)])
    assert network.summary() is None  # type: ignore[func-returns-value]
    expected = """\
Sequential on cpu, float32
--------------------------------------------------------------------
#  Layer  Output shape  Parameters  Penalties
--------------------------------------------------------------------
1  Dense  (n, 64)           50,240  L2 weights 0.0005, biases 0.0005
2  ReLU   (n, 64)                0  none
3  Dense  (n, 64)            4,160  none
4  ReLU   (n, 64)                0  none
5  Dense  (n, 10)              650  none
--------------------------------------------------------------------
Loss: SoftmaxCategoricalCrossentropy
Parameters: 55,050 of float32, 215.0 KiB
"""
    assert capsys.readouterr() == (expected, "")


def test_all_four_penalties_and_a_users_layer() -> None:
    layers = [Dense(4, 3, 1e-5, 0.25, 0.125, 1e-7), Wider(2), Tanh(), Dense(6, 1000, 0, 2), Wider(), Softmax()]
    network = Network(layers, CategoricalCrossentropy(), dtype="float64")
    assert (
        summary_text(network)
        == """\
Network on cpu, float64
--------------------------------------------------------------------
#  Layer    Output shape  Parameters  Penalties
--------------------------------------------------------------------
1  Dense    (n, 3)                15  L1 weights 1e-05, biases 0.125
                                      L2 weights 0.25, biases 1e-07
2  Wider    (n, 6)                 2  L1 table 0.5
3  Tanh     (n, 6)                 0  none
4  Dense    (n, 1000)          7,000  L2 weights 2
5  Wider    (n, 1000)              0  none
6  Softmax  (n, 1000)              0  none
--------------------------------------------------------------------
Loss: CategoricalCrossentropy
Parameters: 7,017 of float64, 54.8 KiB"""
    )


def test_text_may_go_elsewhere(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    network, texts = Network([Dense(2, 3)]), []
    network.summary(print_fn=texts.append)
    assert texts == [summary_text(network)]
    caplog.set_level("INFO")
    network.summary(logging.getLogger("mine").info)
    assert caplog.messages == texts
    assert capsys.readouterr().out == ""


def test_nothing_is_asked_of_a_gpu() -> None:
    cupy = StandInCupy(devices=2)
    network = Network([Dense(3, 20), ReLU(), Dense(20, 2)], backend=CudaBackend(1, cupy=cupy), dtype="float16")
    assert not any(cupy.counted(lambda: summary_text(network)).values())
    assert summary_text(network).startswith("Network on cuda:1, float16\n")
    assert summary_text(network).endswith("\nParameters: 122 of float32, 488 bytes")


@pytest.mark.parametrize(
    ("layers", "widths"),
    [
        ([Dense(6, 5), ReLU(), Dense(5, 4)], [5, 5, 4]),
        ([Dense(6, 5), Wider(), Dense(3, 4)], [5, 3, 4]),
        ([Dense(6, 5), ReLU(), Wider(), Tanh(), Dense(3, 4), Wider()], [5, 5, 3, 3, 4, 4]),
        ([Dense(6, 5), Wider(), Wider(), Dense(3, 4)], [5, None, 3, 4]),
        ([Dense(6, 5), Wider(), Tanh(), Wider(), Dense(3, 4)], [5, None, None, 3, 4]),
        ([Dense(6, 5), Wider(), ReLU(), Tanh(), Dense(3, 4), ReLU(), Wider()], [5, 3, 3, 3, 4, 4, 4]),
    ],
)
def test_widths_that_follow_from_the_neighbours(layers: list[Layer], widths: list[int | None]) -> None:
    network = Network(layers)
    assert output_widths(network) == widths
    assert ("(n, ?)" in summary_text(network)) == (None in widths)


@pytest.mark.parametrize(
    ("neurons", "memory"),
    [(1, "8 bytes"), (127, "1,016 bytes"), (128, "1.0 KiB"), (131_072, "1.0 MiB"), (5_000_000, "38.1 MiB")],
)
def test_memory_in_words(neurons: int, memory: str) -> None:
    assert summary_text(Network([Dense(1, neurons, draw=False)])).endswith(
        f"Parameters: {2 * neurons:,} of float32, {memory}"
    )


def test_many_parameters_of_a_layer_are_wrapped() -> None:
    class Many(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.make_parameters(**{f"table_of_values_{number}": (1,) for number in range(12)})

        def penalty_strengths(self) -> dict[str, tuple[float, float]]:
            return dict.fromkeys(self.tensors(), (0.125, 0.25))

    text = summary_text(Network([Dense(2, 3), Many()]))
    assert max(map(len, text.splitlines())) <= 79
    for number in range(12):
        assert text.count(f"table_of_values_{number} 0.125") == text.count(f"table_of_values_{number} 0.25") == 1


strengths = st.sampled_from([0.0, 1e-5, 0.0005, 0.00123, 1.0])


@settings(deadline=None, max_examples=50)
@given(
    widths=st.lists(st.integers(1, 3000), min_size=2, max_size=5),
    penalties=st.tuples(strengths, strengths, strengths, strengths),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_usual_networks_fit_in_a_terminal(widths: list[int], penalties: tuple[float, ...], dtype: str) -> None:
    layers: list[Layer] = []
    for n_inputs, n_neurons in pairwise(widths):
        layers += [Dense(n_inputs, n_neurons, *penalties, draw=False), Tanh()]
    network = Network(layers[:-1], dtype=dtype)
    lines = summary_text(network).splitlines()
    assert all(line == line.rstrip() and len(line) <= 79 and line.isascii() for line in lines)
    rows = [line.split() for line in lines[4:-3]]
    counts = [int(row[4].replace(",", "")) for row in rows if row[0].isdecimal()]
    assert counts == [layer.size for layer in network.layers]
    assert sum(counts) == network.parameters.size == int(lines[-1].split()[1].replace(",", ""))
