"""OpenCV, imported when the first image needs it, so that the package starts and trains without it."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.errors import DataError
from fmnist_xp.machine import usable_cores

Item = TypeVar("Item")


def opencv() -> ModuleType:
    """Return the module `cv2`; raise DataError, naming what to install, where it cannot be imported."""
    try:
        import cv2
    except ImportError as error:
        raise DataError(f"OpenCV cannot be imported ({error}): pip install opencv-python-headless") from error
    module: ModuleType = cv2
    return module


def silence() -> None:
    """Keep OpenCV from writing to stderr of files it cannot read: the caller says that, once."""
    logging = opencv().utils.logging
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)


def decode(file: bytes, flags: int) -> NDArray[np.generic] | None:
    """Return the image in the bytes of a file, any shape and dtype, or None where there is none to decode."""
    cv2 = opencv()
    try:
        image: NDArray[np.generic] | None = cv2.imdecode(np.frombuffer(file, np.uint8), flags)
    except cv2.error:  # nothing in it, or more pixels than OpenCV takes
        return None
    return image


def thread_count() -> int:
    """Return on how many threads `on_threads` works: one for each core, as far as they get on side by side."""
    return min(8, usable_cores())


def on_threads(work: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Do `work` on each item, a few at a time; the first error ends it and is raised here.

    OpenCV and the disk let go of Python's lock, so threads help; the calls between do not, so very many do not.
    """
    with ThreadPoolExecutor(thread_count()) as pool:
        results = [pool.submit(work, item) for item in items]
        try:
            for result in results:
                result.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
