"""A hook of MkDocs: `docs/notebook.ipynb` as a page, `docs/notebook.md`, and links to it lead to the page."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebook.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page and its pictures."""
    pictures: dict[str, bytes] = {}
    page = "\n\n".join(_parts(json.loads(NOTEBOOK.read_text(encoding="utf-8")), pictures)) + "\n"
    files.append(File.generated(config, "docs/notebook.md", content=page))
    for name, picture in pictures.items():
        files.append(File.generated(config, f"docs/notebook/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to the notebook to its page."""
    return re.sub(r"(\]\([^)\s:]*notebook)\.ipynb\)", r"\1.md)", markdown)


def _parts(notebook: dict[str, Any], pictures: dict[str, bytes]) -> Iterator[str]:
    """Go through the cells and what they printed and drew, as Markdown; the pictures go into `pictures`."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
        elif cell["cell_type"] == "code":
            yield f"```python\n{source}\n```"
            for output in cell["outputs"]:
                data = output.get("data", {"text/plain": output.get("text", "")})
                if "image/png" in data:
                    name = f"{len(pictures) + 1}.png"
                    pictures[name] = base64.b64decode("".join(data["image/png"]))
                    yield f"![What the cell above draws](notebook/{name})"
                else:
                    yield f"```text\n{''.join(data['text/plain']).rstrip()}\n```"
