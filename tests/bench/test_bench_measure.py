from collections.abc import Callable
from types import SimpleNamespace

import pytest
from parity.standin import StandInCupy

from bench.measure import (
    alternate,
    epoch_bytes,
    fitted_exponent,
    floor_seconds,
    fused_epoch_bytes,
    peak_settings,
    reset_peak,
    rounded,
    summarize,
)
from fmnist_xp.backend import CpuBackend, CudaBackend


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_fitted_exponent_of_a_power_law_is_its_exponent(exponent: float) -> None:
    sizes = [6_000, 20_000, 60_000, 600_000]
    assert fitted_exponent(sizes, [3e-6 * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-3)


@pytest.mark.parametrize(
    ("off", "exponent"),
    [
        # Logarithms 0, 1, 2 against 0, 1 + 3s, 2: the line is s + x, and the middle is 2s off it.
        (1.09**1.5, 1.0),
        (1.11**1.5, None),
    ],
)
def test_exponent_needs_all_points_within_a_tenth_of_the_fitted_line(off: float, exponent: float | None) -> None:
    assert fitted_exponent([1, 10, 100], [1, 10 * off, 100]) == exponent


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 6.0], [5.0, 0.0, 1.0], [0.0, -1.0, 3.0]])
def test_no_exponent_from_fewer_than_three_positive_points(values: list[float]) -> None:
    assert fitted_exponent([1.0, 2.0, 3.0][: len(values)], values) is None


def test_no_exponent_from_two_sizes_measured_twice() -> None:
    assert fitted_exponent([1, 2, 1, 2], [3, 6, 3, 6]) is None


def test_summary_has_median_and_spread() -> None:
    summary = summarize([4.0, 1.0, 3.0, 2.0, 5.0])
    assert summary == {"median": 3, "min": 1, "max": 5, "iqr": 2, "samples": [4, 1, 3, 2, 5]}
    with pytest.raises(ValueError, match="no samples"):
        summarize([])


def test_rounded_keeps_six_digits() -> None:
    assert rounded(123456789.0) == 123457000.0
    assert rounded(0.00123456789) == 0.00123457


def test_sides_take_turns() -> None:
    calls: list[str] = []

    def side(name: str) -> Callable[[], list[float]]:
        def sample() -> list[float]:
            calls.append(name)
            return [float(len(calls)), 0.5]

        return sample

    samples = alternate({"A": side("A"), "B": side("B"), "C": side("C")}, 2)
    assert calls == ["A", "B", "C", "A", "B", "C"]
    assert samples == {"A": [1, 0.5, 4, 0.5], "B": [2, 0.5, 5, 0.5], "C": [3, 0.5, 6, 0.5]}


def test_gemm_rate_of_a_gpu_is_of_larger_products_and_the_best_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CpuBackend(1)
    assert peak_settings(backend, quick=False) == {"size": 2048, "repeats": 1}
    monkeypatch.setattr(backend, "asynchronous", True)
    assert peak_settings(backend, quick=False) == {"size": 8192, "repeats": 10}
    assert peak_settings(backend, quick=True) == {"size": 2048, "repeats": 10}


def test_reset_peak_is_what_the_pool_of_a_gpu_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, held = CudaBackend(cupy=StandInCupy(pool=(2, 5))), [5]
    pool = SimpleNamespace(free_all_blocks=lambda: held.append(3), total_bytes=lambda: held[-1])
    monkeypatch.setattr(backend.xp, "_pool", pool)
    assert (backend.peak_memory(), reset_peak(backend), backend.peak_memory()) == (5, 3, 3)


def test_bytes_and_floor_by_hand() -> None:
    assert epoch_bytes([3, 2, 1], 10, 4) == 4 * 10 * (2 * 3 + 6 * 2 + 6 * 1)
    # The bytes of 10 rows twice, and the two numbers of the first layer, of one or three operands, there and back.
    assert fused_epoch_bytes([3, 2, 1], 10, 1) == 10 * (2 * 3 + 2 * 2 * 2)
    assert fused_epoch_bytes([3, 2, 1], 10, 3) == 10 * (2 * 3 + 2 * 2 * 2 * 3)
    assert floor_seconds(500, 960, gemm=100.0, copy=None) == 5
    assert floor_seconds(500, 960, gemm=100.0, copy=960.0) == 5
    assert floor_seconds(500, 960, gemm=100.0, copy=96.0) == 10
