from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fmnist_xp import SGD, Adam, Dense, ReLU, Sequential
from fmnist_xp.train.fused.source import make_source

ROOT = Path(__file__).parents[2]


def source_of(*widths: int, dtype: str = "float16", optimizer: Any = None, penalties: tuple[float, ...] = ()) -> Any:
    layers: list[Any] = []
    for inputs, outputs in pairwise(widths):
        layers += [Dense(inputs, outputs, *penalties), ReLU()]
    network = Sequential(layers[:-1])
    network.dtype = dtype  # which the CPU need not have
    return make_source(network, optimizer or SGD(0.5))


def test_sizes_are_those_that_the_layouts_take() -> None:
    source = source_of(784, 64, 64, 10)
    assert (source.terms, source.pieces, source.rows) == (1, [49, 4, 4, 1], 128)
    # Of 13 slices of 64 inputs two blocks of seven warps take all, each with 64 columns.
    assert (source.slices, source.slice_warps, source.columns) == (2, 7, 1)
    # A piece has 16 · 16 numbers of 2 bytes: 13 · 4 · 4 of the first layer, and the others forward and back.
    assert source.operand_bytes == 512 * (13 * 4 * 4 + 2 * 4 * 4 + 2 * 4 * 1)
    # Inputs and gradients of the second layer, both of 4 pieces, for 8 tiles of 16 rows.
    assert source.shared_bytes == 512 * (4 + 4) * 8
    wide = source_of(784, 128, 128, 10, dtype="float32")
    assert (wide.terms, wide.rows, wide.columns) == (3, 64, 2)
    assert wide.shared_bytes == 512 * 3 * (8 + 8) * 4


def test_source_names_sizes_and_strengths() -> None:
    text = source_of(16, 24, 10, penalties=(0.5, 0.25)).text
    assert "constexpr int INPUTS = 16, LAYERS = 2, CLASSES = 10, SIZE = 658;" in text
    assert "int width(int layer) { return layer == 0 ? 16 : layer == 1 ? 24 : layer == 2 ? 10 : 0; }" in text
    assert "int biases_of(int layer) { return layer == 0 ? 0 : layer == 1 ? 384 : layer == 2 ? 648 : 0; }" in text
    assert "if (i < 384) return {1, 0, 1, 0.5f, 0.25f}; if (i < 408) return {1, 384, 0, 0.0f, 0.0f};" in text


def test_source_is_the_same_for_the_same_network() -> None:
    assert source_of(16, 24, 10) == source_of(16, 24, 10)  # for CuPy's cache on disk, too
    assert source_of(16, 24, 10).text != source_of(16, 24, 10, optimizer=SGD(0.5, momentum=0.5)).text


def test_update_takes_what_the_optimizer_keeps() -> None:
    for optimizer, moments in ((SGD(), 0), (SGD(momentum=0.5), 1), (Adam(), 2), (Adam(ema=0.5), 3)):
        text = source_of(16, 24, 10, optimizer=optimizer).text
        [line] = [line for line in text.splitlines() if line.startswith("#define MOMENT_PARAMETERS")]
        assert line.count("float*") == moments


def test_room_is_small() -> None:
    folder = ROOT / "fmnist_xp" / "train" / "fused"
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.iterdir() if path.is_file())
    assert lines <= 600


@pytest.mark.parametrize("architecture", ["80", "90"])
def test_kernels_fit_as_the_page_says(architecture: str, nvrtc: None) -> None:
    import kernel_report
    from cupy_backends.cuda.libs import nvrtc as compiler

    version = ".".join(map(str, compiler.getVersion()))
    lines = list(kernel_report.lines({"784-64-64-10": "adam"}, ("bfloat16",), (architecture,)))
    assert [line.kernel for line in lines] == ["pass", "weights", "update"]
    page = kernel_report.PAGE.read_text(encoding="utf-8")
    for line in lines:
        assert line.blocks >= 1
        assert line.usage.registers <= 255
        if f"NVRTC {version} " in page:
            assert f"| {' | '.join(line.cells())} |" in page
