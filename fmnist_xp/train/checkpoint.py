"""A model as one safetensors file: weights and biases, with the architecture as JSON in its metadata."""

import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fmnist_xp.errors import RunError
from fmnist_xp.files import check_file, replacing
from fmnist_xp.plain_json import check_form, parse_json

LOG = logging.getLogger("fmnist_xp")

FORMAT = "fmnist-xp model 1"
FIELDS = ("layers", "loss", "dtype")  # of an architecture
CHECKSUM = "sha256"  # beside the architecture's own fields
DTYPES = ("F32", "F64")  # safetensors' names of the dtypes that parameters have
MAX_BYTES = 4 * 2**30  # 1,000 million parameters in float32
MAX_ARCHITECTURE = 2**20  # characters: some 5,000 layers


def save_model(path: Path, state: Mapping[str, NDArray[Any]], architecture: Mapping[str, Any]) -> None:
    """Write `state`, float32 or float64 arrays by name, and `architecture`, plain JSON values by name, to `path`.

    Raises `ValueError` for more than `load_model` reads, `OSError` where the file cannot be written.
    """
    from safetensors.numpy import save

    # One key, since safetensors writes several in any order: one model has one content.
    text = json.dumps({**architecture, CHECKSUM: model_sha256(state, architecture)})
    # Not save_file, which makes files private to the user and has an error of its own for a full disk.
    content = save(dict(state), {FORMAT: text})
    for what, size, most in (("model", len(content), MAX_BYTES), ("architecture", len(text), MAX_ARCHITECTURE)):
        if size > most:
            raise ValueError(f"the {what} takes {size:,} bytes, and {most:,} are the most that is read again")
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_model(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return (state, architecture) as `save_model` wrote them.

    Raises `RunError` where the file is missing, damaged or not such a file. One of an older version, without a
    checksum, is taken with a warning.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists() or path.is_dir():
        raise RunError(f"there is no model file {path}: train one with fmnist-xp train")
    try:
        check_file(path, MAX_BYTES)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                found = metadata.get("format")
                raise RunError(f"{path} is not a model of this package: its format is {found!r}, not {FORMAT!r}")
            text, names = metadata[FORMAT], sorted(file.keys())
            for name in names:
                if (dtype := file.get_slice(name).get_dtype()) not in DTYPES:
                    raise RunError(f"{path} is not a model of this package: {name!r} is {dtype}, not F32 or F64")
            state = {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise RunError(f"cannot read the model {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise RunError(f"{path} is damaged or not a safetensors file ({error}): train again") from error
    try:
        if len(text) > MAX_ARCHITECTURE:
            raise ValueError(f"it has {len(text):,} characters, and {MAX_ARCHITECTURE:,} are the most read")
        architecture = parse_json(text)
        check_form(architecture, {})
        if unknown := sorted(architecture.keys() - {*FIELDS, CHECKSUM}):  # such as CHECKSUM with a flipped bit
            raise ValueError(f"it has an unknown field {unknown[0]!a:.40}")
    except ValueError as error:
        raise RunError(f"{path} does not tell its architecture ({error}): train again") from error
    stated = architecture.pop(CHECKSUM, None)
    if stated is None:
        LOG.warning("%s has no checksum, since an older version wrote it: saved again, it has one", path)
    elif stated != model_sha256(state, architecture):
        raise RunError(f"{path} is damaged: it has not the SHA-256 it was written with: copy it again, or train")
    return state, architecture


def model_sha256(state: Mapping[str, NDArray[Any]], architecture: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of the architecture and of each array's name, dtype, shape and bytes.

    Names are taken in alphabetic order, whatever the order of the mappings.
    """
    digest = sha256(json.dumps(architecture, sort_keys=True).encode())
    for name in sorted(state):
        values = state[name]
        digest.update(json.dumps([name, values.dtype.name, values.shape]).encode())
        digest.update(values.astype(values.dtype.newbyteorder("<"), order="C", copy=False).data)
    return digest.hexdigest()
