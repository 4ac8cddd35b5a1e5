from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fmnist_xp.data import Photograph
from fmnist_xp.data.dataset import CLASS_NAMES
from fmnist_xp.report.images import grey_values_figure, mistakes_figure, samples_figure, seen_figure, weights_figure

NAMES = ("Shoe", "Bag", "$Hat$")


def shown(figure: Figure, number: int = 0) -> Any:
    return np.ma.filled(figure.axes[0].images[number].get_array(), np.nan)


# --- samples and grey values


def test_samples_are_the_first_15_of_each_class() -> None:
    """Image i is of the grey value i; class 0 has 20 images, class 1 has 3, class 2 none."""
    labels = np.array([0] * 10 + [1] * 3 + [0] * 10, np.uint8)
    images = np.arange(23, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
    figure = samples_figure(images, labels, class_names=NAMES, title="of them")
    grid = shown(figure)
    assert grid.shape == (3 * 29, 15 * 29)
    values = grid[14::29, 14::29]
    assert values[0].tolist() == [*range(10), *range(13, 18)]
    assert values[1].tolist() == [10, 11, 12] + [255] * 12
    assert values[2].tolist() == [255] * 15
    assert (grid[28::29] == 255).all()
    assert (grid[:, 28::29] == 255).all()
    (axes,) = figure.axes
    assert axes.images[0].get_clim() == (0, 255)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Shoe", "Bag", r"\$Hat\$"]
    assert axes.get_yticks().tolist() == [14, 43, 72]
    assert figure.get_suptitle() == "Samples of each class\nof them"


def test_samples_of_many_classes_are_smaller_and_more() -> None:
    names = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    images = np.zeros((26 * 40, 28, 28), np.uint8)
    figure = samples_figure(images, (np.arange(len(images)) % 26).astype(np.uint8), class_names=names, title="t")
    assert shown(figure).shape == (26 * 29, 30 * 29)
    figure.draw_without_rendering()
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == names
    boxes = [label.get_window_extent() for label in labels]
    assert all(lower.y1 < upper.y0 for upper, lower in pairwise(boxes))


def test_grey_values_are_written_in_their_cells() -> None:
    image = np.arange(784).reshape(28, 28).astype(np.uint8)
    figure = grey_values_figure(image, title="image 0")
    np.testing.assert_array_equal(shown(figure), image)
    (axes,) = figure.axes
    texts = {text.get_position(): text for text in axes.texts}
    assert {where: text.get_text() for where, text in texts.items()} == {
        (column, row): str(image[row, column]) for row in range(28) for column in range(28)
    }
    # 127 and 128 lie in row 4: white on dark, black on bright.
    assert [to_hex(texts[column, 4].get_color()) for column in (15, 16)] == ["#ffffff", "#000000"]
    assert figure.get_suptitle() == "Grey values\nimage 0"


# --- weights


def test_weights_are_an_image_for_each_neuron() -> None:
    weights = np.random.default_rng(0).normal(size=(784, 10)).astype(np.float32)
    figure = weights_figure(weights, title="adam")
    grid = shown(figure, 1)
    assert grid.shape == (2 * 29 - 1, 8 * 29 - 1)
    for neuron in range(10):
        top, left = 29 * (neuron // 8), 29 * (neuron % 8)
        np.testing.assert_array_equal(grid[top : top + 28, left : left + 28].ravel(), weights[:, neuron])
    assert np.isnan(grid[28]).all()
    assert np.isnan(grid[:, 28]).all()
    assert np.isnan(grid[29:, 2 * 29 :]).all()  # cells without a neuron
    low, high = figure.axes[0].images[1].get_clim()
    assert -low == high == pytest.approx(np.quantile(np.abs(weights), 0.99), rel=1e-6)
    assert figure.axes[1].get_ylabel() == "Weight"
    assert figure.get_suptitle() == "Weights of the first layer: 10 neurons\nadam"


@pytest.mark.parametrize(
    ("neurons", "cells", "words"),
    [
        (1, (1, 8), "1 neuron"),
        (64, (8, 8), "64 neurons"),
        (65, (5, 16), "65 neurons"),
        (256, (16, 16), "256 neurons"),
        (1000, (16, 16), "the first 256 of 1,000 neurons"),
    ],
)
def test_many_neurons_have_smaller_cells(neurons: int, cells: tuple[int, int], words: str) -> None:
    figure = weights_figure(np.ones((784, neurons), np.float32), title="t")
    assert shown(figure, 1).shape == (29 * cells[0] - 1, 29 * cells[1] - 1)
    assert figure.get_suptitle().splitlines()[0] == f"Weights of the first layer: {words}"


def test_weights_that_are_not_finite_are_black() -> None:
    weights = np.ones((784, 1), np.float32)
    weights[:3, 0] = np.nan, np.inf, -np.inf
    figure = weights_figure(weights, title="t")
    black, coloured = (axes_image.to_rgba(axes_image.get_array()) for axes_image in figure.axes[0].images)
    assert black[0, :3].tolist() == [[0, 0, 0, 1]] * 3
    assert black[0, 3].tolist() == [1, 1, 1, 1]
    assert coloured[0, :3, 3].tolist() == [0] * 3  # nothing above the black
    assert coloured[0, 3, 3] == 1
    figure.draw_without_rendering()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_weights_without_a_scale_are_drawn(value: float) -> None:
    figure = weights_figure(np.full((784, 4), value, np.float32), title="t")
    assert figure.axes[0].images[1].get_clim() == (-1, 1)
    figure.draw_without_rendering()


# --- mistakes


def mistakes(labels: list[int], probabilities: Any) -> Figure:
    """Image i is of the grey value i."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
    return mistakes_figure(images, np.array(labels, np.uint8), np.array(probabilities, np.float32), NAMES, "t")


def pictured(figure: Figure) -> list[tuple[int, str]]:
    return [(int(axes.images[0].get_array()[0, 0]), axes.get_title()) for axes in figure.axes if axes.images]


def test_mistakes_by_hand() -> None:
    figure = mistakes(
        [0, 1, 0, 2, 1],
        [[0.9, 0.1, 0], [0.995, 0.005, 0], [0.3, 0.1, 0.6], [0.00001, 0.99999, 0], [0.1, 0.8, 0.1]],
    )
    assert pictured(figure) == [
        (3, "\\$Hat\\$\n→ Bag, > 99.99%"),
        (1, "Bag\n→ Shoe, 99.50%"),
        (2, "Shoe\n→ \\$Hat\\$, 60.0%"),
    ]
    words = "The most confident of 3 mistakes: true → predicted class, and its probability\nt"
    assert figure.get_suptitle() == words
    assert figure.axes[0].images[0].get_clim() == (0, 255)
    assert not any(axes.axison for axes in figure.axes)
    figure.draw_without_rendering()


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (6, 1), (7, 2), (30, 5), (50, 5)])
def test_at_most_30_mistakes_and_the_first_of_equals_first(count: int, rows: int) -> None:
    figure = mistakes([1] * count, [[1.0, 0.0, 0.0]] * count)
    assert [number for number, _title in pictured(figure)] == list(range(min(count, 30)))
    assert len(figure.axes) == 6 * rows
    assert f"of {count} {'mistake' if count == 1 else 'mistakes'}:" in figure.get_suptitle()


def test_no_mistakes() -> None:
    figure = mistakes([0, 1], [[1.0, 0, 0], [0, 1.0, 0]])
    assert pictured(figure) == []
    assert [text.get_text() for text in figure.texts][-1] == "none"


def test_probabilities_that_are_not_finite_are_no_predictions() -> None:
    some = mistakes([0, 1, 2], [[np.nan, 0.5, 0.5], [0.9, 0.1, 0], [np.inf, 0, 0]])
    assert pictured(some) == [(1, "Bag\n→ Shoe, 90.0%")]
    none = mistakes([1], [[np.nan] * 3])
    assert [text.get_text() for text in none.texts][-1] == "the probabilities are not finite: training diverged"
    none.draw_without_rendering()


def test_names_of_the_classes_fit() -> None:
    """The longest are beside each other, and none is cut off."""
    images, labels = np.zeros((6, 28, 28), np.uint8), np.full(6, 9)
    figure = mistakes_figure(images, labels, np.eye(10)[[0] * 6], CLASS_NAMES, "t")
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[0].x0 >= 0
    assert boxes[-1].x1 <= figure.bbox.x1


# --- what a network sees


def test_a_photograph_is_shown_beside_what_the_network_sees() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[5:20] = 200
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 2] = 250  # OpenCV's order
    garment = np.zeros((40, 60), np.bool_)
    garment[10:30, 20:50] = True
    ranking = [("Bag", 0.999), ("$Hat$", 0.0007), ("Shoe", 0.0002), ("Coat", 0.0001)]
    figure = seen_figure(Photograph(image, red, garment, ()), ranking, ("not plain", "not sure"), title="a$b.png")
    before, seen = figure.axes
    assert np.asarray(before.images[0].get_array())[0, 0].tolist() == [250, 0, 0]
    assert np.array_equal(np.asarray(seen.images[0].get_array()), image)
    assert seen.images[0].get_clim() == (0, 255)
    (outline,) = before.collections
    xs, ys = outline.get_paths()[0].vertices.T
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (19.5, 49.5, 9.5, 29.5)
    assert figure.get_suptitle() == r"a\$b.png"
    assert figure.get_supxlabel() == "Bag 99.90%, \\$Hat\\$ 0.1%, Shoe 0.0%\nnot plain; not sure"
    figure.canvas.draw()


@pytest.mark.parametrize("whole", [True, False])
def test_a_photograph_without_an_outline_is_shown(whole: bool) -> None:
    garment = np.full((28, 28), whole)
    photograph = Photograph(np.zeros((28, 28), np.uint8), np.zeros((28, 28, 3), np.uint8), garment, ())
    figure = seen_figure(photograph, [("Bag", 0.5)], (), title="a.png")
    assert figure.get_supxlabel() == "Bag 50.0%"
    figure.canvas.draw()
