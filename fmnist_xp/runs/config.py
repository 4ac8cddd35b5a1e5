"""Settings from a file: one written by hand, in TOML, or a run's own, its config.json."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fmnist_xp.arguments import one_of
from fmnist_xp.experiments import EXPERIMENTS, Experiment
from fmnist_xp.files import read_text
from fmnist_xp.plain_json import check_form, parse_json
from fmnist_xp.runs.folder import CONFIG, MAX_BYTES
from fmnist_xp.runs.settings import Settings, form_of

TABLES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "network": {name: name for name in ("hidden", "activation", "initializer", "layer_norm", "dropout")},
        "loss": {"type": "loss", "label_smoothing": "label_smoothing"},
        "optimizer": {"type": "optimizer"} | {name: name for name in ("learning_rate", "decay", "momentum")},
        "schedule": {},
        "augmentation": {"mirror": "mirror", "shift": "shift"},
        "regularization": {"l2": "l2"},
        "validation": {"fraction": "validation", "keep_best": "keep_best", "patience": "patience"},
    }
)
"""The tables of a TOML file, and the field that each of their keys is; [optimizer] and [schedule] have more keys."""

TOP = ("name", "epochs", "seed", "precision", "engine", "log_every", "block_rows", "dense_rows")
"""The fields that stand above the tables, where `base` names the experiment that the file changes."""

OF_EXPERIMENT = frozenset(field.name for field in fields(Experiment))


def read_settings(path: Path) -> Settings:
    """Return the settings in a TOML file, or in config.json of a run, whose folder may be named instead.

    Raises `ValueError`, naming file and key, where they are none, and `OSError` where there is no file to read.
    """
    path = path / CONFIG if path.is_dir() else path
    text = read_text(path, MAX_BYTES)
    try:
        if path.suffix == ".json":
            settings = Settings.from_config(parse_json(text))
        else:
            settings = _from_toml(_parsed(text), re.sub(r"[^\w.+-]+", "-", path.stem).strip("-.") or "file")
        settings.check()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return settings


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _from_toml(given: dict[str, Any], name: str) -> Settings:
    """Return the settings that a TOML file tells; its experiment goes by `name` where it has no other."""
    base = given.pop("base", None)
    found, options, schedule = _fields(given), given.get("optimizer", {}), given.get("schedule")
    if base is not None:
        experiment = EXPERIMENTS[one_of("base", base, EXPERIMENTS)]
    else:
        for field, key in (("hidden", "hidden in [network]"), ("optimizer", "type in [optimizer]")):
            if field not in found:
                raise ValueError(f'{key} is missing: give it, or the experiment to change, such as base = "quick"')
        experiment = Experiment(name, found["hidden"], "", 0.0)
    experiment = experiment.with_optimizer(found.get("optimizer", experiment.optimizer))
    more = {key: value for key, value in options.items() if key not in TABLES["optimizer"]}
    found["optimizer_options"] = {**experiment.optimizer_options, **more}
    if schedule is not None:  # in place of the base's, and of its decay
        found = {"decay": 0.0, **found, "schedule": schedule}
    of_experiment = {field: value for field, value in found.items() if field in OF_EXPERIMENT}
    others = {field: value for field, value in found.items() if field not in OF_EXPERIMENT}
    return Settings(replace(experiment, **of_experiment), **others)


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a TOML file gives; `ValueError`, naming its key, for an unknown or ill-formed one."""
    found = {}
    for place, field, value in _entries(given):
        check_form(value, form_of(Experiment if field in OF_EXPERIMENT else Settings, field), place)
        found[field] = tuple(value) if isinstance(value, list) else value
    return found


def _entries(given: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the place, the field and the value of each key."""
    for name, value in given.items():
        one_of("a key", name, ("base", *TOP, *TABLES))
        if name in TOP:
            yield name, name, value
            continue
        check_form(value, {}, name)
        for key, entry in value.items():
            if key in TABLES[name]:
                yield f"{name}.{key}", TABLES[name][key], entry
            elif name not in ("optimizer", "schedule"):
                one_of(f"a key of [{name}]", key, TABLES[name])
