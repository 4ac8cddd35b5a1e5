"""bench/README.md, generated from the JSON files of the results and from nothing else."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import loading, markdown, peers, photographs, probe, rank_report, scaling, throughput
from bench.markdown import Record
from bench.results import hardware, load, other_engine
from fmnist_xp.backend import PRECISIONS
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.files import write_text

EVERYWHERE = {"cpu": ("float32",), "cuda": tuple(name for name, kind in PRECISIONS.items() if not kind.fused)}
"""The precisions to be measured on each device, of the plain engine; others are listed where there is a file."""
NOT_YET = "not yet measured"
WITHOUT_PICTURE = ("probe", "photographs")
MACHINE = {
    "gpu": "GPU", "driver": "driver", "cuda": "CUDA", "cpu": "CPU", "cores_usable": "cores used",
    "memory_bytes": "memory", "system": "system", "blas": "BLAS", "python": "Python", "numpy": "NumPy",
    "cupy": "CuPy", "torch": "PyTorch", "jax": "JAX", "scikit-learn": "scikit-learn", "opencv": "OpenCV",
}  # fmt: skip

HEAD = """# Benchmarks

<!-- Written by `python -m bench report` from results/*.json. Do not edit: run it again. -->

## How to run

```
pip install -e ".[bench]"
python -m bench throughput --device cpu     # each experiment beside what the machine could do at most
python -m bench peers --device cpu          # beside the notebook's arithmetic, PyTorch, JAX, scikit-learn
python -m bench scaling --device cpu        # as rows, width and threads grow
python -m bench ranks                       # 1, 2, 4, … processes that MPI joins, and a model of up to 1,024
python -m bench loading                     # image folder, zip, IDX, cache
python -m bench probe                       # each call of an epoch on a GPU
python -m bench photographs RUN             # how often a run is right about photographs of many kinds
python -m bench report                      # this page
python -m bench redraw                      # the pictures, from the JSON files as they are
```

On an NVIDIA GPU: `pip install -e ".[bench,cuda]" "jax[cuda12]"` and `--device cuda`. Without one, a CPU build of
PyTorch is enough and far smaller: install that first. A peer that is not installed is left out, by name; so is one
that fails, and one that computes something else than ours, for which the command ends with exit code 1. `ranks` needs
`pip install -e ".[mpi]"`, and ends so where ranks come to different weights. `--rounds N` sets how often each side
takes its turn (`throughput` and `ranks` have it too), and `--without NAME` leaves one out.
`--precision float64` measures in another precision, on a GPU also `tf32` and `float16`; each has files of its own,
and `--label NAME` keeps those of one machine beside another's. `throughput --no-graphs` measures a GPU without CUDA
graphs, in files that end with `eager`; `throughput --engine fused` measures the fused engine, in files that end with
`fused`, and alone takes `--precision bfloat16`. `scaling --disk-rows N` takes so many rows on disk instead of all its
numbers, up to 6,000,000, for whose files and sorted rows the cache's folder needs 10 GB. `--quick` tries everything
at small sizes, and writes to `bench/quick/`, which git ignores, so that what was measured in earnest stays. Measure
with nothing else running. `OPENBLAS_CORETYPE` and `OPENBLAS_L2_SIZE` are unset for the measurements, so that
OpenBLAS takes the kernels of the processor at hand. `scripts/gpu-check` is the whole round on a GPU.

## How to read

- An **epoch** is one full-batch update: forward, loss, backward and optimizer over all rows, float32 unless said.
- Times are **medians**; beside them the smallest, the largest and the interquartile range (IQR) of the samples. In
  the pictures whiskers end at the quartiles, and of peers a bar more than twice as long as all others is broken off.
  The sides of a comparison take turns (A B C A B C …) in one process, so that a slow minute slows all of them. The
  first epoch of each turn warms up and is not counted, or the first call where that makes ten.
- **Metrics** are loss and accuracy. Some programs make ten epochs in one call and compute those of the first, as
  `train` logs; others compute them in every epoch, or never. A table of peers tells for each.
- The **notebook's arithmetic** takes its turns in fresh processes that import NumPy alone, as its owner would run
  it: its epoch depends on what else has allocated memory in the process. They have the same rows and first weights.
  It makes its arrays anew in every step, so its first two epochs, for which the system has to hand out memory, are
  not counted; what the first one takes stands beside.
- **Columns** is the share of the rows' columns (pixels) that the first layer's products take. On a CPU rows are
  sorted by the box around what is not background, and each block of them leaves out the columns that are background
  in all of its rows: the gradient is the same but for rounding. **Dense rows** are as they come, and every column
  of each is multiplied, as by all other programs here, and by default on a GPU.
- **GFLOP/s** counts the matrix products of every column alone: Σ 2·rows·dᵢ₋₁·dᵢ · (3, but 2 for the first layer).
  Where columns are left out it is an effective rate: what dense products would have to reach to be as fast. The
  **GEMM rate** is that of large square products measured between the epochs, on all cores; the **floor** is the
  time that the products of every column would take at the median of it, on a GPU at least the time that the epoch's
  bytes take at the rate of a copy within the device. An epoch that leaves columns out may be shorter than that, and
  its rate above the GEMM rate.
- **float32** is float32: where PyTorch and JAX may round operands to TF32, that is switched off. In **tf32** all
  round the operands of float32 products to 11 bits; in **float16** halves enter the products of all, sums are
  float32, and parameters stay float32. The notebook's arithmetic is always its own, on the CPU.
- A **whole training run** is all epochs of an experiment from its first weights, by the clock, with the kernels
  compiled. It begins with the rows as bytes in the host's memory; in records without a share of columns, with
  numbers on the device.
- The **fused engine** makes an epoch in three kernels on a GPU, in which activations stay in registers. Its floor is
  at least the time to read the bytes of the rows twice, and to write and read the gradient of the first layer's
  output. In **bfloat16** the GEMM rate is that of float16. In float32 each number enters its products as three
  bfloat16, so that its rate may be above float32's GEMM rate.
- **CUDA graphs** are what a GPU trains with where nvmath-python is installed: ten epochs, from one with metrics to
  the next, are one launch. Among the peers they are a side of their own, and our other sides go without.
- Time or memory is said to be **proportional to a power** of the rows or the width where at least three sizes were
  measured and each is within 10% of what the fitted power gives. Elsewhere no exponent is named.
- **Ranks** are processes of one thread each, started by `mpiexec`, which share the rows out and add their gradients
  up over MPI. Each number of them takes its turns in processes of their own, and each reads its share of the images
  alone. **Speedup** is the time of one rank through theirs, **efficiency** that through their number. **Messages and
  waiting** are rank 0's, the first epoch's included. A **sum** ends when the last rank has it. What every rank does
  **in full**, such as the update, is the time of an epoch of a single row.
- The **model** of P ranks: the operations of the largest share of the rows through one rank's rate, what each does in
  full, and messages that take a latency and the time of their bytes, ⌈log₂ P⌉ deep up the tree, and as MPICH's (on
  NVLink, NCCL's) broadcast sends them back. Rows are shared out in whole blocks: beyond as many ranks as there are
  blocks, more are of no use.
- **Photographs** are test images enlarged to 336 pixels on 448, put on grounds of many kinds and given as files to
  what `predict` does. One is **without warning** where its background is plain and the answer's probability high.
- **Memory** is the process's peak resident size with the rows in it, on a GPU the memory pool's; of rows **on
  disk** only the pages at work are in it. What **fit adds** is the rest: gradients, moments and the buffers of the
  blocks under way, a few for each thread on the CPU, where only the metrics grow with the rows, by 5 bytes a row, and
  by 24 more for the first million; on a GPU one block holds all rows.
"""


def write(folder: Path) -> Path:
    """Write README.md beside `folder`, which holds the results, and return its path."""
    path = folder.parent / "README.md"
    write_text(path, text(folder))
    return path


def text(folder: Path) -> str:
    """Return the page, a function of the files alone."""
    records = [load(path) | {"stem": path.stem} for path in sorted(folder.glob("*.json"), key=lambda path: path.stem)]
    parts = [HEAD]
    for benchmark, expected, tables in SECTIONS:
        parts.append(f"## {benchmark.title()}\n")
        for device, precisions in expected.items():
            parts.append(f"### {device.upper()}\n" if len(expected) > 1 else "")
            found = [r for r in records if (r["benchmark"], r["device"]) == (benchmark, device)]
            found.sort(key=lambda record: [*PRECISIONS, ""].index(record["precision"]))
            parts.append(_training_runs(found))
            for record in found:
                parts.append(f"#### {_title(record, found)}\n" if len(found) > 1 else "")
                parts += [_origin(record, folder.name), *tables(record)]
            # A benchmark expected in no precision counts as measured with any.
            measured = {record["precision"] for record in found if not other_engine(record)}
            measured |= {""} if found else set()
            if missing := [precision for precision in precisions if precision not in measured]:
                parts.append(_missing(benchmark, device, missing))
    parts += ["## Machines\n", _machines(records)]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def _title(record: Record, beside: Sequence[Record]) -> str:
    """Return device, precision, engine of a record, and CUDA graphs and hardware where those `beside` it differ."""
    parts = [record["device"].upper(), record["precision"], other_engine(record)]
    parts += [what(record) for what in (_graphs, hardware) if len({*map(what, beside)}) > 1]
    return ", ".join(filter(None, parts))


def _graphs(record: Record) -> str:
    """Return whether a GPU trained with CUDA graphs; empty where a record does not say."""
    captures = record["machine"].get("cuda_graphs")
    return "" if captures is None else f"{'with' if captures else 'without'} CUDA graphs"


def _missing(benchmark: str, device: str, precisions: Sequence[str]) -> str:
    rows = [[", ".join(filter(None, [device, precision])), NOT_YET] for precision in precisions]
    return markdown.table([benchmark, "result"], rows)


def _training_runs(records: Sequence[Record]) -> str:
    """Return the table of whole training runs by experiment, in the order of `records`; empty where there is none."""
    found = [
        (name, record, training)
        for record in records
        if record["benchmark"] == "throughput"
        for name, experiment in record["results"]["experiments"].items()
        if (training := experiment.get("training"))
    ]
    found.sort(key=lambda item: [*NOTEBOOK_EXPERIMENTS].index(item[0]))
    rows = [
        [
            f"{name}, {_title(record, records)}",
            f"{training['epochs']:,}",
            *markdown.spread(training["seconds"]),
            *(markdown.number(training[key], ".3f") for key in ("accuracy", "loss")),
        ]
        for name, record, training in found
    ]
    head = ["whole training run", "epochs", "time", "min – max", "IQR", "last accuracy", "last loss"]
    return markdown.table(head, rows) if rows else ""


def _origin(record: Record, folder: str) -> str:
    data = record["settings"].get("data", {})
    rows = f", {data['rows']:,} rows of {data['name']}" if "rows" in data else ", synthetic data"
    quick = " **Quick sizes: not a result.**" if record["quick"] else ""
    precisions = [*record["results"].get("precisions", [record["precision"]])]
    when = ", ".join(filter(None, [record["date"], *precisions]))
    picture = f"\n![{record['benchmark']} on {record['device']}]({folder}/{record['stem']}.png)\n"
    return (
        f"`{record['command']}` on {hardware(record)}, {when}{rows}.{quick}\n"
        f"{'' if record['benchmark'] in WITHOUT_PICTURE else picture}"
    )


def _machines(records: Sequence[Record]) -> str:
    if not records:
        return f"{NOT_YET}\n"
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(repr([record["machine"].get(key) for key in MACHINE]), []).append(record)
    columns = list(kinds.values())
    head = ["", *(", ".join(r["stem"] for r in column) for column in columns)]
    rows = [
        [title, *(_fact(key, column[0]["machine"].get(key)) for column in columns)] for key, title in MACHINE.items()
    ]
    return markdown.table(head, rows)


def _fact(key: str, value: Any) -> str:
    if value is None:
        return "–"
    return f"{value / 2**30:.0f} GiB" if key == "memory_bytes" else str(value)


# Benchmark, the precisions to be measured on each device, and what makes the tables of one file.
SECTIONS: tuple[tuple[str, Mapping[str, Sequence[str]], Callable[[Record], list[str]]], ...] = (
    ("throughput", EVERYWHERE, throughput.tables),
    ("peers", EVERYWHERE, peers.tables),
    ("scaling", {"cpu": ("float32",), "cuda": ("float32",)}, scaling.tables),
    ("ranks", {"cpu": ("float32",)}, rank_report.tables),
    ("loading", {"cpu": ("",)}, loading.tables),
    ("photographs", {"cpu": ("",)}, photographs.tables),
    ("probe", {"cuda": ("",)}, probe.tables),
)
