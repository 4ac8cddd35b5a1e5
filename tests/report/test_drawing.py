"""Pictures do not depend on matplotlib's backend, the user's settings, or a writable cache folder."""

import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

from fmnist_xp.report import plots
from fmnist_xp.report.drawing import drawable, new_figure, save_figure, save_figures
from fmnist_xp.train.history import History

ROOT = Path(plots.__file__).parents[2]
JUPYTER = "module://matplotlib_inline.backend_inline"


def short_history() -> History:
    history = History()
    history.append(0, 0.1, 2.3, 1.0, 0.0)
    history.append(10, 0.2, 2.0, 0.9, 0.0)
    return history


def draw(tmp_path: Path, before: str = "", after: str = "", **environment: str) -> str:
    """Draw a picture in a process with `environment`; return what it printed, and check that stderr is empty."""
    code = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}]
from pathlib import Path
from fmnist_xp.report import drawing, plots
from fmnist_xp.train.history import History
history = History()
history.append(0, 0.1, 2.3, 1.0, 0.0)
{before}
figure = plots.metrics_figure(history, title="衣服", experiment="sgd")  # not in the font
drawing.save_figure(figure, Path("picture.png"))
assert "matplotlib.pyplot" not in sys.modules
{after}
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUTF8": "1", "DISPLAY": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG\r\n")
    return done.stdout.strip()


@pytest.fixture
def matplotlib_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test import matplotlib for the first time; restore the modules afterwards."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("matplotlib", "mpl_toolkits"):
            monkeypatch.delitem(sys.modules, name)


def chosen_backend(settings: str = "rcParams") -> object:
    """Return the backend that pyplot would use, bypassing the lookup, which would choose one."""
    return dict.__getitem__(getattr(sys.modules["matplotlib"], settings), "backend")


@pytest.mark.usefixtures("matplotlib_anew")
@pytest.mark.parametrize("backend", ["svg", "module://nowhere"])
def test_the_first_figure_keeps_the_users_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("MPLBACKEND", backend)
    assert type(new_figure((4.0, 3.0), 50)) is sys.modules["matplotlib.figure"].Figure
    assert (chosen_backend(), os.environ["MPLBACKEND"]) == (backend, backend)


@pytest.mark.usefixtures("matplotlib_anew")
@pytest.mark.parametrize("backend", ["no backend at all", "", None])
def test_the_first_figure_ignores_an_unknown_backend(monkeypatch: pytest.MonkeyPatch, backend: str | None) -> None:
    if backend is None:
        monkeypatch.delenv("MPLBACKEND", raising=False)
    else:
        monkeypatch.setenv("MPLBACKEND", backend)
    assert new_figure((4.0, 3.0), 50).get_size_inches().tolist() == [4.0, 3.0]
    assert os.environ.get("MPLBACKEND") == backend
    assert chosen_backend() == chosen_backend("rcParamsOrig")  # as in the settings file


def test_later_figures_keep_a_backend_chosen_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matplotlib, "rcParams", matplotlib.rcParams.copy())
    matplotlib.rcParams["backend"] = "pdf"
    monkeypatch.setenv("MPLBACKEND", "svg")
    assert type(new_figure((4.0, 3.0), 50)) is matplotlib.figure.Figure
    assert (chosen_backend(), os.environ["MPLBACKEND"]) == ("pdf", "svg")


@pytest.mark.parametrize("backend", [JUPYTER, "module://nowhere", "inline", "TkAgg", "no backend at all", "", "pdf"])
def test_any_backend_in_the_environment_is_accepted(tmp_path: Path, backend: str) -> None:
    assert draw(tmp_path, after="print(os.environ['MPLBACKEND'])", MPLBACKEND=backend) == backend


def test_the_backend_stays_the_users(tmp_path: Path) -> None:
    chosen = "import matplotlib; print(matplotlib.rcParams['backend'])"
    assert draw(tmp_path, after=chosen, MPLBACKEND="svg") == "svg"
    assert draw(tmp_path, before="import matplotlib; matplotlib.use('pdf')", after=chosen, MPLBACKEND="svg") == "pdf"


def test_an_unwritable_cache_folder_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    draw(tmp_path, MPLCONFIGDIR=str(tmp_path / "file"))
    draw(tmp_path, MPLCONFIGDIR=str(tmp_path / "new"))  # where the font list has to be built


def test_unknown_settings_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("backend: no such\nlines.linewidth: thick\nno setting at all\n")
    draw(tmp_path)


def test_settings_are_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 7.0)
    before = dict(dict.items(matplotlib.rcParams))  # bypasses the lookup, which would choose a backend
    save_figures(plots.run_figures(short_history(), title="a run", experiment="sgd"), tmp_path)
    assert dict(dict.items(matplotlib.rcParams)) == before


def test_a_figure_has_its_size_and_is_a_png_whatever_its_suffix(tmp_path: Path) -> None:
    figure = new_figure((4.0, 3.0), 50)
    for name in ("picture.png", "picture.pdf", "picture"):
        assert save_figure(figure, tmp_path / name) == tmp_path / name
        start = (tmp_path / name).read_bytes()[:24]
        assert start[:8] == b"\x89PNG\r\n\x1a\n"
        assert [int.from_bytes(start[16:20]), int.from_bytes(start[20:24])] == [200, 150]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture", "picture.pdf", "picture.png"]


def test_values_beyond_1e300_become_infinite() -> None:
    values = [[0, 1e300, math.nextafter(1e300, math.inf)], [-1e300, -1e308, math.nan]]
    np.testing.assert_array_equal(
        drawable(values), np.array([[0.0, 1e300, math.inf], [-1e300, -math.inf, math.nan]]), strict=True
    )
    for small in ([1, 2], np.array([1, 2], dtype=np.float32)):
        np.testing.assert_array_equal(drawable(small), np.array([1.0, 2.0]), strict=True)
