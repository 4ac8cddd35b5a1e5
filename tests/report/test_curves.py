import json
import math
from typing import Any

import pytest

from fmnist_xp.report.curves import curves_figure, not_finite, run_styles
from fmnist_xp.train.history import History


def history(losses: list[float], *, validation: bool = False) -> History:
    made = History()
    for number, loss in enumerate(losses):
        made.append(10 * number, number / 10, loss, 0.5, 0.01, (number / 20, 2 * loss) if validation else None)
    return made


def traces(figure: dict[str, Any], axis: str) -> list[dict[str, Any]]:
    return [trace for trace in figure["data"] if trace["yaxis"] == axis]


def test_an_experiments_first_run_has_its_colour() -> None:
    styles = run_styles(["sgd", "adam", "sgd", "mine", "momentum"])
    assert [styles[i].colour for i in (0, 1, 4)] == ["#0072B2", "#009E73", "#D55E00"]
    assert len({style.colour for style in styles}) == 5


def test_many_runs_can_be_told_apart() -> None:
    assert len(set(run_styles(["adam"] * 40))) == 40


def test_curves_are_the_histories() -> None:
    histories = {"a": history([3.0, 2.0, 1.0], validation=True), "b": history([2.0, 1.5])}
    figure = curves_figure(histories, run_styles(["adam", "sgd"]))
    accuracy = [(t["meta"], t["x"], t["y"], t["line"]["dash"]) for t in traces(figure, "y1")]
    assert accuracy == [
        (0, [0, 10, 20], [0.0, 0.1, 0.2], "solid"),
        (0, [0, 10, 20], [0.0, 0.05, 0.1], "dash"),
        (1, [0, 10], [0.0, 0.1], "solid"),
    ]
    assert [t["y"] for t in traces(figure, "y2")] == [[3.0, 2.0, 1.0], [6.0, 4.0, 2.0], [2.0, 1.5]]
    assert [t["y"] for t in traces(figure, "y3")] == [[0.5] * 3, [0.5] * 2]
    assert [t["name"] for t in traces(figure, "y1")] == ["a", "a, validation", "b"]
    assert {t["line"]["color"] for t in figure["data"] if t["meta"] == 0} == {"#009E73"}


def test_what_is_not_finite_is_a_gap_and_marked() -> None:
    losses = [math.nan, 2.0, math.inf, 1e301, 1.0]
    figure = curves_figure({"a": history(losses)}, run_styles(["adam"]))
    line, marks = traces(figure, "y2")
    assert line["y"] == [None, 2.0, None, None, 1.0]
    assert (marks["x"], marks["y"], marks["mode"]) == ([0, 20, 30], [0.0, 2.0, 2.0], "markers")
    assert marks["text"] == ["nan", "inf", "1e+301"]
    assert "NaN" not in json.dumps(figure, allow_nan=False)


def test_what_is_not_finite_is_told() -> None:
    assert list(not_finite(history([1.0, 2.0]))) == []
    assert list(not_finite(history([1.0, math.nan, 1.0]))) == ["loss is not finite once, first at epoch 10"]
    assert list(not_finite(history([1.0, math.nan, math.inf], validation=True))) == [
        "loss is not finite 2 times, first at epoch 10", "validation loss is not finite 2 times, first at epoch 10",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "cut"), [([2.3, 1.0, 90.0, 0.5], True), ([2.3, 1.0], False), ([50.0, 60.0, 2.0], False)]
)
def test_a_spike_does_not_flatten_the_losses(losses: list[float], cut: bool) -> None:
    layout = curves_figure({"a": history(losses)}, run_styles(["adam"]))["layout"]
    assert layout["yaxis2"].get("range") == ([0, 3.0] if cut else None)
    assert "range" not in layout["yaxis1"]


def test_the_first_loss_of_more_classes_is_not_cut_off() -> None:
    """ln 26 and ln 10."""
    histories = {"a": history([3.26, 90.0, 1.0, 0.5]), "b": history([2.3, 1.0])}
    assert curves_figure(histories, run_styles(["adam", "adam"]))["layout"]["yaxis2"]["range"] == [0, 3.5]


def test_panels_lie_below_each_other() -> None:
    layout = curves_figure({"a": history([1.0])}, run_styles(["adam"]))["layout"]
    domains = [layout[f"yaxis{panel}"]["domain"] for panel in (1, 2, 3)]
    assert all(0 <= low < high <= 1 for low, high in domains)
    assert domains[0][0] > domains[1][1] > domains[1][0] > domains[2][1]
    assert layout["xaxis"]["anchor"] == "y3"


def test_names_are_text_and_not_too_long() -> None:
    figure = curves_figure({"<b>&\x1b": history([1.0]), "x" * 50: history([1.0])}, run_styles(["adam", "sgd"]))
    names = [trace["name"] for trace in traces(figure, "y1")]
    assert names == ["&lt;b&gt;&amp;\\x1b", "x" * 23 + "…"]
