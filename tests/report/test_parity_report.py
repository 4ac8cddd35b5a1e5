"""The tables and the picture of a comparison, from a record written by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import read_picture

from fmnist_xp.report import plots
from fmnist_xp.report.parity import (
    DEVICE_STYLE,
    REFERENCE_STYLE,
    TOLERANCE_STYLE,
    curves_figure,
    parity_markdown,
    parity_tables,
    plot_parity,
)


def comparison(**changes: Any) -> dict[str, Any]:
    return {
        "operation": "Dense", "tensor": "output", "case": "one row", "absolute": 1.25e-7, "relative": 0.0,
        "ulps": 3.0, "tolerance": 2.5e-7, "used": 0.5, "loose": 0.0, "passed": True,
    } | changes  # fmt: skip


def curve(**changes: Any) -> dict[str, Any]:
    return {
        "experiment": "sgd", "epoch": [0, 10, 20],
        "reference": {"loss": [2.25, 1.5, 1.0], "accuracy": [0.1, 0.2, 0.3]},
        "device": {"loss": [2.25, 1.5001, None], "accuracy": [0.1, 0.2, 0.3]},
        "difference": [0.0, 1e-4, None], "twins": [0.0, 1e-5, 1e-4], "tolerance": [1e-6, 2e-4, 1e-3],
        "used": [0.0, 0.5, None], "exceeds": 20, "parts": 20, "twins_part": None, "loose_from": 10, "passed": False,
    } | changes  # fmt: skip


def record(**changes: Any) -> dict[str, Any]:
    close = curve(
        experiment="adam", device={"loss": [2.25, 1.5001, 1.01], "accuracy": [0.1, 0.2, 0.3]},
        difference=[0, 1e-4, 1e-2], used=[0, 0.5, 0.25], twins_part=10, parts=None, exceeds=None, passed=True,
    )  # fmt: skip
    pair = {
        "device": "cuda:0 tf32", "reference": "cpu float32", "precision": "tf32",
        "operations": [comparison()], "steps": [comparison(operation="adam", case="1,000 images")],
        "curves": [curve(), close],
    }  # fmt: skip
    return {
        "device": {"hardware": "a GPU"}, "reference": {"hardware": "a CPU"}, "epochs": 3,
        "dataset": {"name": "synthetic", "rows": 60_000}, "threads": [], "passed": False, "pairs": [pair],
    } | changes  # fmt: skip


def test_markdown_exact() -> None:
    side_by_side = (
        "| epoch | cpu float32 | cuda:0 tf32 | difference | tolerance | used |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| 0 | 2.250000000 | 2.250000000 | 0 | 1.0e-06 | 0 |\n"
        "| 10 | 1.500000000 | 1.500100000 | 1.0e-04 | 2.0e-04 | 50% |\n"
    )
    header = (
        "| operation | tensor | worst case | absolute | relative | ulps | tolerance | used | loose | verdict |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    assert parity_markdown(record()) == (
        "cuda:0 tf32 and cpu float32, on a GPU beside a CPU, with 60,000 images of synthetic and 3 epochs. "
        "Not all agree: see the verdicts.\n\n"
        f"### Operations: cuda:0 tf32 and cpu float32\n\n{header}"
        "| Dense | output | one row | 1.2e-07 | 0 | 3.0e+00 | 2.5e-07 | 50% | 0 | agrees |\n\n"
        f"### One step: cuda:0 tf32 and cpu float32\n\n{header}"
        "| adam | output | 1,000 images | 1.2e-07 | 0 | 3.0e+00 | 2.5e-07 | 50% | 0 | agrees |\n\n"
        "### Curves: cuda:0 tf32 and cpu float32\n\n"
        "| experiment | epochs | largest difference | used of its tolerance | curves part at | twins part at "
        "| tolerance above 1% from | verdict |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| sgd | 3 | ∞ | ∞ | 20 | — | 10 | DIFFERS |\n"
        "| adam | 3 | 1.0e-02 | 50% | — | 10 | 10 | agrees |\n\n"
        f"### Training loss of sgd: cuda:0 tf32 and cpu float32\n\n{side_by_side}"
        "| 20 | 1.000000000 | inf | ∞ | 1.0e-03 | ∞ |\n\n"
        f"### Training loss of adam: cuda:0 tf32 and cpu float32\n\n{side_by_side}"
        "| 20 | 1.000000000 | 1.010000000 | 1.0e-02 | 1.0e-03 | 25% |\n"
    )


def test_threads_come_first_and_one_machine_is_named_once() -> None:
    compared = record(threads=[comparison(tensor="parameters")], passed=True, reference={"hardware": "a GPU"})
    first, second, *_ = parity_tables(compared)
    assert (first.title, second.title[:11]) == ("One thread and several: the same bits", "Operations:")
    assert [row[:2] for row in first.rows] == [("Dense", "parameters")]
    text = parity_markdown(compared | {"pairs": compared["pairs"] * 2}).splitlines()[0]
    assert text == (
        "cuda:0 tf32 and cpu float32 · cuda:0 tf32 and cpu float32, on a GPU, with 60,000 images of synthetic and "
        "3 epochs. All agree within their tolerances."
    )


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0"), (0.0009, "< 0.1%"), (0.001, "0.1%"), (0.0123, "1.2%"), (0.0994, "9.9%"), (0.1, "10%"),
        (0.996, "100%"), (1.0, "100%"), (12.0, "1200%"), (math.inf, "∞"), (math.nan, "∞"), (None, "∞"),
    ],
)  # fmt: skip
def test_shares_are_formatted(share: float | None, text: str) -> None:
    compared = record(threads=[comparison(used=share), comparison(loose=share)])
    rows = next(parity_tables(compared)).rows
    assert (rows[0][7], rows[1][8]) == (text, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.96, "9.6e-01"), (1234.0, "1.2e+03"), (math.inf, "∞"), (math.nan, "∞"), (None, "∞")],
)
def test_numbers_are_formatted(value: float | None, text: str) -> None:
    units = ("absolute", "relative", "ulps", "tolerance")
    for place, unit in enumerate(units, start=3):
        row = next(parity_tables(record(threads=[comparison(**{unit: value})]))).rows[0]
        assert row[place] == text, unit


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [
        (1, [0]),
        (21, list(range(21))),
        (22, [*range(0, 22, 2), 21]),
        (1100, [*range(0, 1100, 53), 1099]),  # 53 · 21 = 1,113
    ],
)
@pytest.mark.parametrize(("parts", "exceeds"), [(None, None), (0, None), (None, 0), (-1, -2)])
def test_epochs_shown_side_by_side(epochs: int, shown: list[int], parts: int | None, exceeds: int | None) -> None:
    """About 20, the last one, and those where curves part or exceed a tolerance; every tenth epoch is logged."""
    numbers = [10 * epoch for epoch in range(epochs)]
    if -2 in (parts, exceeds) and epochs > 2:
        parts, exceeds = 1, epochs - 2
    elif parts == -1:
        parts = exceeds = 0
    losses = {"loss": [1.0] * epochs, "accuracy": [0.5] * epochs}
    long = curve(
        epoch=numbers, reference=losses, device=losses, difference=[0.0] * epochs, tolerance=[1.0] * epochs,
        used=[0.0] * epochs,
        parts=None if parts is None else numbers[parts], exceeds=None if exceeds is None else numbers[exceeds],
    )  # fmt: skip
    compared = record()
    compared["pairs"][0]["curves"] = [long]
    *_, table = parity_tables(compared)
    expected = {*shown, *(epoch for epoch in (parts, exceeds) if epoch is not None)}
    assert [row[0] for row in table.rows] == [str(10 * epoch) for epoch in sorted(expected)]


def test_picture_shows_losses_above_and_differences_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DPI", 50)
    compared = record()
    figure = curves_figure(compared, compared["pairs"][0])
    assert figure.get_suptitle() == (
        "Training loss: cuda:0 tf32 and cpu float32\nsynthetic (60,000 images) · a GPU beside a CPU"
    )
    assert figure.get_size_inches().tolist() == [13.0, 7.5]
    assert figure.dpi == 50
    above, other, below, below_other = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["sgd", "adam", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["Training loss", "", "Difference of the losses", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "Epoch", "Epoch"]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log", "log"]
    reference, device = above.lines
    assert [line.get_label() for line in above.lines] == ["cpu float32", "cuda:0 tf32"]
    np.testing.assert_array_equal(reference.get_xydata(), [[0, 2.25], [10, 1.5], [20, 1.0]])
    np.testing.assert_array_equal(device.get_xydata(), [[0, 2.25], [10, 1.5001], [20, np.inf]])
    for line, style in ((reference, REFERENCE_STYLE), (device, DEVICE_STYLE)):
        assert line.get_color() == style["color"]
    difference, tolerance, parts = below.lines
    np.testing.assert_array_equal(difference.get_xydata(), [[0, np.nan], [10, 1e-4], [20, np.inf]])
    np.testing.assert_array_equal(tolerance.get_xydata(), [[0, 1e-6], [10, 2e-4], [20, 1e-3]])
    assert [line.get_label() for line in below.lines] == ["difference", "tolerance", "the curves part: epoch 20"]
    assert [line.get_label() for line in below_other.lines] == ["difference", "tolerance", "the twins part: epoch 10"]
    assert (difference.get_color(), tolerance.get_color()) == (DEVICE_STYLE["color"], TOLERANCE_STYLE["color"])
    for line, style, epoch in ((parts, "-", 20), (below_other.lines[2], ":", 10)):
        assert (line.get_linestyle(), line.get_color(), line.get_linewidth()) == (style, "black", 1)
        assert list(line.get_xdata()) == [epoch, epoch]
    for axes in figure.axes:
        legend = axes.get_legend()
        assert legend is not None
        assert {text.get_fontsize() for text in legend.get_texts()} == {8}
        assert axes.xaxis.get_gridlines()[0].get_alpha() == 0.3
        assert all(tick == round(tick) for tick in axes.get_xticks())
    assert above.get_shared_x_axes().joined(above, below)
    assert not above.get_shared_x_axes().joined(above, other)


def test_pictures_are_one_for_each_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DPI", 50)
    compared = record()
    compared["pairs"].append(compared["pairs"][0] | {"precision": "float16", "curves": [curve()]})
    paths = plot_parity(compared, tmp_path)
    assert paths == [tmp_path / "curves-tf32.png", tmp_path / "curves-float16.png"]
    for path in paths:
        read_picture(path)
