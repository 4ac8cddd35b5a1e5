"""Run docs/notebook.ipynb as it stands, and keep it with its outputs, small.

    python scripts/run_notebook.py                # the whole of it: some minutes, on a machine that does nothing else
    python scripts/run_notebook.py --epochs 20    # fewer epochs of each training

It needs nbclient and ipykernel, of the extra browser. The images are those that `fx.load_fashion_mnist()` finds.
"""

import argparse
import base64
import importlib.util
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmnist_xp.files import write_text
from fmnist_xp.report.notebook import NOTEBOOK_EPOCHS

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
FEWEST_EPOCHS = 11
"""Every tenth is logged, and a curve has two points."""
COLOURS = 64
"""Of a picture's palette: as good as all for lines and text, in a third of the bytes."""


def read(path: Path = NOTEBOOK) -> Any:
    """Return the notebook in the file."""
    import nbformat

    return nbformat.read(path, as_version=4)


def execute(notebook: Any, epochs: int) -> None:
    """Run all cells in a new kernel, in place, with `epochs`, which the cell tagged "parameters" then has.

    Raises `nbclient.exceptions.CellExecutionError` where a cell fails.
    """
    from nbclient import NotebookClient

    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = re.sub(r"(?m)^EPOCHS = .*$", f"EPOCHS = {epochs}", cell.source)
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False, coalesce_streams=True)
    # Pictures in the notebook, whichever backend this process has.
    client.execute(env={**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"})


def shrink(notebook: Any) -> None:
    """Leave out what differs from run to run and says nothing, and give pictures a palette, in place."""
    notebook.metadata = {"language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        for output in cell.get("outputs", []):
            output.pop("metadata", None)
            if "data" in output:
                output["metadata"] = {}
                output.data = {kind: _smaller(kind, content) for kind, content in output.data.items()}


def _smaller(kind: str, content: Any) -> Any:
    from PIL import Image

    if kind != "image/png":
        return content
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        palette = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small = io.BytesIO()
    palette.save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the notebook and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = f"epochs of each training; by default {NOTEBOOK_EPOCHS}"
    parser.add_argument("--epochs", type=int, default=NOTEBOOK_EPOCHS, help=usual)
    epochs = parser.parse_args(arguments).epochs
    if epochs < FEWEST_EPOCHS:
        parser.error(f"--epochs must be at least {FEWEST_EPOCHS}, or there is no curve to draw, got {epochs}")
    missing = [name for name in ("nbclient", "ipykernel") if importlib.util.find_spec(name) is None]
    if missing:
        parser.exit(1, f'{parser.prog}: {" and ".join(missing)} not installed: pip install "fmnist-xp[browser]"\n')
    import nbformat
    from nbclient.exceptions import CellExecutionError

    notebook = read()
    try:
        execute(notebook, epochs)
    except CellExecutionError as error:
        parser.exit(1, f"{parser.prog}: a cell failed, and nothing is written\n{error}\n")
    shrink(notebook)
    nbformat.validate(notebook)
    write_text(NOTEBOOK, nbformat.writes(notebook) + "\n")
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
