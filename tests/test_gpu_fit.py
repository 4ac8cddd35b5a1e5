import gpu_fit
import pytest

from fmnist_xp.backend import Backend, CpuBackend


def test_every_precision_learns(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_fit.main("cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*CpuBackend.precisions]
    for line in lines:
        first, last = (float(line.split(word)[1].split()[0].rstrip(",")) for word in (": loss", "epochs"))
        assert first == pytest.approx(2.3, abs=0.1)  # ln 10
        assert last < first / 2


def test_failing_precision_is_reported_and_the_next_one_tried(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = gpu_fit.fit

    def wrong(backend: Backend, precision: str) -> str:
        if precision == "float32":
            raise RuntimeError("no such kernel")
        return fit(backend, precision)

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
