"""PyTorch: eager, compiled, compiled with CUDA graphs, and ten whole steps as one CUDA graph."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from bench.engines.base import LOG_EVERY, SCALED, Engine, NotHereError, Schedule, Task, first_line, imported
from fmnist_xp.machine import usable_cores


class PyTorch(Engine):
    """Linear layers, cross-entropy and PyTorch's own fused optimizers, eager."""

    name = "PyTorch, eager"
    graphs = False

    def __init__(self, task: Task) -> None:
        """Put all on the device; raise `NotHereError` without PyTorch or its CUDA build, and for graphs on a CPU."""
        if self.graphs and not task.on_gpu:
            raise NotHereError("CUDA graphs need a GPU")
        self._torch = torch = imported("torch", "PyTorch")
        if task.on_gpu and not torch.cuda.is_available():
            raise NotHereError("the installed PyTorch finds no CUDA device")
        torch.set_num_threads(usable_cores())
        self._on_gpu = task.on_gpu
        self._device = device = torch.device("cuda", task.device_index) if task.on_gpu else torch.device("cpu")
        dtype = torch.float64 if task.precision == "float64" else torch.float32
        self._experiment = task.experiment
        self._matmul_precision = "high" if task.precision == "tf32" else "highest"
        # Each weight enters one product: a cache of casts gains nothing, and must not be captured in a graph.
        casting = partial(torch.autocast, device.type, torch.float16, cache_enabled=False)
        self._casting = casting if task.half else nullcontext
        if task.half:
            self.note = f"autocast; {SCALED}, with no search for another scale"
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
        self._forward = self._compute

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
        loss, accuracy = self._forward(self._X, self._y)
        loss.backward(self._seed)
        self._optimizer.step()
        return loss.detach(), accuracy

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self._on_gpu:
            self._torch.cuda.synchronize(self._device)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Use all cores, the precision asked for in float32 products, and float32 sums in float16 products."""
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

    def _compiled(self, mode: str = "default") -> Any:
        """Return `_compute` through `torch.compile`, which compiles when it is first called."""
        # One limit for all engines together, past which code silently runs eagerly.
        config: Any = imported("torch._dynamo.config", "PyTorch's compiler")
        config.recompile_limit = 64
        return self._torch.compile(self._compute, mode=mode)

    def _compute(self, X: Any, y: Any, *, with_accuracy: bool = True) -> tuple[Any, Any]:
        """Return the loss, and the accuracy `with_accuracy`."""
        with self._casting():
            logits = self._model(X)
        logits = logits.to(self._seed.dtype)
        first = self._model[0]
        penalty = self._experiment.l2 * (first.weight.square().sum() + first.bias.square().sum())
        accuracy = (logits.argmax(1) == y).float().mean() if with_accuracy else None
        return self._torch.nn.functional.cross_entropy(logits, y) + penalty, accuracy


class PyTorchCompiled(PyTorch):
    """Forward, loss and backward through `torch.compile`."""

    name = "PyTorch, compiled"
    mode = "default"

    def __init__(self, task: Task) -> None:
        """Compile now; raise `NotHereError` where there is no compiler for it."""
        super().__init__(task)
        self._forward = self._compiled(self.mode)
        try:
            # Forward and backward once, so that a missing compiler shows here; without an update.
            with self.session():
                loss, _ = self._forward(self._X, self._y)
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
    graphs = True

    def epoch(self) -> tuple[Any, Any]:
        """Return copies of loss and accuracy: the next replay writes over the originals."""
        self._torch.compiler.cudagraph_mark_step_begin()
        loss, accuracy = super().epoch()
        return loss.clone(), accuracy.clone()


class PyTorchSteps(PyTorch):
    """Ten whole steps a call, with all that changes between them in a table on the device: fit to be captured."""

    name = f"PyTorch, {LOG_EVERY} epochs a call"
    epochs_a_call = LOG_EVERY

    def __init__(self, task: Task) -> None:
        """Make optimizers whose learning rate lies on the device."""
        super().__init__(task)
        torch, parameters = self._torch, list(self._model.parameters())
        self._adam = task.experiment.optimizer == "adam"
        # A GPU's fused Adam reads the rate as float32.
        fused = not (task.on_gpu and self._seed.dtype == torch.float64)
        # One number in each row, beside others, because compiled code copies what does not start at 16 bytes.
        self._table = torch.zeros(LOG_EVERY, 4, dtype=self._seed.dtype, device=self._device)
        if self._adam:
            group = self._optimizer.param_groups[0]
            self._optimizer = torch.optim.Adam(
                parameters,
                lr=self._table[0, 0],
                betas=group["betas"],
                eps=group["eps"],
                capturable=True,
                fused=fused,
                foreach=not fused,
            )
        else:
            # Gradients come learning rate times as large, so that PyTorch's Σ μ·g is the notebook's Σ μ·lr·g.
            momentum = task.experiment.momentum
            self._optimizer = torch.optim.SGD(parameters, lr=1 / task.loss_scale, momentum=momentum, fused=True)

    def epoch(self) -> tuple[Any, Any]:
        """Return copies of loss and accuracy of the first epoch."""
        rates = [self._schedule.next()[0] for _ in range(LOG_EVERY)]
        if not self._adam:
            rates = [rate * self._gradient_scale for rate in rates]
        table = self._torch.tensor(rates, dtype=self._table.dtype)[:, None].repeat(1, 4)
        # From pinned memory, which PyTorch keeps until it is copied, so that the host does not wait.
        self._table.copy_(table.pin_memory() if self._on_gpu else table, non_blocking=True)
        loss, accuracy = self._call()
        return loss.clone(), accuracy.clone()

    def _call(self) -> tuple[Any, Any]:
        return self._steps()

    def _steps(self) -> tuple[Any, Any]:
        """Make the steps with what the table holds; return loss and accuracy before the first."""
        found = None
        for number in range(LOG_EVERY):
            # None, not zeros: the graph then writes the first gradient instead of adding it.
            self._optimizer.zero_grad(set_to_none=True)
            loss, accuracy = self._forward(self._X, self._y, with_accuracy=number == 0)
            rate = self._table[number, 0]
            if self._adam:
                self._optimizer.param_groups[0]["lr"] = rate
            loss.backward(self._seed if self._adam else rate)
            self._optimizer.step()
            found = found or (loss.detach(), accuracy)
        assert found
        return found

    def _reset(self) -> None:
        """Forget the moments, after steps at a rate of 0, which leave the weights as they are."""
        for state in self._optimizer.state.values():
            for name, values in state.items():
                # In the parameters' dtype, as Adam's count of steps must be, from which it takes its corrections.
                state[name] = self._torch.zeros_like(values, dtype=self._seed.dtype)


class PyTorchWholeGraph(PyTorchSteps):
    """Ten whole steps, the optimizer's included, captured as one CUDA graph, compiled where that works."""

    name = f"PyTorch, CUDA graph of {LOG_EVERY} epochs"
    graphs = True

    def __init__(self, task: Task) -> None:
        """Capture the steps."""
        super().__init__(task)
        how = "compiled"
        try:
            self._forward = self._compiled()
            self._capture()
        except Exception as error:
            how = f"eager, since compiled they cannot be captured ({first_line(error)})"
            self._forward = self._compute
            self._capture()
        whole = f"{LOG_EVERY} whole steps, optimizer included, in one torch.cuda.graph, with the figures of the first"
        self.note = "; ".join(filter(None, [f"{whole}; forward, loss and backward {how}", self.note]))

    def _capture(self) -> None:
        """Warm up on a stream of its own, as PyTorch asks for, and capture on another.

        There the products' workspace is allocated in the graph's memory: PyTorch frees the others now and then.
        """
        torch = self._torch
        graph, warm_up, capturing = torch.cuda.CUDAGraph(), *(torch.cuda.Stream(self._device) for _ in range(2))
        with self.session(), torch.cuda.device(self._device):
            warm_up.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(warm_up):
                self._table.zero_()
                for _ in range(2):  # the second time with the moments as they will be captured
                    self._steps()
                    self._reset()
                self._optimizer.zero_grad(set_to_none=True)
            torch.cuda.current_stream().wait_stream(warm_up)
            gc.collect()  # not while capturing: what is freed may be another graph
            # The outer context puts the stream back where a capture fails. Other threads of the process, such as
            # JAX's, may call CUDA meanwhile.
            with (
                torch.cuda.stream(capturing),
                torch.cuda.graph(graph, stream=capturing, capture_error_mode="thread_local"),
            ):
                self._captured = self._steps()
        self._graph = graph

    def _call(self) -> tuple[Any, Any]:
        self._graph.replay()
        return self._captured
