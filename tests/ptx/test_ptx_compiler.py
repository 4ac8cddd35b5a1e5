"""CUDA C++ compiled as CuPy compiles it, and run: from source to numbers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptx import Kernel, Memory, Race, compile_ptx, compiler, pack
from ptx.compiler import Usage, usage


@pytest.fixture(scope="module")
def cupy(real_cupy: Any) -> Any:
    return real_cupy


needs_nvrtc = pytest.mark.usefixtures("nvrtc")

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'two' for 'sm_80'
ptxas info    : Function properties for two
ptxas         .     208 bytes stack frame, 252 bytes spill stores, 376 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 208 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compiling entry function 'one' for 'sm_80'
ptxas info    : Function properties for one
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 380 bytes cmem[0]
"""


def test_report() -> None:
    assert usage(LOG) == {"two": Usage(255, 1024, 208, 252, 376), "one": Usage(10, 0, 0, 0, 0)}
    assert usage("") == {}
    with pytest.raises(ValueError, match="no report of registers"):
        usage(LOG.replace("Used", "Took"))


SAXPY = """extern "C" __global__ void saxpy(float a, const float* __restrict__ x, float* y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}"""
SUM = """extern "C" __global__ void sum(const float* x, float* out, int n) {
    __shared__ float sums[256];
    float value = 0;
    for (int i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) value += x[i];
    sums[threadIdx.x] = value;
    BARRIER
    for (int step = 128; step; step /= 2) {
        if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = sums[0];
}"""


def kernel(source: str, name: str, architecture: str = "80", **options: Any) -> Kernel:
    return compile_ptx(source, architecture, **options).program().kernels[name]


def launch(one: Kernel, grid: int, block: int, *arguments: Any, shared_bytes: int = 0) -> None:
    memory = Memory()
    for number, argument in enumerate(arguments):
        if isinstance(argument, np.ndarray):
            memory.add(argument, name=f"argument {number}")
    one.launch((grid,), (block,), [pack(argument) for argument in arguments], memory, shared_bytes)


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_from_source_to_numbers(architecture: str) -> None:
    generator = np.random.default_rng(0)
    x, y = (generator.standard_normal(1000).astype("f4") for _ in range(2))
    wanted = (x.astype("f8") * 2.5 + y).astype("f4")  # one rounding, as fma has
    one = kernel(SAXPY, "saxpy", architecture)
    assert one.program.architecture == architecture
    launch(one, 8, 128, np.float32(2.5), x, y, np.int32(1000))
    assert y.tolist() == wanted.tolist()


@needs_nvrtc
def test_sum_of_a_block() -> None:
    x, out = np.arange(1000, dtype="f4"), np.zeros(3, "f4")
    launch(kernel(SUM.replace("BARRIER", "__syncthreads();"), "sum"), 3, 256, x, out, np.int32(1000))
    assert out.tolist() == [sum(i for i in range(1000) if i // 256 % 3 == block) for block in range(3)]
    with pytest.raises(Race):
        launch(kernel(SUM.replace("BARRIER", ""), "sum"), 3, 256, x, out, np.int32(1000))


@needs_nvrtc
def test_kernel_knows_what_it_needs() -> None:
    compiled = compile_ptx(SUM.replace("BARRIER", "__syncthreads();"))
    assert compiled.usage["sum"].shared == compiled.program().kernels["sum"].shared_bytes == 1024
    assert compiled.usage["sum"].spill_stores == compiled.usage["sum"].spill_loads == 0
    assert 0 < compiled.usage["sum"].registers <= 32
    assert compiled.program().kernels["sum"].registers == compiled.usage["sum"].registers
    assert "Compiling entry function 'sum' for 'sm_80'" in compiled.log


@needs_nvrtc
def test_spills_are_reported() -> None:
    """64 numbers that all have to be kept, in 16 registers."""
    source = """extern "C" __global__ void __launch_bounds__(1024, 2) many(float* x) {
        float kept[64];
        for (int i = 0; i < 64; i++) kept[i] = x[threadIdx.x + 1024 * i];
        __syncthreads();
        for (int i = 0; i < 64; i++) x[threadIdx.x + 1024 * i] = kept[63 - i] * kept[i];
    }"""
    found = compile_ptx(source).usage["many"]
    assert found.registers <= 32
    assert found.spill_stores > 0
    assert found.spill_loads > 0


@needs_nvrtc
def test_flushes_subnormals_as_cupy_does() -> None:
    assert "fma.rn.ftz.f32" in compile_ptx(SAXPY).ptx
    tiny, zero = np.float32([1e-40]), np.float32([0])
    launch(kernel(SAXPY, "saxpy"), 1, 1, np.float32(1), tiny, zero, np.int32(1))
    assert zero.tolist() == [0]


@needs_nvrtc
def test_options_and_headers(cupy: Any) -> None:
    source = '#ifdef WANTED\nextern "C" __global__ void f() {}\n#endif'
    assert list(compile_ptx(source, options=("-DWANTED",)).usage) == ["f"]
    assert list(compile_ptx(source).usage) == []
    indexed = 'extern "C" __global__ void f(CArray<float, 1> x, CIndexer<1> i) { x[0] = i.size(); }'
    with pytest.raises(cupy.cuda.compiler.CompileException, match="CArray"):
        compile_ptx(indexed)
    parameters = kernel(indexed, "f", headers=True).parameters
    assert [size for _name, size, _alignment in parameters] == [32, 24]


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_without_a_report(architecture: str) -> None:
    alone, reported = compile_ptx(SAXPY, architecture, report=False), compile_ptx(SAXPY, architecture)
    assert alone.ptx == reported.ptx
    assert alone.usage == {}
    assert alone.program().kernels["saxpy"].registers is None


@needs_nvrtc
def test_compiles_once() -> None:
    assert compile_ptx(SAXPY) is compile_ptx(SAXPY, "80", ())
    assert compile_ptx(SAXPY).program() is compile_ptx(SAXPY).program()
    assert compile_ptx(SAXPY, "90") is not compile_ptx(SAXPY)


FUNCTIONS = {
    "sin": math.sin,
    "tan": math.tan,
    "exp": math.exp,
    "expm1": math.expm1,
    "log1p": lambda x: math.log1p(abs(x)),
    "tanh": math.tanh,
    "erf": math.erf,
    "asinh": math.asinh,
    "floor": math.floor,
    "rint": round,
}


@needs_nvrtc
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("kind", "dtype", "units"), [("float", "f4", 5), ("double", "f8", 2)])
def test_functions_of_the_compiler_s_library(name: str, kind: str, dtype: str, units: int) -> None:
    """Hundreds of instructions each: divisions, tables, long products of large angles, branches, approximations."""
    generator = np.random.default_rng(0)
    parts = (generator.uniform(-9, 9, 200), generator.uniform(-1e-3, 1e-3, 50), generator.uniform(-80, 80, 50))
    x = np.concatenate(parts).astype(dtype)
    if name in ("sin", "tan"):
        x[:50] *= 1e5
    argument = "fabs(x[i])" if name == "log1p" else "x[i]"
    source = f"""extern "C" __global__ void f(const {kind}* x, {kind}* y) {{
        const int i = threadIdx.x; y[i] = {name}{"f" if kind == "float" else ""}({argument});
    }}"""
    y = np.zeros_like(x)
    launch(kernel(source, "f", report=False), 1, len(x), x, y)
    wanted = np.array([FUNCTIONS[name](value) for value in x.tolist()])
    unit = np.spacing(np.maximum(np.abs(wanted), np.finfo(dtype).tiny).astype(dtype)).astype("f8")
    assert (np.abs(y - wanted) <= units * unit).all()


@needs_nvrtc
def test_everything_at_once() -> None:
    """Calls, tables of targets, local and constant memory, struct parameters, double precision, long division."""
    source = """
    __constant__ int table[4] = {5, 7, 11, 13};
    struct Pair { double a; int b; };
    __device__ __noinline__ long long divide(long long a, long long b) { return b ? a / b : -1; }
    __device__ __noinline__ double power(double x, int n) { double y = 1; while (n-- > 0) y *= x; return y; }
    __device__ int choose(int i) {
        switch (i % 6) { case 0: return 3; case 1: return 1; case 2: return 4; case 3: return 1; case 4: return 5; }
        return 9;
    }
    extern "C" __global__ void f(Pair pair, double* out, long long* whole, int n) {
        const int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i >= n) return;
        int kept[8];
        for (int j = 0; j < 8; j++) kept[j] = table[j % 4] * i + j;
        out[i] = power(pair.a, i % 5) / 3 + kept[(i * 3) % 8];
        whole[i] = divide(1000000007LL * i, i - 3) + choose(i) + pair.b % (i + 1);
    }"""
    count = 70
    out, whole = np.zeros(count), np.zeros(count, "i8")
    memory = Memory()
    memory.add(out, initialised=False)
    memory.add(whole, initialised=False)
    pair = pack(1.5, "f8") + pack(77, "i4") + bytes(4)
    kernel(source, "f").launch((3,), (32,), [pair, pack(out), pack(whole), pack(count, "i4")], memory)
    table = [5, 7, 11, 13]
    for i in range(count):
        j = i * 3 % 8
        assert out[i] == pytest.approx(1.5 ** (i % 5) / 3 + table[j % 4] * i + j, rel=1e-15)
        quotient = int(abs(1000000007 * i) // abs(i - 3)) * (1 if i > 3 else -1) if i != 3 else -1
        assert whole[i] == quotient + [3, 1, 4, 1, 5, 9][i % 6] + 77 % (i + 1)


def test_processes_share_what_was_compiled(nvrtc: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTX_CACHE", str(tmp_path))
    source = 'extern "C" __global__ void shared_by_processes(int* x) { x[threadIdx.x] = 7; }'
    first = compile_ptx(source, report=False)
    [kept] = tmp_path.iterdir()
    assert kept.read_text() == first.ptx
    kept.write_text(first.ptx.replace("shared_by_processes", "another"))
    assert list(compile_ptx(source, report=False).program().kernels) == ["shared_by_processes"]  # of this process
    compiler._compile.cache_clear()
    assert list(compile_ptx(source, report=False).program().kernels) == ["another"]
