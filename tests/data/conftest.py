"""A separate cache for each test, a small folder of images, and the real data where a machine has it."""

import os
from pathlib import Path

import cv2
import pytest
from data_helpers import noise

from fmnist_xp.data import Dataset, load_fashion_mnist

REAL = os.environ.get("FMNIST_XP_DATA")  # read before the fixture below unsets it


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FMNIST_XP_CACHE", str(folder))
    monkeypatch.delenv("FMNIST_XP_DATA", raising=False)
    monkeypatch.delenv("FMNIST_XP_URL", raising=False)
    return folder


@pytest.fixture(scope="session")
def real_folder() -> Path:
    if not REAL or not Path(REAL, "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip("real Fashion-MNIST not found: set FMNIST_XP_DATA to the folder of the four IDX .gz files")
    return Path(REAL)


@pytest.fixture(scope="session")
def real_splits(real_folder: Path) -> tuple[Dataset, Dataset]:
    """Read (train, test) of the real data set, once for all tests that change nothing in it."""
    return load_fashion_mnist(real_folder)


@pytest.fixture(scope="session")
def png_sample(real_folder: Path) -> Path:
    folder = real_folder.parent / "png-sample"
    if not folder.is_dir():
        pytest.skip("sample of the notebook's images not found: png-sample beside FMNIST_XP_DATA")
    return folder


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder of images, written with OpenCV: noise(20) as train and noise(10, 1) as test."""
    folder = tmp_path / "images"
    for split, dataset in (("train", noise(20)), ("test", noise(10, 1))):
        for index, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
            path = folder / split / str(label) / f"{index // 10:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), image)
    return folder
