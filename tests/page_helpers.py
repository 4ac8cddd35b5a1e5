"""Reading a report's page without a browser: its text, tables, images, and what it would load; packages hidden."""

import base64
import json
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import cv2
import numpy as np
import pytest

VOID = {"meta", "img", "input", "br"}  # elements without an end


@dataclass
class Element:
    name: str
    attributes: dict[str, str | None]
    text: str = ""
    parents: list["Element"] = field(default_factory=list)


class Page(HTMLParser):
    """The elements of a page, in its order; an element's text has that of those in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), parents=list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, name: str, **attributes: str) -> list[Element]:
        """Return the elements of a name, with these attributes; `class_` is the class."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return [e for e in self.elements if e.name == name and wanted.items() <= e.attributes.items()]

    def table(self, label: str) -> list[list[str]]:
        """Return the cells of the table in the region of this label."""
        (region,) = (
            e for e in self.all("div", role="region") if label in e.attributes.values()
        )  # aria-label, or the id of a title
        rows = [e for e in self.all("tr") if region in e.parents]
        cells = [e for e in self.elements if e.name in ("th", "td")]
        return [[" ".join(cell.text.split()) for cell in cells if row in cell.parents] for row in rows]

    @property
    def figure(self) -> Any:
        """The curves, as Plotly gets them."""
        (script,) = self.all("script", id="figure")
        return json.loads(script.text)


def image(element: Element) -> np.ndarray:
    """Return the pixels of an <img> that holds its PNG."""
    kind, content = str(element.attributes["src"]).split(",")
    assert kind == "data:image/png;base64"
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make imports of a package fail as if it were not installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
