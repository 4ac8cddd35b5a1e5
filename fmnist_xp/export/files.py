"""A network as a file in one of four formats."""

from collections.abc import Mapping
from pathlib import Path

from fmnist_xp import __version__
from fmnist_xp.export import states
from fmnist_xp.export.counterparts import onnx_package
from fmnist_xp.export.onnx_graph import onnx_model
from fmnist_xp.files import write_bytes
from fmnist_xp.nn import Network

FORMATS: Mapping[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "safetensors": (".safetensors",),
    "npz": (".npz",),
    "pytorch": (".pt", ".pth"),
}
"""The formats with the suffixes of their files."""
_STATES = {"safetensors": states.safetensors_bytes, "npz": states.npz_bytes, "pytorch": states.pytorch_bytes}


def format_of(path: Path) -> str:
    """Return the format that the suffix of `path` tells; raise `ValueError` where it tells none."""
    for form, suffixes in FORMATS.items():
        if path.suffix.lower() in suffixes:
            return form
    known = ", ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes)
    raise ValueError(f"{path} has none of the suffixes {known}: name the format, one of {', '.join(FORMATS)}")


def check_packages(form: str) -> None:
    """Raise `FmnistXpError`, with what to install, where a package that this format needs is missing."""
    needs = {"onnx": onnx_package, "pytorch": states.torch_package}
    if form in needs:
        needs[form]()


def model_bytes(network: Network, form: str, takes: str = "images", facts: Mapping[str, str] | None = None) -> bytes:
    """Return the content of a file in the format `form`; see `save`."""
    if form not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {form!r}")
    facts = {"fmnist_xp_version": __version__, **(facts or {})}
    if form == "onnx":
        content: bytes = onnx_model(network, takes, facts).SerializeToString()
        return content
    return _STATES[form](states.torch_state(network), facts)


def save(
    network: Network,
    path: str | Path,
    form: str | None = None,
    *,
    takes: str = "images",
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write `network` to `path`, which is replaced, for other libraries.

    Numbers are written in the dtype of the parameters, float32 or float64.

    Parameters
    ----------
    form
        One of `FORMATS`; by default what the suffix tells.
    takes
        What an ONNX model takes: "images", bytes (n, 28, 28), or of another square; "rows", bytes (n, n_inputs); or
        "floats", rows that are scaled already.
    facts
        Metadata by name, which ONNX, safetensors and .npz files hold; the package's version is added.

    Raises
    ------
    ValueError
        For a layer without a counterpart elsewhere, numbers that are not finite and unknown formats.
    FmnistXpError
        Where onnx or PyTorch is needed and not installed.
    OSError
        Where the file cannot be written.
    """
    path = Path(path)
    write_bytes(path, model_bytes(network, form or format_of(path), takes, facts))
