"""OpenCV, imported when the first image is decoded, so that the package starts and trains without it."""

from types import ModuleType

from fmnist_xp.errors import DataError


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
