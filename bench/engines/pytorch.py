"""PyTorch: eager, compiled, and compiled with CUDA graphs."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from bench.engines.base import LOSS_SCALE, Engine, NotHereError, Schedule, Task, first_line, imported
from fmnist_xp.machine import usable_cores


class PyTorch(Engine):
    """Linear layers, cross-entropy and PyTorch's own fused optimizers, eager."""

    name = "PyTorch, eager"

    def __init__(self, task: Task) -> None:
        """Put all on the device; raise `NotHereError` without PyTorch or, on a GPU, without its CUDA build."""
        self._torch = torch = imported("torch", "PyTorch")
        if task.on_gpu and not torch.cuda.is_available():
            raise NotHereError("the installed PyTorch finds no CUDA device")
        torch.set_num_threads(usable_cores())
        self._on_gpu = task.on_gpu
        device = torch.device("cuda", task.device_index) if task.on_gpu else torch.device("cpu")
        dtype = torch.float64 if task.precision == "float64" else torch.float32
        self._experiment = task.experiment
        self._matmul_precision = "high" if task.precision == "tf32" else "highest"
        self._casting = partial(torch.autocast, device.type, torch.float16) if task.half else nullcontext
        if task.half:
            scaled = f"the loss is scaled by {LOSS_SCALE:g}, which the update divides out"
            self.note = f"autocast; {scaled}, with no search for another scale"
        self._seed = torch.tensor(task.loss_scale, dtype=dtype, device=device)
        self._X = torch.from_numpy(task.rows()).to(device)
        self._y = torch.from_numpy(task.y).to(device, torch.int64)
        layers: list[Any] = []
        for weights, biases in task.dense():
            layer = torch.nn.Linear(*weights.shape, dtype=dtype)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weights.T.copy()))
                layer.bias.copy_(torch.from_numpy(biases.copy()))
            layers += [layer, torch.nn.ReLU()]
        self._model = torch.nn.Sequential(*layers[:-1]).to(device)
        parameters = list(self._model.parameters())
        if task.experiment.optimizer == "adam":
            betas = (Schedule.beta_1, Schedule.beta_2)
            # A mean of scaled gradients over the root of their scaled squares: the scale is in ε alone.
            epsilon = Schedule.epsilon * task.loss_scale
            self._optimizer = torch.optim.Adam(parameters, betas=betas, eps=epsilon, fused=True)
            self._gradient_scale = 1.0
        else:
            momentum = task.experiment.momentum
            self._gradient_scale = task.loss_scale
            self._optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=momentum, fused=True)
        self._schedule = Schedule(task.experiment)
        self._rate = task.experiment.learning_rate
        self._figures = self._compute

    def epoch(self) -> tuple[Any, Any]:
        """Return loss and accuracy as tensors of the device."""
        rate, _, _ = self._schedule.next()
        group = self._optimizer.param_groups[0]
        if self._experiment.momentum:
            # PyTorch keeps Σ μ·g and multiplies by today's rate, the notebook keeps Σ μ·lr·g: this makes them equal.
            group["momentum"] = self._experiment.momentum * self._rate / rate
        self._rate = rate
        group["lr"] = rate / self._gradient_scale
        self._optimizer.zero_grad()
        loss, accuracy = self._figures(self._X, self._y)
        loss.backward(self._seed)
        self._optimizer.step()
        return loss.detach(), accuracy

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self._on_gpu:
            self._torch.cuda.synchronize()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Hold all cores, float32 products to the precision asked for, and sums of halves to float32."""
        torch, matmul = self._torch, self._torch.backends.cuda.matmul
        before = torch.get_float32_matmul_precision(), matmul.allow_fp16_reduced_precision_reduction
        torch.set_float32_matmul_precision(self._matmul_precision)
        matmul.allow_fp16_reduced_precision_reduction = False
        try:
            with super().session():
                yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            matmul.allow_fp16_reduced_precision_reduction = before[1]

    def _compute(self, X: Any, y: Any) -> tuple[Any, Any]:
        with self._casting():
            logits = self._model(X)
        logits = logits.to(self._seed.dtype)
        first = self._model[0]
        penalty = self._experiment.l2 * (first.weight.square().sum() + first.bias.square().sum())
        accuracy = (logits.argmax(1) == y).float().mean()
        return self._torch.nn.functional.cross_entropy(logits, y) + penalty, accuracy


class PyTorchCompiled(PyTorch):
    """Forward, loss and backward through `torch.compile`."""

    name = "PyTorch, compiled"
    mode = "default"

    def __init__(self, task: Task) -> None:
        """Compile now; raise `NotHereError` where there is no compiler for it."""
        super().__init__(task)
        self._figures = self._torch.compile(self._compute, mode=self.mode)
        try:
            # Once through all of it, so that a missing compiler shows here; no update is made.
            with self.session():
                loss, _ = self._figures(self._X, self._y)
                loss.backward(self._seed)
                self.synchronize()
        except Exception as error:
            if not type(error).__module__.startswith("torch._"):
                raise
            raise NotHereError(f"torch.compile does not work here: {first_line(error)}") from error


class PyTorchCudaGraphs(PyTorchCompiled):
    """Compiled, and replayed as CUDA graphs."""

    name = "PyTorch, CUDA graphs"
    mode = "reduce-overhead"

    def __init__(self, task: Task) -> None:
        """Raise `NotHereError` on a CPU."""
        if not task.on_gpu:
            raise NotHereError("CUDA graphs need a GPU")
        super().__init__(task)

    def epoch(self) -> tuple[Any, Any]:
        """Return copies of loss and accuracy: the next replay writes over the originals."""
        self._torch.compiler.cudagraph_mark_step_begin()
        loss, accuracy = super().epoch()
        return loss.clone(), accuracy.clone()
