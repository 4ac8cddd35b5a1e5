"""OpenCV, imported only when an image needs it, so that the package starts and trains without it."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.errors import DataError
from fmnist_xp.machine import usable_cores

Item = TypeVar("Item")

_MEND = "pip uninstall -y opencv-python, then pip install --force-reinstall --no-deps opencv-python-headless"
"""opencv-python needs display libraries (libGL), and uninstalling either package deletes files of the other."""


def opencv() -> ModuleType:
    """Return the module `cv2`, silenced: about a file that it cannot read, the caller raises an error.

    DataError, naming what to install, if it cannot be imported.
    """
    try:
        import cv2
    except ImportError as error:
        if error.name == "cv2":
            raise DataError(f"OpenCV is not installed ({error}): pip install opencv-python-headless") from error
        raise DataError(f"OpenCV cannot be imported ({error}): {_MEND}") from error
    if not hasattr(cv2, "imdecode"):  # only an empty folder is left
        raise DataError(f"OpenCV is installed in part only: {_MEND}")
    module: ModuleType = cv2
    logging = module if hasattr(module, "setLogLevel") else module.utils.logging  # in OpenCV 4, and from 5 on
    logging.setLogLevel(0)  # silent
    return module


def decoder(flags: int) -> Callable[[bytes], NDArray[np.generic] | None]:
    """Return a function that decodes the bytes of a file to an array of any shape and dtype, or None on failure."""
    cv2 = opencv()

    def decode(file: bytes) -> Any:
        try:
            return cv2.imdecode(np.frombuffer(file, np.uint8), flags)
        except cv2.error:  # empty, or more pixels than OpenCV takes
            return None

    return decode


def on_threads(work: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Call `work` for each item, a few at a time; the first error stops it and is raised here.

    OpenCV and disk access release Python's lock, so threads help; the calls in between hold it, so many do not.
    """
    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        list(pool.map(work, items))  # which cancels the rest when one fails
