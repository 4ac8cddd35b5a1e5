"""The stand-in's module: its functions, its fusion, and what it counts."""

import functools
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from parity.standin.arrays import DeviceArray, Memory, Scalar
from parity.standin.cuda import Bytes, CUDARuntimeError, Current, Stream, make_cuda, of_device
from parity.standin.fusion import FusedVariable, Kernel
from parity.standin.kernels import RawKernel
from parity.standin.tables import (
    CONSTANTS,
    CREATION,
    ELEMENTWISE,
    FUNCTIONS,
    OF_DTYPES,
    TYPES,
    UFUNCS,
    UNTOUCHING,
    check_arguments,
    parameters,
)

GIB = 2**30
COUNTED = (
    *("synchronisations", "implicit", "transfers_to_device", "transfers_to_host"),
    *("allocations", "kernels", "fused", "products", "launches", "messages"),
)
HERE = str(Path(__file__).parent) + os.sep


class StandInCupy(ModuleType):
    """CuPy as far as the tables go, computing with NumPy; see the package for what it refuses and counts.

    Parameters
    ----------
    driver, devices
        The driver's version and the number of devices, or the exception that asking for it raises.
    memory
        Free and total bytes of every device, a list with those of each, or the exception that asking for it raises.
    pool
        Free and total bytes of the memory pool, likewise.
    name, major
        The devices' name, and the first number of their compute capability.
    failure
        What every product raises; None for products that succeed. May be changed later.
    late_failure
        What whatever waits for the device raises, as kernels do that fail once they run. May be changed later.
    """

    __version__ = "14.2.0"
    ndarray = DeviceArray

    def __init__(
        self,
        driver: int | Exception = 12040,
        devices: int | Exception = 1,
        memory: Bytes = (8 * GIB, 10 * GIB),
        pool: Bytes = (2 * GIB, 3 * GIB),
        name: str | bytes = b"Stand-in GPU",
        major: int = 9,
        failure: Exception | None = None,
        late_failure: Exception | None = None,
        kernels: str = "numpy",
        architecture: str = "90",
    ) -> None:
        super().__init__("cupy")
        self.compiles, self.architecture = kernels == "ptx", architecture
        self.failure = failure
        self.late_failure = late_failure
        self.synchronisations: list[str] = []
        self.implicit: list[str] = []
        self.transfers_to_device: list[str] = []
        self.transfers_to_host: list[str] = []
        self.allocations: list[str] = []
        self.kernels: list[str] = []
        self.fused: list[str] = []
        self.products: list[int] = []
        self.launches: list[str] = []
        self.messages: list[str] = []
        self.current = Current()
        self.streams = [Stream(self, null=True)]  # the current one is the last of the current device
        self.allocator: Callable[[int], Any] | None = None
        self.events = 0
        self.cuda = make_cuda(self, driver, devices, memory, name, major)
        self._pool = SimpleNamespace(
            free_bytes=lambda: of_device(pool, self.current.device)[0],
            total_bytes=lambda: of_device(pool, self.current.device)[1],
        )
        self._memory: weakref.WeakSet[Memory] = weakref.WeakSet()
        self._kernel: Kernel | None = None  # the fused function under way
        for function in UFUNCS:
            inputs = ("x", "x1 x2")[getattr(np, function).nin - 1]
            self._define(function, self._elementwise, f"{inputs} out | dtype")
        for table, call in ((ELEMENTWISE, self._elementwise), (CREATION, self._create), (FUNCTIONS, self._call)):
            for function, text in table.items():
                self._define(function, call, text)
        for constant in (*TYPES, *CONSTANTS, *OF_DTYPES):
            setattr(self, constant, getattr(np, constant))

    def RawKernel(self, code: str, name: str) -> Any:
        if not self.compiles:
            return RawKernel(self, code, name)
        from parity.standin.compiled import CompiledKernel

        return CompiledKernel(self, code, name)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the stand-in has no cupy.{name}: where CuPy has it, add it to the tables")

    def _define(self, name: str, call: Callable[..., Any], text: str) -> None:
        """Make the function `name`, which takes the parameters of a table's entry."""
        compute = getattr(np, name)

        positional = parameters(text)[0]
        before_out = positional.index("out") if "out" in positional else None

        def function(*args: Any, **kwargs: Any) -> Any:
            check_arguments(f"cupy.{name}", text, args, kwargs)
            if before_out is not None:
                kwargs |= zip(positional[before_out:], args[before_out:], strict=False)
            return call(compute, *args[:before_out], **kwargs)

        function.__name__ = function.__qualname__ = name
        setattr(self, name, function)

    # Streams.

    @property
    def stream(self) -> Stream:
        """The current stream of the current device."""
        return next(stream for stream in reversed(self.streams) if stream.device_id in (-1, self.current.device))

    def submit(self, work: Callable[[], Any], *arguments: Any) -> None:
        """Do `work`, which has the values of `arguments` in hand, or note it where the stream is captured."""
        if self.stream.captured is None:
            work()
            return
        memories = [weakref.ref(array._memory) for array in arguments if isinstance(array, DeviceArray)]

        def launched() -> None:
            if any(memory() is None for memory in memories):
                raise RuntimeError("a graph works on memory that was freed")
            work()

        self.stream.captured.append(launched)

    # Counting.

    def note(self, events: list[str], what: str) -> None:
        """Add an event to one of the lists, with the place outside the stand-in where it happened.

        None of them can be captured.
        """
        if self.stream.captured is not None:
            self.stream.invalid = True
            raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} while the stream is captured")
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename.startswith(HERE):
            frame = frame.f_back
        events.append(f"{what} at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}")

    def note_wait(self, what: str, implicit: bool = False) -> None:
        """Count a synchronisation, and whether it looked like one."""
        self.note(self.synchronisations, what)
        if self.late_failure is not None:
            raise self.late_failure
        if implicit:
            self.note(self.implicit, what)

    def counted(self, work: Callable[[], Any]) -> dict[str, int]:
        """Return how many events of each kind `work()` makes, by the lists' names, where it makes any."""
        before = {name: len(getattr(self, name)) for name in COUNTED}
        work()
        added = {name: len(getattr(self, name)) - count for name, count in before.items()}
        return {name: count for name, count in added.items() if count}

    # Between arrays of the device and the NumPy arrays in them.

    def wrap(self, values: Any, sources: Sequence[DeviceArray], what: str) -> Any:
        """Return a result of NumPy as an array of the device: one of `sources`, a view of one, or a new one."""
        if not isinstance(values, np.ndarray | np.generic):
            return values
        for source in sources:
            if values is source._values:
                return source
        values = np.asarray(values)
        bounds = np.lib.array_utils.byte_bounds(values)
        for source in sources:
            if bounds in source._memory:
                return DeviceArray(values, self, source._memory)
        if self.allocator is not None:
            self.allocator(values.nbytes)
        self.note(self.allocations, what)
        memory = Memory(values, self.current.device)
        self._memory.add(memory)
        return DeviceArray(values, self, memory)

    def unwrap(self, argument: Any) -> Any:
        """Return the NumPy array in an argument; refuse arrays of the host and of another stand-in."""
        if isinstance(argument, DeviceArray):
            if argument._cupy is not self:
                raise ValueError("the array is of another stand-in")
            return argument._values
        if isinstance(argument, np.ndarray | FusedVariable):
            raise TypeError(f"Unsupported type {type(argument)}")
        if isinstance(argument, list | tuple):
            return type(argument)(self.unwrap(part) for part in argument)
        return argument

    def check_current(self, *arguments: Any) -> None:
        """Refuse arrays of another device than the current one.

        CuPy warns where the two devices reach each other's memory and raises this where they do not; in fused kernels
        and products it looks at nothing, and computes in no order with the other device, or not at all.
        """
        for argument in arguments:
            # A graph's arrays hold no memory: the graph as a whole is of a device.
            memory = argument._memory if isinstance(argument, DeviceArray) else None
            if memory is not None and memory.device != self.current.device:
                raise ValueError(
                    f"The device where the array resides ({memory.device}) is different from the current device "
                    f"({self.current.device}). Peer access is unavailable between these devices."
                )

    def device_of_memory(self, address: int, size: int) -> int | None:
        """Return the device in one live block of whose memory these bytes lie, or None."""
        return next((memory.device for memory in self._memory if (address, address + size) in memory), None)

    # Functions.

    def _elementwise(self, compute: Any, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        inputs = compute.nin if isinstance(compute, np.ufunc) else 3
        if len(args) < inputs:
            raise TypeError(f"the stand-in's cupy.{compute.__name__} takes {inputs} arrays or scalars by position")
        args, (out, *_) = args[:inputs], (*args[inputs:], out)
        if self._kernel is not None:
            return self._fused_step(compute, args, out, kwargs)
        for argument in args:
            if not isinstance(argument, DeviceArray | Scalar):
                raise TypeError(f"Unsupported type {type(argument)}")
        return self._call(compute, *args, **({} if out is None else {"out": out}), **kwargs)

    def _fused_step(self, compute: Any, args: Sequence[Any], out: Any, kwargs: dict[str, Any]) -> FusedVariable:
        if kwargs:
            raise TypeError(f"Wrong arguments {kwargs}")
        assert self._kernel is not None
        for argument in args:
            if not isinstance(argument, FusedVariable | Scalar):
                raise TypeError(f"Unsupported type {type(argument)}")
        values = [arg._values if isinstance(arg, FusedVariable) else arg for arg in args]
        if out is None:
            return FusedVariable(compute(*values), self._kernel)
        if not isinstance(out, FusedVariable) or not isinstance(out._values, np.ndarray):
            raise TypeError("return arrays must be of ArrayType")
        if out._argument:
            self._kernel.check_written(out._values)
        compute(*values, out=out._values)
        return out

    def _create(self, compute: Any, *args: Any, **kwargs: Any) -> DeviceArray:
        """Make an array, from one of the host where the function takes one."""
        source = args[0] if args else None
        if compute.__name__ in ("array", "asarray", "ascontiguousarray") and not isinstance(source, DeviceArray):
            self._refuse_in_kernel(compute.__name__)
            self.note(self.transfers_to_device, compute.__name__)
            return self.wrap(np.array(compute(*args, **kwargs)), [], compute.__name__)
        if compute.__name__ in ("array", "asarray") and source.data.device_id != self.current.device:
            if not (source.flags.c_contiguous or source.flags.f_contiguous):
                raise NotImplementedError("CuPy cannot copy non-contiguous array between devices.")
            args = self.wrap(source._values.copy("K"), [], "copy from another device"), *args[1:]
        made: DeviceArray = self._call(compute, *args, **kwargs)
        if self.compiles and compute.__name__.startswith("empty"):
            from parity.standin.compiled import mark_unwritten

            mark_unwritten(made._values)
        return made

    def _call(self, compute: Any, *args: Any, **kwargs: Any) -> Any:
        self._refuse_in_kernel(compute.__name__)
        if self.failure is not None and compute.__name__ in ("dot", "matmul", "outer", "vdot"):
            raise self.failure
        sources = [
            array
            for argument in (*args, *kwargs.values())
            for array in (argument if isinstance(argument, list | tuple) else [argument])
            if isinstance(array, DeviceArray)
        ]
        if compute.__name__ in FUNCTIONS and not sources:
            raise TypeError(f"Unsupported type {type(args[0]) if args else None}")
        if compute.__name__ not in UNTOUCHING:
            self.check_current(*sources)
        work = functools.partial(
            compute, *map(self.unwrap, args), **{name: self.unwrap(value) for name, value in kwargs.items()}
        )
        if self.stream.captured is not None:
            if compute.__name__ in ("dot", "matmul", "vdot"):
                raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
            if compute is np.copyto or kwargs.get("out") is not None:
                return self.submit(work, *sources) or kwargs.get("out")
        # What is neither copied nor written to `out` gives a view, or an array that `wrap` allocates.
        return self.wrap(work(), sources, compute.__name__)

    def _refuse_in_kernel(self, name: str) -> None:
        if self._kernel is not None:
            raise TypeError(f"cupy.{name} is not element-wise: a fused function cannot call it")

    def asnumpy(self, array: Any) -> np.ndarray:
        return array.get() if isinstance(array, DeviceArray) else np.asarray(array)

    def get_default_memory_pool(self) -> Any:
        return self._pool

    # Fusion.

    def fuse(self, function: Callable[..., Any] | None = None, *, kernel_name: str | None = None) -> Any:
        if function is None:
            return functools.partial(self.fuse, kernel_name=kernel_name)
        name = kernel_name or function.__name__
        self.fused.append(name)

        compiled: dict[Any, bool] = {}  # for these types, and whether they give new arrays

        @functools.wraps(function)
        def kernel(*arguments: Any) -> Any:
            arrays = [argument for argument in arguments if isinstance(argument, DeviceArray)]
            if self._kernel is not None or not arrays:  # called by another fused function, or with numbers alone
                return function(*arguments)
            if not all(isinstance(argument, DeviceArray | Scalar | None) for argument in arguments):
                types = ", ".join(repr(type(argument)) for argument in arguments)
                raise TypeError(f"Invalid argument type for '{name}': ({types})")
            self.check_current(*arrays)
            types = *((array.dtype, array.ndim) for array in arrays), len(arguments)
            if self.stream.captured is None:
                returned = self._run(name, function, arguments)
                compiled[types] = returned is not None
                return returned
            if compiled.get(types, True):
                self.note(self.allocations, f"{name} is compiled, or gives new arrays,")
            # As a kernel has addresses alone, the graph holds values that hold no memory.
            addresses = [DeviceArray(a._values, self, None) if isinstance(a, DeviceArray) else a for a in arguments]
            self.submit(functools.partial(self._run, name, function, addresses), *arrays)
            return None

        return kernel

    def _run(self, name: str, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Make one call of a fused function."""
        self.kernels.append(name)
        if self.compiles:
            from parity.standin.compiled import run_fused

            return run_fused(self, name, function, tuple(arguments))
        self._kernel = Kernel(self, name, [argument for argument in arguments if isinstance(argument, DeviceArray)])
        try:
            returned = function(*(self._variable(argument) for argument in arguments))
        finally:
            self._kernel = None
        if isinstance(returned, tuple):
            return tuple(map(self._returned, returned))
        return self._returned(returned)

    def _variable(self, argument: Any) -> Any:
        if argument is None:
            return None
        return FusedVariable(self.unwrap(argument), self._kernel, argument=isinstance(argument, DeviceArray))

    def _returned(self, variable: Any) -> Any:
        if variable is None:
            return None
        if not isinstance(variable, FusedVariable):
            raise TypeError(f"Fusion function can't return {type(variable)}")
        return self.wrap(np.array(variable._values), [], "fuse")
