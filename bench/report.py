"""bench/README.md, generated from the JSON files of the results and from nothing else."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import results
from fmnist_xp.backend import PRECISIONS
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.files import write_text

Record = dict[str, Any]
EVERYWHERE = {"cpu": ("float32",), "cuda": tuple(PRECISIONS)}
"""The precisions to be measured on each device; others are listed where there is a file."""
NOT_YET = "not yet measured"
WITHOUT_PICTURE = ("probe",)
LONGEST = 5
"""Calls that are shown of an epoch."""
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
python -m bench loading                     # image folder, zip, IDX, cache
python -m bench probe                       # each call of an epoch on a GPU
python -m bench report                      # this page
```

On an NVIDIA GPU: `pip install -e ".[bench,cuda,graphs]" "jax[cuda12]"` and `--device cuda`. Without one, a CPU build
of PyTorch is enough and far smaller: install that first. A peer that is not installed is left out, by name; so is
one that fails, and one that computes something else than ours, for which the command ends with exit code 1.
`--rounds N` sets how often each side takes its turn (`throughput` has it too), and `--without NAME` leaves one out.
`--precision float64` measures in another precision, on a GPU also `tf32` and `float16`; each has files of its own,
and `--label NAME` keeps those of one machine beside another's. `throughput --no-graphs` measures a GPU without CUDA
graphs, in files that end with `eager`. `--quick` tries everything at small sizes, and writes to `bench/quick/`, which
git ignores, so that what was measured in earnest stays. Measure with nothing else running. `scripts/gpu-check` is the
whole round on a GPU.

## How to read

- An **epoch** is one full-batch update: forward, loss, backward and optimizer over all rows, float32 unless said.
- Times are **medians**; beside them the smallest, the largest and the interquartile range (IQR) of the samples. The
  sides of a comparison take turns (A B C A B C …) in one process, so that a slow minute slows all of them. The first
  epoch of each turn warms up and is not counted, or the first call where that makes ten.
- **Figures** are loss and accuracy. Some programs make ten epochs in one call and compute those of the first, as
  `train` logs; others compute them in every epoch, or never. A table of peers tells for each.
- The **notebook's arithmetic** takes its turns in fresh processes that import NumPy alone, as its owner would run it:
  its epoch depends on what else has allocated memory in the process. They have the same rows and first weights. It
  makes its arrays anew in every step, so its first two epochs, for which the system has to hand out memory, are not
  counted; what the first one takes stands beside.
- **GFLOP/s** counts matrix products alone: Σ 2·rows·dᵢ₋₁·dᵢ · (3, but 2 for the first layer). The **GEMM rate** is
  that of large square products measured between the epochs, on all cores; the **floor** is the time that an epoch's
  products would take at the median of it, on a GPU at least the time that its bytes take at the rate of a copy
  within the device.
- **float32** is float32: where PyTorch and JAX may round operands to TF32, that is switched off. In **tf32** all
  round the operands of float32 products to 11 bits; in **float16** halves enter the products of all, sums are
  float32, and parameters stay float32. The notebook's arithmetic is always its own, on the CPU.
- A **whole training** is all epochs of an experiment from its first weights, by the clock, with the rows on the
  device and the kernels compiled.
- **CUDA graphs** are what a GPU trains with where nvmath-python is installed: ten epochs, from one with figures to
  the next, are one launch. Among the peers they are a side of their own, and our other sides go without.
- **Memory** is the process's peak resident size with the rows in it, on a GPU the memory pool's. What **fit adds** is
  the rest: gradients, moments and the buffers of the blocks under way, a few for each thread on the CPU, where only
  the figures grow with the rows, by 12 bytes a row; on a GPU one block holds all rows.
"""


def write(folder: Path) -> Path:
    """Write README.md beside `folder`, which holds the results, and return its path."""
    path = folder.parent / "README.md"
    write_text(path, text(folder))
    return path


def text(folder: Path) -> str:
    """Return the page; the same for the same files."""
    records = [
        results.load(path) | {"stem": path.stem} for path in sorted(folder.glob("*.json"), key=lambda path: path.stem)
    ]
    parts = [HEAD]
    for title, benchmark, expected, tables in SECTIONS:
        parts.append(f"## {title}\n")
        for device, precisions in expected.items():
            parts.append(f"### {device.upper()}\n" if len(expected) > 1 else "")
            found = [r for r in records if (r["benchmark"], r["device"]) == (benchmark, device)]
            found.sort(key=lambda record: [*PRECISIONS, ""].index(record["precision"]))
            parts.append(_trainings(found))
            for record in found:
                parts.append(f"#### {_title(record, found)}\n" if len(found) > 1 else "")
                parts += [_origin(record, folder.name), *tables(record)]
            # What is asked for in no precision is there with any.
            measured = {record["precision"] for record in found} | ({""} if found else set())
            if missing := [precision for precision in precisions if precision not in measured]:
                parts.append(_missing(benchmark, device, missing))
    parts += ["## Machines\n", _machines(records)]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def _title(record: Record, beside: Sequence[Record]) -> str:
    """Return what tells a record from those `beside` it.

    That is the device, the precision, where only some have CUDA graphs whether it has, and of several machines which.
    """
    parts = [record["device"].upper(), record["precision"]]
    parts += [what(record) for what in (_manner, _where) if len({*map(what, beside)}) > 1]
    return ", ".join(filter(None, parts))


def _manner(record: Record) -> str:
    """Return whether a GPU trained with CUDA graphs; nothing where that is not said."""
    captures = record["machine"].get("cuda_graphs")
    return "" if captures is None else f"{'with' if captures else 'without'} CUDA graphs"


def _missing(benchmark: str, device: str, precisions: Sequence[str]) -> str:
    rows = [[", ".join(filter(None, [device, precision])), NOT_YET] for precision in precisions]
    return table([benchmark, "result"], rows)


def _trainings(records: Sequence[Record]) -> str:
    """Return the table of whole trainings by experiment, in the order of `records`; nothing where there is none."""
    found = [
        (name, record, training)
        for record in records
        if record["benchmark"] == "throughput"
        for name, experiment in record["results"]["experiments"].items()
        if (training := experiment.get("training"))
    ]
    found.sort(key=lambda item: [*EXPERIMENTS].index(item[0]))
    rows = [
        [
            f"{name}, {_title(record, records)}",
            f"{training['epochs']:,}",
            *_spread(training["seconds"]),
            *("–" if training[key] is None else f"{training[key]:.3f}" for key in ("accuracy", "loss")),
        ]
        for name, record, training in found
    ]
    head = ["whole training", "epochs", "time", "min – max", "IQR", "last accuracy", "last loss"]
    return table(head, rows) if rows else ""


def _where(record: Record) -> str:
    """Return the processor that computed."""
    machine = record["machine"]
    return str(machine["gpu"] or f"{machine['cpu']}, {machine['cores_usable']} cores")


def _origin(record: Record, folder: str) -> str:
    data = record["settings"].get("data", {})
    rows = f", {data['rows']:,} rows of {data['name']}" if "rows" in data else ", made data"
    quick = " **Quick sizes: not a result.**" if record["quick"] else ""
    precisions = [*record["results"].get("precisions", [record["precision"]])]
    when = ", ".join(filter(None, [record["date"], *precisions]))
    picture = f"\n![{record['benchmark']} on {record['device']}]({folder}/{record['stem']}.png)\n"
    return (
        f"`{record['command']}` on {_where(record)}, {when}{rows}.{quick}\n"
        f"{'' if record['benchmark'] in WITHOUT_PICTURE else picture}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _spread(summary: Record) -> list[str]:
    """Return median, minimum to maximum and IQR, all in the unit that suits the median."""
    median, low, high, iqr = (_in_unit(summary[key], summary["median"]) for key in ("median", "min", "max", "iqr"))
    return [f"{median} {_unit(summary['median'])}", f"{low} – {high}", iqr]


def _seconds(value: float) -> str:
    return f"{_in_unit(value, value)} {_unit(value)}"


def _unit(size: float) -> str:
    return "s" if size >= 0.1 else "ms"


def _in_unit(value: float, size: float) -> str:
    """Return `value` with as many digits as suit a median of `size` seconds."""
    return f"{value:.3f}" if size >= 0.1 else f"{value * 1000:.{1 if size >= 0.01 else 3}f}"


def _megabytes(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e6:,.0f}"


def throughput(record: Record) -> list[str]:
    """Return the tables of a throughput file."""
    found = record["results"]
    gemm, copy = found["gemm_flops_per_second"], found["copy_bytes_per_second"]
    rows = [
        [
            f"{name}, {'-'.join(map(str, e['widths']))}",
            *_spread(e["epoch_seconds"]),
            f"{e['epochs_per_second']:.3g}",
            f"{e['samples_per_second'] / 1e3:,.0f} k",
            f"{e['flops_per_second'] / 1e9:,.0f}",
            f"{e['fraction_of_gemm']:.2f}",
            f"{e['fraction_of_best_gemm']:.2f}",
            "–" if e["fraction_of_bandwidth"] is None else f"{e['fraction_of_bandwidth']:.2f}",
            f"{e['floor_seconds'] / e['epoch_seconds']['median']:.2f}",
            _megabytes(e["peak_memory_bytes"]),
            "–" if e["joules_per_epoch"] is None else f"{e['joules_per_epoch']:.3g}",
        ]
        for name, e in found["experiments"].items()
    ]
    head = [
        "experiment", "epoch", "min – max", "IQR", "epochs/s", "samples/s", "GFLOP/s", "of the GEMM rate",
        "of its best", "of the bandwidth", "floor / epoch", "peak MB", "J/epoch",
    ]  # fmt: skip
    rates = f"GEMM rate: median {gemm['median'] / 1e9:,.0f}, best {gemm['max'] / 1e9:,.0f} GFLOP/s."
    if copy:
        rates += f" Copy: median {copy['median'] / 1e9:,.0f} GB/s."
    lines = [table(head, rows), rates + "\n"]
    if notebook := found.get("notebook"):
        ours = {name: e["epoch_seconds"]["median"] for name, e in found["experiments"].items()}
        rows = [
            [
                name,
                *_spread(theirs),
                f"{theirs['median'] / ours[name]:.2f}",
                _seconds(theirs["first_epoch"]["median"]),
                f"{theirs['first_epoch']['median'] / ours[name]:.2f}",
            ]
            for name, theirs in notebook.items()
        ]
        lines.append("The notebook's arithmetic in plain NumPy, in processes of its own between the same epochs:\n")
        lines.append(table(["experiment", "epoch", "min – max", "IQR", "× ours", "first epoch", "× ours"], rows))
    return lines


def peers(record: Record) -> list[str]:
    """Return the tables of a peers file, one an experiment."""
    parts = []
    notes: dict[tuple[str, str], list[str]] = {}
    left_out: dict[tuple[str, str], list[str]] = {}
    for name, result in record["results"].items():
        rows = []
        for engine, summary in result["engines"].items():
            ratio = result["ratios"][engine]
            times = [f"{ratio[key]:.2f}" if key in ratio else "–" for key in ("ours", "notebook", "floor")]
            rows.append([engine, *_spread(summary), *times, _figures(summary)])
            if summary["note"]:
                notes.setdefault((engine, summary["note"]), []).append(name)
        for engine, reason in result["left_out"].items():
            left_out.setdefault((engine, reason), []).append(name)
        parts.append(f"**{name}**, {'-'.join(map(str, result['widths']))}\n")
        parts += _fastest_frameworks(result)
        head = ["", "epoch", "min – max", "IQR", "× ours", "times the notebook's speed", "floor / epoch", "figures"]
        parts.append(table(head, rows))
        if result["seconds_logging_every_10th"] is not None:
            seconds = _seconds(result["seconds_logging_every_10th"])
            graphs = any(_calls(e) > 1 for engine, e in result["engines"].items() if engine.startswith("fmnist_xp"))
            when = "but without CUDA graphs" if graphs else "as `train` logs"
            parts.append(f"fmnist_xp with figures in every 10th epoch, {when}: {seconds} an epoch.\n")
    granted = record["settings"].get("drift", 0.0)
    drift = f", or to {granted:.0%} of what the updates made of them" if granted else ""
    parts.append(
        "Loss and accuracy are computed in every epoch by all, unless noted. All were checked before: their losses\n"
        "on the same weights, and after one and two updates, agree with ours to "
        f"{record['settings']['tolerance']:g} relative{drift}.\n"
    )
    if late := record["settings"].get("late_drift"):
        parts.append(
            f"Where several epochs are one call, their loss after one call does, to {late:g} of what it changed.\n"
        )

    def where(experiments: Sequence[str]) -> str:
        return "" if len(experiments) == len(record["results"]) else f" ({', '.join(experiments)})"

    parts += [f"- {engine}{where(names)}: {note}." for (engine, note), names in notes.items()]
    parts += [f"- {engine}{where(names)}: left out, {reason}." for (engine, reason), names in left_out.items()]
    return [*parts, " "] if notes or left_out else parts


def _calls(summary: Record) -> int:
    """Return how many epochs one call made: one in older files, which do not say."""
    return int(summary.get("epochs_a_call", 1))


def _figures(summary: Record) -> str:
    """Return how often a program computed loss and accuracy."""
    if not summary["losses"]:
        return "none"
    return "every epoch" if _calls(summary) == 1 else f"every {_calls(summary)}th"


def _fastest_frameworks(result: Record) -> list[str]:
    """Return a sentence on the fastest of PyTorch, JAX and scikit-learn, beside ours with figures as often.

    One for those with figures in every epoch, and one for each number of epochs that some make in one call: there
    ours is the fastest that does so too, or what its epochs with and without figures come to.
    """
    sentences = []
    for calls in sorted({_calls(summary) for summary in result["engines"].values()}):
        medians = {name: e["median"] for name, e in result["engines"].items() if _calls(e) == calls and e["losses"]}
        found = {name: m for name, m in medians.items() if name.startswith(("PyTorch", "JAX", "scikit-learn"))}
        if calls == 1:
            ours, when = medians.get("fmnist_xp"), ""
        else:
            alike = [median for name, median in medians.items() if name.startswith("fmnist_xp")]
            ours = min(alike, default=result["seconds_logging_every_10th"])
            when = f" with figures in every {calls}th epoch"
        if found and ours:
            fastest = min(found, key=lambda name: found[name])
            times = found[fastest] / ours
            sentences.append(f"The fastest of the frameworks{when}, {fastest}, takes {times:.2f}× our time.\n")
    return sentences


def scaling(record: Record) -> list[str]:
    """Return the tables of a scaling file, one a sweep."""
    parts = []
    for sweep in ("rows", "width", "threads"):
        found = record["results"][sweep]
        if not found:
            continue
        rows = [
            [
                f"{point[sweep]:,}",
                experiment,
                *_spread(point["epoch_seconds"]),
                f"{point['flops_per_epoch'] / point['epoch_seconds']['median'] / 1e9:,.0f}",
                f"{point['fraction_of_gemm']:.2f}" if "fraction_of_gemm" in point else "–",
                _megabytes(point["memory_added_bytes"]),
            ]
            for experiment, one in found.items()
            for point in one["points"]
        ]
        head = [
            sweep, "experiment", "epoch", "min – max", "IQR", "GFLOP/s", "of the GEMM rate", "MB added by fit",
        ]  # fmt: skip
        parts.append(table(head, rows))
        fits = [
            f"{experiment}: time ∝ {sweep}^{_exponent(one['time_exponent'])}, "
            f"memory ∝ {sweep}^{_exponent(one['memory_exponent'])}"
            for experiment, one in found.items()
        ]
        parts.append(f"{'; '.join(fits)}.\n")
    parts += [f"- Left out: {reason}." for reason in record["results"]["left_out"]]
    return parts


def _exponent(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def loading(record: Record) -> list[str]:
    """Return the table of a loading file."""
    found = record["results"]
    rows = [
        [name, *_spread(summary), f"{found['times_faster_than_notebook'][name]:.3g}"]
        for name, summary in found["readers"].items()
    ]
    data = record["settings"]["data"]
    cold = record["settings"].get("cold_disk_cache")
    notes = [
        f"{data['rows']:,} + {data['test_rows']:,} images. A first time ends when the decoded cache is written.",
        f"Disk cache {record['settings']['disk_cache']}.",
        f"Cold: {cold} before each sample; the ratio is to the loop as cold." if cold else "",
    ]
    parts = [
        table(["", "time", "min – max", "IQR", "times the notebook's speed"], rows),
        " ".join(filter(None, notes)) + "\n",
    ]
    if left_out := found.get("left_out"):
        parts.append(f"Left out, since the disk cache cannot be emptied here: {'; '.join(left_out)}.\n")
    return parts


def probe(record: Record) -> list[str]:
    """Return the tables of a probe file: of each epoch its sum and its longest calls, and the sums over the rows."""
    results = record["results"]
    copy, upload = results["copy_bytes_per_second"], results["upload_seconds"]
    uploads = " and ".join(f"{_seconds(seconds)} as {dtype}" for dtype, seconds in upload.items())
    summed, longest = [], []
    for precision, found in results["precisions"].items():
        rate = f"{found['gemm_flops_per_second'] / 1e9:,.0f}"
        for name, epoch in found["epochs"].items():
            calls = calls_of_epoch(epoch["calls"])
            device, host = (sum(call[key] for call in calls) for key in ("device_us", "host_us"))
            side = f"{name}, {precision}"
            summed.append([side, *map(_microseconds, (epoch["epoch_us"], device, host)), rate])
            for call in sorted(calls, key=lambda call: -float(call["device_us"]))[:LONGEST]:
                times = (_microseconds(call[key]) for key in ("device_us", "host_us"))
                longest.append([call["call"], side, *times, f"{call['device_us'] / device:.0%}"])
    sums = {precision: found["sums_over_rows"] for precision, found in results["precisions"].items()}
    ways = dict.fromkeys(way for found in sums.values() for way in found)
    rows = [
        [way, *(_microseconds(found[way]["device_us"]) if way in found else "–" for found in sums.values())]
        for way in ways
    ]
    head = ["epoch", "as training runs it", "sum of its calls", "asking for them", "GFLOP/s of large products"]
    return [
        "All times are in µs. Steps that training takes together are one call here too.\n",
        table(head, summed),
        f"The {LONGEST} calls of each that take longest:\n",
        table(["call", "epoch", "the device", "asking for it", "of the sum"], longest),
        f"Sums over the {record['settings']['rows']:,} rows, by the ways that there are:\n",
        table(["sum over rows", *sums], rows),
        f"Copy: {copy / 1e9:,.0f} GB/s. The rows go to the device in {uploads}.\n",
    ]


def calls_of_epoch(calls: Sequence[Record]) -> list[Record]:
    """Return the calls that an epoch makes, of the probe's: those of several steps in the place of the single ones.

    Of these the probe says what they are and, after a colon, which steps they take.
    """
    together = {steps: call for call in calls if (steps := call["call"].partition(": ")[2])}
    left = [call for call in calls if ": " not in call["call"]]
    made: list[Record] = []
    while left:
        several = {"; ".join(call["call"] for call in left[:size]): size for size in (2, 3)}
        steps = max(several.keys() & together.keys(), key=len, default="")
        made.append(together.get(steps, left[0]))
        del left[: several.get(steps, 1)]
    return made


def _microseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


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
    return table(head, rows)


def _fact(key: str, value: Any) -> str:
    if value is None:
        return "–"
    return f"{value / 2**30:.0f} GiB" if key == "memory_bytes" else str(value)


# Title, benchmark, the precisions to be measured on each device, and what makes the tables of one file.
SECTIONS: tuple[tuple[str, str, Mapping[str, Sequence[str]], Callable[[Record], list[str]]], ...] = (
    ("Throughput", "throughput", EVERYWHERE, throughput),
    ("Peers", "peers", EVERYWHERE, peers),
    ("Scaling", "scaling", {"cpu": ("float32",), "cuda": ("float32",)}, scaling),
    ("Loading", "loading", {"cpu": ("",)}, loading),
    ("Probe", "probe", {"cuda": ("",)}, probe),
)
