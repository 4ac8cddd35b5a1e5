"""The frameworks in every precision against the notebook's float64, on the CPU: it has them all, if slowly."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath

from bench.engines import Engine, Notebook, NotHereError, Ours, OursCudaGraphs, Task, ours
from bench.engines.jax import Jax
from bench.engines.pytorch import PyTorch
from bench.engines.scikit_learn import ScikitLearn
from bench.peers import check
from fmnist_xp.backend import PRECISIONS, CpuBackend, CudaBackend, CudaGraphBackend
from fmnist_xp.errors import DeviceError
from fmnist_xp.experiments import EXPERIMENTS

# The frameworks are not ours to keep free of warnings.
pytestmark = pytest.mark.filterwarnings("default")

CPU = CpuBackend(2)


def make_task(precision: str, name: str = "adam", rows: int = 300) -> Task:
    generator = np.random.default_rng(4)
    labels = np.arange(rows, dtype=np.uint8) % 10
    centres = generator.integers(0, 256, (10, 784))
    pixels = np.clip(centres[labels] + generator.integers(-60, 61, (rows, 784)), 0, 255)
    X = (pixels / 127.5 - 1).astype(np.float32)
    network = EXPERIMENTS[name].make_network(CPU, seed=0, dtype=PRECISIONS[precision].parameters)
    return Task(EXPERIMENTS[name], network.state_dict(), X, labels, CPU, precision)


def start(kind: type[Engine], task: Task) -> Any:
    try:
        return kind(task)
    except NotHereError as reason:
        pytest.skip(str(reason))


def losses(engine: Engine) -> list[float]:
    with engine.session():
        found = [engine.epoch()[0] for _ in range(3)]
        engine.synchronize()
        return [float(loss) for loss in found]


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", [PyTorch, Jax])
def test_losses_are_the_notebooks(kind: type[Engine], precision: str, name: str) -> None:
    task = make_task(precision, name)
    expected = losses(Notebook(task))
    # Each update may add what the operands' 11 bits lose, and Adam makes more of it than descent.
    granted = (1e-6, 1e-3, 5e-3) if precision in ("tf32", "float16") else (1e-6, 1e-6, 1e-5)
    for loss, exact, relative in zip(losses(start(kind, task)), expected, granted, strict=True):
        assert loss == pytest.approx(exact, rel=relative)
    if precision == "float64":  # and not those of float32, which has 7 digits
        assert losses(start(kind, task)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_ours_and_scikit_learn_agree_in_both_precisions_of_the_cpu(precision: str) -> None:
    task = make_task(precision, "momentum")
    checked = check(task, [Ours(task), Notebook(task), start(ScikitLearn, task)])
    assert checked["fmnist_xp"]["losses"] == pytest.approx(checked["notebook"]["losses"], rel=1e-5)


def test_cuda_graphs_need_a_gpu() -> None:
    with pytest.raises(NotHereError, match=r"^CUDA graphs need a GPU$"):
        OursCudaGraphs(make_task("float32"))


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cuda_graphs_compute_what_ours_computes(precision: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[int, StandInCupy]] = []

    def open_graphs(index: int) -> CudaGraphBackend:
        opened.append((index, StandInCupy(devices=2)))
        return CudaGraphBackend(index, cupy=opened[-1][1], nvmath=make_nvmath(opened[-1][1]))

    monkeypatch.setattr(ours, "CudaGraphBackend", open_graphs)
    task = replace(make_task(precision, name), backend=CudaBackend(1, cupy=StandInCupy(devices=2)))
    plain, graphs = Ours(task), OursCudaGraphs(task)
    checked = check(task, [plain, graphs])
    assert checked["fmnist_xp, CUDA graphs"] == checked["fmnist_xp"]
    assert len(checked["fmnist_xp"]["losses"]) == 3
    ((index, cupy),) = opened
    assert index == 1
    assert len(cupy.launches) == 2 * (1 + 3)


@pytest.mark.parametrize("stage", ["opening", "capturing"])
def test_cuda_graphs_that_fail_are_left_out_with_the_reason(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = StandInCupy()
    backend = CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy))

    def fail(*_arguments: Any) -> Any:
        raise DeviceError("for a reason")

    if stage == "capturing":
        monkeypatch.setattr(backend, "repeatable", fail)
    monkeypatch.setattr(ours, "CudaGraphBackend", fail if stage == "opening" else lambda _index: backend)
    with pytest.raises(NotHereError, match=r"^for a reason$"):
        OursCudaGraphs(replace(make_task("float32"), backend=CudaBackend(cupy=cupy)))


@pytest.mark.parametrize("kind", [PyTorch, Jax])
def test_halves_round_and_say_how_the_loss_is_scaled(kind: type[Engine]) -> None:
    half, single = (start(kind, make_task(precision)) for precision in ("float16", "float32"))
    assert "4096" in half.note
    assert single.note == ""
    assert losses(half)[1:] != losses(single)[1:]


@pytest.mark.parametrize("kind", [PyTorch, Jax])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_loss_scale_is_divided_out_of_the_update(
    kind: type[Engine], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, where a power of 2 rounds nothing, so that nothing else differs."""
    expected = losses(start(kind, make_task("float32", name)))
    monkeypatch.setattr(Task, "loss_scale", 1024.0)
    assert losses(start(kind, make_task("float32", name))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [("float32", "highest"), ("tf32", "high"), ("float16", "highest"), ("float64", "highest")],
)
def test_pytorch_rounds_to_tf32_only_where_asked_and_only_meanwhile(torch: Any, precision: str, wanted: str) -> None:
    before = torch.get_float32_matmul_precision()
    matmul = torch.backends.cuda.matmul
    reduced = matmul.allow_fp16_reduced_precision_reduction
    for preset in ("medium", before):
        torch.set_float32_matmul_precision(preset)
        engine = PyTorch(make_task(precision))
        with engine.session():
            assert torch.get_float32_matmul_precision() == wanted
            assert matmul.allow_tf32 is (wanted == "high")
            assert matmul.allow_fp16_reduced_precision_reduction is False
        assert torch.get_float32_matmul_precision() == preset
        assert matmul.allow_fp16_reduced_precision_reduction == reduced


@pytest.mark.parametrize(
    ("precision", "wanted"), [("float32", "HIGHEST"), ("tf32", "HIGH"), ("float64", "HIGHEST"), ("float16", None)]
)
def test_jax_is_told_of_every_product_how_to_round(precision: str, wanted: str | None) -> None:
    engine = start(Jax, make_task(precision))
    with engine.session():
        arguments = engine._parameters, engine._moments, engine._X, engine._y, *engine._schedule.next()
        products = [line for line in engine._step.lower(*arguments).as_text().splitlines() if "dot_general" in line]
    assert len(products) >= 8  # three forward, five backward
    for product in products:
        if wanted:
            assert f"precision = [{wanted}, {wanted}]" in product
        else:
            operands = product.split(" : ")[1]
            assert operands.count("xf16>") == 2
            assert operands.endswith("xf32>")


def test_jax_is_left_as_it_was() -> None:
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    engine = start(Jax, make_task("float64"))
    with engine.session():
        assert jax.config.jax_enable_x64
    assert jax.config.jax_enable_x64 == before
    with start(Jax, make_task("float32")).session():
        assert not jax.config.jax_enable_x64
