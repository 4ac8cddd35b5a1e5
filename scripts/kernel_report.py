"""Write docs/kernels.md: what the compiler says of the fused engine's kernels, and how many blocks fit at once.

    .venv/bin/python scripts/kernel_report.py            # writes the page anew
    .venv/bin/python scripts/kernel_report.py --check    # says whether it is what the installed compiler says

It takes no GPU, but CuPy, NVRTC and CUDA's headers, which the extra `oracle` has.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ptx.compiler import Usage, compile_ptx  # noqa: E402 (an interpreter of PTX, which is the tests')

from fmnist_xp.backend import CpuBackend  # noqa: E402
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS  # noqa: E402
from fmnist_xp.files import write_text  # noqa: E402
from fmnist_xp.report.tables import markdown_table  # noqa: E402
from fmnist_xp.train.fused.source import OPERANDS, UPDATE_THREADS, WARPS, Source, make_source  # noqa: E402

PAGE = ROOT / "docs" / "kernels.md"
NETWORKS = {"784-64-64-10": "adam", "784-128-128-10": "sgd"}
SHARED_BYTES = {"80": 164 * 1024, "90": 228 * 1024}
"""Shared memory of a multiprocessor, of which each block takes 1 KB besides its own (CUDA C++ Programming Guide)."""
REGISTERS, WARPS_AT_ONCE, BLOCKS_AT_ONCE = 65_536, 64, 32
TEXT = """# The fused engine's kernels

What NVRTC {version} reports of the three kernels of an epoch, compiled without a GPU by `scripts/kernel_report.py`:
the registers of a thread, the bytes that it spills to memory, the shared memory of a block, and how many blocks, and
warps, a multiprocessor has room for at once. [gpu.md](gpu.md#an-epoch-in-three-kernels) says what the kernels do.

{table}
"""


class Line(NamedTuple):
    """A kernel for one network, precision and architecture."""

    network: str
    precision: str
    architecture: str
    kernel: str
    usage: Usage
    threads: int
    shared_bytes: int

    @property
    def blocks(self) -> int:
        """How many blocks a multiprocessor has room for: of registers, shared memory and threads."""
        warps = self.threads // 32
        registers = warps * -(-self.usage.registers * 32 // 256) * 256
        fits = (
            REGISTERS // registers,
            SHARED_BYTES[self.architecture] // (self.shared_bytes + 1024),
            WARPS_AT_ONCE // warps,
            BLOCKS_AT_ONCE,
        )
        return min(fits)

    def cells(self) -> tuple[str, ...]:
        """Return the line of a table."""
        usage = self.usage
        return (
            *(self.network, self.precision, f"sm_{self.architecture}", f"`{self.kernel}`"),
            *(f"{usage.registers}", f"{usage.spill_stores} / {usage.spill_loads}", f"{self.shared_bytes:,}"),
            *(f"{self.threads}", f"{self.blocks}", f"{self.blocks * self.threads // 32} of {WARPS_AT_ONCE}"),
        )


def lines(
    networks: Mapping[str, str],
    precisions: Iterable[str] = tuple(OPERANDS),
    architectures: Iterable[str] = ("80", "90"),
) -> Iterator[Line]:
    """Yield the kernels of experiments, whose networks are called so, in each precision and for each architecture."""
    for network, name in networks.items():
        for precision in precisions:
            source = source_of(name, precision)
            threads = {"pass": WARPS * 32, "weights": source.slice_warps * 32, "update": UPDATE_THREADS}
            for architecture in architectures:
                usage = compile_ptx(source.text, architecture).usage
                for kernel, count in threads.items():
                    shared = usage[kernel].shared + (source.shared_bytes if kernel == "pass" else 0)
                    yield Line(network, precision, architecture, kernel, usage[kernel], count, shared)


def source_of(experiment: str, precision: str) -> Source:
    """Return the kernels of an experiment."""
    network = NOTEBOOK_EXPERIMENTS[experiment].make_network(CpuBackend(1), seed=0)
    network.dtype = precision  # which the CPU need not have
    return make_source(network, NOTEBOOK_EXPERIMENTS[experiment].make_optimizer())


def page() -> str:
    """Return the page."""
    from cupy_backends.cuda.libs import nvrtc

    header = "network", "precision", "for", "kernel", "registers", "spilled, read back", "shared memory", "threads"
    table = markdown_table((*header, "blocks", "warps"), [line.cells() for line in lines(NETWORKS)])
    return TEXT.format(version=".".join(map(str, nvrtc.getVersion())), table=table.strip())


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    written = page()
    if not sys.argv[1:]:
        write_text(PAGE, written)
    elif written != PAGE.read_text(encoding="utf-8"):
        sys.exit(f"{PAGE.relative_to(ROOT)} is not what this compiler says: scripts/kernel_report.py writes it anew")
