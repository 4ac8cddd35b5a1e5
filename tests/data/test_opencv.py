import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from fmnist_xp.data.opencv import on_threads, opencv
from fmnist_xp.errors import DataError

MEND = r"pip install --force-reinstall --no-deps opencv-python-headless$"


def without_cv2(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in [name for name in sys.modules if name == "cv2" or name.startswith("cv2.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


def test_opencv_says_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    logging.setLogLevel(4)  # one level above OpenCV's default
    cv2.imread(str(tmp_path / "gone.png"))
    assert "gone.png" in capfd.readouterr().err
    opencv().imread(str(tmp_path / "gone.png"))
    assert capfd.readouterr().err == ""


def test_missing_opencv_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match=r"pip install opencv-python-headless$"):
        opencv()


BROKEN = {
    "no libGL": "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
    "no extension": "raise ImportError('ERROR: recursion is detected during loading of \"cv2\" binary extensions.')",
    "a missing submodule": "import cv2.no_such_module",
    "an empty module": "",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_opencv_says_how_to_repair_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").write_text(content)
    without_cv2(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=MEND) as raised:
        opencv()
    assert "pip uninstall -y opencv-python, then" in str(raised.value)


def test_a_folder_left_by_a_removed_package_is_not_opencv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cv2" / "__pycache__").mkdir(parents=True)
    without_cv2(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(DataError, match=MEND):
        opencv()


@pytest.mark.parametrize("major", [4, 5])
def test_opencv_is_silenced_in_each_major_version(monkeypatch: pytest.MonkeyPatch, major: int) -> None:
    levels: list[int] = []
    logging = SimpleNamespace(setLogLevel=levels.append)
    module = SimpleNamespace(imdecode=None, **({"utils": SimpleNamespace(logging=logging)} if major == 5 else {}))
    if major == 4:
        module.setLogLevel = levels.append
    monkeypatch.setitem(sys.modules, "cv2", module)
    assert opencv() is module
    assert levels == [0]


@pytest.mark.parametrize(("cores", "expected"), [(2, 2), (100, 8)])
def test_a_few_items_are_processed_at_a_time(monkeypatch: pytest.MonkeyPatch, cores: int, expected: int) -> None:
    monkeypatch.setattr("fmnist_xp.data.opencv.usable_cores", lambda: cores)
    together = threading.Barrier(expected, timeout=10)
    threads = set()

    def work(_: int) -> None:
        together.wait()
        threads.add(threading.get_ident())

    on_threads(work, range(8 * expected))
    assert len(threads) == expected


def test_waiting_items_are_not_started_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.data.opencv.usable_cores", lambda: 1)
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise ValueError("the first")
        time.sleep(0.02)

    with pytest.raises(ValueError, match="the first"):
        on_threads(work, range(50))
    assert len(begun) < 50
