"""A network's weights as the state of a `torch.nn.Sequential`, and such states as files.

Names and shapes are "0.weight" (n_outputs, n_inputs), "0.bias" (n_outputs,), "2.weight", …, by the layer's number.
"""

import json
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.errors import RunError
from fmnist_xp.export.counterparts import MAX_BYTES, TORCH, counterparts, needed
from fmnist_xp.files import check_file
from fmnist_xp.nn import Network

SIZES = ("in_features", "out_features", "normalized_shape")
"""Arguments of a module's constructor that come first, and need no name."""
METADATA = "metadata"
"""The entry with the facts, a JSON object as text, of safetensors' header or of an .npz."""


def torch_state(network: Network) -> dict[str, NDArray[np.floating[Any]]]:
    """Return the weights by name; raises `ValueError` for a network without a counterpart in PyTorch."""
    return {
        f"{place}.{name}": np.ascontiguousarray(values.T)
        for place, piece in enumerate(counterparts(network, TORCH))
        for name, values in zip(("weight", "bias"), piece.parameters.values(), strict=False)
    }


def torch_layers(network: Network) -> list[str]:
    """Return the calls that make the modules of the `torch.nn.Sequential`, such as "Linear(784, 128)", "ReLU()"."""
    calls = []
    for piece in counterparts(network, TORCH):
        given = {"dim": 1} if piece.name == "Softmax" else piece.arguments
        sizes = [str(value) for name, value in given.items() if name in SIZES]
        calls.append(f"{piece.name}({', '.join(sizes + [f'{n}={v!r}' for n, v in given.items() if n not in SIZES])})")
    return calls


def safetensors_bytes(state: Mapping[str, NDArray[Any]], facts: Mapping[str, str]) -> bytes:
    """Return a safetensors file."""
    from safetensors.numpy import save

    # One entry, since safetensors writes several in any order: one model has one content.
    return save(dict(state), {METADATA: json.dumps(facts)})


def npz_bytes(state: Mapping[str, NDArray[Any]], facts: Mapping[str, str]) -> bytes:
    """Return an .npz file, with the facts as one more array of one text."""
    file, arrays = BytesIO(), {**state, METADATA: np.array(json.dumps(facts))}
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def pytorch_bytes(state: Mapping[str, NDArray[Any]], _facts: Mapping[str, str]) -> bytes:
    """Return what `torch.save` writes of a state, which has no room for facts."""
    torch = torch_package()
    file = BytesIO()  # not a path, whose name it would write into the file
    torch.save({name: torch.from_numpy(values) for name, values in state.items()}, file)
    return file.getvalue()


def torch_package() -> Any:
    """Return PyTorch, as `needed` does."""
    return needed("torch", "torch")


def read_state(path: Path) -> Mapping[str, Any]:
    """Return the arrays or tensors in a .safetensors, .npz, .pt or .pth file, by name. Nothing in it is executed.

    Raises `RunError` where it is missing, damaged or of another kind, `FmnistXpError` where PyTorch is needed and not
    installed.
    """
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz, ".pt": _read_pytorch, ".pth": _read_pytorch}
    if path.suffix.lower() not in readers:
        raise RunError(f"{path} is none of {', '.join(readers)}: the suffix tells what a file is")
    try:
        check_file(path, MAX_BYTES)
        return readers[path.suffix.lower()](path)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError, TypeError) as error:  # a dtype that NumPy lacks, such as bfloat16
        raise RunError(f"{path} is damaged or holds other than floats ({error!s:.200}): export it again") from error


def _read_npz(path: Path) -> Mapping[str, Any]:
    try:
        _check_zip(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if name != METADATA}
    except OSError:
        raise
    except Exception as error:  # of its own reader of headers, of zipfile, of what decompresses
        raise RunError(f"{path} is damaged or no .npz file of numbers ({error!s:.200}): export it again") from error


def _read_pytorch(path: Path) -> Mapping[str, Any]:
    torch = torch_package()
    try:
        _check_zip(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of its own reader of pickles, of zip files, of storages
        raise RunError(
            f"{path} is damaged or holds more than weights ({error!s:.200}): save a state_dict()"
        ) from error
    if not isinstance(state, Mapping):
        raise RunError(f"{path} holds a {type(state).__name__}, not a state: save a state_dict()")
    return state


def _check_zip(path: Path) -> None:
    """Raise `ValueError` unless `path` is a zip file of bounded content; PyTorch reads others without a bound."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("it is no zip file")
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_BYTES:
        raise ValueError(f"unpacked it has {size:,} bytes, and {MAX_BYTES:,} are the most read")
