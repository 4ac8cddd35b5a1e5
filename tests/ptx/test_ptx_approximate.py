"""Approximate instructions: never beyond the error that the PTX ISA manual states, and as far as that."""

import math
from collections.abc import Callable, Iterator
from math import inf, nan

import numpy as np
import pytest

from ptx import approximate, floats

SLACK = 1 + 2.0**-20  # the exact values are those of libm in double precision
PI = math.pi


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def spread(low: float, high: float, count: int = 2000, logarithmic: bool = False) -> np.ndarray:
    """Many f32 between the two, evenly or evenly in their logarithms."""
    random = np.random.default_rng(5)
    if logarithmic:
        return np.exp2(random.uniform(np.log2(low), np.log2(high), count)).astype(np.float32)
    return random.uniform(low, high, count).astype(np.float32)


def ulp(x: float) -> float:
    """Of f32, at x."""
    return 2.0 ** (max(math.frexp(x)[1] - 1, -126) - 23)


def relative(bits: float) -> Callable[[float, float], float]:
    return lambda _, exact: abs(exact) * 2.0**bits


def ulps(count: int) -> Callable[[float, float], float]:
    return lambda _, exact: count * ulp(exact)


def log_error(x: float, exact: float) -> float:
    return 2.0**-22 * (1 if 0.5 < x < 2 else abs(exact))


def turn_error(x: float, _: float) -> float:
    return 2.0**-20.5 if abs(x) <= 2 * PI else 2.0**-14.7


@pytest.mark.parametrize(
    ("function", "exact", "error", "inputs"),
    [
        (
            lambda x: floats.rcp32(x, "approx"),
            lambda x: 1 / x,
            ulps(1),
            spread(2.0**-120, 2.0**120, logarithmic=True),
        ),
        (lambda x: -floats.rcp32(-x, "approx"), lambda x: 1 / x, ulps(1), spread(1, 2)),
        (
            lambda x: floats.sqrt32(x, "approx"),
            math.sqrt,
            relative(-23),
            spread(2.0**-126, 2.0**127, logarithmic=True),
        ),
        (floats.rsqrt32, lambda x: 1 / math.sqrt(x), relative(-22.9), spread(2.0**-126, 2.0**127, logarithmic=True)),
        (floats.lg2_32, math.log2, log_error, spread(0.51, 1.99)),
        (floats.lg2_32, math.log2, log_error, spread(2.0**-126, 2.0**127, logarithmic=True)),
        (floats.sin32, math.sin, turn_error, spread(-2 * PI, 2 * PI)),
        (floats.cos32, math.cos, turn_error, spread(-2 * PI, 2 * PI)),
        (floats.sin32, math.sin, turn_error, spread(-100 * PI, 100 * PI)),
        (floats.cos32, math.cos, turn_error, spread(-100 * PI, 100 * PI)),
        (floats.tanh32, math.tanh, relative(-11), spread(-4, 4)),
        (floats.tanh32, math.tanh, relative(-11), spread(2.0**-120, 1, logarithmic=True)),
    ],
)
def test_the_error_is_the_largest_allowed(
    function: Callable[[np.ndarray], np.ndarray],
    exact: Callable[[float], float],
    error: Callable[[float, float], float],
    inputs: np.ndarray,
) -> None:
    found = function(inputs)
    assert found.dtype == np.float32
    above = 0
    for x, y in zip(inputs.tolist(), found.tolist(), strict=True):
        truth = exact(x)
        allowed, actual = error(x, truth), abs(y - truth)
        assert actual <= allowed * SLACK, x
        assert actual >= allowed - 1.01 * ulp(y), x
        above += y > truth
    assert 0.4 < above / len(inputs) < 0.6
    assert np.array_equal(function(inputs), found)  # deterministic
    assert np.array_equal(function(inputs[7:9]), found[7:9])  # whatever the other threads hold


@pytest.mark.parametrize("ftz", [False, True])
def test_ex2_is_two_ulps_off(ftz: bool) -> None:
    inputs = spread(-126, 128)
    nearest = f32(*(math.exp2(x) for x in inputs.tolist())).view(np.int32)
    distance = floats.ex2_32(inputs, ftz).view(np.int32) - nearest
    assert set(distance.tolist()) == {-2, 2}


def test_ex2_of_whole_numbers_is_exact() -> None:
    inputs = [-149, -140, -126, -3, -1, 0, 1, 2, 19, 127]
    assert floats.ex2_32(f32(*inputs)).tolist() == [2.0**x for x in inputs]


@pytest.mark.parametrize("kind", ["full", "approx"])
def test_division_is_off_by_two_ulps(kind: str) -> None:
    a, b = spread(2.0**-60, 2.0**60, logarithmic=True), -spread(2.0**-60, 2.0**60, logarithmic=True)[::-1]
    found = floats.div32(a, b, kind)
    for x, y, q in zip(a.tolist(), b.tolist(), found.tolist(), strict=True):
        actual = abs(q - x / y)
        assert ulp(x / y) < actual <= 2 * ulp(x / y) * SLACK


class TestTables:
    """The manual's tables of special inputs."""

    @pytest.mark.parametrize(
        ("function", "inputs", "results"),
        [
            (lambda x: floats.rcp32(x, "approx"), (-inf, -0.0, 0.0, inf, nan), (-0.0, -inf, inf, 0.0, nan)),
            (lambda x: floats.sqrt32(x, "approx"), (-inf, -2, -0.0, 0.0, inf, nan), (nan, nan, -0.0, 0.0, inf, nan)),
            (floats.rsqrt32, (-inf, -2, -0.0, 0.0, inf, nan), (nan, nan, -inf, inf, 0.0, nan)),
            (floats.sin32, (-inf, -0.0, 0.0, inf, nan), (nan, -0.0, 0.0, nan, nan)),
            (floats.cos32, (-inf, -0.0, 0.0, inf, nan), (nan, 1, 1, nan, nan)),
            (floats.lg2_32, (-inf, -2, -0.0, 0.0, inf, nan), (nan, nan, -inf, -inf, inf, nan)),
            (floats.ex2_32, (-inf, -0.0, 0.0, inf, nan), (0.0, 1, 1, inf, nan)),
            (floats.tanh32, (-inf, -0.0, 0.0, inf, nan), (-1, -0.0, 0.0, 1, nan)),
        ],
    )
    def test_f32(
        self, function: Callable[[np.ndarray], np.ndarray], inputs: tuple[float, ...], results: tuple[float, ...]
    ) -> None:
        found = function(f32(*inputs))
        np.testing.assert_array_equal(found, f32(*results))
        known = ~np.isnan(found)
        assert np.array_equal(np.signbit(found)[known], np.signbit(f32(*results))[known])

    def test_division(self) -> None:
        for kind in ("full", "approx"):
            found = floats.div32(f32(1, -1, 0, inf, 1, nan, 0.0, -0.0), f32(0, 0, 0, 2, inf, 1, -3, 3), kind)
            np.testing.assert_array_equal(found, f32(inf, -inf, nan, inf, 0, nan, -0.0, -0.0))
            assert np.signbit(found[-2:]).all()

    def test_approximate_division_by_huge_numbers(self) -> None:
        found = floats.div32(f32(1, -3e38, inf, nan), f32(2.0**127, 2.0**127, 2.0**127, 2.0**127), "approx")
        np.testing.assert_array_equal(found, f32(0.0, -0.0, nan, nan))
        assert np.signbit(found).tolist()[:2] == [False, True]
        assert abs(floats.div32(f32(3e38), f32(2.0**127), "full")[0] - 3e38 / 2.0**127) < 1e-5
        at_the_limit = floats.div32(f32(2.0**126), f32(2.0**126), "approx")
        assert abs(at_the_limit[0] - 1) <= 2**-22

    def test_approximate_division_by_subnormal_numbers(self) -> None:
        assert floats.div32(f32(2.0**-100), f32(2.0**-130), "approx")[0] == inf  # as 1/b is
        assert abs(floats.div32(f32(2.0**-100), f32(2.0**-130), "full")[0] / 2.0**30 - 1) < 2**-20
        small = 2.0**-127
        assert abs(floats.div32(f32(2.0**-100), f32(small), "approx")[0] / 2.0**27 - 1) < 2**-20
        assert floats.div32(f32(2.0**-100), f32(small), "approx", ftz=True)[0] == inf


class TestSubnormalNumbers:
    TINY = 2.0**-130

    def test_are_supported(self) -> None:
        x = f32(self.TINY)
        assert floats.rcp32(x, "approx")[0] == inf
        assert abs(floats.rcp32(f32(2.0**127), "approx")[0] - 2.0**-127) <= 2.0**-149
        assert abs(floats.lg2_32(x)[0] + 130) < 1e-4
        assert abs(floats.rsqrt32(x)[0] / 2.0**65 - 1) < 1e-6
        assert abs(floats.sqrt32(x, "approx")[0] * 2.0**65 - 1) < 1e-6
        assert abs(floats.ex2_32(f32(-140.5))[0] / 2.0**-149 - round(2.0**8.5)) == 2
        assert floats.ex2_32(f32(-149.4))[0] in (0, 3 * 2.0**-149)
        assert floats.tanh32(x)[0] == self.TINY
        assert not floats.ex2_32(spread(-300, -151)).any()

    def test_are_flushed(self) -> None:
        x = f32(self.TINY, -self.TINY)
        np.testing.assert_array_equal(floats.rcp32(x, "approx", ftz=True), f32(inf, -inf))
        assert floats.rcp32(f32(2.0**127), "approx", ftz=True)[0] == 0
        assert floats.lg2_32(x, ftz=True)[0] == -inf
        np.testing.assert_array_equal(floats.rsqrt32(x, ftz=True), f32(inf, -inf))
        assert floats.sqrt32(x, "approx", ftz=True).tolist() == [0, 0]
        assert floats.ex2_32(f32(-140), ftz=True)[0] == floats.ex2_32(f32(-140.5), ftz=True)[0] == 0
        assert floats.ex2_32(x, ftz=True).tolist() == [1, 1]
        assert np.signbit(floats.sin32(x, ftz=True)).tolist() == [False, True]
        assert floats.sin32(x, ftz=True).tolist() == [0, 0]
        assert floats.cos32(x, ftz=True).tolist() == [1, 1]


def test_no_sine_where_the_manual_promises_nothing() -> None:
    x = f32(100 * PI + 1, -1000, 314)
    assert np.isnan(floats.sin32(x)).tolist() == [True, True, False]
    assert np.isnan(floats.cos32(x)).tolist() == [True, True, False]


class TestDoublePrecision:
    def test_upper_words(self) -> None:
        x = np.ldexp(np.random.default_rng(1).uniform(1, 2, 500), np.random.default_rng(2).integers(-1000, 1000, 500))
        upper = (x.view(np.uint64) >> np.uint64(32) << np.uint64(32)).view(np.float64)
        for function, exact in (
            (floats.rcp_approx_ftz64, 1 / upper),
            (floats.rsqrt_approx_ftz64, 1 / np.sqrt(upper)),
        ):
            found = function(x)
            assert not (found.view(np.uint64) & np.uint64(0xFFFFFFFF)).any()
            assert (np.abs(found / exact - 1) < 1.5 * 2.0**-20).all()
            assert (np.abs(found / exact - 1) > 0.2 * 2.0**-20).all()

    def test_tables(self) -> None:
        small = 2.0**-1030
        x = np.array([-inf, -small, -0.0, 0.0, small, inf, nan])
        reciprocal, root = floats.rcp_approx_ftz64(x), floats.rsqrt_approx_ftz64(x)
        np.testing.assert_array_equal(reciprocal, [-0.0, -inf, -inf, inf, inf, 0.0, nan])
        assert np.signbit(reciprocal[:-1]).tolist() == [True, True, True, False, False, False]
        np.testing.assert_array_equal(root, [nan, -inf, -inf, inf, inf, 0.0, nan])
        for found in (reciprocal, root):
            assert found.view(np.uint64)[-1] == 0x7FFFFFFF00000000
        assert floats.rcp_approx_ftz64(np.array([2.0**1023]))[0] == 0  # a subnormal result

    def test_rsqrt(self) -> None:
        x = np.array([4.0, 0.25, 2.0, 0.0, -0.0, inf, -1])
        np.testing.assert_array_equal(floats.rsqrt64(x), [0.5, 2, 1 / math.sqrt(2), inf, -inf, 0, nan])


class TestHalfPrecision:
    @staticmethod
    def inputs(of: str, low: float, high: float) -> tuple[np.ndarray, list[float]]:
        values = spread(low, high)
        if of == "f16":
            x = values.astype(np.float16)
            return x, x.tolist()
        bits = values.view(np.uint32) & np.uint32(0xFFFF0000)
        return (bits >> 16).astype(np.uint16), bits.view(np.float32).tolist()

    @staticmethod
    def values(of: str, x: np.ndarray) -> list[float]:
        return x.tolist() if of == "f16" else (x.astype(np.uint32) << 16).view(np.float32).tolist()

    @pytest.mark.parametrize(
        ("function", "exact", "of", "bits", "low", "high"),
        [
            (approximate.ex2_half, math.exp2, "f16", -9.9, -13, 15),
            (approximate.ex2_half, math.exp2, "bf16", -7, -120, 127),
            (approximate.tanh_half, math.tanh, "f16", -10.987, -4, 4),
            (approximate.tanh_half, math.tanh, "bf16", -8, -4, 4),
        ],
    )
    def test_errors(
        self,
        function: Callable[..., np.ndarray],
        exact: Callable[[float], float],
        of: str,
        bits: float,
        low: float,
        high: float,
    ) -> None:
        x, inputs = self.inputs(of, low, high)
        errors = []
        for value, found in zip(inputs, self.values(of, function(x, of)), strict=True):
            scale = 1 if exact is math.tanh else exact(value)
            errors.append(abs(found - exact(value)) / scale)
        assert max(errors) <= 2.0**bits * SLACK
        assert np.mean(errors) > 0.4 * 2.0**bits

    def test_tables(self) -> None:
        x = np.array([-inf, -0.0, 0.0, inf, nan], np.float16)
        np.testing.assert_array_equal(approximate.ex2_half(x, "f16"), np.array([0, 1, 1, inf, nan], np.float16))
        hyperbolic = approximate.tanh_half(x, "f16")
        np.testing.assert_array_equal(hyperbolic, np.array([-1, -0.0, 0.0, 1, nan], np.float16))
        assert np.signbit(hyperbolic).tolist()[:3] == [True, True, False]

        one, nothing, infinite, invalid = 0x3F80, 0, 0x7F80, 0x7FFF
        x = np.array([0xFF80, 0x8001, 0x8000, 0, 1, 0x7F80, 0x7FC0], np.uint16)  # 0x0001 is subnormal
        assert approximate.ex2_half(x, "bf16").tolist() == [nothing, one, one, one, one, infinite, invalid]
        assert approximate.tanh_half(x[[0, 2, 3, 5, 6]], "bf16").tolist() == [0xBF80, 0x8000, 0, one, invalid]

    def test_a_subnormal_result_of_bf16_is_flushed(self) -> None:
        x = np.array([0xC300], np.uint16)  # -128
        assert approximate.ex2_half(x, "bf16").tolist() == [0]
        assert approximate.ex2_half(np.array([-20], np.float16), "f16").tolist() == [2.0**-20]
