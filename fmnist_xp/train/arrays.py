"""Arrays and a header of plain values as one safetensors file with a checksum: a model, or a checkpoint.

Nothing in such a file is executed when it is read.
"""

import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fmnist_xp.errors import RunError
from fmnist_xp.files import check_file, write_bytes
from fmnist_xp.plain_json import check_form, parse_json

LOG = logging.getLogger("fmnist_xp")

CHECKSUM = "sha256"  # beside the header's own fields
DTYPES = ("F32", "F64")  # safetensors' names of the dtypes that parameters have
MAX_BYTES = 4 * 2**30  # 1,000 million parameters in float32
MAX_HEADER = 2**20  # characters: some 5,000 layers


class Kind(NamedTuple):
    """What a file is: `format` is the key of its header, which has these `fields`."""

    name: str
    format: str
    fields: tuple[str, ...]
    header: str
    """What the header tells."""


MODEL = Kind("model", "fmnist-xp model 1", ("layers", "loss", "dtype"), "architecture")


def save_arrays(path: Path, kind: Kind, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    """Write `arrays`, float32 or float64 by name, and `header`, plain JSON values by name, to `path`.

    Raises `ValueError` for more than `load_arrays` reads, `OSError` where the file cannot be written.
    """
    from safetensors.numpy import save

    # One key, since safetensors writes several in any order: one model has one content.
    text = json.dumps({**header, CHECKSUM: arrays_sha256(arrays, header)})
    # Not save_file, which makes files private to the user and has an error of its own for a full disk.
    content = save(dict(arrays), {kind.format: text})
    for what, size, most in ((kind.name, len(content), MAX_BYTES), (kind.header, len(text), MAX_HEADER)):
        if size > most:
            raise ValueError(f"the {what} takes {size:,} bytes, and {most:,} are the most that is read again")
    write_bytes(path, content)


def load_arrays(path: Path, kind: Kind) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return (arrays, header) as `save_arrays` wrote them.

    Raises `RunError` where the file is missing, damaged or not such a file. One of an older version, without a
    checksum, is taken with a warning.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists() or path.is_dir():
        raise RunError(f"there is no {kind.name} file {path}: train one with fmnist-xp train")
    not_ours = f"{path} is not a {kind.name} of this package"
    try:
        check_file(path, MAX_BYTES)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if kind.format not in metadata:
                raise RunError(
                    f"{not_ours}: its format is {metadata.get('format')!r}, not {kind.format!r} "
                    "(fmnist_xp.export.from_torch reads weights from elsewhere)"
                )
            text, names = metadata[kind.format], sorted(file.keys())
            for name in names:
                if (dtype := file.get_slice(name).get_dtype()) not in DTYPES:
                    raise RunError(f"{not_ours}: {name!r} is {dtype}, not F32 or F64")
            arrays = {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise RunError(f"cannot read the {kind.name} {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise RunError(f"{path} is damaged or not a safetensors file ({error}): train again") from error
    try:
        if len(text) > MAX_HEADER:
            raise ValueError(f"it has {len(text):,} characters, and {MAX_HEADER:,} are the most read")
        header = parse_json(text)
        check_form(header, {})
        if unknown := sorted(header.keys() - {*kind.fields, CHECKSUM}):  # such as CHECKSUM with a flipped bit
            raise ValueError(f"it has an unknown field {unknown[0]!a:.40}")
    except ValueError as error:
        raise RunError(f"{path} does not tell its {kind.header} ({error}): train again") from error
    stated = header.pop(CHECKSUM, None)
    if stated is None:
        LOG.warning("%s has no checksum, since an older version wrote it: saved again, it has one", path)
    elif stated != arrays_sha256(arrays, header):
        raise RunError(f"{path} is damaged: it has not the SHA-256 it was written with: copy it again, or train")
    return arrays, header


def arrays_sha256(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of the header and of each array's name, dtype, shape and bytes.

    Names are taken in alphabetic order, whatever the order of the mappings.
    """
    digest = sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        values = arrays[name]
        digest.update(json.dumps([name, values.dtype.name, values.shape]).encode())
        digest.update(values.astype(values.dtype.newbyteorder("<"), order="C", copy=False).data)
    return digest.hexdigest()
