"""OpenCV, imported when the first image needs it, so that the package starts and trains without it."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.errors import DataError

Item = TypeVar("Item")


def opencv() -> ModuleType:
    """Return the module `cv2`; raise DataError, naming what to install, where it cannot be imported."""
    try:
        import cv2
    except ImportError as error:
        raise DataError(
            f"OpenCV cannot be imported ({error}): pip install opencv-python, "
            "or opencv-python-headless where libGL is missing"
        ) from error
    module: ModuleType = cv2
    return module


def decode(file: bytes, flags: int) -> NDArray[np.generic] | None:
    """Return the image in the bytes of a file, any shape and dtype, or None where there is none to decode."""
    cv2 = opencv()
    try:
        image: NDArray[np.generic] | None = cv2.imdecode(np.frombuffer(file, np.uint8), flags)
    except cv2.error:  # nothing in it, or more pixels than OpenCV takes
        return None
    return image


def on_threads(work: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Do `work` on each item, a few at a time; the first error ends it and is raised here.

    OpenCV and the disk let go of Python's lock, so threads help; the calls between do not, so more than
    four do not.
    """
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = [pool.submit(work, item) for item in items]
        try:
            for result in results:
                result.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
