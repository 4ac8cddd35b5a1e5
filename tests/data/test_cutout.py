"""The garment found on made photographs, against where it was put."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bench.grounds import GROUNDS, make_scene
from fmnist_xp.data import CLASS_NAMES, Dataset, make_synthetic
from fmnist_xp.data.cutout import cut_out

Photograph = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def overlap(found: Mask, true: Mask) -> float:
    """Return the intersection through the union."""
    return float((found & true).sum() / (found | true).sum())


def shrunk(photograph: NDArray[Any], cover: Mask) -> tuple[Photograph, Mask]:
    """Return a scene of 448 pixels as one of 224, in colours."""
    colours = photograph if photograph.ndim == 3 else np.dstack([photograph] * 3)
    small = cv2.resize(colours, (224, 224), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), cover[::2, ::2]


def found_on(image: Photograph, ground: str, seed: int = 0) -> tuple[float, Any]:
    photograph, cover = shrunk(*make_scene(image, ground, np.random.default_rng(seed)))
    cutout = cut_out(photograph)
    return overlap(cutout.garment, cover), cutout


@pytest.mark.parametrize("ground", GROUNDS)
def test_garments_drawn_here_are_found_on_every_ground(ground: str) -> None:
    drawn, _ = make_synthetic(10, 10)
    shares = [found_on(image, ground, seed)[0] for seed, image in enumerate(drawn.images[:3])]
    assert np.median(shares) > 0.85, shares


EIGHT = {
    "boot on white": ("Ankle boot", "white"),
    "dress on white": ("Dress", "white"),
    "bag on colour": ("Bag", "coloured"),
    "trouser with noise": ("Trouser", "light grey, noisy"),
    "sandal on wood": ("Sandal", "wood"),
    "white coat on grey": ("Coat", "grey, garment white"),
    "sneaker in 1-bit dither": ("Sneaker", "white, 1-bit dither"),
    "shirt on its opposite": ("Shirt", "coloured, garment of the opposite colour"),
}


@pytest.mark.parametrize(("garment", "ground"), EIGHT.values(), ids=EIGHT)
def test_real_garments_are_found(real_splits: tuple[Dataset, Dataset], garment: str, ground: str) -> None:
    _, test = real_splits
    images = test.images[test.labels == CLASS_NAMES.index(garment)][:3]
    shares = [found_on(image, ground, seed)[0] for seed, image in enumerate(images)]
    assert np.median(shares) > (0.75 if garment == "Sandal" else 0.85), shares


def canvas(*colour: int, side: int = 200) -> Photograph:
    return np.full((side, side, 3), colour, np.uint8)


def test_a_background_may_get_darker_to_one_side() -> None:
    photograph = canvas(0, 0, 0).astype(float) + np.linspace(90, 250, 200)[None, :, None]
    cover = np.zeros((200, 200), np.bool_)
    cover[50:150, 60:140] = True
    photograph[cover] -= 60  # lighter than the darkest background
    found = cut_out(photograph.astype(np.uint8))
    assert overlap(found.garment, cover) > 0.95
    assert (found.darker, found.doubts) == (True, ())


def test_a_colour_alone_tells_a_garment_from_its_background() -> None:
    photograph = canvas(60, 60, 190)
    grey = cv2.cvtColor(photograph, cv2.COLOR_BGR2GRAY)[0, 0]
    cover = np.zeros((200, 200), np.bool_)
    cover[40:160, 70:130] = True
    photograph[cover] = (60, 130, 53)
    assert abs(int(cv2.cvtColor(photograph, cv2.COLOR_BGR2GRAY)[100, 100]) - grey) < 4
    assert overlap(cut_out(photograph).garment, cover) > 0.97


@pytest.mark.parametrize(("garment", "background"), [(250, 120), (20, 120), (20, 250), (250, 5)])
def test_it_is_said_which_of_the_two_is_darker(garment: int, background: int) -> None:
    photograph = canvas(*[background] * 3)
    photograph[50:150, 50:150] = garment
    assert cut_out(photograph).darker == (garment < background)


def test_a_hole_that_shows_the_background_stays_one_and_a_print_does_not() -> None:
    photograph = canvas(255, 255, 255)
    photograph[40:160, 40:160] = 30
    photograph[60:100, 70:130] = 255  # under a bag's handle
    photograph[130:136, 90:100] = 255  # a white print
    found = cut_out(photograph).garment
    assert not found[65:95, 75:125].any()
    assert found[130:136, 90:100].all()


@pytest.mark.parametrize(("side", "kept"), [(8, False), (36, True)])
def test_small_parts_are_crumbs_and_larger_ones_of_the_garment(side: int, kept: bool) -> None:
    photograph = canvas(255, 255, 255)
    photograph[20:120, 40:160] = 30
    photograph[150 : 150 + side, 60 : 60 + side] = 30
    found = cut_out(photograph)
    assert bool(found.garment[150 : 150 + side, 60 : 60 + side].mean() > 0.95) is kept
    assert bool(found.garment[140:].any()) is kept
    assert found.doubts == ()


def test_doubts_are_named() -> None:
    pair = canvas(255, 255, 255)
    pair[50:150, 20:80] = pair[50:150, 120:180] = 30
    assert cut_out(pair).doubts == ("2 things are on it",)
    reaching = canvas(255, 255, 255)
    reaching[100:, 40:160] = 30
    found = cut_out(reaching)
    assert found.doubts == ("what it shows reaches the border",)
    assert found.garment[100:, 40:160].mean() > 0.97
    rng = np.random.default_rng(0)
    noisy = (canvas(150, 150, 150) + cv2.resize(rng.normal(0, 40, (50, 50, 3)), (200, 200))).clip(0, 255)
    noisy[50:150, 50:150] = 0
    assert "its background is not plain" in cut_out(noisy.astype(np.uint8)).doubts


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 5), (200, 130)])
@pytest.mark.parametrize("value", [0, 120, 255])
def test_an_image_of_nothing_has_no_garment(shape: tuple[int, int], value: int) -> None:
    found = cut_out(np.full((*shape, 3), value, np.uint8))
    assert found.garment.shape == shape
    assert not found.garment.any()
    assert (found.darker, found.doubts) == (False, ())


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (1, 40), (20, 30), (130, 140)])
def test_noise_alone_raises_nothing(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert cut_out(noise).garment.shape == shape


def test_the_same_photograph_gives_the_same_garment() -> None:
    drawn, _ = make_synthetic(10, 10)
    photograph, _ = shrunk(*make_scene(drawn.images[0], "wood", np.random.default_rng(0)))
    first = cut_out(photograph).garment
    cv2.setRNGSeed(7)
    assert np.array_equal(cut_out(photograph).garment, first)
