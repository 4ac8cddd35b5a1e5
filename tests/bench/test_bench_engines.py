"""The frameworks in every precision against the notebook's float64, on the CPU, which computes in all, if slowly."""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath

from bench.agreement import check, references
from bench.engines import (
    Engine,
    Notebook,
    NotHereError,
    Ours,
    OursCudaGraphs,
    OursDense,
    OursFused,
    OursWithoutMetrics,
    Task,
    jax,
    ours,
    pytorch,
)
from bench.engines.jax import Jax, JaxLoop
from bench.engines.pytorch import PyTorch, PyTorchSteps, PyTorchWholeGraph
from bench.engines.scikit_learn import ScikitLearn
from fmnist_xp.backend import PRECISIONS, CpuBackend, CudaBackend, CudaGraphBackend
from fmnist_xp.data import Pixels
from fmnist_xp.errors import DeviceError
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.train.fullbatch import FullBatch

# The frameworks' own warnings are no failures.
pytestmark = pytest.mark.filterwarnings("default")

CPU = CpuBackend(2)
PLAIN = [name for name, precision in PRECISIONS.items() if not precision.fused]


def make_task(precision: str, name: str = "adam", rows: int = 300, margin: int = 0) -> Task:
    """Return a task of noisy rows around ten centres, of whose columns the first `margin` are background."""
    generator = np.random.default_rng(4)
    labels = np.arange(rows, dtype=np.uint8) % 10
    centres = generator.integers(0, 256, (10, 784))
    images = np.clip(centres[labels] + generator.integers(-60, 61, (rows, 784)), 0, 255).astype(np.uint8)
    images[:, :margin] = 0
    network = NOTEBOOK_EXPERIMENTS[name].make_network(CPU, seed=0, dtype=PRECISIONS[precision].parameters)
    return Task(NOTEBOOK_EXPERIMENTS[name], network.state_dict(), Pixels(images), labels, CPU, precision)


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


@pytest.mark.parametrize("name", NOTEBOOK_EXPERIMENTS)
@pytest.mark.parametrize("precision", PLAIN)
@pytest.mark.parametrize("kind", [PyTorch, Jax])
def test_losses_are_the_notebooks(kind: type[Engine], precision: str, name: str) -> None:
    task = make_task(precision, name)
    expected = losses(Notebook(task))
    # Each update may add the rounding of operands to 11 bits, which Adam amplifies more than SGD.
    granted = (1e-6, 1e-3, 5e-3) if precision in ("tf32", "float16") else (1e-6, 1e-6, 1e-5)
    for loss, exact, relative in zip(losses(start(kind, task)), expected, granted, strict=True):
        assert loss == pytest.approx(exact, rel=relative)
    if precision == "float64":  # and not those of float32, which has 7 digits
        assert losses(start(kind, task)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("epochs", [1, 10])
@pytest.mark.parametrize("name", NOTEBOOK_EXPERIMENTS)
@pytest.mark.parametrize("precision", ["float64", "float32", "float16"])
@pytest.mark.parametrize("kind", [PyTorchSteps, JaxLoop])
def test_several_epochs_a_call_are_the_notebooks(
    kind: type[Engine], precision: str, name: str, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and accuracy of three calls are those of their first epochs."""
    for module in (jax, pytorch):
        monkeypatch.setattr(module, "LOG_EVERY", epochs)
    task = make_task(precision, name)
    engine, notebook = start(kind, task), Notebook(task)
    exact = [notebook.epoch() for _ in range(2 * epochs + 1)][::epochs]
    with engine.session():
        found = [tuple(map(float, engine.epoch())) for _ in range(3)]
    granted = {"float64": 1e-6, "float32": 1e-3, "float16": 0.3}[precision]  # rounding, as training amplifies it
    for (loss, accuracy), (exact_loss, exact_accuracy) in zip(found, exact, strict=True):
        assert loss == pytest.approx(exact_loss, rel=granted)
        assert accuracy == pytest.approx(exact_accuracy, abs=1e-6 if precision == "float64" else granted)
    assert found[0][0] == pytest.approx(exact[0][0], rel=1e-6)


def test_whole_steps_as_a_graph_need_a_gpu(torch: Any) -> None:
    with pytest.raises(NotHereError, match=r"^CUDA graphs need a GPU$"):
        PyTorchWholeGraph(make_task("float32"))


class SecondGpu(CpuBackend):
    """The CPU with the number of a GPU."""

    cuda_index = 1


class FakeTorch:
    """PyTorch whose GPU is the CPU: capturing also computes, and a replay repeats the steps."""

    def __init__(self, torch: Any) -> None:
        self.real, self.log = torch, []
        self.stream: Any = None
        self.streams: list[Any] = []
        self.engine: Any = None
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            CUDAGraph=lambda: SimpleNamespace(replay=self.replay),
            Stream=lambda _device: SimpleNamespace(wait_stream=lambda _other: None),
            current_stream=lambda: SimpleNamespace(wait_stream=lambda _other: None),
            device=lambda _device: nullcontext(),
            stream=self.on_stream,
            graph=self.capture,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def device(self, _kind: str, _index: int | None = None) -> Any:
        return self.real.device("cpu")

    def compile(self, function: Any, mode: str) -> Any:
        assert mode == "default"
        return function

    @contextmanager
    def on_stream(self, stream: Any) -> Iterator[None]:
        before, self.stream = self.stream, stream
        self.streams.append(stream)
        yield
        self.stream = before

    @contextmanager
    def capture(self, graph: Any, **options: Any) -> Iterator[None]:
        inspect.signature(self.real.cuda.graph).bind(graph, **options)
        assert options["stream"] is self.stream
        assert options["stream"] not in self.streams[:-1]  # which has no workspace yet
        self.log.append("capture")
        yield
        self.log.append("end")

    def replay(self) -> None:
        self.log.append("replay")
        for result, target in zip(self.engine._steps(), self.engine._captured, strict=True):
            target.copy_(result)


@pytest.fixture
def fake_torch(torch: Any, monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    fake = FakeTorch(torch)
    monkeypatch.setattr(pytorch, "imported", lambda name, _package: fake if name == "torch" else SimpleNamespace())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return fake


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", NOTEBOOK_EXPERIMENTS)
def test_a_captured_call_is_replayed_from_the_tasks_weights(name: str, precision: str, fake_torch: FakeTorch) -> None:
    task = make_task(precision, name)
    notebook = Notebook(task)
    exact = [notebook.epoch() for _ in range(11)][::10]
    engine = fake_torch.engine = PyTorchWholeGraph(replace(task, backend=SecondGpu(1)))
    assert "forward, loss and backward compiled" in engine.note
    assert fake_torch.log == ["capture", "end"]
    assert len(fake_torch.streams) == 2
    engine._reset()  # a real capture computes nothing, and this one did
    with engine.session():
        found = [tuple(map(float, engine.epoch())) for _ in range(2)]
    assert fake_torch.log[2:] == ["replay"] * 2
    assert found[0] == pytest.approx(exact[0], rel=1e-6)
    assert found[1] == pytest.approx(exact[1], rel=0.3 if precision == "float16" else 1e-3)


def test_steps_that_cannot_be_captured_compiled_are_eager_with_a_note(
    fake_torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(fake_torch, "compile", lambda _function, mode: fail)
    engine = PyTorchWholeGraph(replace(make_task("float32"), backend=SecondGpu(1)))
    assert "backward eager, since compiled they cannot be captured (no compiler)" in engine.note
    assert fake_torch.log == ["capture", "end"]
    assert len(fake_torch.streams) == 3  # to warm up twice, and to capture


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_ours_and_scikit_learn_agree_in_both_precisions_of_the_cpu(precision: str) -> None:
    task = make_task(precision, "momentum")
    expected = references(task, [Ours, ScikitLearn])
    found = [check(task, engine, expected) for engine in (Ours(task), Notebook(task), start(ScikitLearn, task))]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("name", NOTEBOOK_EXPERIMENTS)
def test_rows_without_their_background_are_the_notebooks_too(name: str) -> None:
    """Eight of 28 lines are background: 560 of 784 columns are multiplied, in float64 with the same losses."""
    task = make_task("float64", name, margin=8 * 28)
    sides = [kind(task) for kind in (Ours, OursDense, OursWithoutMetrics)]
    assert [side.column_share for side in sides] == [560 / 784, 1, 560 / 784]
    assert [side.note.rpartition("; ")[2] for side in sides] == [
        "71.4% of the columns, of rows that it has sorted",
        "100% of the columns, of the same numbers in the same order as the frameworks",
        "71.4% of the columns, of rows that it has sorted",
    ]
    expected = losses(Notebook(task))
    for side in sides[:2]:
        assert losses(side) == pytest.approx(expected, rel=1e-12)


def test_rows_are_the_pixels_scaled_in_the_precision() -> None:
    for precision, dtype in (("float64", "float64"), ("float32", "float32"), ("float16", "float16")):
        task = make_task(precision)
        exact = (task.pixels.images.astype("float64") - 127.5) / 127.5
        assert task.rows().dtype == dtype
        assert task.X.dtype == ("float64" if precision == "float64" else "float32")
        np.testing.assert_allclose(task.rows(), exact, rtol=2 * np.finfo(dtype).eps, atol=0)


def test_ours_without_columns_left_out_says_nothing_of_them() -> None:
    engine = Ours(make_task("float32"))
    assert (engine.column_share, engine.note) == (1, "")


def test_dense_rows_are_no_side_of_a_gpu() -> None:
    with pytest.raises(NotHereError, match=r"^a GPU multiplies every column by default$"):
        OursDense(replace(make_task("float32"), backend=SecondGpu(1)))


def test_cuda_graphs_need_a_gpu() -> None:
    with pytest.raises(NotHereError, match=r"^CUDA graphs need a GPU$"):
        OursCudaGraphs(make_task("float32"))


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("precision", PLAIN)
def test_ten_epochs_as_a_graph_are_ten_of_ours(precision: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[int, StandInCupy]] = []

    def open_graphs(index: int) -> CudaGraphBackend:
        opened.append((index, StandInCupy(devices=2)))
        return CudaGraphBackend(index, cupy=opened[-1][1], nvmath=make_nvmath(opened[-1][1]))

    monkeypatch.setattr(ours, "CudaGraphBackend", open_graphs)
    task = replace(make_task(precision, name), backend=CudaBackend(1, cupy=StandInCupy(devices=2)))
    plain, graphs = Ours(task), OursCudaGraphs(task)
    with plain.session():
        expected = [tuple(map(float, plain.epoch())) for _ in range(31)][::10]
    with graphs.session():
        found = [tuple(map(float, graphs.epoch())) for _ in range(4)]
    assert found == expected
    ((index, cupy),) = opened
    assert index == 1
    assert len(cupy.launches) == 3  # of four calls, the first of which launches kernel by kernel


def test_fused_engine_is_no_side_of_a_cpu() -> None:
    reason = f"the fused engine does not take cpu ({CPU.device_name}): it needs compute capability 8.0"
    with pytest.raises(NotHereError, match=f"^{re.escape(reason)}$"):
        OursFused(make_task("float32"))


@pytest.mark.parametrize("precision", ["float64", "tf32"])
def test_fused_engine_is_no_side_in_a_precision_that_it_lacks(precision: str) -> None:
    reason = f"^the fused engine does not take {precision}: it has float16, bfloat16, float32$"
    with pytest.raises(NotHereError, match=reason):
        OursFused(replace(make_task(precision), backend=CudaBackend(cupy=StandInCupy())))


def test_ten_epochs_of_the_fused_engine_are_one_graph_from_the_tasks_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plain engine's epochs in its place."""
    given: list[Any] = []

    def fused_batch(network: Any, optimizer: Any, pixels: Any, y: Any) -> FullBatch:
        given.append((network.backend.to_host(pixels), type(optimizer).__name__))
        return FullBatch(network, Pixels(given[-1][0]), y)

    def open_graphs(index: int) -> CudaGraphBackend:
        cupy = StandInCupy(devices=2)
        return CudaGraphBackend(index, cupy=cupy, nvmath=make_nvmath(cupy))

    monkeypatch.setattr(ours, "CudaGraphBackend", open_graphs)
    monkeypatch.setattr(ours, "FusedBatch", fused_batch)
    task = replace(make_task("float16"), backend=CudaBackend(1, cupy=StandInCupy(devices=2)))
    fused, graphs = OursFused(task), OursCudaGraphs(task)
    results = []
    for engine in (fused, graphs):
        with engine.session():
            results.append([tuple(map(float, engine.epoch())) for _ in range(2)])
    assert results[0] == results[1]
    ((pixels, optimizer),) = given
    np.testing.assert_array_equal(pixels, task.pixels.images)
    assert optimizer == "Adam"
    assert (fused.name, fused.epochs_a_call, fused.column_share) == ("fmnist_xp, fused engine", 10, 1)


def test_cuda_graphs_that_fail_are_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any) -> Any:
        raise DeviceError("for a reason")

    monkeypatch.setattr(ours, "CudaGraphBackend", fail)
    with pytest.raises(NotHereError, match=r"^for a reason$"):
        OursCudaGraphs(replace(make_task("float32"), backend=CudaBackend(cupy=StandInCupy())))


@pytest.mark.parametrize("kind", [PyTorch, Jax])
def test_float16_rounds_and_notes_the_loss_scale(kind: type[Engine]) -> None:
    half, single = (start(kind, make_task(precision)) for precision in ("float16", "float32"))
    assert "4096" in half.note
    assert single.note == ""
    assert losses(half)[1:] != losses(single)[1:]


@pytest.mark.parametrize("kind", [PyTorch, PyTorchSteps, Jax, JaxLoop])
@pytest.mark.parametrize("name", NOTEBOOK_EXPERIMENTS)
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
def test_pytorch_uses_tf32_only_if_asked_and_only_in_its_session(torch: Any, precision: str, wanted: str) -> None:
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
def test_precision_of_every_jax_product_is_set(precision: str, wanted: str | None) -> None:
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


def test_jax_configuration_is_restored() -> None:
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    engine = start(Jax, make_task("float64"))
    with engine.session():
        assert jax.config.jax_enable_x64
    assert jax.config.jax_enable_x64 == before
    with start(Jax, make_task("float32")).session():
        assert not jax.config.jax_enable_x64
