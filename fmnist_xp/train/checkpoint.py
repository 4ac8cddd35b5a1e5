"""A model as one safetensors file: weights and biases, with the architecture as JSON in its metadata."""

import json
from pathlib import Path
from typing import Any

from fmnist_xp.errors import RunError
from fmnist_xp.files import replacing

FORMAT = "fmnist-xp model 1"


def save_model(path: Path, state: dict[str, Any], architecture: dict[str, Any]) -> None:
    """Write `state`, NumPy arrays by name, and `architecture`, plain JSON values, to `path`."""
    from safetensors.numpy import save_file

    # One key, since safetensors writes several in any order: one model has one content.
    metadata = {FORMAT: json.dumps(architecture)}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata=metadata)


def load_model(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (state, architecture) as `save_model` wrote them.

    Raises `RunError` where the file is missing, damaged or not such a file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RunError(f"there is no model file {path}: train one with fmnist-xp train")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                found = metadata.get("format")
                raise RunError(f"{path} is not a model of this package: its format is {found!r}, not {FORMAT!r}")
            architecture = json.loads(metadata[FORMAT])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged or not a safetensors file ({error}): train again") from error
    except ValueError as error:
        raise RunError(f"{path} does not tell its architecture ({error}): train again") from error
    return state, architecture
