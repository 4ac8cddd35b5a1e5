"""Results on disk, one JSON file for each benchmark and device, and the options that every benchmark takes."""

import json
import re
import shlex
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine import describe
from fmnist_xp.backend import Backend, get_backend
from fmnist_xp.data import Dataset, Pixels, load_fashion_mnist, pixels
from fmnist_xp.errors import DeviceError
from fmnist_xp.files import write_text

NAMED_SOURCES = ("auto", "synthetic")


@dataclass(frozen=True)
class Options:
    """The options of a command line."""

    device: str = "auto"
    quick: bool = False
    data: str = "auto"
    out: Path = Path("bench/results")
    precision: str = "float32"
    """Empty where nothing is computed, and where all precisions are measured."""
    label: str = ""
    """Suffix that tells the files of one machine from those of another."""
    rounds: int | None = None
    """How often each side takes its turn; None for the benchmark's own number."""
    without: tuple[str, ...] = ()
    """Names of sides to leave out, or how these begin."""
    graphs: bool | None = None
    """Whether a GPU trains as CUDA graphs; None for where it can."""
    disk_rows: tuple[int, ...] = ()
    """Numbers of rows on disk; empty for the benchmark's own."""
    first_row: int | None = None
    """The first of the test images that a run predicts; None where it is no run that is measured."""
    engine: str = "plain"
    """What makes the epochs, of `fmnist_xp.train.engines.ENGINES`."""

    def backend(self) -> Backend:
        """Return the backend asked for, with all cores; raise `DeviceError` where it lacks the precision."""
        try:
            backend = get_backend(self.device, graphs=self.graphs)
        except ValueError as error:
            raise DeviceError(str(error)) from error
        if self.precision:
            backend.precision(self.precision)
        return backend

    def load(self) -> tuple[Dataset, Dataset]:
        """Return (train, test) of the source asked for."""
        return load_fashion_mnist(self.data)

    def rows(self) -> tuple[Pixels, NDArray[np.uint8], dict[str, Any]]:
        """Return inputs, labels and a description of the training data; of few rows where `quick`."""
        train, _ = self.load()
        X, y = pixels(train, shuffle_seed=0)
        if self.quick:
            X, y = X[:6_000], y[:6_000].copy()
        return X, y, about(train) | {"rows": len(X)}

    def command(self, benchmark: str, backend: Backend) -> str:
        """Return the command that repeats the run, without local paths."""
        data = "" if self.data == "auto" else f" --data {self.data if self.data in NAMED_SOURCES else 'FOLDER'}"
        precision = "" if self.precision in ("", "float32") else f" --precision {self.precision}"
        label = f" --label {self.label}" if self.label else ""
        quick = " --quick" if self.quick else ""
        rounds = f" --rounds {self.rounds}" if self.rounds else ""
        without = "".join(f" --without {shlex.quote(name)}" for name in self.without)
        disk = "".join(f" --disk-rows {rows}" for rows in self.disk_rows)
        device = f" --device {kind(backend)}"
        if self.first_row is not None:
            device = " RUN" + (f" --first {self.first_row}" if self.first_row else "")
        graphs = "" if self.graphs is None else " --graphs" if self.graphs else " --no-graphs"
        engine = "" if self.engine == "plain" else f" --engine {self.engine}"
        more = f"{data}{label}{rounds}{without}{graphs}{engine}{disk}{quick}"
        return f"python -m bench {benchmark}{device}{precision}{more}"


def kind(backend: Backend) -> str:
    """Return "cpu" or "cuda"."""
    return backend.name.partition(":")[0]


def about(dataset: Dataset) -> dict[str, Any]:
    """Return what identifies a data set, without its path."""
    return {"name": dataset.name, "sha256": dataset.sha256, "rows": len(dataset)}


def save(
    benchmark: str, options: Options, backend: Backend, settings: dict[str, Any], results: dict[str, Any]
) -> Path:
    """Write `<benchmark>-<device>.json` and return its path.

    The name goes on with the precision unless float32, "eager" where graphs were refused, the engine unless plain,
    and the label.
    """
    record = {
        "benchmark": benchmark,
        "date": date.today().isoformat(),
        "command": options.command(benchmark, backend),
        "device": kind(backend),
        "precision": options.precision,
        "engine": options.engine,
        "quick": options.quick,
        "machine": describe(backend),
        "settings": settings,
        "results": results,
    }
    precision = "" if options.precision == "float32" else options.precision
    eager = "eager" if options.graphs is False else ""
    engine = "" if options.engine == "plain" else options.engine
    stem = "-".join(filter(None, [benchmark, kind(backend), precision, eager, engine, options.label]))
    path = options.out / f"{stem}.json"
    text = json.dumps(record, indent=1, allow_nan=False)
    write_text(path, re.sub(r"\[[-+.,\s\deE]+\]", _on_one_line, text) + "\n")
    return path


def _on_one_line(numbers: re.Match[str]) -> str:
    return re.sub(r"\s+", " ", numbers[0]).replace("[ ", "[").replace(" ]", "]")


def load(path: Path) -> dict[str, Any]:
    """Return what `save` wrote."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def hardware(record: dict[str, Any]) -> str:
    """Return the processor that a record was measured on, in words."""
    machine = record["machine"]
    return str(machine["gpu"] or f"{machine['cpu']}, {machine['cores_usable']} cores")


def other_engine(record: dict[str, Any]) -> str:
    """Return the engine of a record, in words, unless it is the plain one; older records do not say."""
    return "fused engine" if record.get("engine") == "fused" else ""
