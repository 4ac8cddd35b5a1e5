"""Which layout is chosen for what, and that every one of them stands for the rows that were given."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from image_helpers import images, labels_of, make_network, noise, scaled
from parity.standin import DeviceArray, StandInCupy
from rank_helpers import in_ranks

from fmnist_xp.backend import Backend, CpuBackend, CudaBackend
from fmnist_xp.data import Pixels
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense
from fmnist_xp.ranks import ALONE, Ranks
from fmnist_xp.train import rows as rows_module
from fmnist_xp.train import source as source_module
from fmnist_xp.train.rows import Rows, lay_out
from fmnist_xp.train.tree import Node

ROWS, BLOCK = 45, 8


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bytes be sent to a device in several pieces."""
    monkeypatch.setattr(rows_module, "_PIECE", 10)


class Own(Dense):
    """A first layer of the user's own."""


class OwnNetwork(Sequential):
    """A network that computes in its own way."""

    def forward(self, inputs: Any) -> Any:
        return super().forward(inputs)


def standin() -> CudaBackend:
    return CudaBackend(1, cupy=StandInCupy(devices=2))


def cpu() -> CpuBackend:
    return CpuBackend(2)


class Chosen(NamedTuple):
    """What there is to choose: whether rows are sorted, shifted and copied, the dtype kept, the factor."""

    is_sorted: bool
    shifted: bool
    copied: bool
    kept: str
    scale: float = 1.0


MARGINS, FULL = images(ROWS), noise(ROWS)
SORTED_BYTES = Chosen(True, True, True, "uint8")
SORTED_FLOATS = Chosen(True, True, True, "float32")
SHIFTED = Chosen(False, True, True, "uint8")
BYTES = Chosen(False, False, True, "uint8")
STAGED = Chosen(False, False, True, "float32")
IN_PLACE = Chosen(False, False, False, "float32")

# backend, precision, images, whether as Pixels, what else, and what is chosen
CASES: dict[str, tuple[Callable[[], Backend], str, np.ndarray, bool, dict[str, Any], Chosen]] = {
    "float noise": (cpu, "float32", FULL, False, {}, STAGED),
    "floats": (cpu, "float32", MARGINS, False, {}, SORTED_FLOATS),
    "floats in double precision": (cpu, "float64", MARGINS, False, {}, SORTED_FLOATS._replace(kept="float64")),
    "pixels": (cpu, "float32", MARGINS, True, {}, SORTED_BYTES),
    "pixels in double precision": (cpu, "float64", MARGINS, True, {}, SORTED_BYTES),
    "white pixels": (cpu, "float32", 255 - MARGINS, True, {}, SORTED_BYTES),
    "pixel noise": (cpu, "float32", FULL, True, {}, SHIFTED),
    "dense floats": (cpu, "float32", MARGINS, False, {"dense": True}, STAGED),
    "dense pixels": (cpu, "float32", MARGINS, True, {"dense": True}, BYTES),
    "floats to predict": (cpu, "float32", MARGINS, False, {"labels": None}, STAGED),
    "pixels to predict": (cpu, "float32", MARGINS, True, {"labels": None, "dense": False}, BYTES),
    "floats, own layer": (cpu, "float32", MARGINS, False, {"first": Own, "dense": False}, STAGED),
    "pixels, own layer": (cpu, "float32", MARGINS, True, {"first": Own, "dense": False}, BYTES),
    "floats, own network": (cpu, "float32", MARGINS, False, {"kind": OwnNetwork}, STAGED),
    "pixels, own network": (cpu, "float32", MARGINS, True, {"kind": OwnNetwork}, BYTES),
    "gpu, floats": (standin, "float32", MARGINS, False, {}, IN_PLACE),
    "gpu, sorted floats": (standin, "float32", MARGINS, False, {"dense": False}, SORTED_FLOATS),
    "gpu, sorted floats, tf32": (standin, "tf32", MARGINS, False, {"dense": False}, SORTED_FLOATS),
    "gpu, pixels": (standin, "float32", MARGINS, True, {}, BYTES),
    "gpu, sorted pixels": (standin, "float32", MARGINS, True, {"dense": False}, SORTED_BYTES),
    "gpu, pixel noise": (standin, "float32", FULL, True, {"dense": False}, SHIFTED),
    "gpu, sorted pixels, tf32": (standin, "tf32", MARGINS, True, {"dense": False}, SORTED_BYTES),
    # Halves: whole numbers, exact, whose factor the products take up.
    "gpu, floats, halves": (standin, "float16", MARGINS, False, {}, Chosen(False, False, False, "float16", 1 / 255)),
    "gpu, pixels, halves": (standin, "float16", MARGINS, True, {}, BYTES._replace(scale=1 / 255)),
    "gpu, sorted pixels, halves": (standin, "float16", MARGINS, True, {"dense": False}, SORTED_BYTES),
    # Floats that are not of the products' dtype are as they would be in dense rows.
    "gpu, sorted floats, halves": (
        *(standin, "float16", MARGINS, False, {"dense": False}),
        Chosen(False, False, False, "float16", 1 / 255),
    ),
    "gpu, floats, halves, own layer": (
        *(standin, "float16", MARGINS, False, {"first": Own}),
        Chosen(False, False, False, "float16"),
    ),
    "gpu, pixels, halves, own layer": (standin, "float16", MARGINS, True, {"first": Own}, BYTES),
}
# Products of halves are rounded to 11 bits, and so are the inputs where nothing exact may stand for them.
TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "tf32": 2e-6, "float16": 4e-3}


def laid_out(
    name: str, part: slice = slice(None), ranks: Ranks = ALONE, **more: Any
) -> tuple[Sequential, Rows, np.ndarray]:
    """Return network, rows, and the float64 rows that these stand for; of several ranks, this hands in a part."""
    make_backend, dtype, pixels, as_pixels, options, _ = CASES[name]
    options = {"block_rows": BLOCK, "labels": labels_of(ROWS), "ranks": ranks, **options, **more}
    network = make_network(144, make_backend(), dtype, options.pop("kind", Sequential), options.pop("first", Dense))
    backend, labels = network.backend, options.pop("labels")
    floats = scaled(pixels, "float64" if dtype == "float64" else "float32")
    with backend.computing():
        inputs = Pixels(pixels[part]) if as_pixels else backend.asarray(floats[part])
        rows = lay_out(network, inputs, None if labels is None else backend.asarray(labels[part]), **options)
    return network, rows, scaled(pixels)


@pytest.mark.parametrize("name", CASES)
def test_layout_is_chosen(name: str) -> None:
    expected = CASES[name][-1]
    _, rows, _ = laid_out(name)
    found = Chosen(
        rows.order is not None, rows.shift is not None, rows.write is not None, rows.block(0).dtype, rows.input_scale
    )
    assert found == expected
    assert (rows.columns is not None) == expected.is_sorted
    assert (rows.column_share < 1) == expected.is_sorted
    assert [block.stop - block.start for block in rows.blocks] == [8, 8, 8, 8, 8, 5]
    assert all(isinstance(rows.block(number), DeviceArray) == name.startswith("gpu") for number in range(6))


@pytest.mark.parametrize("name", CASES)
def test_first_layer_computes_the_same_from_every_layout(name: str) -> None:
    """In float64, from what a worker's buffer would hold: x · W + b of the rows that were given."""
    network, rows, X = laid_out(name)
    backend, first = network.backend, network.dense[0]
    given = backend.to_host(first.weights).astype("float64"), backend.to_host(first.biases).astype("float64")
    parameters = np.concatenate([part.ravel() for part in given])
    if rows.shift is not None:
        with backend.computing():
            rows.shift.update()
        parameters = backend.to_host(rows.shift.parameters).astype("float64")
    weights, biases = parameters[:-7].reshape(144, 7), parameters[-7:]
    order = np.arange(ROWS) if rows.order is None else backend.to_host(rows.order)
    for number, block in enumerate(rows.blocks):
        with backend.computing():
            values = rows.block(number)
            if rows.write is not None:
                buffer = backend.xp.empty(values.shape, network.precision.operands)
                rows.write(buffer, values)
                values = buffer
        picked = slice(None) if rows.columns is None else backend.to_host(rows.columns[number])
        assert values.dtype == network.precision.operands
        outputs = rows.input_scale * backend.to_host(values).astype("float64") @ weights[picked] + biases
        expected = X[order[block]] @ given[0] + given[1]
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=10 * TOLERANCE[network.dtype])


@pytest.mark.parametrize("name", CASES)
def test_labels_lie_as_the_rows(name: str) -> None:
    network, rows, _ = laid_out(name)
    if "labels" in CASES[name][4]:
        assert rows.labels is None
        return
    order = np.arange(ROWS) if rows.order is None else network.backend.to_host(rows.order)
    assert sorted(order) == list(range(ROWS))
    np.testing.assert_array_equal(network.backend.to_host(rows.labels), labels_of(ROWS)[order])


@pytest.mark.parametrize("name", CASES)
def test_share_of_columns_is_what_is_multiplied(name: str) -> None:
    _, rows, _ = laid_out(name)
    numbers = sum(rows.block(number).size for number in range(len(rows.blocks)))
    assert rows.column_share == numbers / (ROWS * 144)


def by_hand() -> np.ndarray:
    """Return 4 images of 8 x 8 pixels: the first and third need 2 lines, the others 4."""
    pixels = np.zeros((4, 8, 8), np.uint8)
    pixels[[0, 2], :2] = 10
    pixels[[1, 3], :4] = 20
    return pixels.reshape(4, 64)


def test_rows_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fmnist_xp")
    network, labels = make_network(64, cpu(), "float32"), np.array([3, 1, 2, 0])
    rows = lay_out(network, Pixels(by_hand()), labels, block_rows=2)
    assert rows.order.tolist() == [0, 2, 1, 3]
    assert rows.labels.tolist() == [3, 2, 1, 0]
    assert [picked.tolist() for picked in rows.columns] == [list(range(16)), list(range(32))]
    assert rows.block(0).tolist() == [[10] * 16] * 2
    assert rows.block(1).tolist() == [[20] * 32] * 2
    assert rows.column_share == 0.375
    lay_out(network, Pixels(by_hand()), labels, dense=True)
    assert caplog.messages == [
        "4 rows in 2 blocks, for which the first layer needs 37.5% of the columns",
        "4 rows in 1 blocks, for which the first layer needs 100.0% of the columns",
    ]


def test_blocks_are_what_suits_the_backend_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, bool]] = []
    for backend in (cpu(), standin()):
        monkeypatch.setattr(
            type(backend), "block_rows", lambda _self, *sizes, shared: asked.append((*sizes, shared)) or 20
        )
        network = make_network(144, backend, "float32")
        with backend.computing():
            X, y = backend.asarray(scaled(MARGINS, "float32")), backend.asarray(labels_of(ROWS))
            for inputs in (X, Pixels(MARGINS)):
                rows = lay_out(network, inputs, y, dense=True)
                assert rows.blocks == [slice(0, 20), slice(20, 40), slice(40, 45)]
                assert lay_out(network, inputs, y, block_rows=1000).blocks == [slice(0, 45)]
    # Outputs of 7, 5 and 4 neurons and their gradients, of 4 bytes; on a device bytes become float rows there, too.
    assert asked == [(45, 128, False), (45, 128, False), (45, 128, False), (45, 128 + 144 * 4, False)]


def test_block_rows_are_checked() -> None:
    for given in (0, -1, 2.5, "8"):
        with pytest.raises(ValueError, match="block_rows must be"):
            lay_out(make_network(144), Pixels(MARGINS), labels_of(ROWS), block_rows=given)  # type: ignore[arg-type]


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("pixels", [MARGINS, FULL], ids=["margins", "noise"])
def test_pages_of_a_file_are_given_back(monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray, dense: bool) -> None:
    """Where the images, or the sorted rows, lie in a file, what was copied from it is not kept in memory."""
    mapped, forgotten = [pixels], []
    for module in (rows_module, source_module):
        monkeypatch.setattr(module, "is_mapped", lambda array: any(np.shares_memory(one, array) for one in mapped))
        monkeypatch.setattr(module, "forget", lambda array: forgotten.append(array))
    network = make_network(144, cpu(), "float32")
    is_sorted = not dense and pixels is MARGINS
    if is_sorted:
        monkeypatch.setattr(rows_module.Store, "blocks", lambda self: mapped.extend(self._blocks) or self._blocks)
    rows = lay_out(network, Pixels(pixels), labels_of(ROWS), block_rows=BLOCK, dense=dense)
    assert bool(forgotten) == (not dense)  # the sample and the window that were read
    assert all(np.shares_memory(array, pixels) for array in forgotten)
    forgotten.clear()
    values = rows.block(4)
    buffer = np.zeros(values.shape, "float32")
    rows.write(buffer, values)
    assert buffer.any()
    assert len(forgotten) == 1
    assert np.shares_memory(forgotten[0], values)


# Shares


@pytest.mark.parametrize(
    ("most", "groups"),
    [(1024, [1] * 6), (6, [1] * 6), (5, [2, 2, 2]), (3, [2, 2, 2]), (2, [3, 3]), (1, [6])],
)
@pytest.mark.parametrize("name", ["pixels", "dense pixels", "gpu, floats"])
def test_one_rank_has_all_groups(monkeypatch: pytest.MonkeyPatch, name: str, most: int, groups: list[int]) -> None:
    monkeypatch.setattr(rows_module, "GROUPS", most)
    shares = laid_out(name)[1].shares
    assert [len(group) for group in shares.groups] == groups
    assert [block for group in shares.groups for block in group] == list(range(6))
    assert (shares.blocks, shares.rows) == (range(6), ROWS)
    assert (shares.of_ranks, shares.numbers) == ([range(len(groups))], range(len(groups)))
    assert shares.tree.root == Node(0, len(groups))


def test_groups_are_halved_by_the_multiplications_that_they_need() -> None:
    """Images of 8 x 8 pixels, two in a block: of 8 columns at first, then of 64, the last block half as large."""
    pixels = np.zeros((11, 8, 8), np.uint8)
    pixels[:8, 0], pixels[8:] = 5, 7
    rows = lay_out(make_network(64, cpu(), "float32"), Pixels(pixels), labels_of(11), block_rows=2)
    assert [len(picked) for picked in rows.columns] == [16] * 4 + [64] * 2  # type: ignore[union-attr]
    # A row takes 2 · 8 · 7 multiplications or 2 · 64 · 7, and 3 · (7 · 5 + 5 · 4) in the other layers: 277, 1061; in
    # the last block, of one row, half as many count. Of 2699 in all, 1108 come before the fifth block.
    assert rows.shares.tree.halves[Node(0, 6)] == (Node(0, 4), Node(4, 6))
    assert rows.shares.tree.halves[Node(0, 4)] == (Node(0, 2), Node(2, 4))


SPLITS = [(0, 45), (7, 30, 8), (45, 0, 0, 0), (5,) * 9]
"""How many rows each rank hands in; of nine ranks some have no block."""


def on_host(network: Sequential, rows: Rows) -> dict[str, Any]:
    """Return what there is of labels, order and shift, and of each block the values and the columns."""
    backend, numbers = network.backend, range(len(rows.blocks))
    with backend.computing():
        found: dict[str, Any] = {"values": [backend.to_host(rows.block(number)) for number in numbers]}
        if rows.columns is not None:
            found["columns"] = [backend.to_host(picked) for picked in rows.columns]
        if rows.shift is not None:
            rows.shift.update()
            found["shift"] = backend.to_host(rows.shift.parameters)
        arrays = {"labels": rows.labels, "order": rows.order}
        return found | {name: backend.to_host(array) for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize("counts", SPLITS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_ranks_have_the_blocks_of_one(name: str, counts: tuple[int, ...]) -> None:
    stops = np.cumsum(counts)
    network, whole, _X = laid_out(name)
    expected = on_host(network, whole)

    def work(ranks: Ranks) -> range:
        part = slice(stops[ranks.rank] - counts[ranks.rank], stops[ranks.rank])
        network, rows, _X = laid_out(name, part, ranks)
        own, found = rows.shares.blocks, on_host(network, rows)
        lies = slice(own.start * BLOCK, min(own.stop * BLOCK, ROWS))
        assert (rows.input_scale, rows.column_share) == (whole.input_scale, whole.column_share)
        assert rows.shares.rows == ROWS
        assert rows.shares.tree.halves == whole.shares.tree.halves
        assert rows.shares.of_ranks[ranks.rank] == rows.shares.numbers == own  # each group is a block
        assert [slice(block.start + lies.start, block.stop + lies.start) for block in rows.blocks] == [
            whole.blocks[number] for number in own
        ]
        assert found.keys() == expected.keys()
        for what, values in found.items():
            of_all = expected[what]
            part = {"shift": slice(None), "labels": lies, "order": lies}.get(what, slice(own.start, own.stop))
            for one, other in zip(values, of_all[part], strict=True):
                np.testing.assert_array_equal(one, other, err_msg=what, strict=True)
        return own

    every = in_ranks(len(counts), work)
    assert [block for own in every for block in own] == list(range(6))


def test_ranks_take_blocks_that_suit_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices may have different room."""
    monkeypatch.setattr(CpuBackend, "block_rows", lambda self, _rows, _bytes, shared: 10 * self.threads + shared)

    def work(ranks: Ranks) -> list[slice]:
        network = make_network(144, CpuBackend(3 - ranks.rank), "float32")
        pixels = Pixels(MARGINS if ranks.is_first else MARGINS[:0])
        return lay_out(network, pixels, labels_of(ROWS)[: len(pixels)], dense=True, ranks=ranks).blocks

    # The last of five blocks is of one row alone.
    assert in_ranks(3, work) == [
        [slice(0, 11)],
        [slice(0, 11), slice(11, 22)],
        [slice(0, 11), slice(11, 12)],
    ]
