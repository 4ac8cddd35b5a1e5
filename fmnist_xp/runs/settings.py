"""What a run is asked for and what came of it, and how both stand in its JSON files."""

import json
import math
import os
import platform
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fmnist_xp.arguments import one_of, whole_number
from fmnist_xp.backend import PRECISIONS, Backend
from fmnist_xp.blas import blas_name
from fmnist_xp.data import CLASS_NAMES, Dataset, longest_edge
from fmnist_xp.data.dataset import GARMENTS, checked_names, numbers_as_names
from fmnist_xp.experiments import EXPERIMENTS, Experiment
from fmnist_xp.model import Metrics
from fmnist_xp.plain_json import check_form
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.engines import ENGINES, check_precision
from fmnist_xp.train.history import History


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes, besides the data and the device.

    `block_rows` None leaves the choice to the backend, which knows its cache or memory, `dense_rows` None to the
    backend and the data.
    """

    experiment: Experiment
    seed: int = 0
    precision: str = "float32"
    engine: str = "plain"
    log_every: int = 10
    block_rows: int | None = None
    dense_rows: bool | None = None
    validation: float | None = None
    keep_best: bool = False
    patience: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Settings":
        """Return the settings that a loaded config.json tells; raise `ValueError` where they are none."""
        check_form(config, {"experiment": {name: form_of(Experiment, name) for name in _required(Experiment)}})
        experiment, own = ({f.name for f in fields(kind)} for kind in (Experiment, cls))
        values = known_values(Experiment, {k: v for k, v in config["experiment"].items() if k in experiment})
        others = known_values(cls, {k: v for k, v in config.items() if k in own - {"experiment"}})
        return cls(Experiment(**values), **others)

    def check(self) -> None:
        """Raise `ValueError`, naming the field, for a value that it cannot have, before any data is read."""
        self.experiment.check()
        one_of("precision", self.precision, PRECISIONS)
        check_precision(self.precision, one_of("engine", self.engine, ENGINES))
        whole_number("seed", self.seed, 0)
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2**63, got {self.seed}")
        whole_number("log_every", self.log_every, 1)
        for name in ("block_rows", "patience"):
            if (value := getattr(self, name)) is not None:
                whole_number(name, value, 1)
        if self.validation is not None and not 0 < self.validation < 1:
            raise ValueError(f"validation must be above 0 and below 1, such as 0.1, got {self.validation:g}")
        for name in ("keep_best", "patience"):
            if getattr(self, name) and self.validation is None:
                raise ValueError(
                    f"{name} needs images held out for validation: --validation FRACTION, or fraction in a file's "
                    "[validation]"
                )

    def config(
        self, train: Dataset, test: Dataset, backend: Backend, source: str, classes: str | None = None
    ) -> dict[str, Any]:
        """Return what config.json holds: the settings, and on which device, data and versions they are trained.

        `source` is how the data was asked for, `classes` how the names of its classes, if they were. Raises
        `ValueError` for an optimizer that cannot be.
        """
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # with lists for tuples, as it is read again
        optimizer, summary = self.experiment.make_optimizer(), DataSummary.of(train, test)
        if source not in ("auto", "synthetic"):  # a path, which must mean the same in another working directory
            source = str(Path(source).expanduser().resolve())
        if classes is not None and os.path.exists(classes):  # noqa: PTH110 (a list may be too long for Path's own)
            classes = str(Path(classes).resolve())
        asked = {"source": source} if classes is None else {"source": source, "classes": classes}
        return {
            "experiment": values.pop("experiment"),
            "optimizer": {"type": type(optimizer).__name__, **optimizer.config()},
            **values,
            "device": backend.name,
            "device_name": backend.device_name,
            "threads": backend.threads,
            "graphs": backend.captures,
            "data": {
                **asked,
                "read_from": train.source,
                **summary.to_json(),
                "longest_edge": longest_edge(train.images),
            },
            "versions": versions(),
        }

    def are_in(self, config: Mapping[str, Any]) -> bool:
        """Say whether a loaded config.json is of these settings."""
        wanted: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        whole = {**defaults(Settings), **config}  # what older ones lack
        whole["experiment"] = {**defaults(Experiment), **whole.get("experiment", {})}
        return wanted == {key: whole[key] for key in wanted}


@dataclass(frozen=True)
class DataSummary:
    """Which images a run is trained and tested on, and what their classes are called, by label."""

    name: str
    sha256: str
    train_rows: int
    test_rows: int
    class_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, train: Dataset, test: Dataset) -> "DataSummary":
        """Return the summary of the two splits."""
        return cls(train.name, dataset_sha256(train, test), len(train), len(test), train.class_names)

    def to_json(self) -> dict[str, Any]:
        """Return what the JSON files hold."""
        return {**vars(self), "class_names": [*self.class_names]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DataSummary":
        """Return the summary in a JSON object, which may have more; ValueError for class names that are none."""
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**known | {"class_names": class_names(values)})


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a run, field by field as in result.json.

    A loaded result must have the fields without a default. The others, of which older runs lack some, are taken
    unchecked. Accuracy or loss of a run that diverged is NaN, and null in JSON, which has no NaN.
    """

    experiment: str
    device: str
    device_name: str
    blas: str | None = None  # whose kernels decide the last bits on the CPU
    precision: str
    seed: int
    dataset: DataSummary
    epochs: int
    interrupted: bool = False
    stopped: str = ""  # why training ended before its last epoch
    diverged: bool = False  # then there is no model, unless training was to go on
    test_accuracy: float
    test_loss: float
    train_accuracy: float = math.nan
    train_loss: float = math.nan
    epoch_seconds: Mapping[str, float] | None = None  # median, min, max
    samples_per_second: float = math.nan
    total_seconds: float = math.nan
    peak_memory_bytes: int | None = None
    column_share: float = math.nan  # of the first layer's products; less than 1 where background was left out
    validation_rows: int = 0  # held out of the training images
    validation_accuracy: float = math.nan  # last logged, before its update
    validation_loss: float = math.nan
    best_epoch: int | None = None  # by validation accuracy
    ranks: int = 1  # processes that trained it together, over MPI
    hosts: Mapping[str, int] | None = None  # how many of them each host had, by its name
    threads: int | None = None  # of each rank, on the CPU
    message_share: float = math.nan  # of rank 0's time for messages and waiting for other ranks, where measured

    @classmethod
    def of(
        cls,
        settings: Settings,
        dataset: DataSummary,
        backend: Backend,
        history: History,
        trained: Metrics,
        tested: Metrics,
        total_seconds: float,
        ranks: Ranks,
        before: int,
    ) -> "Result":
        """Return the result of a training run that ended with the metrics `trained` and `tested`.

        It had `before` epochs when this process began.
        """
        seconds, messages = history.epoch_seconds, history.message_seconds
        median = statistics.median(seconds)
        held_out = round((settings.validation or 0) * dataset.train_rows)
        return cls(
            experiment=settings.experiment.name,
            device=backend.name,
            device_name=backend.device_name,
            blas=blas_name(),
            precision=settings.precision,
            seed=settings.seed,
            dataset=dataset,
            epochs=len(seconds),
            interrupted=history.interrupted,
            stopped=history.stopped,
            diverged=history.diverged,
            test_accuracy=tested.accuracy,
            test_loss=tested.loss,
            train_accuracy=trained.accuracy,
            train_loss=trained.loss,
            epoch_seconds={"median": median, "min": min(seconds), "max": max(seconds)},
            samples_per_second=(dataset.train_rows - held_out) / median,
            total_seconds=total_seconds,
            peak_memory_bytes=backend.peak_memory(),
            column_share=history.column_share,
            validation_rows=held_out,
            validation_accuracy=(history.validation_accuracy or [math.nan])[-1],
            validation_loss=(history.validation_loss or [math.nan])[-1],
            best_epoch=history.best_epoch,
            ranks=ranks.size,
            hosts=ranks.on_hosts() if ranks.size > 1 else None,
            threads=None if backend.asynchronous else ranks.threads(backend),
            message_share=messages / sum(seconds[before:]) if messages and seconds[before:] else math.nan,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what result.json holds."""
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}
        return values | {"dataset": self.dataset.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Result":
        """Return the result of `values`, which have `RESULT_FORM` and may have more; ValueError as of its summary."""
        kinds = {field.name: field.type for field in fields(cls)}
        known: Any = {k: _number(v) if kinds[k] is float else v for k, v in values.items() if k in kinds}
        return cls(**known | {"dataset": DataSummary.from_json(values["dataset"])})


def class_names(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names in `data`, as config.json and result.json describe them; ValueError for what are none.

    Older runs have none: theirs are the garments' where the images show garments, else the ten labels.
    """
    if "class_names" not in data:
        return CLASS_NAMES if data.get("name") in GARMENTS else numbers_as_names(len(CLASS_NAMES))
    check_form(data["class_names"], [str], "class_names")
    return checked_names(data["class_names"])


def _number(value: Any) -> float:
    """Return a number of a JSON file, NaN for null and for what is none; fields with a default are not checked."""
    return float(value) if isinstance(value, int | float) and abs(value) <= 1e300 else math.nan


def changes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a loaded config.json that are not those of its experiment, as they are by default."""
    experiment = config["experiment"]
    known = [asdict(kind) for name, kind in EXPERIMENTS.items() if name == experiment.get("name")]
    usual = known[0] if known else {}
    usual = json.loads(json.dumps(usual))
    changed = {name: value for name, value in experiment.items() if name in usual and value != usual[name]}
    own = defaults(Settings)
    of_run = {name: config.get(name, own[name]) for name in ("precision", "engine", "validation", "patience")}
    return changed | {name: value for name, value in of_run.items() if value != own[name]}


def words(value: Any) -> str:
    """Return the value of a setting as a title or a table has it."""
    if isinstance(value, Mapping):  # a schedule, or what an optimizer takes
        parts = (str(item) if name == "type" else f"{name} {words(item)}" for name, item in value.items())
        return ", ".join(parts) or "none"
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def defaults(kind: Any) -> dict[str, Any]:
    """Return the defaults of a dataclass's fields, by name."""
    made = {field.name: field.default_factory() for field in fields(kind) if field.default_factory is not MISSING}
    return made | {field.name: field.default for field in fields(kind) if field.default is not MISSING}


def form_of(kind: type, field: str) -> Any:
    """Return the form, as of `check_form`, of a field of `Experiment` or `Settings`."""
    hint = get_type_hints(kind)[field]
    if tuple in (kinds := {hint, get_origin(hint), *map(get_origin, get_args(hint))}):
        return [int]
    return {} if Mapping in kinds else hint


def known_values(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` of JSON as the fields of the same names have them; `ValueError` for one of another type."""
    usual, found = defaults(kind), {}
    for name, value in values.items():
        if value is not None or usual.get(name, 0) is not None:
            check_form(value, form_of(kind, name), name)
        found[name] = tuple(value) if isinstance(value, list) else value
    return found


def _required(record: Any) -> dict[str, Any]:
    """Return the types of those fields of a dataclass that have no default, by name."""
    return {field.name: field.type for field in fields(record) if field.name not in defaults(record)}


def _form(record: Any) -> dict[str, Any]:
    """Return the form, as of `check_form`, of a dataclass: its fields without a default, with null for NaN."""
    kinds = _required(record).items()
    return {k: _form(v) if is_dataclass(v) else float | None if v is float else v for k, v in kinds}


RESULT_FORM = _form(Result)
CONFIG_FORM = {"experiment": {}, "seed": int, "precision": str, "log_every": int, "data": {"source": str}}
"""What a loaded config.json must have. It stays a mapping: only `are_in` and the source of the data look into it."""


def dataset_sha256(train: Dataset, test: Dataset) -> str:
    """Return the SHA-256 of the two splits' own SHA-256 digests, training first, in hexadecimal."""
    return sha256(bytes.fromhex(train.sha256) + bytes.fromhex(test.sha256)).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of everything that takes part in the arithmetic."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "blas": blas_name()}
    packages = ("fmnist-xp", "numpy", "opencv-python-headless", "opencv-python", "cupy-cuda12x", "cupy-cuda13x")
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
