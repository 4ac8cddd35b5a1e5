"""Pictures whatever matplotlib is set to by Jupyter, a user's settings or a folder that cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from fmnist_xp.report import plots
from fmnist_xp.train.history import History

ROOT = Path(plots.__file__).parents[2]
JUPYTER = "module://matplotlib_inline.backend_inline"


def short_history() -> History:
    history = History()
    history.append(0, 0.1, 2.3, 1.0, 0.0)
    history.append(10, 0.2, 2.0, 0.9, 0.0)
    return history


def draw(tmp_path: Path, before: str = "", after: str = "", **environment: str) -> str:
    """Draw a picture in a process with `environment`; return what it printed, with nothing on stderr."""
    code = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}]
from pathlib import Path
from fmnist_xp.report import plots
from fmnist_xp.train.history import History
history = History()
history.append(0, 0.1, 2.3, 1.0, 0.0)
{before}
plots.plot_metrics(history, Path("picture.png"), title="衣服", experiment="sgd")  # which the font lacks
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


@pytest.mark.parametrize("backend", [JUPYTER, "module://nowhere", "inline", "TkAgg", "no backend at all", "", "pdf"])
def test_whatever_the_environment_has_for_a_backend(tmp_path: Path, backend: str) -> None:
    assert draw(tmp_path, after="print(os.environ['MPLBACKEND'])", MPLBACKEND=backend) == backend


def test_backend_stays_the_users(tmp_path: Path) -> None:
    chosen = "import matplotlib; print(matplotlib.rcParams['backend'])"
    assert draw(tmp_path, after=chosen, MPLBACKEND="svg") == "svg"
    assert draw(tmp_path, before="import matplotlib; matplotlib.use('pdf')", after=chosen, MPLBACKEND="svg") == "pdf"


def test_cache_folder_that_cannot_be_written_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    draw(tmp_path, MPLCONFIGDIR=str(tmp_path / "file"))
    draw(tmp_path, MPLCONFIGDIR=str(tmp_path / "new"))  # where the font list is made anew


def test_settings_that_matplotlib_does_not_know_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("backend: no such\nlines.linewidth: thick\nno setting at all\n")
    draw(tmp_path)


def test_settings_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 7.0)
    before = dict(dict.items(matplotlib.rcParams))  # as they lie there: to ask for the backend would choose one
    plots.plot_run(short_history(), tmp_path, title="a run", experiment="sgd")
    assert dict(dict.items(matplotlib.rcParams)) == before
