import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from data_helpers import png
from numpy.typing import NDArray

from fmnist_xp.data import Dataset, longest_edge, prepare_photograph
from fmnist_xp.data.opencv import decoder
from fmnist_xp.data.photographs import _is_own, _read
from fmnist_xp.errors import DataError

Image = NDArray[np.uint8]


def saved(path: Path, image: NDArray[Any]) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def prepared(path: Path) -> Image:
    return prepare_photograph(path).image


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
    result = prepared(path)
    assert result.shape == (28, 28)
    assert result.dtype == np.uint8
    assert np.abs(result.astype(int) - garment()).mean() < 8
    assert not result[:, :5].any()


def test_noise_and_specks_on_a_grey_background_are_not_part_of_the_garment(tmp_path: Path) -> None:
    canvas = 230.0 - on_canvas(garment()) * 0.8 + np.random.default_rng(0).normal(0, 2, (300, 260))
    canvas[5, 5] = 0
    path = saved(tmp_path / "photo.png", canvas.clip(0, 255).astype(np.uint8))
    result = prepared(path)
    assert np.corrcoef(result.ravel(), garment().ravel())[0, 1] > 0.97


def test_a_white_garment_on_a_grey_wall_is_light_on_black(tmp_path: Path) -> None:
    canvas = np.full((200, 200), 150, np.uint8)
    canvas[50:150, 80:120] = 255
    result = prepared(saved(tmp_path / "photo.png", canvas))
    assert result[:, 10:18].min() > 200
    assert not result[:, :8].any()


@pytest.mark.parametrize(("height", "width"), [(400, 100), (100, 400), (6, 3)])
def test_the_longest_edge_fills_the_square_and_the_other_is_centred(tmp_path: Path, height: int, width: int) -> None:
    canvas = np.full((height + 20, width + 30), 255, np.uint8)
    canvas[4 : 4 + height, 9 : 9 + width] = 40
    result = prepared(saved(tmp_path / "photo.png", canvas))
    rows, columns = np.flatnonzero(result.any(1)), np.flatnonzero(result.any(0))
    assert max(len(rows), len(columns)) == 28
    assert min(len(rows), len(columns)) == round(28 * min(height, width) / max(height, width))
    assert abs(rows[0] - (27 - rows[-1])) <= 1
    assert abs(columns[0] - (27 - columns[-1])) <= 1


def test_an_image_of_the_data_set_is_returned_unchanged(tmp_path: Path) -> None:
    image = garment()
    image[5, 5] = 3  # too faint for a photograph to show
    assert np.array_equal(prepared(saved(tmp_path / "image.png", image)), image)


@pytest.mark.parametrize("value", [0, 120, 255])
@pytest.mark.parametrize("side", [28, 200])
def test_a_blank_image_is_an_error(tmp_path: Path, value: int, side: int) -> None:
    path = saved(tmp_path / "blank.png", np.full((side, side), value, np.uint8))
    with pytest.raises(
        DataError, match=r"blank\.png: the image is blank; give one of a single thing on a plain background$"
    ) as raised:
        prepared(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_file_that_is_not_an_image_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "photo.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="not an image" if content is not None else "cannot be read") as raised:
        prepared(path)
    assert str(path) in str(raised.value)


NAMES = ["photo of\na boot.png", "größe.png", os.fsdecode(b"caf\xe9.png")]


@pytest.mark.parametrize("name", NAMES)
def test_names_may_have_any_characters(tmp_path: Path, name: str) -> None:
    picture = saved(tmp_path / "photo.png", on_canvas(garment()))
    expected = prepared(picture)
    try:
        picture.rename(tmp_path / name)
    except (OSError, UnicodeError):
        pytest.skip("the file system does not take this name")
    assert np.array_equal(prepared(tmp_path / name), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_other_formats_are_read(tmp_path: Path, suffix: str) -> None:
    canvas = on_canvas(garment())
    expected = prepared(saved(tmp_path / "photo.png", canvas))
    found = prepared(saved(tmp_path / f"photo{suffix}", np.dstack([canvas] * 3)))
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
        prepared(path)
    assert capfd.readouterr() == ("", "")


def test_a_photograph_of_200_gb_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    try:
        with path.open("wb") as file:
            file.truncate(200_000_000_000)
    except OSError:
        pytest.skip("the file system has no such files")
    with pytest.raises(DataError, match=r"photo\.png: 200,000,000,000 bytes found"):
        prepared(path)


def test_a_photograph_that_is_not_a_file_is_named(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo") or not Path("/dev/zero").is_char_device():
        pytest.skip("this system has no named pipes or no /dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        with pytest.raises(
            DataError, match=rf"{path}: a (named pipe|folder|device) found where an image file should be"
        ):
            prepared(path)


def test_real_images_are_recovered(real_splits: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    _, test = real_splits
    whole = [i for i in test.images[:30] if max(np.ptp(np.flatnonzero(i.any(axis))) for axis in (0, 1)) == 27]
    assert len(whole) > 20
    for image in whole:
        assert np.array_equal(prepared(saved(tmp_path / "own.png", image)), image)
    likeness = [
        np.corrcoef(prepared(saved(tmp_path / "photo.png", 255 - on_canvas(image))).ravel(), image.ravel())[0, 1]
        for image in whole
    ]
    assert np.median(likeness) > 0.98


# The steps, written out


def blocks(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Return `values` with every pixel enlarged to `side` x `side`."""
    return np.kron(values, np.ones((side, side), values.dtype))


def on_background(garment: NDArray[Any], value: int, border: int = 3) -> NDArray[Any]:
    return np.pad(garment, border, constant_values=value)


def sharpened(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add 0.3 times the difference from a Gaussian blur (3 x 3, deviation 1) to the pixels that are not 0."""
    weights = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / 2)
    weights /= weights.sum()
    padded = np.pad(image, 1, mode="reflect")
    rows = sum(weight * padded[:, i : i + 28] for i, weight in enumerate(weights))
    blurred = sum(weight * rows[i : i + 28] for i, weight in enumerate(weights))
    return np.where(image > 0, image + 0.3 * (image - blurred), 0)


def lightest_white(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.rint(np.clip(image, 0, None) * 255 / image.max())


def squared(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre in 28 x 28, an odd pixel going above or to the left."""
    height, width = light.shape
    image = np.zeros((28, 28))
    top, left = (29 - height) // 2, (29 - width) // 2
    image[top : top + height, left : left + width] = light
    return image


def patches(height: int, width: int) -> NDArray[np.uint8]:
    """Return random pixels of 80 to 230."""
    return np.random.default_rng(0).integers(80, 231, (height, width), dtype=np.uint8)


@pytest.mark.parametrize("background", [0, 20])
@pytest.mark.parametrize(("height", "width"), [(28, 17), (12, 28)])
def test_a_light_garment_on_dark_matches_the_steps(tmp_path: Path, background: int, height: int, width: int) -> None:
    garment = patches(height, width)
    path = saved(tmp_path / "photo.png", on_background(blocks(garment, 2), background))
    expected = lightest_white(sharpened(squared(garment.astype(float))))
    np.testing.assert_allclose(prepared(path), expected, atol=1)
    assert np.mean(prepared(path) == expected) > 0.99


def test_a_dark_garment_on_light_matches_the_steps(tmp_path: Path) -> None:
    garment = 240 - patches(28, 18)
    path = saved(tmp_path / "photo.png", on_background(blocks(garment, 2), 240))
    expected = lightest_white(sharpened(squared(255 - garment.astype(float))))
    np.testing.assert_allclose(prepared(path), expected, atol=1)
    assert np.mean(prepared(path) == expected) > 0.99


@pytest.mark.parametrize("times", [4, 25])  # a photograph that is worked on as it is, and one that is shrunk first
def test_a_large_garment_is_averaged(tmp_path: Path, times: int) -> None:
    garment = patches(28, 17)
    path = saved(tmp_path / "photo.png", on_background(blocks(garment, times), 0, 10 * times))
    found, expected = prepared(path)[1:-1, 7:-7], squared(garment.astype(float))[1:-1, 7:-7]
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97


@pytest.mark.parametrize(("lighter", "darker"), [(90, 30), (30, 90)])
def test_a_garment_lighter_and_darker_than_its_background_keeps_both_shades(
    tmp_path: Path, lighter: int, darker: int
) -> None:
    garment = np.full((28, 28), 100 + lighter, np.uint8)
    garment[14:] = 100 - darker
    path = saved(tmp_path / "photo.png", on_background(blocks(garment, 2), 100))
    light = garment.astype(float) if lighter > darker else 255.0 - garment
    np.testing.assert_allclose(prepared(path), lightest_white(sharpened(light)), atol=1)


def test_a_garment_of_the_right_size_is_only_moved_and_made_as_light(tmp_path: Path) -> None:
    garment = patches(28, 11)
    path = saved(tmp_path / "photo.png", on_background(garment, 0, 3))
    np.testing.assert_array_equal(prepared(path), lightest_white(squared(garment.astype(float))))


def test_a_smaller_garment_is_interpolated_and_not_sharpened(tmp_path: Path) -> None:
    garment = patches(21, 12)
    path = saved(tmp_path / "photo.png", on_background(garment, 0))

    def between(values: NDArray[Any], count: int) -> NDArray[Any]:
        at = np.clip((np.arange(count) + 0.5) * len(values) / count - 0.5, 0, len(values) - 1)
        low = np.minimum(at.astype(int), len(values) - 2)
        share = (at - low)[:, None]
        return values[low] * (1 - share) + values[low + 1] * share

    expected = between(between(garment.astype(float), 28).T, 16).T
    np.testing.assert_allclose(prepared(path), lightest_white(squared(expected)), atol=1)


def test_things_get_the_longest_edge_of_the_training_images(tmp_path: Path) -> None:
    digit = patches(20, 12)
    path = saved(tmp_path / "photo.png", on_background(digit, 0))
    found = prepare_photograph(path, longest_edge=20).image
    np.testing.assert_array_equal(found, lightest_white(squared(digit.astype(float))))


@pytest.mark.parametrize("upright", [False, True])
def test_a_very_thin_garment_becomes_a_line_of_one_pixel(tmp_path: Path, upright: bool) -> None:
    canvas = on_background(np.full((220, 6), 200, np.uint8), 0, 9)
    result = prepared(saved(tmp_path / "photo.png", canvas if upright else canvas.T))
    result = result if upright else result.T
    assert np.flatnonzero(result.any(0)).tolist() == [14]
    assert np.flatnonzero(result.any(1)).tolist() == list(range(28))


# Images of the data set


def test_all_70_000_images_of_the_data_set_pass_untouched(real_splits: tuple[Dataset, Dataset]) -> None:
    """As grey images, since the file's kind matters to no more than reading; some are read from files below."""
    for split in real_splits:
        colours = np.broadcast_to(split.images[..., None], (*split.images.shape, 3))
        assert sum(map(_is_own, colours)) == len(split)
        assert not any(map(_is_own, 255 - colours[:2000]))


def test_difficult_images_of_the_data_set_pass_untouched_as_files(
    real_splits: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """Those with the least black along the border, and those with most colours in it."""
    for split in real_splits:
        images = split.images
        border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
        for index in np.argsort(-np.median(border, axis=1))[:25]:
            path = saved(tmp_path / "own.png", images[index])
            assert np.array_equal(prepared(path), images[index]), index


@pytest.mark.parametrize("border", [16, 17])
def test_an_image_of_the_data_set_has_a_black_border(tmp_path: Path, border: int) -> None:
    image = np.full((28, 28), border, np.uint8)
    image[8:20, 8:20] = 200
    path = saved(tmp_path / "image.png", image)
    assert np.array_equal(prepared(path), image) == (border == 16)


def test_an_image_of_the_data_set_is_grey_and_of_its_size(tmp_path: Path) -> None:
    image = np.zeros((28, 28), np.uint8)
    image[8:20, 8:20] = 200
    assert np.array_equal(prepared(saved(tmp_path / "grey.png", np.dstack([image] * 3))), image)
    for name, other in (("red.png", np.dstack([image // 2, image // 2, image])), ("large.png", np.pad(image, 1))):
        assert prepared(saved(tmp_path / name, other)).all()  # a square, which fills all of it


@pytest.mark.parametrize(("edges", "expected"), [((20, 12), 20), ((9, 26), 26), ((28, 28), 28)])
def test_the_longest_edge_is_that_of_most_images(edges: tuple[int, int], expected: int) -> None:
    images = np.zeros((5, 28, 28), np.uint8)
    images[:3, : edges[0], : edges[1]] = 200
    images[3, 4:7, 4:7] = 200
    assert longest_edge(images) == expected
    assert longest_edge(np.zeros((3, 28, 28), np.uint8)) == 28


# Files


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparency_shows_white_in_every_row(tmp_path: Path, dtype: type) -> None:
    most = np.iinfo(dtype).max
    shade, opaque = np.linspace(0, 1, 600)[:, None] * np.ones(30), np.linspace(1, 0, 30)[None, :] * np.ones((600, 1))
    image = np.rint(np.dstack([shade, shade, shade, opaque]) * most).astype(dtype)
    path = saved(tmp_path / "photo.png", image)
    shade, opaque = image[..., 0] / most, image[..., 3] / most
    expected = np.dstack([np.rint(255 * (shade * opaque + 1 - opaque))] * 3)
    np.testing.assert_allclose(_read(path), expected, atol=1)
    assert np.mean(_read(path) == expected) > 0.99


KINDS = {"1.png": "1", "palette.png": "P", "grey.png": "L", "alpha.png": "LA", "cmyk.jpg": "CMYK", "rgb.webp": "RGB"}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_every_kind_of_pixels_is_read(tmp_path: Path, name: str, kind: str) -> None:
    canvas = np.where(on_canvas(garment()) > 0, 0, 255).astype(np.uint8)
    expected = prepared(saved(tmp_path / "plain.png", canvas))
    PIL.Image.fromarray(canvas).convert("RGB").convert(kind).save(tmp_path / name)
    np.testing.assert_allclose(prepared(tmp_path / name), expected, atol=12)


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "cut-out.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_upright_as_it_was_held(tmp_path: Path, name: str, orientation: int) -> None:
    """Against Pillow's own reading of the file, and the corner that the standard's first row and column make."""
    colours = np.zeros((30, 50, 4), np.uint8)
    colours[:15, :20], colours[15:, 40:] = (250, 10, 10, 255), (10, 10, 250, 255)
    image = PIL.Image.fromarray(colours)
    white = PIL.Image.new("RGBA", image.size, "white")
    image = image if name == "cut-out.png" else PIL.Image.alpha_composite(white, image).convert("RGB")
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / name, exif=exif)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(tmp_path / name)).convert("RGBA")
    white = PIL.Image.new("RGBA", upright.size, "white")
    expected = np.asarray(PIL.Image.alpha_composite(white, upright))[..., 2::-1]
    found = _read(tmp_path / name)
    assert found.shape == expected.shape == ((30, 50, 3) if orientation < 5 else (50, 30, 3))
    assert np.abs(found.astype(int) - expected).mean() < 4  # JPEG
    # CIPA DC-008, tag 0x0112: where row 0 and column 0 of the file, a red corner, are seen.
    row, column = [(0, 0), (0, -1), (-1, -1), (-1, 0)][(orientation - 1) % 4]
    blue, _green, red = found[row, column].astype(int)
    assert red - blue > 150


def test_no_more_than_the_most_pixels_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "photo.png", on_canvas(garment()))
    monkeypatch.setattr("fmnist_xp.data.photographs.MOST_PIXELS", 260 * 300)
    prepared(path)
    monkeypatch.setattr("fmnist_xp.data.photographs.MOST_PIXELS", 260 * 300 - 1)
    message = r"photo\.png: 260 x 300 pixels found, more than 77,999; make it smaller$"
    with pytest.raises(DataError, match=message):
        prepared(path)


@pytest.mark.parametrize("failing", [cv2.IMREAD_UNCHANGED, cv2.IMREAD_COLOR])
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
        prepared(path)


@pytest.mark.parametrize("side", [80, 150, 300])
@pytest.mark.parametrize("shade", [60, 150])
def test_a_garment_of_black_and_white_dots_is_not_eaten(tmp_path: Path, side: int, shade: int) -> None:
    photograph = np.full((side, side), 255, np.uint8)
    edge = side // 5
    photograph[edge : 4 * edge, 2 * edge : 3 * edge] = shade
    dots = PIL.Image.fromarray(photograph).convert("1")  # by Floyd and Steinberg
    dots.save(tmp_path / "dots.png")
    result = prepared(tmp_path / "dots.png").astype(float)
    rows, columns = np.flatnonzero(result.max(1) > 40), np.flatnonzero(result.max(0) > 40)
    assert (len(rows), len(columns)) == pytest.approx((28, 28 / 3), abs=2)
    inner = result[4:-4, columns[0] + 2 : columns[-1] - 1]
    assert inner.min() > 60
    assert inner.mean() > 150
