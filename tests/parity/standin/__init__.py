"""A stand-in for CuPy on a machine without a GPU: it computes with NumPy and refuses what CuPy refuses.

Code written against an array module `xp` runs with NumPy and hides there most of what would fail, or crawl, on a
GPU. Run it with a `StandInCupy` in the place of `cupy` instead:

    cupy = StandInCupy()
    network = Network(xp=cupy)
    assert cupy.counted(lambda: network.train(epochs=5)) == {"kernels": 40, "products": 30, "synchronisations": 1}
    assert cupy.implicit == []

To test a port of your own, copy this folder with `test_standin.py` and `test_cupy_api.py`. Import it under one name
everywhere (here `parity.standin`): two copies of the modules have two array types.

**Refused**, with CuPy's exception where CuPy raises one:

- a NumPy array where an array of the device belongs: in arithmetic, as an argument, as `out=`, as an assigned value;
- conversion that nobody asked for: `np.asarray(x)` and all that does it, `range(x)`, `hash(x)`;
- functions, parameters, methods and attributes that are not in `tables.py`. What is there is compared with the
  installed CuPy by `test_cupy_api.py`: to allow one more, add it and let that test judge;
- in a function made with `fuse`: anything that is not element-wise, branching on a value, arrays from outside,
  writing to an array that the kernel's other arguments are wider than (on a GPU each element of it would be written
  many times), and writing to an array that overlaps another argument without being the same;
- cuBLAS calls whose matrices do not lie in live device memory, whose strides are too short, whose factors lie in
  device memory, or whose types do not go together;
- work with arrays of another device than the one that is current on the thread (`with cupy.cuda.Device(1):`), where
  CuPy warns or raises in some places and computes something wrong in others; also with another device's events,
  streams, graphs and cuBLAS handles. `array` and `asarray` copy to the current device;
- stricter than CuPy, which would copy in silence: NumPy arrays and lists as indices.

**Counted**: each of these lists of a `StandInCupy` has one entry an event, which tells where it happened;
`counted` tells how many a piece of work adds to each.

- `synchronisations`: the host waited for the device: `get`, `asnumpy`, `item`, `tolist`, `synchronize`, and whatever
  is in `implicit`;
- `implicit`: waits that do not look like one: `float(x)`, `int(x)`, `bool(x)` (and so `if x:`), `str(x)`, indexing
  by a mask, and iteration, which is one small kernel after another;
- `transfers_to_device`, `transfers_to_host`: copies between the two;
- `allocations`: new arrays, also those of operators and of functions without `out=`; views are free, and so are
  intermediate values in a fused function;
- `kernels`: names of the fused functions called; `fused`: of those made;
- `products`: compute types of the cuBLAS products;
- `launches`: of captured graphs. What was captured counts when it is launched;
- `messages`: names of NCCL's calls.

**Captured**: between a stream's `begin_capture` and `end_capture`, what is asked of the device in that stream is
noted and not done; the graph does it when it is launched, if the memory lives. Refused meanwhile: waits, transfers,
allocations, CuPy's cuBLAS, and a fused function that is not compiled yet. `NvmathCublas(cupy)` stands for
`nvmath.bindings.cublas`, and `NvmathCublasLt(cupy)` for `nvmath.bindings.cublasLt`, whose products can be captured.
So can NCCL's messages: there is none of it until `cupy.cuda.nccl = make_nccl(cupy, comm)`, where `comm` of mpi4py
carries them. A communicator that is destroyed while a graph lives that it is part of is refused: NCCL hangs there.

**Compiled**: with `StandInCupy(kernels="ptx")` kernels are no functions of NumPy's, but what NVRTC makes of what CuPy
would load, run by the interpreter in `tests/ptx`: fused functions that are `functools.partial(formula, cupy)`, and
`RawKernel`s, of which the stand-in else knows none but the package's. That is slow, so for small sizes, and takes the
real CuPy, NVRTC and CUDA's headers. What `empty` gives may then not be read before it is written.
`pytest --kernels=ptx` runs the tests so that use the fixture `standin`.

**Not modelled**: rounding (the bits are NumPy's, also where TF32 is asked for), the order of sums, the order of
streams among themselves, the size of the memory, time.
"""

from types import SimpleNamespace

from parity.standin.arrays import DeviceArray
from parity.standin.cublaslt import NvmathCublasLt
from parity.standin.cuda import CUBLASError, CUDADriverError, CUDARuntimeError, NvmathCublas, OutOfMemoryError
from parity.standin.module import StandInCupy
from parity.standin.nccl import make_nccl

__all__ = [
    "CUBLASError",
    "CUDADriverError",
    "CUDARuntimeError",
    "DeviceArray",
    "NvmathCublas",
    "NvmathCublasLt",
    "OutOfMemoryError",
    "StandInCupy",
    "make_nccl",
    "make_nvmath",
]


def make_nvmath(cupy: StandInCupy) -> SimpleNamespace:
    """Return what stands for `nvmath.bindings`."""
    return SimpleNamespace(cublas=NvmathCublas(cupy), cublasLt=NvmathCublasLt(cupy))
