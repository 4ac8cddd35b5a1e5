"""Run docs/notebook.ipynb as it stands, and keep it with its outputs, small.

    python scripts/run_notebook.py                # the whole of it: some minutes, on a machine that does nothing else
    python scripts/run_notebook.py --epochs 20    # fewer epochs of each training

It needs nbclient and ipykernel, of the extra browser. The images are those that `fx.load_fashion_mnist()` finds.
"""

import argparse
import base64
import io
import re
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
COLOURS = 64
"""Of a picture's palette: as good as all for lines and text, in a third of the bytes."""


def read(path: Path = NOTEBOOK) -> Any:
    """Return the notebook in the file."""
    import nbformat

    return nbformat.read(path, as_version=4)


def execute(notebook: Any, epochs: int | None = None) -> None:
    """Run all cells in a new kernel, in place; with `epochs`, which the cell tagged "parameters" then has.

    Raises `nbclient.exceptions.CellExecutionError` where a cell fails.
    """
    from nbclient import NotebookClient

    if epochs is not None:
        (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        cell.source = re.sub(r"(?m)^EPOCHS = .*$", f"EPOCHS = {epochs}", cell.source)
    NotebookClient(
        notebook, timeout=None, kernel_name="python3", record_timing=False, coalesce_streams=True
    ).execute()


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


def main() -> None:
    """Run the notebook and write it."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="epochs of each training; default: 1,100, as the notebook has it")
    notebook = read()
    execute(notebook, parser.parse_args().epochs)
    shrink(notebook)
    nbformat.validate(notebook)
    NOTEBOOK.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
