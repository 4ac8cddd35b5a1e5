import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

from fmnist_xp.data.dataset import CLASS_NAMES
from fmnist_xp.report import plots
from fmnist_xp.report.drawing import save_figure, save_figures
from fmnist_xp.report.notebook import notebook_history
from fmnist_xp.train.history import History

RUN_FILES = ["accuracy.png", "loss.png", "learning-rate.png"]
LATER_FILES = ["accuracy-from-300.png", "loss-from-300.png", "learning-rate-from-300.png"]
ANY: dict[str, Any] = {"title": "t", "experiment": "run"}


def logged(epochs: int = 1100, every: int = 10, shift: float = 0.0) -> History:
    history = History()
    for epoch in range(0, epochs, every):
        decay = math.exp(-epoch / 200)
        history.append(epoch, 0.9 - 0.8 * decay - shift, 0.4 + 1.9 * decay + shift, 1 / (1 + 0.01 * epoch), 0.05)
    return history


def only_axes(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def drawn(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(np.asarray(line.get_xdata())), list(np.asarray(line.get_ydata())))
        for line in axes.lines
    }


def legend(axes: Axes) -> list[str]:
    box = axes.get_legend()
    assert box is not None
    return [text.get_text() for text in box.get_texts()]


def size(path: Path) -> tuple[int, int]:
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    image = cv2.imread(str(path))
    assert image is not None
    assert image.std() > 0
    return image.shape[1], image.shape[0]


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def check_that_nothing_is_cut_off(figure: Figure) -> None:
    """Everything that belongs to the axes (tick labels, axis labels, text in cells) is inside the picture."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box is not None
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_what_is_written_is_what_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DPI", 50)
    run: dict[str, Any] = {"title": "a run", "experiment": "adam", "notebook": notebook_history("adam")}
    one: dict[str, Any] = {"title": "a run", "experiment": "sgd"}
    two = {"sgd": logged(epochs=41), "adam": logged(epochs=41, shift=0.1)}
    seeds = {1: logged(epochs=41), 2: logged(epochs=41, shift=0.1)}
    matrix, image = np.eye(10, dtype=np.int64), np.eye(28, dtype=np.uint8)
    named: dict[str, Any] = {"title": "of adam", "class_names": CLASS_NAMES}

    def made() -> dict[str, Figure]:
        return {
            **plots.run_figures(two["adam"], **run),
            **plots.comparison_figures(two, title="both"),
            **plots.seeds_figures(seeds, **run),
            "metrics.png": plots.metrics_figure(two["sgd"], **one),
            "confusion.png": plots.confusion_figure(matrix, **named),
            "samples.png": plots.samples_figure(image[None], np.array([3], dtype=np.uint8), **named),
            "grey.png": plots.grey_values_figure(image, title="image 0"),
        }

    figures = made()
    assert save_figures(made(), tmp_path) == [tmp_path / name for name in figures]
    for name, figure in figures.items():
        assert (tmp_path / name).read_bytes() == png(figure), name
        check_that_nothing_is_cut_off(figure)


# --- one run


def test_run_files_are_pngs_of_10_by_5_inches(tmp_path: Path) -> None:
    paths = save_figures(plots.run_figures(logged(), title="sgd", experiment="sgd"), tmp_path / "new" / "run")
    assert paths == [tmp_path / "new" / "run" / name for name in RUN_FILES + LATER_FILES]
    assert {size(path) for path in paths} == {(10 * plots.DPI, 5 * plots.DPI)}
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)


def test_run_draws_each_quantity_under_its_own_title() -> None:
    history = logged()
    figures = plots.run_figures(history, title="adam, seed 3", experiment="adam")
    for name, label, values in (
        ("accuracy", "Training accuracy", history.accuracy),
        ("loss", "Training loss", history.loss),
        ("learning-rate", "Learning rate", history.learning_rate),
    ):
        whole, later = figures[f"{name}.png"], figures[f"{name}-from-300.png"]
        assert whole.get_suptitle() == f"{label} over the epochs\nadam, seed 3"
        assert later.get_suptitle() == f"{label} from epoch 300 on\nadam, seed 3"
        assert drawn(only_axes(whole)) == {"adam": (history.epoch, values)}
        assert drawn(only_axes(later)) == {"adam": (history.epoch[30:], values[30:])}
        for axes in (only_axes(whole), only_axes(later)):
            assert (axes.get_xlabel(), axes.get_ylabel(), legend(axes)) == ("Epoch", label, ["adam"])


def test_run_beside_the_notebook() -> None:
    history, notebook = logged(), notebook_history("sgd")
    figure = plots.run_figures(history, title="t", experiment="sgd", notebook=notebook)["loss-from-300.png"]
    assert drawn(only_axes(figure)) == {
        "sgd": (history.epoch[30:], history.loss[30:]),
        "notebook": (notebook.epoch[30:], notebook.loss[30:]),
    }


def test_short_run_has_no_later_pictures_and_cuts_the_notebook_to_its_length() -> None:
    figures = plots.run_figures(logged(epochs=41), **ANY, notebook=notebook_history("adam"))
    assert list(figures) == RUN_FILES
    assert drawn(only_axes(figures["accuracy.png"]))["notebook"][0] == [0, 10, 20, 30, 40]


def test_run_that_just_reaches_epoch_300_has_later_pictures() -> None:
    assert list(plots.run_figures(logged(epochs=301), **ANY)) == RUN_FILES + LATER_FILES


def test_an_empty_history_gives_no_picture(tmp_path: Path) -> None:
    assert save_figures(plots.run_figures(History(), **ANY, notebook=logged()), tmp_path) == []
    assert save_figures(plots.comparison_figures({}, title="t"), tmp_path) == []
    assert save_figures(plots.seeds_figures({}, experiment="sgd", title="t"), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("every", "step"), [(1, 44), (10, 5), (43, 2), (44, 1), (400, 1)])
def test_markers_are_spaced(every: int, step: int) -> None:
    """At most 25: of 1,100 epochs every 44th has one, of 26 every second."""
    line = only_axes(plots.run_figures(logged(every=every), **ANY)["accuracy.png"]).lines[0]
    assert line.get_markevery() == step
    assert line.get_marker() != "None"


def test_lines_and_ticks_do_not_depend_on_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"lines.linewidth": 7.0, "lines.markersize": 20.0, "axes.formatter.useoffset": True, "grid.alpha": 1.0}
    for name, value in settings.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    history = History([100_001, 100_002], [0.870001, 0.870002], [2.0, 1.0], [1.0, 1.0], [0.0, 0.0])
    figure = plots.run_figures(history, **ANY)["accuracy.png"]
    axes = only_axes(figure)
    assert (axes.lines[0].get_linewidth(), axes.lines[0].get_markersize()) == (1.5, 5)
    for axis in (axes.xaxis, axes.yaxis):
        assert axis.get_gridlines()[0].get_alpha() == 0.3
    figure.draw_without_rendering()
    # No offset such as +1e5 at the end of an axis, and no fraction of an epoch.
    assert [label.get_text() for label in axes.get_xticklabels()][1:-1] == ["100001", "100002"]
    assert [axis.get_offset_text().get_text() for axis in (axes.xaxis, axes.yaxis)] == ["", ""]
    assert "0.8700014" in [label.get_text() for label in axes.get_yticklabels()]


def test_experiments_keep_their_colours() -> None:
    alone = {
        name: only_axes(plots.run_figures(logged(), title="t", experiment=name)["loss.png"]).lines[0].get_color()
        for name in ("sgd", "momentum", "adam")
    }
    together = only_axes(
        plots.comparison_figures(dict.fromkeys(("adam", "better", "sgd", "momentum"), logged()), title="t")[
            "comparison-accuracy.png"
        ]
    )
    colours = {line.get_label(): line.get_color() for line in together.lines}
    assert len(set(colours.values())) == 4
    assert {name: colours[name] for name in alone} == alone


def test_two_runs_keep_their_own_pictures(tmp_path: Path) -> None:
    first = save_figures(plots.run_figures(logged(), title="sgd", experiment="sgd"), tmp_path / "sgd")
    before = [path.read_bytes() for path in first]
    second = save_figures(plots.run_figures(logged(), title="adam", experiment="adam"), tmp_path / "adam")
    assert not set(first) & set(second)
    assert [path.read_bytes() for path in first] == before
    assert all(path.read_bytes() != old for path, old in zip(second, before, strict=True))


def test_long_title_is_wrapped_inside_the_picture() -> None:
    figure = plots.run_figures(logged(), title="a synthetic run " * 12, experiment="run")["accuracy.png"]
    figure.draw_without_rendering()
    (title,) = figure.texts
    box = title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y0 > only_axes(figure).get_window_extent().y1
    assert title.get_text().count("\n") == 2


def test_title_wraps_after_115_characters() -> None:
    for characters, lines in ((115, 2), (116, 3)):
        figure = plots.grey_values_figure(
            np.zeros((28, 28), np.uint8), title=f"{'x' * 100} {'y' * (characters - 101)}"
        )
        assert len(figure.get_suptitle().splitlines()) == lines


def test_failing_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path, *_) = save_figures(plots.run_figures(logged(), title="old", experiment="run"), tmp_path)
    old = path.read_bytes()

    def fill_the_disk(self: Figure, target: Path, **_: Any) -> None:
        target.write_bytes(b"half a picture")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        save_figures(plots.run_figures(logged(), title="new", experiment="run"), tmp_path)
    assert path.read_bytes() == old
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(RUN_FILES + LATER_FILES)


# --- the loss axis


def spiked(*values: float) -> History:
    history = logged(epochs=100)
    for index, value in enumerate(values):
        history.loss[index] = value
    return history


@pytest.mark.parametrize("spike", [3.2, 40.0, math.inf])
def test_loss_spike_is_cut_off_and_the_axis_says_so(spike: float) -> None:
    axes = only_axes(plots.run_figures(spiked(2.3, spike, 4.0), **ANY)["loss.png"])
    assert axes.get_ylim() == (0, 3)
    assert axes.get_ylabel() == "Training loss (cut off above 3)"
    assert axes.get_yticks().tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert drawn(axes)["run"][1][1] == spike


def test_loss_without_spike_and_a_diverged_one_are_shown_whole() -> None:
    at_the_limit = (spiked(3.0), 2.99), (spiked(50.0, *[3.0] * 9), 49.9)
    for history, highest in (*at_the_limit, (spiked(2.95), 2.95), (spiked(*[50.0] * 8), 50.0)):
        axes = only_axes(plots.run_figures(history, **ANY)["loss.png"])
        assert axes.get_ylabel() == "Training loss"
        assert axes.get_ylim()[1] > highest


def test_run_that_ended_in_nan_is_still_drawn(tmp_path: Path) -> None:
    history = spiked(2.3, *[math.nan] * 9)
    assert len(save_figures(plots.run_figures(history, **ANY), tmp_path)) == 3
    assert size(save_figure(plots.metrics_figure(history, **ANY), tmp_path / "metrics.png"))[0] == 10 * plots.DPI


@pytest.mark.parametrize("huge", [1e301, 1e308, -1.7e308])
def test_huge_values_are_gaps(tmp_path: Path, huge: float) -> None:
    """matplotlib fails on such an axis: arange: cannot compute length."""
    history = History([0, 10, 20], [0.5] * 3, [2.3, huge, 1e300], [huge, huge, 0.1], [huge, 0.0, 0.0])
    axes = only_axes(plots.run_figures(history, **ANY)["learning-rate.png"])
    assert drawn(axes)["run"][1] == [math.copysign(math.inf, huge)] * 2 + [0.1]
    assert len(save_figures(plots.run_figures(history, **ANY), tmp_path)) == 3
    assert size(save_figure(plots.metrics_figure(history, **ANY), tmp_path / "metrics.png"))[0] == 10 * plots.DPI
    assert (
        len(save_figures(plots.seeds_figures({0: history, 1: history}, experiment="sgd", title="t"), tmp_path)) == 2
    )


# --- several runs


def test_comparison(tmp_path: Path) -> None:
    runs = {"sgd": logged(), "adam": logged(shift=0.02), "short": logged(epochs=200)}
    paths = save_figures(plots.comparison_figures(runs, title="three"), tmp_path)
    assert [path.name for path in paths] == ["comparison-accuracy.png", "comparison-accuracy-from-700.png"]
    assert {size(path) for path in paths} == {(10 * plots.DPI, 5 * plots.DPI)}

    whole, later = plots.comparison_figures(runs, title="three").values()
    assert drawn(only_axes(whole)) == {name: (run.epoch, run.accuracy) for name, run in runs.items()}
    assert later.get_suptitle() == "Training accuracy from epoch 700 on\nthree"
    assert {name: x[0] for name, (x, _) in drawn(only_axes(later)).items()} == {"sgd": 700, "adam": 700}
    for axes in (only_axes(whole), only_axes(later)):
        assert legend(axes) == [str(line.get_label()) for line in axes.lines]


def test_seeds_show_median_and_range(tmp_path: Path) -> None:
    runs = {seed: logged(shift=shift) for seed, shift in ((0, 0.0), (1, 0.01), (7, 0.05))}
    notebook = notebook_history("momentum")
    figures = plots.seeds_figures(runs, experiment="momentum", title="t", notebook=notebook)
    assert list(figures) == [
        "momentum-seeds-accuracy.png",
        "momentum-seeds-loss.png",
        "momentum-seeds-accuracy-from-300.png",
        "momentum-seeds-loss-from-300.png",
    ]
    axes = only_axes(figures["momentum-seeds-loss-from-300.png"])
    assert legend(axes) == ["momentum: median of 3 seeds", "lowest to highest", "notebook"]
    assert drawn(axes)["momentum: median of 3 seeds"] == (runs[1].epoch[30:], runs[1].loss[30:])
    assert drawn(axes)["notebook"] == (notebook.epoch[30:], notebook.loss[30:])
    assert figures["momentum-seeds-loss-from-300.png"].get_suptitle() == "Training loss from epoch 300 on\nt"
    (area,) = axes.collections
    band = area.get_paths()[0].get_extents()
    assert (band.x0, band.x1) == (300, 1090)
    assert (band.y0, band.y1) == pytest.approx((runs[0].loss[-1], runs[7].loss[30]))
    colour = axes.lines[0].get_color()
    assert isinstance(colour, str)
    assert np.asarray(area.get_facecolor())[0].tolist() == list(to_rgba(colour, 0.2))  # the median stays visible
    assert np.asarray(area.get_linewidth()).tolist() == [0]

    paths = save_figures(plots.seeds_figures(runs, experiment="momentum", title="t"), tmp_path)
    paths += save_figures(plots.seeds_figures(runs, experiment="sgd", title="t"), tmp_path)
    assert len(set(paths)) == 8
    assert {size(path) for path in paths} == {(10 * plots.DPI, 5 * plots.DPI)}


def test_seeds_draw_the_epochs_all_of_them_logged() -> None:
    runs = {0: logged(epochs=100), 1: logged(epochs=60), 2: logged(epochs=100, every=20)}
    axes = only_axes(plots.seeds_figures(runs, experiment="sgd", title="t")["sgd-seeds-accuracy.png"])
    assert drawn(axes)["sgd: median of 3 seeds"][0] == [0, 20, 40]


@pytest.mark.parametrize(("seeds", "words"), [(1, "1 seed"), (2, "2 seeds")])
def test_few_seeds(seeds: int, words: str) -> None:
    figures = plots.seeds_figures(dict.fromkeys(range(seeds), logged(epochs=50)), experiment="sgd", title="t")
    assert legend(only_axes(figures["sgd-seeds-loss.png"]))[0] == f"sgd: median of {words}"


# --- summary, matrix and images


def test_metrics_shows_loss_and_its_data_part(tmp_path: Path) -> None:
    history = logged()
    figure = plots.metrics_figure(history, title="adam", experiment="adam")
    accuracy, loss, rate = figure.axes
    assert figure.get_suptitle() == "Accuracy, loss and learning rate\nadam"
    assert drawn(accuracy) == {"training accuracy": (history.epoch, history.accuracy)}
    assert drawn(loss)["training loss"] == (history.epoch, history.loss)
    assert drawn(loss)["data loss"][1] == pytest.approx([value - 0.05 for value in history.loss])
    assert drawn(rate) == {"learning rate": (history.epoch, history.learning_rate)}
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "Epoch"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["Training accuracy", "Training loss", "Learning rate"]
    assert all(axes.get_shared_x_axes().joined(axes, rate) for axes in (accuracy, loss))
    whole, data = loss.lines
    assert (whole.get_linestyle(), whole.get_marker(), whole.get_alpha()) == ("-", "^", None)
    assert (data.get_linestyle(), data.get_marker(), data.get_alpha()) == ("--", "x", 0.6)
    assert {line.get_color() for axes in figure.axes for line in axes.lines} == {whole.get_color()}

    path = tmp_path / "metrics.png"
    assert save_figure(plots.metrics_figure(history, title="adam", experiment="run"), path) == path
    assert size(path) == (10 * plots.DPI, 10 * plots.DPI)


def test_metrics_of_an_empty_history_are_empty_axes() -> None:
    figure = plots.metrics_figure(History(), **ANY)
    assert [np.size(axes.lines[0].get_xdata()) for axes in figure.axes] == [0, 0, 0]


def test_confusion_has_counts_as_text_and_shares_as_colours(tmp_path: Path) -> None:
    matrix = np.arange(100, dtype=np.int64).reshape(10, 10)
    matrix[3] = 0
    matrix[4] = 10 * np.eye(10, dtype=np.int64)[4]
    matrix[5] = np.eye(10, dtype=np.int64)[5]
    matrix[6] = 7 * (np.eye(10, dtype=np.int64)[6] + np.eye(10, dtype=np.int64)[0])
    figure = plots.confusion_figure(matrix, class_names=CLASS_NAMES, title="sgd")
    axes, bar = figure.axes
    cells = {text.get_position(): text for text in axes.texts}
    assert {where: text.get_text() for where, text in cells.items()} == {
        (column, row): str(matrix[row, column]) for row in range(10) for column in range(10)
    }
    assert {(text.get_ha(), text.get_va()) for text in axes.texts} == {("center", "center")}
    shares = np.asarray(axes.images[0].get_array())
    assert shares[0] == pytest.approx(matrix[0] / 45)
    assert shares[3].tolist() == [0] * 10
    assert shares[5].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert (to_hex(cells[4, 4].get_color()), to_hex(cells[5, 4].get_color())) == ("#ffffff", "#000000")
    assert to_hex(cells[6, 6].get_color()) == "#000000"  # on half of the blue
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASS_NAMES)
    names = axes.get_xticklabels()
    assert [label.get_text() for label in names] == list(CLASS_NAMES)
    # Each name rises to its column and ends there.
    assert {(label.get_rotation(), label.get_ha(), label.get_rotation_mode()) for label in names} == {
        (45, "right", "anchor")
    }
    assert bar.get_ylabel() == "Share of the true class"
    figure.draw_without_rendering()
    assert bar.get_window_extent().height < axes.get_window_extent().height
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted class", "True class")
    assert figure.get_suptitle() == "Confusion matrix\nsgd"

    path = tmp_path / "confusion.png"
    assert save_figure(plots.confusion_figure(matrix, class_names=CLASS_NAMES, title="sgd"), path) == path
    assert size(path) == (10 * plots.DPI, 9 * plots.DPI)


def test_samples_are_in_the_row_of_their_class(tmp_path: Path) -> None:
    # Class 2 has two images, class 0 more than fit, the others none.
    labels = np.array([2] + [0] * 20 + [2], dtype=np.uint8)
    images = np.stack([np.full((28, 28), value, dtype=np.uint8) for value in range(22)])
    figure = plots.samples_figure(images, labels, class_names=CLASS_NAMES, title="train")
    axes = only_axes(figure)
    assert figure.get_suptitle() == "Samples of each class\ntrain"
    # Cells of 29 × 29 pixels, the last line and column of which are white, as are those without an image.
    cells = np.full((10, 29, 15, 29), 255, dtype=np.uint8)
    for column in range(15):
        cells[0, :28, column, :28] = column + 1
    cells[2, :28, 0, :28] = 0
    cells[2, :28, 1, :28] = 21
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), cells.reshape(290, 435), strict=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASS_NAMES)
    assert axes.get_yticks().tolist() == [14, 43, 72, 101, 130, 159, 188, 217, 246, 275]  # half-way down the rows
    assert axes.get_xticks().tolist() == []
    # No frame and no ticks around the images.
    assert [spine.get_visible() for spine in axes.spines.values()] == [False] * 4
    assert {tick.get_markersize() for tick in axes.get_yticklines()} == {0}

    path = tmp_path / "samples.png"
    assert save_figure(plots.samples_figure(images, labels, class_names=CLASS_NAMES, title="train"), path) == path
    assert size(path) == (10 * plots.DPI, 7 * plots.DPI)


def test_grey_values_are_printed_in_their_cells(tmp_path: Path) -> None:
    image = (np.arange(784) % 256).astype(np.uint8).reshape(28, 28)
    figure = plots.grey_values_figure(image, title="train image 0")
    axes = only_axes(figure)
    assert figure.get_suptitle() == "Grey values\ntrain image 0"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Column", "Row")
    assert {(text.get_ha(), text.get_va()) for text in axes.texts} == {("center", "center")}
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (column, row): str(image[row, column]) for row in range(28) for column in range(28)
    }
    colours = {text.get_text(): text.get_color() for text in axes.texts}
    assert (colours["0"], colours["127"], colours["128"], colours["255"]) == (
        "white",
        "white",
        "black",
        "black",
    )

    path = tmp_path / "grey.png"
    assert save_figure(plots.grey_values_figure(image, title="train image 0"), path) == path
    assert size(path) == (10 * plots.DPI, 10.5 * plots.DPI)


def test_a_value_has_the_same_colour_in_every_picture() -> None:
    """0 is black and 255 white even in images with neither; likewise for a matrix without shares of 0 and 1."""
    image = np.full((28, 28), 77, dtype=np.uint8)
    for figure in (
        plots.grey_values_figure(image, title="t"),
        plots.samples_figure(image[None], np.array([3], dtype=np.uint8), class_names=CLASS_NAMES, title="t"),
    ):
        (shown,) = only_axes(figure).images
        assert (shown.get_cmap().name, shown.get_clim(), shown.get_interpolation()) == ("gray", (0, 255), "nearest")
    figure = plots.confusion_figure(np.full((10, 10), 3, dtype=np.int64), class_names=CLASS_NAMES, title="t")
    (shown,) = figure.axes[0].images
    assert (shown.get_cmap().name, shown.get_clim()) == ("Blues", (0, 1))


def test_names_are_drawn_literally() -> None:
    """matplotlib would read text in dollars as a formula, and cannot write a lone surrogate."""
    figure = plots.run_figures(logged(30), title="$\\foo$ of caf\udce9", experiment="$x$")["loss.png"]
    title = figure.get_suptitle()
    assert title.splitlines() == ["Training loss over the epochs", r"\$\foo\$ of caf\udce9"]
    assert legend(only_axes(figure)) == [r"\$x\$"]


# --- matplotlib


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import fmnist_xp.report.plots, fmnist_xp.report.tables", "matplotlib"),
        (
            "from pathlib import Path; from fmnist_xp.report import drawing, plots, notebook;"
            "figures = plots.run_figures(notebook.notebook_history('sgd'), title='t', experiment='sgd');"
            "drawing.save_figures(figures, Path('.'))",
            "matplotlib.pyplot",
        ),
    ],
)
def test_matplotlib_is_loaded_late_and_without_global_state(code: str, absent: str, tmp_path: Path) -> None:
    root = Path(plots.__file__).parents[2]
    run = f"import sys; sys.path.insert(0, {str(root)!r}); {code}; sys.exit({absent!r} in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", run], cwd=tmp_path, check=False)
    assert finished.returncode == 0
