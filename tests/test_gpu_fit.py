from typing import Any

import gpu_fit
import pytest

from fmnist_xp.backend import Backend, CpuBackend
from fmnist_xp.model import Sequential


def test_every_precision_learns(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_fit.main("cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    fused = [f"{name}, fused engine" for name in ("float16", "bfloat16", "float32")]
    assert [line.partition(":")[0] for line in lines] == [*CpuBackend.precisions, *fused]
    for line, why in zip(
        lines[2:], ["does not compute in float16", "does not compute in bfloat16", "8.0"], strict=True
    ):
        assert ": not taken: cpu (" in line
        assert why in line
    for line in lines[:2]:
        first, last = (float(line.split(word)[1].split()[0].rstrip(",")) for word in (": loss", "epochs"))
        assert first == pytest.approx(2.3, abs=0.1)  # ln 10
        assert last < first / 2


def test_failing_precision_is_reported_and_the_next_one_tried(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = gpu_fit.fit

    def wrong(backend: Backend, precision: str, engine: str) -> str:
        if precision == "float32":
            raise RuntimeError("no such kernel")
        return fit(backend, precision, engine)

    monkeypatch.setattr(gpu_fit, "fit", wrong)
    assert gpu_fit.main("cpu") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "float32: RuntimeError: no such kernel"
    assert lines[1].startswith("float64: loss 2.")


def test_network_that_does_not_learn_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_fit, "EPOCHS", 1)
    assert gpu_fit.main("cpu") == 1
    assert "float32: ArithmeticError: does not learn: loss 2." in capsys.readouterr().out


def test_fused_engine_that_takes_it_trains_on_pixels_in_its_precisions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, str]] = []
    fit = Sequential.fit

    def noting(network: Sequential, X: Any, y: Any, **how: Any) -> Any:
        given.append((how["engine"], str(X.dtype)))
        return fit(network, X, y, **how | {"engine": "plain"})

    monkeypatch.setattr(Sequential, "fit", noting)
    monkeypatch.setattr(gpu_fit, "not_taken", lambda _backend, precision: "" if precision == "float32" else "no")
    assert gpu_fit.main("cpu") == 0
    assert given == [("plain", "float32"), ("plain", "float32"), ("fused", "uint8")]
    *_, half, brain, single = capsys.readouterr().out.splitlines()
    assert (half, brain) == ("float16, fused engine: not taken: no", "bfloat16, fused engine: not taken: no")
    assert single.startswith("float32, fused engine: loss 2.")
