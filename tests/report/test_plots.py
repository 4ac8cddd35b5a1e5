import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fmnist_xp.data.dataset import CLASS_NAMES
from fmnist_xp.report import plots
from fmnist_xp.report.notebook import notebook_history
from fmnist_xp.train.history import History

RUN_FILES = ["accuracy.png", "loss.png", "learning-rate.png"]
LATER_FILES = ["accuracy-from-300.png", "loss-from-300.png", "learning-rate-from-300.png"]
ANY: dict[str, Any] = {"title": "t", "experiment": "run"}


def made(epochs: int = 1100, every: int = 10, shift: float = 0.0) -> History:
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


# --- one run


def test_run_files_are_pngs_of_10_by_5_inches(tmp_path: Path) -> None:
    paths = plots.plot_run(made(), tmp_path / "new" / "run", title="sgd", experiment="sgd")
    assert paths == [tmp_path / "new" / "run" / name for name in RUN_FILES + LATER_FILES]
    assert {size(path) for path in paths} == {(10 * plots.DPI, 5 * plots.DPI)}
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)


def test_run_draws_each_quantity_under_its_own_title() -> None:
    history = made()
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
    history, notebook = made(), notebook_history("sgd")
    figure = plots.run_figures(history, title="t", experiment="sgd", notebook=notebook)["loss-from-300.png"]
    assert drawn(only_axes(figure)) == {
        "sgd": (history.epoch[30:], history.loss[30:]),
        "notebook": (notebook.epoch[30:], notebook.loss[30:]),
    }


def test_short_run_has_no_later_pictures_and_cuts_the_notebook_to_its_length() -> None:
    figures = plots.run_figures(made(epochs=41), **ANY, notebook=notebook_history("adam"))
    assert list(figures) == RUN_FILES
    assert drawn(only_axes(figures["accuracy.png"]))["notebook"][0] == [0, 10, 20, 30, 40]


def test_run_logged_at_300_only_has_later_pictures() -> None:
    assert list(plots.run_figures(made(epochs=301), **ANY)) == RUN_FILES + LATER_FILES


def test_nothing_logged_gives_no_picture(tmp_path: Path) -> None:
    assert plots.plot_run(History(), tmp_path, **ANY, notebook=made()) == []
    assert plots.plot_comparison({}, tmp_path, title="t") == []
    assert plots.plot_seeds({}, tmp_path, experiment="sgd", title="t") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("every", "most"), [(1, 25), (10, 25), (400, 3)])
def test_markers_are_spaced(every: int, most: int) -> None:
    figure = plots.run_figures(made(every=every), **ANY)["accuracy.png"]
    line = only_axes(figure).lines[0]
    step = line.get_markevery()
    assert isinstance(step, int)
    assert most / 2 < len(np.asarray(line.get_xdata())[::step]) <= most
    assert line.get_marker() != "None"


def test_experiments_keep_their_colours() -> None:
    alone = {
        name: only_axes(plots.run_figures(made(), title="t", experiment=name)["loss.png"]).lines[0].get_color()
        for name in ("sgd", "momentum", "adam")
    }
    together = only_axes(
        plots.comparison_figures(dict.fromkeys(("adam", "better", "sgd", "momentum"), made()), title="t")[
            "comparison-accuracy.png"
        ]
    )
    colours = {line.get_label(): line.get_color() for line in together.lines}
    assert len(set(colours.values())) == 4
    assert {name: colours[name] for name in alone} == alone


def test_two_runs_keep_their_own_pictures(tmp_path: Path) -> None:
    first = plots.plot_run(made(), tmp_path / "sgd", title="sgd", experiment="sgd")
    before = [path.read_bytes() for path in first]
    second = plots.plot_run(made(), tmp_path / "adam", title="adam", experiment="adam")
    assert not set(first) & set(second)
    assert [path.read_bytes() for path in first] == before
    assert all(path.read_bytes() != old for path, old in zip(second, before, strict=True))


def test_long_title_is_wrapped_inside_the_picture() -> None:
    figure = plots.run_figures(made(), title="a synthetic run " * 12, experiment="run")["accuracy.png"]
    figure.draw_without_rendering()
    (title,) = figure.texts
    box = title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert title.get_text().count("\n") == 2


def test_failing_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path, *_) = plots.plot_run(made(), tmp_path, title="old", experiment="run")
    old = path.read_bytes()

    def fill_the_disk(self: Figure, target: Path, **_: Any) -> None:
        target.write_bytes(b"half a picture")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        plots.plot_run(made(), tmp_path, title="new", experiment="run")
    assert path.read_bytes() == old
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(RUN_FILES + LATER_FILES)


# --- the loss axis


def spiked(*values: float) -> History:
    history = made(epochs=100)
    for index, value in enumerate(values):
        history.loss[index] = value
    return history


@pytest.mark.parametrize("spike", [3.2, 40.0, math.inf])
def test_spike_of_the_loss_is_cut_and_the_axis_says_so(spike: float) -> None:
    axes = only_axes(plots.run_figures(spiked(2.3, spike, 4.0), **ANY)["loss.png"])
    assert axes.get_ylim() == (0, 3)
    assert axes.get_ylabel() == "Training loss (cut off above 3)"
    assert drawn(axes)["run"][1][1] == spike


def test_loss_without_spike_and_a_diverged_one_are_shown_whole() -> None:
    for history, highest in ((spiked(2.95), 2.95), (spiked(*[50.0] * 8), 50.0)):
        axes = only_axes(plots.run_figures(history, **ANY)["loss.png"])
        assert axes.get_ylabel() == "Training loss"
        assert axes.get_ylim()[1] > highest


def test_run_that_ended_in_nan_is_still_drawn(tmp_path: Path) -> None:
    history = spiked(2.3, *[math.nan] * 9)
    assert len(plots.plot_run(history, tmp_path, **ANY)) == 3
    assert size(plots.plot_metrics(history, tmp_path / "metrics.png", **ANY))[0] == 10 * plots.DPI


@pytest.mark.parametrize("huge", [1e301, 1e308, -1.7e308])
def test_figures_as_large_as_numbers_get_are_gaps(tmp_path: Path, huge: float) -> None:
    """matplotlib fails on such an axis: arange: cannot compute length."""
    history = History([0, 10, 20], [0.5] * 3, [2.3, huge, 1e300], [huge, huge, 0.1], [huge, 0.0, 0.0])
    axes = only_axes(plots.run_figures(history, **ANY)["learning-rate.png"])
    assert drawn(axes)["run"][1] == [math.copysign(math.inf, huge)] * 2 + [0.1]
    assert len(plots.plot_run(history, tmp_path, **ANY)) == 3
    assert size(plots.plot_metrics(history, tmp_path / "metrics.png", **ANY))[0] == 10 * plots.DPI
    assert len(plots.plot_seeds({0: history, 1: history}, tmp_path, experiment="sgd", title="t")) == 2


# --- several runs


def test_comparison(tmp_path: Path) -> None:
    runs = {"sgd": made(), "adam": made(shift=0.02), "short": made(epochs=200)}
    paths = plots.plot_comparison(runs, tmp_path, title="three")
    assert [path.name for path in paths] == ["comparison-accuracy.png", "comparison-accuracy-from-700.png"]
    assert {size(path) for path in paths} == {(10 * plots.DPI, 5 * plots.DPI)}

    whole, later = plots.comparison_figures(runs, title="three").values()
    assert drawn(only_axes(whole)) == {name: (run.epoch, run.accuracy) for name, run in runs.items()}
    assert later.get_suptitle() == "Training accuracy from epoch 700 on\nthree"
    assert {name: x[0] for name, (x, _) in drawn(only_axes(later)).items()} == {"sgd": 700, "adam": 700}


def test_seeds_show_median_and_range(tmp_path: Path) -> None:
    runs = {seed: made(shift=shift) for seed, shift in ((0, 0.0), (1, 0.01), (7, 0.05))}
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
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.x0, band.x1) == (300, 1090)
    assert (band.y0, band.y1) == pytest.approx((runs[0].loss[-1], runs[7].loss[30]))

    paths = plots.plot_seeds(runs, tmp_path, experiment="momentum", title="t")
    paths += plots.plot_seeds(runs, tmp_path, experiment="sgd", title="t")
    assert len(set(paths)) == 8
    assert {size(path) for path in paths} == {(10 * plots.DPI, 5 * plots.DPI)}


def test_seeds_draw_the_epochs_all_of_them_logged() -> None:
    runs = {0: made(epochs=100), 1: made(epochs=60), 2: made(epochs=100, every=20)}
    axes = only_axes(plots.seeds_figures(runs, experiment="sgd", title="t")["sgd-seeds-accuracy.png"])
    assert drawn(axes)["sgd: median of 3 seeds"][0] == [0, 20, 40]


def test_a_single_seed() -> None:
    figures = plots.seeds_figures({5: made(epochs=50)}, experiment="sgd", title="t")
    assert legend(only_axes(figures["sgd-seeds-loss.png"]))[0] == "sgd: median of 1 seed"


# --- summary, matrix and images


def test_metrics_shows_loss_and_its_data_part(tmp_path: Path) -> None:
    history = made()
    figure = plots.metrics_figure(history, title="adam", experiment="adam")
    accuracy, loss, rate = figure.axes
    assert figure.get_suptitle() == "Accuracy, loss and learning rate\nadam"
    assert drawn(accuracy) == {"training accuracy": (history.epoch, history.accuracy)}
    assert drawn(loss)["training loss"] == (history.epoch, history.loss)
    assert drawn(loss)["data loss"][1] == pytest.approx([value - 0.05 for value in history.loss])
    assert drawn(rate) == {"learning rate": (history.epoch, history.learning_rate)}
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "Epoch"]

    path = tmp_path / "metrics.png"
    assert plots.plot_metrics(history, path, title="adam", experiment="run") == path
    assert size(path) == (10 * plots.DPI, 10 * plots.DPI)


def test_metrics_of_nothing_logged_are_empty_axes() -> None:
    figure = plots.metrics_figure(History(), **ANY)
    assert [np.size(axes.lines[0].get_xdata()) for axes in figure.axes] == [0, 0, 0]


def test_confusion_has_counts_as_text_and_shares_as_colours(tmp_path: Path) -> None:
    matrix = np.arange(100, dtype=np.int64).reshape(10, 10)
    matrix[3] = 0
    matrix[4] = 10 * np.eye(10, dtype=np.int64)[4]
    figure = plots.confusion_figure(matrix, class_names=CLASS_NAMES, title="sgd")
    axes = figure.axes[0]
    cells = {text.get_position(): text for text in axes.texts}
    assert {where: text.get_text() for where, text in cells.items()} == {
        (column, row): str(matrix[row, column]) for row in range(10) for column in range(10)
    }
    shares = np.asarray(axes.images[0].get_array())
    assert shares[0] == pytest.approx(matrix[0] / 45)
    assert shares[3].tolist() == [0] * 10
    assert (to_hex(cells[4, 4].get_color()), to_hex(cells[5, 4].get_color())) == ("#ffffff", "#000000")
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASS_NAMES)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(CLASS_NAMES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted class", "True class")
    assert figure.get_suptitle() == "Confusion matrix\nsgd"

    path = tmp_path / "confusion.png"
    assert plots.plot_confusion(matrix, path, class_names=CLASS_NAMES, title="sgd") == path
    assert size(path) == (10 * plots.DPI, 9 * plots.DPI)


def test_samples_stand_in_the_row_of_their_class(tmp_path: Path) -> None:
    # Class 2 has two images, class 0 more than fit, the others none.
    labels = np.array([2] + [0] * 20 + [2], dtype=np.uint8)
    images = np.stack([np.full((28, 28), value, dtype=np.uint8) for value in range(22)])
    figure = plots.samples_figure(images, labels, class_names=CLASS_NAMES, title="train")
    axes = only_axes(figure)
    # Cells are 29 pixels apart: one pixel of each says which image is there, 255 that none is.
    cells = np.asarray(axes.images[0].get_array())[14::29, 14::29]
    assert cells.shape == (10, 15)
    assert cells[0].tolist() == list(range(1, 16))
    assert cells[2].tolist() == [0, 21] + [255] * 13
    assert cells[[1, *range(3, 10)]].min() == 255
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASS_NAMES)

    path = tmp_path / "samples.png"
    assert plots.plot_samples(images, labels, path, class_names=CLASS_NAMES, title="train") == path
    assert size(path) == (10 * plots.DPI, 7 * plots.DPI)


def test_grey_values_are_printed_in_their_cells(tmp_path: Path) -> None:
    image = (np.arange(784) % 256).astype(np.uint8).reshape(28, 28)
    axes = only_axes(plots.grey_values_figure(image, title="train image 0"))
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
    assert plots.plot_grey_values(image, path, title="train image 0") == path
    assert size(path)[0] == 10 * plots.DPI


def test_names_are_drawn_as_they_are() -> None:
    """Between dollars matplotlib would look for a formula; half of a character it cannot write at all."""
    figure = plots.run_figures(made(30), title="$\\foo$ of caf\udce9", experiment="$x$")["loss.png"]
    title = figure.get_suptitle()
    assert title.splitlines() == ["Training loss over the epochs", r"\$\foo\$ of caf\udce9"]
    assert legend(only_axes(figure)) == [r"\$x\$"]


# --- matplotlib


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import fmnist_xp.report.plots, fmnist_xp.report.tables", "matplotlib"),
        (
            "from pathlib import Path; from fmnist_xp.report import plots, notebook;"
            "plots.plot_run(notebook.notebook_history('sgd'), Path('.'), title='t', experiment='sgd')",
            "matplotlib.pyplot",
        ),
    ],
)
def test_matplotlib_is_loaded_late_and_without_global_state(code: str, absent: str, tmp_path: Path) -> None:
    root = Path(plots.__file__).parents[2]
    run = f"import sys; sys.path.insert(0, {str(root)!r}); {code}; sys.exit({absent!r} in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", run], cwd=tmp_path, check=False)
    assert finished.returncode == 0
