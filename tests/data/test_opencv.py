import sys
from pathlib import Path

import cv2
import pytest

from fmnist_xp.data.opencv import opencv
from fmnist_xp.errors import DataError

MEND = r"pip install --force-reinstall --no-deps opencv-python-headless$"


def without_cv2(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in [name for name in sys.modules if name == "cv2" or name.startswith("cv2.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


def test_opencv_says_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    logging.setLogLevel(4)  # OpenCV's usual level, and a step more
    cv2.imread(str(tmp_path / "gone.png"))
    assert "gone.png" in capfd.readouterr().err
    opencv().imread(str(tmp_path / "gone.png"))
    assert capfd.readouterr().err == ""


def test_missing_opencv_is_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match=r"pip install opencv-python-headless$"):
        opencv()


BROKEN = {
    "no libGL": "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
    "no extension": "raise ImportError('ERROR: recursion is detected during loading of \"cv2\" binary extensions.')",
    "a module of it gone": "import cv2.no_such_module",
    "nothing in it": "",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_opencv_is_to_be_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").write_text(content)
    without_cv2(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=MEND) as raised:
        opencv()
    assert "pip uninstall -y opencv-python, then" in str(raised.value)


def test_folder_that_a_removed_package_left_is_no_opencv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cv2" / "__pycache__").mkdir(parents=True)
    without_cv2(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(DataError, match=MEND):
        opencv()
