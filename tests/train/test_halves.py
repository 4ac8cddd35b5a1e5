from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy
from rank_helpers import in_ranks, outcomes_of

from fmnist_xp.train.halves import halves

PIXELS = np.arange(256, dtype="float32").reshape(16, 16)
ODD = 2 * PIXELS - 255
COUNTED = np.arange(2041, 2049, dtype="float32").reshape(2, 4)
# However images are scaled, they are the same whole numbers over 255.
SCALED = {
    "as preprocess scales": ((PIXELS - np.float32(127.5)) / np.float32(127.5), ODD),
    "twice and less one": (PIXELS * np.float32(2 / 255) - np.float32(1), ODD),
    "in double precision": ((PIXELS.astype("float64") / 127.5 - 1).astype("float32"), ODD),
    "to [0, 1]": (PIXELS / np.float32(255), PIXELS),
    "all the same": (np.full((2, 3), -1, "float32"), np.full((2, 3), -255)),
    "all 0": (np.zeros((2, 3), "float32"), np.zeros((2, 3))),
    "up to what halves count": (COUNTED / np.float32(255), COUNTED),
}
NOISE = np.random.default_rng(0).standard_normal((7, 5)).astype("float32")
# Values, and the power of two that brings the largest of them to 1 to 2.
OTHERS = {
    "noise": (NOISE, 1.0),
    "small": (NOISE / np.abs(NOISE).max() / 1000, 2.0**-10),
    "tiny": (np.array([[3e-38, -2e-38]], "float32"), 2.0**-125),
    "near 0": (np.array([[1e-9, 0.5e-9]], "float32"), 2.0**-30),
    "beyond what halves count": ((COUNTED + 1) / np.float32(255), 1.0),
    "half pixels": ((PIXELS + np.float32(0.3)) / np.float32(255), 1.0),
    "their largest": (np.array([[65504, -65504, 0.1]], "float32"), 1.0),
}


@pytest.fixture(params=["cpu", "stand-in"])
def xp(request: pytest.FixtureRequest) -> Any:
    return np if request.param == "cpu" else StandInCupy()


def on_host(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.get()


@pytest.mark.parametrize("name", SCALED)
def test_pixels_are_exact(xp: Any, name: str) -> None:
    rows, integers = SCALED[name]
    found, scale = halves(xp, xp.asarray(rows))
    assert (found.dtype, scale) == (np.float16, 1 / 255)
    np.testing.assert_array_equal(on_host(found), integers)


@pytest.mark.parametrize("name", OTHERS)
def test_other_values_are_rounded_to_halves_near_one(xp: Any, name: str) -> None:
    rows, expected = OTHERS[name]
    found, scale = halves(xp, xp.asarray(rows))
    assert (found.dtype, scale) == (np.float16, expected)
    np.testing.assert_array_equal(on_host(found), (rows / np.float32(expected)).astype("float16"))


@pytest.mark.parametrize("value", [65536, -7e4])
def test_values_beyond_halves_are_refused(xp: Any, value: float) -> None:
    said = rf"X has values up to {abs(value):g}, and float16 ends at 65504: scale X, or use float32"
    with pytest.raises(ValueError, match=said):
        halves(xp, xp.asarray([[0.1, value]], dtype="float32"))


@pytest.mark.parametrize("name", [*SCALED, *OTHERS])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_ranks_have_the_halves_and_the_scale_of_all_rows(name: str, cut: int) -> None:
    rows = (SCALED | OTHERS)[name][0]  # type: ignore[operator]
    expected, expected_scale = halves(np, rows)
    parts = rows[:cut], rows[cut:]  # the first rank may have none
    found = in_ranks(2, lambda ranks: halves(np, parts[ranks.rank], ranks))
    np.testing.assert_array_equal(np.concatenate([values for values, _scale in found]), expected)
    assert [scale for _values, scale in found] == [expected_scale] * 2


def test_values_that_are_no_pixels_on_one_rank_are_none_on_any() -> None:
    parts = PIXELS / np.float32(255), np.array([[0.3001] * 16], "float32")
    found = in_ranks(2, lambda ranks: halves(np, parts[ranks.rank], ranks))
    for part, (values, scale) in zip(parts, found, strict=True):
        assert scale == 1
        np.testing.assert_array_equal(values, part.astype("float16"))


def test_values_beyond_halves_on_one_rank_are_refused_on_all() -> None:
    parts = NOISE, NOISE + 1, np.array([[0.1, -65536]], "float32")
    for error in outcomes_of(3, lambda ranks: halves(np, parts[ranks.rank], ranks)):
        assert isinstance(error, ValueError)
        assert str(error).startswith("X has values up to 65536, and float16 ends at 65504")
