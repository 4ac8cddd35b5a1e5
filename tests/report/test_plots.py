import io
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import rgb_to_hsv, to_hex, to_rgb
from matplotlib.figure import Figure

from fmnist_xp.data.dataset import CLASS_NAMES
from fmnist_xp.report import plots
from fmnist_xp.report.drawing import save_figure, save_figures
from fmnist_xp.report.images import grey_values_figure
from fmnist_xp.report.notebook import notebook_history
from fmnist_xp.train.history import History

RUN_FILES = ["accuracy.png", "loss.png", "learning-rate.png"]
LATER_FILES = ["accuracy-from-300.png", "loss-from-300.png"]
ANY: dict[str, Any] = {"title": "t", "experiment": "run"}


def validated(history: History) -> History:
    """Add validation metrics: the accuracy 0.02 lower, the data loss 0.1 higher."""
    history.validation_accuracy = [accuracy - 0.02 for accuracy in history.accuracy]
    history.validation_loss = [loss - 0.05 + 0.1 for loss in history.loss]
    return history


def compared(name: str, experiment: str, history: History, **accuracies: float) -> plots.ComparedRun:
    found = {"train_accuracy": 0.9, "validation_accuracy": math.nan, "test_accuracy": 0.8, **accuracies}
    return plots.ComparedRun(name, experiment, history, **found)


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


def legend(figure: Figure) -> list[str]:
    (box,) = figure.legends
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
    runs = [compared("a", "sgd", logged(41)), compared("b", "adam", validated(logged(41, shift=0.1)))]

    def made() -> dict[str, Figure]:
        return {
            **plots.run_figures(validated(logged(41)), **run),
            **plots.comparison_figures(runs, title="both"),
            "metrics.png": plots.metrics_figure(logged(41), title="a run", experiment="sgd"),
            "confusion.png": plots.confusion_figure(
                np.eye(10, dtype=np.int64), title="of adam", class_names=CLASS_NAMES
            ),
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


def test_run_draws_each_quantity_on_an_axis_that_names_it() -> None:
    history = logged()
    history.regularization_loss = [0.0] * len(history)
    figures = plots.run_figures(history, title="adam, seed 3", experiment="adam")
    for name, label, values in (
        ("accuracy", "Training accuracy", history.accuracy),
        ("loss", "Training loss", history.loss),
        ("learning-rate", "Learning rate", history.learning_rate),
    ):
        axes = only_axes(figures[f"{name}.png"])
        assert figures[f"{name}.png"].get_suptitle() == "adam, seed 3"
        assert drawn(axes) == {"training": (history.epoch, values)}
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("Epoch", label)
        assert figures[f"{name}.png"].legends == []  # of one line
        if name != "learning-rate":
            later = only_axes(figures[f"{name}-from-300.png"])
            assert drawn(later) == {"training": (history.epoch[30:], values[30:])}


def test_loss_without_its_penalty_is_drawn_where_there_is_one() -> None:
    history = logged()
    figure = plots.run_figures(history, **ANY)["loss.png"]
    lines = drawn(only_axes(figure))
    assert legend(figure) == list(lines) == ["training", "training, without penalty"]
    assert lines["training, without penalty"][1] == pytest.approx([loss - 0.05 for loss in history.loss])


def test_run_beside_the_notebook() -> None:
    notebook = notebook_history("sgd")
    figures = plots.run_figures(logged(), title="t", experiment="sgd", notebook=notebook)
    later = drawn(only_axes(figures["loss-from-300.png"]))
    assert later["notebook"] == (notebook.epoch[30:], notebook.loss[30:])
    assert drawn(only_axes(figures["accuracy.png"]))["notebook"] == (notebook.epoch, notebook.accuracy)
    assert list(drawn(only_axes(figures["learning-rate.png"]))) == ["training"]  # the notebook's is the same


def test_short_run_has_no_later_pictures_and_cuts_the_notebook_to_its_length() -> None:
    figures = plots.run_figures(logged(epochs=41), **ANY, notebook=notebook_history("adam"))
    assert list(figures) == RUN_FILES
    assert drawn(only_axes(figures["accuracy.png"]))["notebook"][0] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(("first", "last", "later"), [(0, 310, True), (0, 300, False), (300, 500, False)])
def test_later_pictures_need_a_line_that_is_not_the_whole(first: int, last: int, later: bool) -> None:
    history = logged(last + 1).since(first)
    assert list(plots.run_figures(history, **ANY)) == RUN_FILES + LATER_FILES * later


@pytest.mark.parametrize(("decay", "there"), [(0.0, False), (1e-5, False), (0.01, True)])
def test_learning_rate_is_drawn_where_it_changes(decay: float, there: bool) -> None:
    history = logged()
    history.learning_rate = [0.02 / (1 + decay * epoch) for epoch in history.epoch]
    assert ("learning-rate.png" in plots.run_figures(history, **ANY)) == there
    labels = [axes.get_ylabel() for axes in plots.metrics_figure(history, **ANY).axes]
    assert labels == ["Training accuracy", "Training loss"] + ["Learning rate"] * there


def test_validation_is_drawn_beside_training_with_the_best_epoch() -> None:
    history = validated(logged())
    history.validation_accuracy[50] = 0.95
    history.validation_loss[50] = 0.31
    for figure in (
        plots.run_figures(history, **ANY)["accuracy.png"],
        plots.run_figures(history, **ANY)["loss.png"],
        plots.metrics_figure(history, **ANY),
    ):
        assert {"training", "validation", "best validation accuracy: 0.9500 at epoch 500"} <= set(legend(figure))
    accuracy, loss = (plots.run_figures(history, **ANY)[name].axes[0] for name in ("accuracy.png", "loss.png"))
    assert (accuracy.get_ylabel(), loss.get_ylabel()) == ("Accuracy", "Loss")
    assert drawn(accuracy)["validation"] == (history.epoch, history.validation_accuracy)
    assert drawn(loss)["validation"] == (history.epoch, history.validation_loss)
    assert drawn(accuracy)["best validation accuracy: 0.9500 at epoch 500"] == ([500], [0.95])
    assert drawn(loss)["best validation accuracy: 0.9500 at epoch 500"] == ([500], [0.31])
    colours = {line.get_label(): line.get_color() for line in accuracy.lines}
    assert colours["training"] != colours["validation"]


def test_an_empty_history_gives_no_picture(tmp_path: Path) -> None:
    assert save_figures(plots.run_figures(History(), **ANY, notebook=logged()), tmp_path) == []
    assert save_figures(plots.comparison_figures([], title="t"), tmp_path) == []
    assert save_figures(plots.comparison_figures([compared("a", "sgd", History())], title="t"), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("every", "step"), [(1, 44), (10, 5), (43, 2), (44, 1), (400, 1)])
def test_markers_are_spaced_and_lines_have_every_point(every: int, step: int) -> None:
    """At most 25 markers: of 1,100 epochs every 44th has one, of 26 every second."""
    line = only_axes(plots.run_figures(logged(every=every), **ANY)["accuracy.png"]).lines[0]
    assert line.get_markevery() == step
    assert line.get_marker() != "None"
    assert list(np.asarray(line.get_xdata())) == list(range(0, 1100, every))


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
    assert title.get_text().count("\n") == 1


def test_title_wraps_after_115_characters() -> None:
    for characters, lines in ((115, 2), (116, 3)):
        figure = grey_values_figure(np.zeros((28, 28), np.uint8), title=f"{'x' * 100} {'y' * (characters - 101)}")
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


# --- the loss axis, and what is not finite


def spiked(*values: float) -> History:
    history = logged(epochs=100)
    history.regularization_loss = [0.0] * len(history)
    for index, value in enumerate(values):
        history.loss[index] = value
    return history


@pytest.mark.parametrize("spike", [3.2, 40.0, math.inf])
def test_loss_spike_is_cut_off_and_the_axis_says_so(spike: float) -> None:
    axes = only_axes(plots.run_figures(spiked(2.3, spike, 4.0), **ANY)["loss.png"])
    assert axes.get_ylim() == (0, 3)
    assert axes.get_ylabel() == "Training loss (cut off above 3)"
    assert axes.get_yticks().tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert drawn(axes)["training"][1][1] == spike


@pytest.mark.parametrize(("classes", "top"), [(10, 3.0), (26, 3.5), (62, 4.5), (256, 6.0)])
def test_the_first_loss_of_more_classes_is_not_cut_off(classes: int, top: float) -> None:
    """An untrained network that tells n classes apart has a loss of ln n."""
    axes = only_axes(plots.run_figures(spiked(math.log(classes), 40.0, 4.0), **ANY)["loss.png"])
    assert axes.get_ylim() == (0, top)
    assert axes.get_ylabel() == f"Training loss (cut off above {top:g})"
    diverged = only_axes(plots.run_figures(spiked(50.0, 4.0), **ANY)["loss.png"])
    assert diverged.get_ylim() == (0, 3)


def test_a_few_losses_that_are_nan_leave_the_spike_cut_off() -> None:
    axes = only_axes(plots.run_figures(spiked(2.3, 40.0, math.nan), **ANY)["loss.png"])
    assert axes.get_ylim() == (0, 3)


def test_loss_without_spike_and_a_diverged_one_are_shown_whole() -> None:
    at_the_limit = (spiked(3.0), 2.99), (spiked(50.0, *[3.0] * 9), 49.9)
    for history, highest in (*at_the_limit, (spiked(2.95), 2.95), (spiked(*[50.0] * 8), 50.0)):
        axes = only_axes(plots.run_figures(history, **ANY)["loss.png"])
        assert axes.get_ylabel() == "Training loss"
        assert axes.get_ylim()[1] > highest


@pytest.mark.parametrize(
    ("values", "epochs", "words"),
    [
        ([2.3, *[math.nan] * 9], range(10, 100, 10), "from epoch 10"),
        ([math.inf] * 10, range(0, 100, 10), "from epoch 0"),
        ([2.3, math.nan, 2.2, -math.inf], [10, 30], "at times, first at epoch 10"),
        ([2.3, 1e301], [10], "at times, first at epoch 10"),
    ],
)
def test_what_is_not_finite_is_marked_on_the_edge(values: list[float], epochs: Any, words: str) -> None:
    figure = plots.run_figures(spiked(*values), **ANY)["loss.png"]
    axes = only_axes(figure)
    assert legend(figure) == ["training", f"training: not finite {words}"]
    crosses = axes.lines[1]
    assert crosses.get_marker() == "X"
    assert (list(np.asarray(crosses.get_xdata())), set(np.asarray(crosses.get_ydata()).tolist())) == (
        list(epochs),
        {1.0},
    )
    # At the top of the axes, whatever they show.
    figure.draw_without_rendering()
    x, y = crosses.get_transform().transform([(epochs[0], 1)])[0]
    assert y == pytest.approx(axes.get_window_extent().y1)
    assert axes.get_window_extent().x0 < x < axes.get_window_extent().x1


def test_an_accuracy_that_is_not_finite_is_marked_at_the_bottom() -> None:
    history = spiked()
    history.accuracy[3] = math.nan
    crosses = only_axes(plots.run_figures(history, **ANY)["accuracy.png"]).lines[1]
    assert (list(np.asarray(crosses.get_xdata())), list(np.asarray(crosses.get_ydata()))) == ([30], [0])


def test_run_that_ended_in_nan_is_still_drawn(tmp_path: Path) -> None:
    history = spiked(2.3, *[math.nan] * 9)
    history.regularization_loss = [0.1, *[math.inf] * 9]
    assert len(save_figures(plots.run_figures(history, **ANY), tmp_path)) == 3
    assert size(save_figure(plots.metrics_figure(history, **ANY), tmp_path / "metrics.png"))[0] == 10 * plots.DPI


@pytest.mark.parametrize("huge", [1e301, 1e308, -1.7e308])
def test_huge_values_are_not_drawn(tmp_path: Path, huge: float) -> None:
    """matplotlib fails on such an axis: arange: cannot compute length."""
    history = History([0, 10, 20], [0.5] * 3, [2.3, huge, 1e300], [huge, 0.2, 0.1], [huge, 0.0, 0.0])
    axes = only_axes(plots.run_figures(history, **ANY)["learning-rate.png"])
    assert drawn(axes)["training"][1] == [math.copysign(math.inf, huge), 0.2, 0.1]
    assert len(save_figures(plots.run_figures(history, **ANY), tmp_path)) == 3
    assert size(save_figure(plots.metrics_figure(history, **ANY), tmp_path / "metrics.png"))[0] == 10 * plots.DPI


# --- several runs


def test_experiments_keep_their_colours() -> None:
    alone = {
        name: only_axes(plots.run_figures(logged(), title="t", experiment=name)["accuracy.png"]).lines[0].get_color()
        for name in ("sgd", "momentum", "adam")
    }
    runs = [compared(f"my {name}", name, logged()) for name in ("adam", "better", "sgd", "momentum")]
    together = only_axes(plots.comparison_figures(runs, title="t")["comparison-accuracy.png"])
    colours = {line.get_label(): line.get_color() for line in together.lines}
    assert len(set(colours.values())) == 4
    assert {name: colours[f"my {name}"] for name in alone} == alone


def test_runs_of_one_experiment_share_its_hue_and_all_differ() -> None:
    experiments = ["adam"] * 40 + ["sgd"] * 40 + ["momentum", "mine", "yours", "theirs"]
    styles = plots.run_styles(experiments)
    assert len({(style["color"], str(style["linestyle"]), style["marker"]) for style in styles}) == len(styles)
    hues: dict[str, list[float]] = {experiment: [] for experiment in experiments}
    for experiment, style in zip(experiments, styles, strict=True):
        hues[experiment].append(float(rgb_to_hsv(to_rgb(style["color"]))[0]))
    assert all(max(found) - min(found) < 0.01 for found in hues.values())
    assert len({round(found[0], 2) for found in hues.values()}) == 6
    # As they would be without colours: in the first ten no line and marker twice.
    assert len({(str(style["linestyle"]), style["marker"]) for style in styles[:10]}) == 10


def test_comparison(tmp_path: Path) -> None:
    runs = [
        compared("one", "sgd", logged()),
        compared("two", "adam", logged(shift=0.02)),
        compared("short", "sgd", logged(epochs=200)),
    ]
    figures = plots.comparison_figures(runs, title="three")
    assert list(figures) == [
        "comparison-results.png",
        "comparison-accuracy.png",
        "comparison-accuracy-from-700.png",
    ]
    _, whole, later = figures.values()
    assert drawn(only_axes(whole)) == {run.name: (run.history.epoch, run.history.accuracy) for run in runs}
    assert {name: x[0] for name, (x, _) in drawn(only_axes(later)).items()} == {"one": 700, "two": 700}
    assert (legend(whole), legend(later)) == (["one", "two", "short"], ["one", "two"])
    assert {figure.get_suptitle() for figure in figures.values()} == {"three"}
    # A run looks the same in both.
    assert [line.get_color() for line in only_axes(later).lines] == [
        line.get_color() for line in only_axes(whole).lines[:2]
    ]
    paths = save_figures(figures, tmp_path)
    assert {size(path) for path in paths[1:]} == {(10 * plots.DPI, 5 * plots.DPI)}
    assert size(paths[0])[0] == 10 * plots.DPI


def test_validation_accuracies_are_compared_where_there_are_any() -> None:
    runs = [compared("a", "sgd", logged(50)), compared("b", "adam", validated(logged(50)))]
    figure = plots.comparison_figures(runs, title="t")["comparison-validation-accuracy.png"]
    assert drawn(only_axes(figure)) == {"b": (runs[1].history.epoch, runs[1].history.validation_accuracy)}
    assert only_axes(figure).get_ylabel() == "Validation accuracy"
    assert legend(figure) == ["b"]  # of one line too: the title does not name the run


def test_results_are_a_line_of_the_picture_for_each_run() -> None:
    runs = [
        compared("a", "sgd", logged(), train_accuracy=0.86, test_accuracy=0.84),
        compared("b", "adam", logged(), train_accuracy=0.89, validation_accuracy=0.87, test_accuracy=0.85),
        compared("diverged", "adam", logged(), train_accuracy=math.nan, test_accuracy=math.nan),
    ]
    figure = plots.comparison_figures(runs, title="t")["comparison-results.png"]
    axes = figure.axes[0]
    assert legend(figure) == ["training", "validation", "test"]
    found = [np.asarray(dots.get_offsets()).tolist() for dots in axes.collections]
    assert [[dot for dot in dots if math.isfinite(dot[0])] for dots in found] == [
        [[0.86, 0], [0.89, 1]],
        [[0.87, 1]],
        [[0.84, 0], [0.85, 1]],
    ]
    (notes,) = axes.child_axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "diverged"]
    assert [label.get_text() for label in notes.get_yticklabels()] == [
        "test 0.8400, ended in a dip (best at epoch 1,090)",  # 0.8966 at last
        "test 0.8500",
        "test not finite",
    ]
    check_that_nothing_is_cut_off(figure)


def test_long_names_lose_their_middle() -> None:
    name = "a" * 30 + "b" * 30 + "c" * 30
    figures = plots.comparison_figures([compared(name, "sgd", logged(50))], title="t")
    assert figures["comparison-results.png"].axes[0].get_yticklabels()[0].get_text() == f"{'a' * 19}…{'c' * 20}"
    assert plots.short("x" * 40) == "x" * 40


# --- summary and matrix


def test_metrics_shows_loss_and_its_data_part(tmp_path: Path) -> None:
    history = logged()
    figure = plots.metrics_figure(history, title="adam", experiment="adam")
    accuracy, loss, rate = figure.axes
    assert figure.get_suptitle() == "adam"
    assert drawn(accuracy) == {"training": (history.epoch, history.accuracy)}
    assert drawn(loss)["training"] == (history.epoch, history.loss)
    assert drawn(loss)["training, without penalty"][1] == pytest.approx([value - 0.05 for value in history.loss])
    assert drawn(rate) == {"training": (history.epoch, history.learning_rate)}
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "Epoch"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["Training accuracy", "Training loss", "Learning rate"]
    assert all(axes.get_shared_x_axes().joined(axes, rate) for axes in (accuracy, loss))
    assert legend(figure) == ["training", "training, without penalty"]
    whole, data = loss.lines
    assert (whole.get_linestyle(), whole.get_marker()) == ("-", "^")
    assert data.get_linestyle() == "--"
    assert {line.get_color() for axes in figure.axes for line in axes.lines} == {whole.get_color()}
    figure.draw_without_rendering()
    assert rate.get_window_extent().height < 0.5 * loss.get_window_extent().height

    path = tmp_path / "metrics.png"
    assert save_figure(plots.metrics_figure(history, title="adam", experiment="run"), path) == path
    assert size(path) == (10 * plots.DPI, 9.5 * plots.DPI)


def test_metrics_of_an_empty_history_are_empty_axes() -> None:
    figure = plots.metrics_figure(History(), **ANY)
    assert [np.size(axes.lines[0].get_xdata()) for axes in figure.axes] == [0, 0]


def test_confusion_has_counts_as_text_and_shares_as_colours(tmp_path: Path) -> None:
    matrix = np.full((10, 10), 2, dtype=np.int64) + 80 * np.eye(10, dtype=np.int64)  # of 100 each
    matrix[0, :3] = 50, 34, 2
    matrix[3] = 0
    figure = plots.confusion_figure(matrix, class_names=CLASS_NAMES, title="sgd")
    axes, *bars = figure.axes
    cells = {text.get_position(): text for text in axes.texts}
    assert {where: text.get_text() for where, text in cells.items()} == {
        (column, row): str(matrix[row, column]) for row in range(10) for column in range(10)
    }
    assert {(text.get_ha(), text.get_va()) for text in axes.texts} == {("center", "center")}
    right, wrong = axes.images
    # Each on a scale of its own: of 100 the largest error is 34.
    assert (right.get_clim(), wrong.get_clim()) == ((0, 1), (0, 0.34))
    shares = np.ma.filled(right.get_array(), -1)
    assert np.diag(shares).tolist() == [0.5, 0.82, 0.82, 0, *[0.82] * 6]
    assert set(shares[~np.eye(10, dtype=bool)]) == {-1}  # left out
    errors = np.ma.filled(wrong.get_array(), -1)
    assert errors[0, :3].tolist() == [-1, 0.34, 0.02]
    assert errors[3].tolist() == [0, 0, 0, -1, 0, 0, 0, 0, 0, 0]
    # White on dark cells: 0.82 of 1 and 0.34 of 0.34, but not 0.5 of 1 and 0.02 of 0.34.
    found = [to_hex(cells[where].get_color()) for where in ((1, 1), (1, 0), (0, 0), (2, 0))]
    assert found == ["#ffffff", "#ffffff", "#000000", "#000000"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASS_NAMES)
    names = axes.get_xticklabels()
    assert [label.get_text() for label in names] == list(CLASS_NAMES)
    # Each name rises to its column and ends there.
    assert {(label.get_rotation(), label.get_ha(), label.get_rotation_mode()) for label in names} == {
        (45, "right", "anchor")
    }
    assert [bar.get_ylabel() for bar in bars] == [
        "Share of the true class, recognised",
        "Share of the true class, taken for another",
    ]
    check_that_nothing_is_cut_off(figure)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted class", "True class")
    assert figure.get_suptitle() == "Confusion matrix\nsgd"

    path = tmp_path / "confusion.png"
    assert save_figure(plots.confusion_figure(matrix, class_names=CLASS_NAMES, title="sgd"), path) == path
    assert size(path) == (10.5 * plots.DPI, 8 * plots.DPI)


@pytest.mark.parametrize(
    "names", [[*"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], [f"a name of class {label}" for label in range(62)]]
)
def test_confusion_of_many_classes_is_larger_and_leaves_out_the_zeros(names: list[str]) -> None:
    count = len(names)
    matrix = 800 * np.eye(count, dtype=np.int64) + 40 * np.eye(count, k=2, dtype=np.int64)
    figure = plots.confusion_figure(matrix, class_names=names, title="letters")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    hits, errors = {(n, n): "800" for n in range(count)}, {(n + 2, n): "40" for n in range(count - 2)}
    assert {text.get_position(): text.get_text() for text in axes.texts} == hits | errors
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == names
    check_that_nothing_is_cut_off(figure)
    # A count fits into its cell, and no name covers another.
    cell = axes.get_window_extent().width / count
    assert max(text.get_window_extent().width for text in axes.texts) < cell
    heights = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(lower.y1 < upper.y0 for upper, lower in pairwise(heights))
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {0 if count == 26 else 45}


def test_confusion_of_256_classes_has_colours_alone() -> None:
    figure = plots.confusion_figure(np.eye(256, dtype=np.int64), class_names=[*map(str, range(256))], title="t")
    assert list(figure.axes[0].texts) == []
    assert max(figure.get_size_inches()) < 40
    check_that_nothing_is_cut_off(figure)


def test_names_that_the_font_lacks_are_labels_and_long_ones_are_cut() -> None:
    names = ["お", "é", "$x$", "a name that is longer than twenty-four characters", "お1"]
    assert plots.class_labels(names) == ["0", "é", r"\$x\$", "a name that…r characters", "4"]


def test_confusion_without_errors_or_without_samples_is_drawn() -> None:
    for matrix in (np.eye(10, dtype=np.int64), np.zeros((10, 10), np.int64)):
        figure = plots.confusion_figure(matrix, class_names=CLASS_NAMES, title="t")
        assert figure.axes[0].images[1].get_clim() == (0, 1)
        figure.draw_without_rendering()


def test_names_are_drawn_literally() -> None:
    """matplotlib would read text in dollars as a formula, and cannot write a lone surrogate."""
    runs = [compared(name, "$x$", logged(30)) for name in ("$x$", "caf\udce9")]
    figure = plots.comparison_figures(runs, title="$\\foo$ of caf\udce9")["comparison-accuracy.png"]
    assert figure.get_suptitle() == r"\$\foo\$ of caf\udce9"
    assert legend(figure) == [r"\$x\$", r"caf\udce9"]
    figure.draw_without_rendering()


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
