"""The guide to porting: its quotations are in the package, its tests are there, and its backend is a GPU's too."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from block_helpers import QUOTED, Block, blocks, run
from parity.standin import StandInCupy

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "porting.md").read_text(encoding="utf-8")
QUOTATIONS = [block for block in blocks(PAGE) if QUOTED.match(block.above)]
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def lines_of(source: str, name: str) -> list[str]:
    """Return the lines of a function or class, without indents; of a name such as Class.method, the method's."""
    node: Any = ast.parse(source)
    for part in name.split("."):
        (node,) = (inner for inner in node.body if getattr(inner, "name", "") == part)
    return [line.strip() for line in (ast.get_source_segment(source, node) or "").splitlines()]


@pytest.mark.parametrize("block", QUOTATIONS, ids=lambda block: block.above)
def test_quotation_is_in_the_file(block: Block) -> None:
    match = QUOTED.match(block.above)
    assert match
    path, name = match.groups()
    held = lines_of((ROOT / path).read_text(encoding="utf-8"), name)
    left = iter(held)
    for line in block.code.splitlines():
        assert line.strip() in left, f"{path}, {name} has no line {line.strip()!r}, or not in this place"


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_test_that_is_named_is_there(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_every_lesson_has_a_line_and_a_test() -> None:
    lessons = PAGE.split("\n## ")[1:-1]
    assert len(lessons) >= 15
    for lesson in lessons:
        assert re.search(r"^In `", lesson, re.MULTILINE), lesson.splitlines()[0]
        assert "Held by" in lesson, lesson.splitlines()[0]
    assert PAGE.count("::test_") == len(re.findall(r"`tests/[\w/]+\.py::\w+`", PAGE))


def test_lines_are_those_of_the_function() -> None:
    source = "def other():\n    return 1\n\n\nclass Some:\n    def method(self):\n        x = 2\n        return x\n"
    assert lines_of(source, "other") == ["def other():", "return 1"]
    assert lines_of(source, "Some.method") == ["def method(self):", "x = 2", "return x"]
    with pytest.raises(ValueError, match="not enough values"):
        lines_of(source, "Some.other")


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> StandInCupy:
    """The stand-in in CuPy's place."""
    cupy = StandInCupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy


def on_gpu() -> tuple[dict[str, Any], str]:
    """Run the example on "cuda"; return its names and what it printed."""
    names: dict[str, Any] = {}
    page = PAGE.replace('Backend("cpu")', 'Backend("cuda")')
    assert page != PAGE
    return names, "".join(printed for _block, printed in run(page, "porting.md", names))


def test_smallest_backend_trains_on_a_gpu_as_on_the_cpu(cupy: StandInCupy) -> None:
    names, printed = on_gpu()
    there, accuracy = names["train"](names["Backend"]("cpu"), names["rows"], names["known"])
    (shown,) = (block.printed for block in blocks(PAGE) if block.printed)
    assert printed == shown
    assert (names["weights"].tobytes(), names["accuracy"]) == (there.tobytes(), accuracy)
    # One kernel of each formula; two copies of data there and one of weights, besides the number that is read.
    assert cupy.kernels == ["error_of_logistic", "descend"] * 200
    assert len(cupy.fused) == 2
    assert len(cupy.implicit) == 1


def test_its_loop_neither_waits_nor_allocates(cupy: StandInCupy) -> None:
    names, _printed = on_gpu()
    train, backend = names["train"], names["backend"]

    def counts(epochs: int) -> dict[str, int]:
        return cupy.counted(lambda: train(backend, names["rows"], names["known"], epochs))

    few, many = counts(10), counts(30)
    assert {name: many[name] - few.get(name, 0) for name in many if many[name] != few.get(name)} == {"kernels": 40}


def test_smallest_backend_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"^cuda was asked for, but CuPy does not load .*: use cpu$"):
        on_gpu()
    monkeypatch.setitem(sys.modules, "cupy", StandInCupy(failure=OSError("no driver")))
    with pytest.raises(RuntimeError, match=r"^cuda was asked for, but CuPy cannot compute \(no driver\): use cpu$"):
        on_gpu()
