"""The pages whose blocks build on each other: each runs as it stands, and prints what stands below it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from block_helpers import Block, blocks, differences, run
from parity.standin import DeviceArray, StandInCupy
from threadpoolctl import threadpool_limits

from fmnist_xp.backend import CudaBackend

DOCS = Path(__file__).parents[2] / "docs"
REAL = os.environ.get("FMNIST_XP_DATA")  # where other images are given, figures are others


@pytest.fixture
def images(tmp_path: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The images that `load_fashion_mnist` finds: those of the environment, else a few synthetic ones."""
    monkeypatch.setenv("FMNIST_XP_DATA", REAL or str(idx_folder))
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with threadpool_limits(1, user_api="blas"):  # for other tests run on the other cores
        yield


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("name", ["tutorial.md", "porting.md"])
def test_page_runs_and_prints_what_it_shows(name: str) -> None:
    namespace: dict[str, Any] = {"__name__": name}
    found = []
    for block, printed in run((DOCS / name).read_text(encoding="utf-8"), name, namespace):
        place = f"docs/{name}, line {block.line}"
        assert (block.printed is None) == (not printed), f"{place} prints, or shows, what is not shown or printed"
        # A comparison in a page must hold on any images.
        found += [f"{place}: False printed"] * ("False" in printed.split())
        if getattr(namespace.get("train"), "name", "fashion-mnist") == "fashion-mnist":
            found += [f"{place}: {difference}" for difference in differences(block.printed or "", printed)]
    assert not found, "\n".join(found)


@pytest.mark.usefixtures("images")
def test_tutorial_is_the_same_on_a_gpu(idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it says of its first block; on the stand-in, with few images and epochs."""
    monkeypatch.setenv("FMNIST_XP_DATA", str(idx_folder))
    monkeypatch.setattr("fmnist_xp.get_backend", lambda _device: CudaBackend(cupy=StandInCupy()))
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    shown = "".join(block.printed or "" for block in blocks(text))
    page = re.sub(r"(epochs=|range\()61\b", r"\g<1>3", text)
    namespace: dict[str, Any] = {}
    printed = "".join(printed for _block, printed in run(page, "tutorial.md", namespace))
    assert isinstance(namespace["X"], DeviceArray)
    assert re.findall("True|False", printed) == re.findall("True", shown)


# The helpers


def test_blocks_of_a_page() -> None:
    page = (
        "Before.\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```text\nnot what it prints\n```\n\n"
        "In `some/file.py`, `Class.method`:\n\n```python\nquoted\n```\n\n"
        "<!-- not run: needs a GPU -->\n```python\nnot run\n```\n"
    )
    assert blocks(page) == [
        Block("python", "print(1)\n", 4, "Before.", "1\n"),
        Block("text", "not what it prints\n", 12, "", None),
        Block("python", "quoted\n", 18, "In `some/file.py`, `Class.method`:", None),
        Block("python", "not run\n", 23, "<!-- not run: needs a GPU -->", None),
    ]
    assert [(block.line, printed) for block, printed in run(page, "page", {})] == [(4, "1\n")]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("loss 0.4321\n", "loss 0.4322\n", True),
        ("loss 0.4321\n", "loss 0.4323\n", False),
        ("[[1.  -2.5]\n [0.  3.]]", "[[1. -2.4]\n [0.   3.]]", True),
        ("1e-05 True", "2e-05 True", True),
        ("1e-05 True", "3e-05 True", False),
        ("1.2e-05", "1.3e-05", True),
        ("1.2e-05", "1.4e-05", False),
        ("epoch 10", "epoch 11", False),  # no float: exactly
        ("1,000 rows", "1,001 rows", False),
        ("True", "False", False),
        ("0.5", "0.5 more", False),
        ("0.5", "nan", False),
    ],
)
def test_what_is_printed_is_compared_to_the_digits_shown(shown: str, printed: str, same: bool) -> None:
    assert (not list(differences(shown, printed))) == same
