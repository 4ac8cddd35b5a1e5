import math
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fmnist_xp.report.notebook import notebook_history
from fmnist_xp.report.seeds import Bands, ends_figure, medians_figure, seeds_figures
from fmnist_xp.train.history import History

ANY: dict[str, Any] = {"experiment": "sgd", "title": "t"}


def history(*accuracies: float, first: int = 0) -> History:
    """A history whose loss is 1 less the accuracy."""
    made = History()
    for number, accuracy in enumerate(accuracies):
        made.append(first + 10 * number, accuracy, 1 - accuracy, 1.0, 0.0)
    return made


def level(accuracy: float, epochs: int = 400) -> History:
    return history(*[accuracy] * (epochs // 10))


def legend(figure: Figure) -> list[str]:
    (box,) = figure.legends
    return [text.get_text() for text in box.get_texts()]


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


def areas(axes: Axes) -> dict[str, tuple[float, float]]:
    """The lowest and highest value of each filled area by its label."""
    found = {}
    for area in axes.collections:
        heights = area.get_paths()[0].vertices[:, 1]
        found[str(area.get_label())] = (float(heights.min()), float(heights.max()))
    return found


# --- bands


def test_bands_by_hand() -> None:
    """Of 0, 1, 2, 3, 4 the quartiles are 1 and 3."""
    bands = Bands.of([history(value, 0.5) for value in (3.0, 0.0, 4.0, 1.0, 2.0)], "accuracy")
    assert bands.epochs.tolist() == [0, 10]
    assert bands.quantiles.T.tolist() == [[0, 1, 2, 3, 4], [0.5] * 5]
    assert bands.seeds[:, 0].tolist() == [3, 0, 4, 1, 2]
    assert bands.missing.tolist() == [False, False]


def test_bands_are_over_the_epochs_that_all_logged() -> None:
    bands = Bands.of([history(0.1, 0.2, 0.3), history(0.4, 0.6, first=10)], "accuracy")
    assert bands.epochs.tolist() == [10, 20]
    assert bands.seeds.tolist() == [[0.2, 0.3], [0.4, 0.6]]
    assert Bands.of([history(0.1), history(0.2, first=10)], "accuracy").quantiles.shape == (5, 0)


def test_what_is_not_finite_takes_no_part_in_bands() -> None:
    seeds = [history(1.0, math.nan, 2.0), history(math.inf, math.nan, 4.0), history(3.0, 1e301, 6.0)]
    bands = Bands.of(seeds, "accuracy")
    assert bands.quantiles[:, 0].tolist() == [1, 1.5, 2, 2.5, 3]
    assert np.isnan(bands.quantiles[:, 1]).all()
    assert bands.missing.tolist() == [True, True, False]
    assert Bands.of(seeds, "loss").quantiles[:, 2].tolist() == [-5, -4, -3, -2, -1]


def test_a_part_of_bands() -> None:
    part = Bands.of([history(0.1, math.nan, 0.3), history(0.4, 0.5, 0.6)], "accuracy").since(10)
    assert (part.epochs.tolist(), part.missing.tolist()) == ([10, 20], [True, False])
    assert part.seeds[1].tolist() == [0.5, 0.6]
    assert part.quantiles[[0, 2, 4], 1] == pytest.approx([0.3, 0.45, 0.6])


# --- the seeds of one experiment


def test_seeds_of_an_experiment() -> None:
    seeds = [level(accuracy) for accuracy in (0.5, 0.6, 0.7, 0.8, 0.9)]
    figures = seeds_figures(seeds, experiment="adam", title="adam · 5 seeds")
    assert list(figures) == ["adam-accuracy.png", "adam-loss.png"]
    for figure, (low, lower, median, upper, high) in zip(
        figures.values(), ((0.5, 0.6, 0.7, 0.8, 0.9), (0.1, 0.2, 0.3, 0.4, 0.5)), strict=True
    ):
        assert figure.get_suptitle() == "adam · 5 seeds"
        assert legend(figure) == ["median of 5 seeds", "quartiles", "lowest to highest", "each seed"]
        assert len(figure.axes) == 2
        for axes, epochs in zip(figure.axes, (range(0, 400, 10), range(300, 400, 10)), strict=True):
            x, y = lines(axes)["median of 5 seeds"]
            assert (x, y) == (list(epochs), pytest.approx([median] * len(epochs)))
            assert len(axes.lines) == 1 + 5
            found = areas(axes)
            assert found["quartiles"] == pytest.approx((lower, upper))
            assert found["lowest to highest"] == pytest.approx((low, high))
            assert {to_hex(line.get_color()) for line in axes.lines} == {"#009e73"}
    assert [axes.get_ylabel() for axes in figures["adam-loss.png"].axes] == ["Training loss"] * 2


@pytest.mark.parametrize("seeds", [2, 3])
def test_few_seeds_have_no_quartiles(seeds: int) -> None:
    figure = seeds_figures([level(0.5 + 0.1 * seed) for seed in range(seeds)], **ANY)["sgd-accuracy.png"]
    assert legend(figure) == [f"median of {seeds} seeds", "lowest to highest", "each seed"]


def test_one_seed_is_a_line() -> None:
    figure = seeds_figures([level(0.5)], **ANY)["sgd-accuracy.png"]
    assert figure.legends == []
    for axes in figure.axes:
        assert list(lines(axes)) == ["1 seed"]
        assert len(axes.lines) == 1
        assert not axes.collections


def test_nothing_gives_no_picture() -> None:
    assert seeds_figures([], **ANY) == {}


@pytest.mark.parametrize(("first", "last", "parts"), [(0, 310, 2), (0, 300, 1), (300, 500, 1)])
def test_later_epochs_are_beside_all_where_there_are_others(first: int, last: int, parts: int) -> None:
    figure = seeds_figures([level(0.5, last + 10).since(first)] * 2, **ANY)["sgd-loss.png"]
    assert len(figure.axes) == parts


def test_notebook_is_drawn_to_the_seeds_last_epoch() -> None:
    notebook = notebook_history("sgd")
    figure = seeds_figures([level(0.5), level(0.6)], **ANY, notebook=notebook)["sgd-accuracy.png"]
    whole, later = figure.axes
    assert lines(whole)["notebook"] == (list(range(0, 400, 10)), notebook.accuracy[:40])
    assert lines(later)["notebook"] == (list(range(300, 400, 10)), notebook.accuracy[30:40])
    assert legend(figure)[-1] == "notebook"


def test_seeds_that_are_not_finite_are_marked() -> None:
    seeds = [history(0.5, 0.6, 0.7), history(0.5, math.nan, math.nan)]
    figures = seeds_figures(seeds, **ANY)
    for name, edge in (("sgd-accuracy.png", 0), ("sgd-loss.png", 1)):
        (axes,) = figures[name].axes
        assert lines(axes)["some seed: not finite from epoch 10"] == ([10, 20], [edge, edge])
    assert lines(figures["sgd-accuracy.png"].axes[0])["median of 2 seeds"][1] == [0.5, 0.6, 0.7]
    figures["sgd-loss.png"].draw_without_rendering()


def test_seeds_that_share_no_epoch_are_drawn() -> None:
    for figure in seeds_figures([history(0.1), history(0.2, first=10)], **ANY, notebook=level(0.5)).values():
        figure.draw_without_rendering()


# --- several experiments


def test_medians_of_experiments() -> None:
    seeds = {"sgd": [level(value / 10) for value in range(1, 6)], "adam": [level(0.7), level(0.9)]}
    figure = medians_figure(seeds, title="both")
    (axes,) = figure.axes
    assert legend(figure) == [
        "sgd, median of 5 seeds", "sgd, quartiles", "adam, median of 2 seeds", "adam, lowest to highest",
    ]  # fmt: skip
    assert lines(axes)["sgd, median of 5 seeds"][1] == pytest.approx([0.3] * 40)
    assert lines(axes)["adam, median of 2 seeds"][1] == pytest.approx([0.8] * 40)
    assert areas(axes)["sgd, quartiles"] == pytest.approx((0.2, 0.4))
    assert areas(axes)["adam, lowest to highest"] == pytest.approx((0.7, 0.9))
    assert [to_hex(line.get_color()) for line in axes.lines] == ["#0072b2", "#009e73"]
    assert (axes.get_xlabel(), axes.get_ylabel(), figure.get_suptitle()) == ("Epoch", "Training accuracy", "both")


def test_ends_are_a_dot_for_each_seed() -> None:
    ends = {"sgd": [0.1, 0.2, 0.3, 0.4, 0.5], "adam": [0.7, 0.9]}
    figure = ends_figure(ends, label="Test accuracy", title="t", notebook={"adam": 0.8})
    (axes,) = figure.axes
    found = [np.asarray(dots.get_offsets()).tolist() for dots in axes.collections[:2]]
    assert found == [[[value, 0] for value in ends["sgd"]], [[value, 1] for value in ends["adam"]]]
    (box,) = axes.patches
    low, high = (box.get_x(), box.get_x() + box.get_width())  # type: ignore[attr-defined]
    assert (low, high) == pytest.approx((0.2, 0.4))
    median, notebook = axes.lines[:2]
    assert np.asarray(median.get_xdata()) == pytest.approx([0.3, 0.3])
    assert (list(np.asarray(notebook.get_xdata())), list(np.asarray(notebook.get_ydata()))) == ([0.8], [1])
    assert legend(figure) == ["notebook", "a seed", "quartiles, around the median"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sgd", "adam"]
    assert axes.get_ylim() == (1.5, -0.5)  # the first on top
    assert axes.get_xlabel() == "Test accuracy"


def test_ends_that_are_not_finite_are_left_out() -> None:
    figure = ends_figure({"sgd": [0.1, math.nan, 0.3], "adam": [math.inf]}, label="x", title="t", notebook={})
    (axes,) = figure.axes
    assert [np.asarray(dots.get_offsets()).tolist() for dots in axes.collections] == [[[0.1, 0], [0.3, 0]], []]
    assert not axes.patches
    figure.draw_without_rendering()
