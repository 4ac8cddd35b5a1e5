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
from fmnist_xp.data.opencv import decoder
from fmnist_xp.data.photographs import _border, _read_grey
from fmnist_xp.errors import DataError

Image = NDArray[np.uint8]


def saved(path: Path, image: NDArray[Any]) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def garment() -> Image:
    """A shape of full height: bright, with a dark stripe, getting brighter to the right."""
    image = np.zeros((28, 28), np.uint8)
    image[:, 6:22] = np.linspace(120, 230, 16).astype(np.uint8)
    image[10:13, 6:22] = 60
    return image


def on_canvas(image: Image) -> Image:
    """Put `image`, enlarged seven times, off-centre on 300 x 260 black pixels."""
    canvas = np.zeros((300, 260), np.uint8)
    canvas[20:216, 50:246] = np.kron(image, np.ones((7, 7), np.uint8))
    return canvas


def with_alpha(canvas: Image) -> Image:
    """A cut-out: negated, and transparent where there is nothing, with an arbitrary colour there."""
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
def test_a_photograph_gives_the_garment(tmp_path: Path, photograph: str) -> None:
    path = saved(tmp_path / "photo.png", PHOTOGRAPHS[photograph](on_canvas(garment())))
    result = prepare_photograph(path)
    assert result.shape == (28, 28)
    assert result.dtype == np.uint8
    assert np.abs(result.astype(int) - garment()).mean() < 8
    assert not result[:, :5].any()


def test_noise_and_specks_on_a_grey_background_are_not_part_of_the_garment(tmp_path: Path) -> None:
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
def test_the_longest_edge_fills_the_square_and_the_other_is_centred(tmp_path: Path, height: int, width: int) -> None:
    canvas = np.full((height + 20, width + 30), 255, np.uint8)
    canvas[4 : 4 + height, 9 : 9 + width] = 40
    result = prepare_photograph(saved(tmp_path / "photo.png", canvas))
    rows, columns = np.flatnonzero(result.any(1)), np.flatnonzero(result.any(0))
    assert max(len(rows), len(columns)) == 28
    assert min(len(rows), len(columns)) == round(28 * min(height, width) / max(height, width))
    assert abs(rows[0] - (27 - rows[-1])) <= 1
    assert abs(columns[0] - (27 - columns[-1])) <= 1


def test_an_image_of_the_data_set_is_returned_unchanged(tmp_path: Path) -> None:
    image = garment()
    image[5, 5] = 3  # too faint for a photograph to show
    assert np.array_equal(prepare_photograph(saved(tmp_path / "image.png", image)), image)


@pytest.mark.parametrize("value", [0, 120, 255])
@pytest.mark.parametrize("side", [28, 200])
def test_a_blank_image_is_an_error(tmp_path: Path, value: int, side: int) -> None:
    path = saved(tmp_path / "blank.png", np.full((side, side), value, np.uint8))
    with pytest.raises(
        DataError, match=r"blank\.png: the image is blank; give one with a garment on a plain background$"
    ) as raised:
        prepare_photograph(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_file_that_is_not_an_image_is_an_error(tmp_path: Path, content: bytes | None) -> None:
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
def test_other_formats_are_read(tmp_path: Path, suffix: str) -> None:
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
    monkeypatch.setattr(cv2, "imdecode", None)  # which would allocate memory for it
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


def test_a_photograph_that_is_not_a_file_is_named(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo") or not Path("/dev/zero").is_char_device():
        pytest.skip("this system has no named pipes or no /dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        with pytest.raises(
            DataError, match=rf"{path}: a (named pipe|folder|device) found where an image file should be"
        ):
            prepare_photograph(path)


def test_real_images_are_recovered(real_folder: Path, tmp_path: Path) -> None:
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


# The steps, written out


def blocks(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Return `values` with every pixel enlarged to `side` x `side`."""
    return np.kron(values, np.ones((side, side), values.dtype))


def on_background(garment: NDArray[Any], value: int, border: int = 9) -> NDArray[Any]:
    return np.pad(garment, border, constant_values=value)


def sharpened(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add 0.3 times the difference from a Gaussian blur (3 x 3, deviation 1) to the pixels that are not 0."""
    weights = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / 2)
    weights /= weights.sum()
    padded = np.pad(image, 1, mode="reflect")
    rows = sum(weight * padded[:, i : i + 28] for i, weight in enumerate(weights))
    blurred = sum(weight * rows[i : i + 28] for i, weight in enumerate(weights))
    return np.where(image > 0, image + 0.3 * (image - blurred), 0)


def squared(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre in 28 x 28, an odd pixel going above or to the left."""
    height, width = light.shape
    image = np.zeros((28, 28))
    top, left = (29 - height) // 2, (29 - width) // 2
    image[top : top + height, left : left + width] = light
    return image


def patches(height: int, width: int, *values: int) -> NDArray[np.uint8]:
    """Return random pixels, with each of `values` in some of them, but not at the edges."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(60, 256, (height, width), dtype=np.uint8)
    inside = generator.choice((height - 2) * (width - 2), 12 * len(values), replace=False)
    for number, place in enumerate(inside):
        pixels[1 + place // (width - 2), 1 + place % (width - 2)] = values[number % len(values)]
    return pixels


@pytest.mark.parametrize("background", [0, 20])
@pytest.mark.parametrize(("height", "width"), [(28, 17), (12, 28)])
def test_a_light_garment_on_dark_matches_the_steps(tmp_path: Path, background: int, height: int, width: int) -> None:
    garment = patches(height, width, background, background + 1, 255)
    path = saved(tmp_path / "photo.png", on_background(blocks(garment, 4), background))
    light = (garment.astype(float) - background) * 255 / (255 - background)
    expected = np.rint(np.clip(sharpened(squared(light)), 0, 255))
    np.testing.assert_allclose(prepare_photograph(path), expected, atol=1)
    assert np.mean(prepare_photograph(path) == expected) > 0.99


def test_a_dark_garment_on_light_matches_the_steps(tmp_path: Path) -> None:
    garment = 240 - patches(28, 18, 1, 240) // 2
    path = saved(tmp_path / "photo.png", on_background(blocks(garment, 3), 240))
    light = (240 - garment.astype(float)) * 255 / 240
    expected = np.rint(np.clip(sharpened(squared(light)), 0, 255))
    np.testing.assert_allclose(prepare_photograph(path), expected, atol=1)
    assert np.mean(prepare_photograph(path) == expected) > 0.99


def test_a_large_garment_is_averaged(tmp_path: Path) -> None:
    garment = patches(112, 68, 0)
    path = saved(tmp_path / "photo.png", on_background(garment, 0))
    means = garment.astype(float).reshape(28, 4, 17, 4).mean(axis=(1, 3))
    expected = np.rint(np.clip(sharpened(squared(means)), 0, 255))
    np.testing.assert_allclose(prepare_photograph(path), expected, atol=1)


def test_the_faintest_pixel_within_a_garment_is_kept(tmp_path: Path) -> None:
    garment = np.zeros((28, 28), np.uint8)
    garment[0, 0] = garment[-1, -1] = 255
    garment[14, 14] = 1
    path = saved(tmp_path / "photo.png", on_background(blocks(garment, 4), 0))
    assert np.argwhere(prepare_photograph(path)).tolist() == [[0, 0], [14, 14], [27, 27]]


@pytest.mark.parametrize(("lighter", "darker"), [(50, 50), (51, 50), (90, 30)])
def test_a_garment_lighter_and_darker_than_its_background_is_light_where_lighter(
    tmp_path: Path, lighter: int, darker: int
) -> None:
    garment = np.full((28, 28), 100 + lighter, np.uint8)
    garment[14:] = 100 - darker
    path = saved(tmp_path / "photo.png", on_background(blocks(garment, 2), 100))
    light = np.clip((garment.astype(float) - 100) * 255 / 155, 0, 255)
    expected = np.rint(np.clip(sharpened(light), 0, 255))
    np.testing.assert_allclose(prepare_photograph(path), expected, atol=1)


def test_a_garment_of_the_right_size_is_only_moved(tmp_path: Path) -> None:
    garment = patches(28, 11, 0)
    path = saved(tmp_path / "photo.png", on_background(garment, 0, 3))
    np.testing.assert_array_equal(prepare_photograph(path), squared(garment))


def test_a_smaller_garment_is_interpolated_and_not_sharpened(tmp_path: Path) -> None:
    garment = patches(21, 12, 0)
    path = saved(tmp_path / "photo.png", on_background(garment, 0))

    def between(values: NDArray[Any], count: int) -> NDArray[Any]:
        at = np.clip((np.arange(count) + 0.5) * len(values) / count - 0.5, 0, len(values) - 1)
        low = np.minimum(at.astype(int), len(values) - 2)
        share = (at - low)[:, None]
        return values[low] * (1 - share) + values[low + 1] * share

    expected = between(between(garment.astype(float), 28).T, 16).T
    np.testing.assert_allclose(prepare_photograph(path), np.rint(squared(expected)), atol=1)


@pytest.mark.parametrize("upright", [False, True])
def test_a_very_thin_garment_becomes_a_line_of_one_pixel(tmp_path: Path, upright: bool) -> None:
    canvas = on_background(np.full((280, 4), 200, np.uint8), 0)
    result = prepare_photograph(saved(tmp_path / "photo.png", canvas if upright else canvas.T))
    result = result if upright else result.T
    assert np.flatnonzero(result.any(0)).tolist() == [14]
    assert np.flatnonzero(result.any(1)).tolist() == list(range(28))


def edges(path: Path, canvas: NDArray[Any]) -> tuple[int, int]:
    """Return how many rows and columns of the prepared canvas show the garment."""
    result = prepare_photograph(saved(path, canvas))
    return int(result.any(1).sum()), int(result.any(0).sum())


@pytest.mark.parametrize(("noise", "least"), [(0, 10), (2, 20)])
def test_only_differences_beyond_the_backgrounds_noise_count(tmp_path: Path, noise: int, least: int) -> None:
    canvas = np.full((60, 60), 50, np.uint8)
    canvas[0, :] += np.uint8(noise)
    canvas[-1, :] -= np.uint8(noise)
    canvas[::2, 0] += np.uint8(noise)
    canvas[1::2, 0] -= np.uint8(noise)
    canvas[::2, -1] += np.uint8(noise)
    canvas[1::2, -1] -= np.uint8(noise)
    canvas[10:24, 10:24] = 250
    canvas[24:38, 10:24] = 50 + least  # too faint
    assert edges(tmp_path / "faint.png", canvas) == (28, 28)
    canvas[24:38, 10:24] = 50 + least + 1
    assert edges(tmp_path / "shown.png", canvas) == (28, 14)


@pytest.mark.parametrize(("side", "speck", "counts"), [(99, 1, True), (100, 2, False), (100, 3, True)])
def test_specks_of_a_large_image_are_not_part_of_the_garment(
    tmp_path: Path, side: int, speck: int, counts: bool
) -> None:
    canvas = np.zeros((side, side), np.uint8)
    canvas[10:38, 10:38] = 250
    canvas[80 : 80 + speck, 20 : 20 + speck] = 250
    _rows, columns = edges(tmp_path / "photo.png", canvas)
    assert columns == (11 if counts else 28)  # with the speck it is taller than wide


def test_border_is_all_four_edges() -> None:
    grey = np.arange(12).reshape(3, 4)
    assert _border(grey).tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 0, 4, 8, 3, 7, 11]


@pytest.mark.parametrize("border", [16, 17])
def test_an_image_of_the_data_set_has_a_black_border(tmp_path: Path, border: int) -> None:
    image = np.full((28, 28), border, np.uint8)
    image[8:20, 8:20] = 200
    path = saved(tmp_path / "image.png", image)
    assert np.array_equal(prepare_photograph(path), image) == (border == 16)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparency_shows_white_in_every_row(tmp_path: Path, dtype: type) -> None:
    most = np.iinfo(dtype).max
    shade, opaque = np.linspace(0, 1, 600)[:, None] * np.ones(30), np.linspace(1, 0, 30)[None, :] * np.ones((600, 1))
    image = np.rint(np.dstack([shade, shade, shade, opaque]) * most).astype(dtype)
    path = saved(tmp_path / "photo.png", image)
    shade, opaque = image[..., 0] / most, image[..., 3] / most
    expected = np.rint(255 * (shade * opaque + 1 - opaque))
    np.testing.assert_allclose(_read_grey(path), expected, atol=1)
    assert np.mean(_read_grey(path) == expected) > 0.99


def test_no_more_than_the_most_pixels_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "photo.png", on_canvas(garment()))
    monkeypatch.setattr("fmnist_xp.data.photographs.MOST_PIXELS", 260 * 300)
    prepare_photograph(path)
    monkeypatch.setattr("fmnist_xp.data.photographs.MOST_PIXELS", 260 * 300 - 1)
    message = r"photo\.png: 260 x 300 pixels found, more than 77,999; make it smaller$"
    with pytest.raises(DataError, match=message):
        prepare_photograph(path)


@pytest.mark.parametrize("failing", [cv2.IMREAD_UNCHANGED, cv2.IMREAD_GRAYSCALE])
def test_an_image_that_opencv_cannot_decode_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = saved(tmp_path / "photo.png", on_canvas(garment()))
    real = decoder

    def lacking(flags: int) -> Any:
        return (lambda _file: None) if flags == failing else real(flags)

    monkeypatch.setattr("fmnist_xp.data.photographs.decoder", lacking)
    message = r"photo\.png: not an image that OpenCV can decode; save it again as PNG or JPEG$"
    with pytest.raises(DataError, match=message):
        prepare_photograph(path)
