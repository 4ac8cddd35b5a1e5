import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from data_helpers import png
from numpy.typing import NDArray

from fmnist_xp.data import load_fashion_mnist, prepare_photograph
from fmnist_xp.errors import DataError

Image = NDArray[np.uint8]


def saved(path: Path, image: NDArray[Any]) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def garment() -> Image:
    """A shape of full height: bright, with a dark stripe, brighter to the right than to the left."""
    image = np.zeros((28, 28), np.uint8)
    image[:, 6:22] = np.linspace(120, 230, 16).astype(np.uint8)
    image[10:13, 6:22] = 60
    return image


def on_canvas(image: Image) -> Image:
    """Put `image`, seven times as large, away from the middle of 300 x 260 black pixels."""
    canvas = np.zeros((300, 260), np.uint8)
    canvas[20:216, 50:246] = np.kron(image, np.ones((7, 7), np.uint8))
    return canvas


def with_alpha(canvas: Image) -> Image:
    """A cut-out: negated on white, transparent where there is nothing, with any colour there."""
    opaque = canvas > 0
    colour = np.where(opaque, 255 - canvas, 77).astype(np.uint8)
    return np.dstack([colour, colour, colour, opaque.astype(np.uint8) * 255])


PHOTOGRAPHS: dict[str, Callable[[Image], NDArray[Any]]] = {
    "light on dark": lambda canvas: canvas,
    "dark on light": lambda canvas: 255 - canvas,
    "colour": lambda canvas: np.dstack([255 - canvas] * 3),
    "alpha": with_alpha,
    "16 bits": lambda canvas: (255 - canvas).astype(np.uint16) * 257,
    "small": lambda canvas: cv2.resize(255 - canvas, (65, 75), interpolation=cv2.INTER_AREA),
}


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_a_photograph_comes_back_as_the_garment(tmp_path: Path, photograph: str) -> None:
    path = saved(tmp_path / "photo.png", PHOTOGRAPHS[photograph](on_canvas(garment())))
    result = prepare_photograph(path)
    assert result.shape == (28, 28)
    assert result.dtype == np.uint8
    assert np.abs(result.astype(int) - garment()).mean() < 8
    assert not result[:, :5].any()


def test_noise_and_specks_on_a_grey_background_are_no_part_of_the_garment(tmp_path: Path) -> None:
    canvas = 230.0 - on_canvas(garment()) * 0.8 + np.random.default_rng(0).normal(0, 2, (300, 260))
    canvas[5, 5] = 0
    path = saved(tmp_path / "photo.png", canvas.clip(0, 255).astype(np.uint8))
    result = prepare_photograph(path)
    assert np.corrcoef(result.ravel(), garment().ravel())[0, 1] > 0.97


def test_a_white_garment_on_a_grey_wall_is_light_on_black(tmp_path: Path) -> None:
    canvas = np.full((200, 200), 150, np.uint8)
    canvas[50:150, 80:120] = 255
    result = prepare_photograph(saved(tmp_path / "photo.png", canvas))
    assert result[:, 10:18].min() > 200
    assert not result[:, :8].any()


@pytest.mark.parametrize(("height", "width"), [(400, 100), (100, 400), (6, 3)])
def test_the_longest_edge_fills_the_square_and_the_rest_is_in_the_middle(
    tmp_path: Path, height: int, width: int
) -> None:
    canvas = np.full((height + 20, width + 30), 255, np.uint8)
    canvas[4 : 4 + height, 9 : 9 + width] = 40
    result = prepare_photograph(saved(tmp_path / "photo.png", canvas))
    rows, columns = np.flatnonzero(result.any(1)), np.flatnonzero(result.any(0))
    assert max(len(rows), len(columns)) == 28
    assert min(len(rows), len(columns)) == round(28 * min(height, width) / max(height, width))
    assert abs(rows[0] - (27 - rows[-1])) <= 1
    assert abs(columns[0] - (27 - columns[-1])) <= 1


def test_the_data_sets_own_form_comes_back_unchanged(tmp_path: Path) -> None:
    image = garment()
    image[5, 5] = 3  # too faint for a photograph to show
    assert np.array_equal(prepare_photograph(saved(tmp_path / "image.png", image)), image)


@pytest.mark.parametrize("value", [0, 120, 255])
@pytest.mark.parametrize("side", [28, 200])
def test_a_blank_image_is_an_error(tmp_path: Path, value: int, side: int) -> None:
    path = saved(tmp_path / "blank.png", np.full((side, side), value, np.uint8))
    with pytest.raises(DataError, match="the image is blank") as raised:
        prepare_photograph(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_file_that_is_no_image_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "photo.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="not an image" if content is not None else "cannot be read") as raised:
        prepare_photograph(path)
    assert str(path) in str(raised.value)


NAMES = ["photo of\na boot.png", "größe.png", os.fsdecode(b"caf\xe9.png")]


@pytest.mark.parametrize("name", NAMES)
def test_names_may_have_any_characters(tmp_path: Path, name: str) -> None:
    picture = saved(tmp_path / "photo.png", on_canvas(garment()))
    expected = prepare_photograph(picture)
    try:
        picture.rename(tmp_path / name)
    except (OSError, UnicodeError):
        pytest.skip("the file system does not take this name")
    assert np.array_equal(prepare_photograph(tmp_path / name), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_other_forms_are_read(tmp_path: Path, suffix: str) -> None:
    canvas = on_canvas(garment())
    expected = prepare_photograph(saved(tmp_path / "photo.png", canvas))
    found = prepare_photograph(saved(tmp_path / f"photo{suffix}", np.dstack([canvas] * 3)))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


TOO_MUCH = {
    "16,000 x 16,000 pixels": png(b"", width=16_000, height=16_000),
    "65,000 x 65,000 pixels": bytes.fromhex("ffd8ffc0000b08fde8fde801011100ffda0008010100003f00d2ffd9"),
    "a chunk of 1 GB": png(bytes(29 * 28))[:33] + b"\x40" + png(bytes(29 * 28))[34:],
}


@pytest.mark.parametrize("content", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_photograph_that_promises_too_much_is_refused_undecoded(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    monkeypatch.setattr(cv2, "imdecode", None)  # which would make room for it
    with pytest.raises(DataError, match=r"pixels found, more than 50,000,000; make it smaller|damaged or cut short"):
        prepare_photograph(path)
    assert capfd.readouterr() == ("", "")


def test_a_photograph_of_200_gb_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    try:
        with path.open("wb") as file:
            file.truncate(200_000_000_000)
    except OSError:
        pytest.skip("the file system has no such files")
    with pytest.raises(DataError, match=r"photo\.png: 200,000,000,000 bytes found"):
        prepare_photograph(path)


def test_a_photograph_that_is_no_file_is_named(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo") or not Path("/dev/zero").is_char_device():
        pytest.skip("this system has no named pipes or no /dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        with pytest.raises(
            DataError, match=rf"{path}: a (named pipe|folder|device) found where an image file should be"
        ):
            prepare_photograph(path)


def test_real_images_come_back(real_folder: Path, tmp_path: Path) -> None:
    _, test = load_fashion_mnist(real_folder)
    whole = [i for i in test.images[:60] if max(np.ptp(np.flatnonzero(i.any(axis))) for axis in (0, 1)) == 27]
    assert len(whole) > 40
    for image in whole:
        assert np.array_equal(prepare_photograph(saved(tmp_path / "own.png", image)), image)
    likeness = [
        np.corrcoef(prepare_photograph(saved(tmp_path / "photo.png", 255 - on_canvas(image))).ravel(), image.ravel())[
            0, 1
        ]
        for image in whole
    ]
    assert np.median(likeness) > 0.98
