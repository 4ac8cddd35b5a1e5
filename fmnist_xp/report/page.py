"""A page of finished runs: one HTML file with everything in it, which asks no network for anything.

`page.html.jinja` has the layout; here are the values that it shows, as text and images.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.opencv import opencv
from fmnist_xp.errors import FmnistXpError, printable
from fmnist_xp.report.curves import HEIGHT, SIGNS, Style, curves_figure, not_finite, run_styles
from fmnist_xp.train.history import History

if TYPE_CHECKING:
    from jinja2 import Template

SIDE = 28  # pixels of an image's side
TILES = 16  # neurons in a row of the picture of the weights
MOST_NEURONS = 256
NEGATIVE, POSITIVE = (178, 114, 0), (0, 94, 213)  # blue and vermilion, as OpenCV orders the channels
MISSING = "—"

# The columns of the results with their fields in result.json; older and newer runs have other fields.
RESULTS = {
    "Test accuracy": ("test_accuracy", ".4f"),
    "Test loss": ("test_loss", ".4f"),
    "Training accuracy": ("train_accuracy", ".4f"),
    "Training loss": ("train_loss", ".4f"),
    "Validation accuracy": ("validation_accuracy", ".4f"),
    "Validation loss": ("validation_loss", ".4f"),
    "Best epoch": ("best_epoch", ",.0f"),
    "Epochs": ("epochs", ",.0f"),
    "Seconds": ("total_seconds", ",.1f"),
    "ms an epoch": ("epoch_ms", ",.2f"),
}
MACHINE = ("device", "device_name", "threads", "graphs", "versions")
"""The entries of config.json that say where a run was trained; the others say what."""


class Mistake(NamedTuple):
    """Test image number `row`, uint8 (28, 28), of the class `true`, which a network takes for `predicted`."""

    row: int
    image: NDArray[np.uint8]
    true: int
    predicted: int
    confidence: float


class Judgement(NamedTuple):
    """What a network makes of the test images: the confusion matrix and its most confident mistakes."""

    matrix: NDArray[np.int64]
    mistakes: Sequence[Mistake]


@dataclass(frozen=True, kw_only=True)
class RunOnPage:
    """What the page shows of one run.

    `config` and `result` are the contents of its files, `class_names` go by label, `command` trains it again,
    `weights` are those of the first layer, (784, n), and `notes` say why something is missing.
    """

    name: str
    title: str
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    history: History
    class_names: Sequence[str]
    command: str = ""
    weights: NDArray[np.floating[Any]] | None = None
    judgement: Judgement | None = None
    notes: Sequence[str] = ()


def page_template() -> Template:
    """Return the template, with Plotly's script in it; raise `FmnistXpError` where what it needs is not installed."""
    try:
        from jinja2 import Environment, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise FmnistXpError(f'a report needs Plotly and Jinja2 ({error}): pip install "fmnist-xp[report]"') from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = (files("fmnist_xp.report") / "page.html.jinja").read_text(encoding="utf-8")
    shared = {"plotly": get_plotlyjs(), "height": HEIGHT, "missing": MISSING}
    return environment.from_string(text, globals=shared)


def render_page(template: Template, runs: Sequence[RunOnPage]) -> str:
    """Return the page of `runs`, one or more, whose names differ; the same runs give the same page."""
    styles = run_styles([str(run.result["experiment"]) for run in runs])
    histories = {run.name: run.history for run in runs}
    settings = [_settings(run.config) for run in runs]
    return template.render(
        title=f"{len(runs)} runs" if len(runs) > 1 else printable(runs[0].name),
        runs=[_shown(run, style) for run, style in zip(runs, styles, strict=True)],
        results=_results([run.result for run in runs]),
        settings=_side_by_side([{k: v for k, v in of_run.items() if not _of_machine(k)} for of_run in settings]),
        machines=_side_by_side([{k: v for k, v in of_run.items() if _of_machine(k)} for of_run in settings]),
        figure=curves_figure(histories, styles),
        gaps=[f"{printable(name)}: {gap}" for name, history in histories.items() for gap in not_finite(history)],
        validated=any(history.validation_accuracy for history in histories.values()),
    )


def _shown(run: RunOnPage, style: Style) -> dict[str, Any]:
    """Return what the template shows of a run by itself."""
    judgement = run.judgement or Judgement(np.zeros((0, 0), np.int64), ())
    return {
        "name": printable(run.name),
        "title": printable(run.title),
        "colour": style.colour,
        "sign": SIGNS[style.marker],
        "command": printable(run.command),
        "notes": [printable(note) for note in run.notes],
        "classes": run.class_names,
        "matrix": [
            [(count, round(count / max(sum(row), 1), 3)) for count in row] for row in judgement.matrix.tolist()
        ],
        "mistakes": [
            {
                "row": mistake.row,
                "image": _png(mistake.image),
                "true": run.class_names[mistake.true],
                "predicted": run.class_names[mistake.predicted],
                "confidence": f"{mistake.confidence:.1%}",
            }
            for mistake in judgement.mistakes
        ],
        "weights": None if run.weights is None else _weights(run.weights),
    }


def _results(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the columns in which a run has a number, and each run's numbers, device and early end, all as text."""
    values = [{**result, "epoch_ms": _epoch_ms(result)} for result in results]
    columns = {
        label: field
        for label, field in RESULTS.items()
        if any(_number(of_run, field[0]) is not None for of_run in values)
    }
    endings = [str(run.get("stopped") or ("interrupted" if run.get("interrupted") else "")) for run in results]
    return {
        "columns": list(columns),
        "rows": [[_format(_number(of_run, key), form) for key, form in columns.values()] for of_run in values],
        "devices": [printable(str(run.get("device", MISSING))) for run in results],
        "endings": [printable(ending) or MISSING for ending in endings] if any(endings) else [],
    }


def _epoch_ms(result: Mapping[str, Any]) -> float | None:
    seconds = result.get("epoch_seconds")
    median = _number(seconds, "median") if isinstance(seconds, Mapping) else None
    return None if median is None else 1000 * median


def _number(values: Mapping[str, Any], key: str) -> float | None:
    """Return the finite number under `key`, or None."""
    value = values.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else None


def _format(number: float | None, form: str) -> str:
    return MISSING if number is None else f"{number:{form}}"


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a config.json and their values as text.

    An experiment's and its optimizer's have their own names, each once, others that lie deeper also what they lie in.
    """
    experiment, optimizer = config["experiment"], config.get("optimizer")
    flat: dict[str, Any] = {"experiment": experiment.get("name"), **experiment}
    flat.pop("name", None)
    if isinstance(optimizer, Mapping):
        flat |= {key: value for key, value in optimizer.items() if key not in {"type", *experiment}}
    for key, value in config.items():
        if key not in ("experiment", "optimizer"):
            flat |= {f"{key}: {k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return {printable(key.replace("_", " ")): _value(value) for key, value in flat.items()}


def _of_machine(setting: str) -> bool:
    return setting.split(":")[0].replace(" ", "_") in MACHINE


def _value(value: Any) -> str:
    match value:
        case None:
            return MISSING
        case bool():
            return "yes" if value else "no"
        case list():
            return printable(", ".join(map(str, value)))
        case Mapping():  # a schedule, or what an optimizer takes
            return ", ".join(f"{printable(str(name))} {_value(item)}" for name, item in value.items()) or MISSING
        case _:
            return printable(str(value))


def _side_by_side(settings: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """Return (setting, its values): a single value where all runs have the same, else one for each run."""
    rows = []
    longest_first = sorted(settings, key=len, reverse=True)  # its order has a place for most
    for key in dict.fromkeys(key for of_run in longest_first for key in of_run):
        values = [of_run.get(key, MISSING) for of_run in settings]
        rows.append((key, values[:1] if len(set(values)) == 1 else values))
    return rows


def _weights(weights: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Return the picture of a first layer's weights, a tile for each neuron, and the numbers for its caption.

    It is clear where a weight is 0, so that it suits a light and a dark page.
    """
    count = min(weights.shape[1], MOST_NEURONS)
    shown = weights.T[:count].reshape(count, SIDE, SIDE).astype(np.float64)
    most = float(np.quantile(np.abs(shown), 0.995)) or 1.0
    step = SIDE + 1
    rows, columns = -(-count // TILES), min(count, TILES)
    picture = np.zeros((rows * step - 1, columns * step - 1, 4), np.uint8)
    for number, tile in enumerate(shown):
        top, left = step * (number // TILES), step * (number % TILES)
        cell = picture[top : top + SIDE, left : left + SIDE]
        cell[..., :3] = np.where(tile[..., None] < 0, NEGATIVE, POSITIVE)
        cell[..., 3] = np.minimum(np.abs(tile) / most, 1) * 255
    return {
        "image": _png(picture),
        "height": picture.shape[0],
        "width": picture.shape[1],
        "count": count,
        "all": weights.shape[1],
        "most": f"{most:.2g}",
    }


def _png(image: NDArray[np.uint8]) -> str:
    """Return an image, grey or blue-green-red-alpha, as an address that holds it as a PNG."""
    return f"data:image/png;base64,{b64encode(opencv().imencode('.png', image)[1].tobytes()).decode()}"
