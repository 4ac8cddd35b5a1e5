"""The ported notebook: its cells run, and the one that is kept was run as a whole."""

import base64
import io
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import run_notebook
from PIL import Image

from fmnist_xp.report.notebook import NOTEBOOK_EPOCHS

nbformat = pytest.importorskip("nbformat", reason="nbformat, which reads a notebook, is not installed")

MOST_BYTES = 600_000
PLACES = re.compile(r"https?://|(?:^|[\s'\"(])(?:/[\w.-]+){2,}|[A-Za-z]:\\|~/", re.MULTILINE)
"""An address, or a path of the machine."""


def outputs(cell: Any) -> str:
    """Return what a cell printed."""
    return "".join(output.text for output in cell.get("outputs", []) if output.output_type == "stream")


@pytest.fixture(scope="module")
def kept() -> Any:
    return run_notebook.read()


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.filterwarnings("ignore")  # of the packages that run it
def test_all_cells_run(tmp_path: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On few images and epochs, to the end, in one kernel; then as the script would keep it."""
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name}, which runs a notebook, is not installed")
    environment = {
        "FMNIST_XP_DATA": str(idx_folder),
        "FMNIST_XP_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(run_notebook.NOTEBOOK.parents[1]),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "OPENBLAS_NUM_THREADS": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = run_notebook.read()
    run_notebook.execute(notebook, epochs=21)
    printed = [outputs(cell) for cell in notebook.cells]
    everything = "".join(printed)
    assert "fashion-mnist" not in everything  # these images are drawn
    assert everything.count("epoch: 0, ") == 3
    assert "all agree: True" in everything
    assert "losses of both: True" in everything
    assert not any(word == "False" for word in everything.split())

    before = pictures(notebook)
    run_notebook.shrink(notebook)
    after = pictures(notebook)
    assert len(before) == len(after) == 5
    for large, small in zip(before, after, strict=True):
        assert len(small) < len(large)
        with Image.open(io.BytesIO(large)) as first, Image.open(io.BytesIO(small)) as second:
            assert first.size == second.size
    assert [outputs(cell) for cell in notebook.cells] == printed
    nbformat.validate(notebook)
    assert all(not output.get("metadata") for cell in code_cells(notebook) for output in cell.outputs)


def pictures(notebook: Any) -> list[bytes]:
    """Return the PNG files in its outputs."""
    found = [output.data for cell in code_cells(notebook) for output in cell.outputs if "data" in output]
    return [base64.b64decode(data["image/png"]) for data in found if "image/png" in data]


def test_fewer_epochs_than_make_a_curve_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_notebook.main(["--epochs", "10"])
    assert end.value.code == 2
    assert "--epochs must be at least 11, or there is no curve to draw, got 10\n" in capsys.readouterr().err


def test_missing_packages_are_named_with_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ipykernel" else name)
    with pytest.raises(SystemExit) as end:
        run_notebook.main([])
    assert end.value.code == 1
    assert capsys.readouterr().err.endswith(': ipykernel not installed: pip install "fmnist-xp[browser]"\n')


@pytest.mark.filterwarnings("ignore")  # of the packages that run it
def test_notebook_with_a_cell_that_fails_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name}, which runs a notebook, is not installed")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = tmp_path / "notebook.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("EPOCHS / 0", metadata={"tags": ["parameters"]})]),
        notebook,
    )
    before = notebook.read_bytes()
    monkeypatch.setattr(run_notebook, "NOTEBOOK", notebook)
    monkeypatch.setattr(run_notebook, "read", lambda: nbformat.read(notebook, as_version=4))
    with pytest.raises(SystemExit) as end:
        run_notebook.main([])
    assert end.value.code == 1
    assert "NameError" in capsys.readouterr().err
    assert notebook.read_bytes() == before


def test_kept_notebook_is_of_a_whole_run(kept: Any) -> None:
    (parameters,) = (cell.source for cell in kept.cells if "parameters" in cell.metadata.get("tags", []))
    assert f"EPOCHS = {NOTEBOOK_EPOCHS}" in parameters, "run scripts/run_notebook.py without --epochs"
    trainings = [outputs(cell) for cell in code_cells(kept) if ".fit(" in cell.source and "callbacks" in cell.source]
    assert len(trainings) == 3
    for lines in trainings:
        logged = [int(epoch) for epoch in re.findall(r"^epoch: (\d+), ", lines, re.MULTILINE)]
        assert logged == list(range(0, NOTEBOOK_EPOCHS, 100))
    assert outputs(kept.cells[4]).startswith("fashion-mnist (60000, 28, 28)")


def test_kept_notebook_was_run_from_first_to_last_cell_without_errors(kept: Any) -> None:
    cells = code_cells(kept)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds == {"stream", "display_data"}
    assert {output.name for cell in cells for output in cell.outputs if output.output_type == "stream"} == {"stdout"}
    assert len(pictures(kept)) == 5


def test_kept_notebook_is_small_and_names_no_place(kept: Any) -> None:
    assert run_notebook.NOTEBOOK.stat().st_size < MOST_BYTES
    for cell in code_cells(kept):
        text = outputs(cell)
        assert not PLACES.search(text), text
        assert socket.gethostname() not in text
    assert dict(kept.metadata) == {"language_info": {"name": "python"}}


@pytest.mark.parametrize("text", ["see /srv/me/data", "'/tmp/x'", "https://host/page", "C:\\data", "~/data"])
def test_places_are_found(text: str) -> None:
    assert PLACES.search(text)


def test_words_are_no_places() -> None:
    assert not PLACES.search("epoch 1/2, loss/accuracy, 5 / 7, sgd and/or adam, openblas 0.3.31 (SkylakeX)")
