"""The commands of `python -m bench`."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure

from bench import loading, peers, photographs, probe, rank_report, ranks, report, scaling, throughput
from bench.engines import ENGINES
from bench.pictures import save_figure
from bench.results import Options, load
from fmnist_xp.backend import PRECISIONS
from fmnist_xp.cli.options import EngineName, PrecisionName
from fmnist_xp.errors import FmnistXpError
from fmnist_xp.train.engines import check_precision

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Measure fmnist_xp on this machine.")


def _label(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]*", text) or text in PRECISIONS:
        raise typer.BadParameter(f"a label has small letters and digits alone, and is no precision, got {text!r}")
    return text


def _of_plain(name: PrecisionName) -> PrecisionName:
    if PRECISIONS[name.value].fused:
        raise typer.BadParameter(f"{name} is for the fused engine alone, which throughput --engine fused measures")
    return name


def _sides(names: list[str]) -> list[str]:
    try:
        peers.wanted(ENGINES, names)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return names


Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<index>.")]
FLOAT32, PLAIN = PrecisionName("float32"), EngineName("plain")
ARITHMETIC = "Arithmetic; tf32 and float16 need a GPU"
Numbers = Annotated[PrecisionName, typer.Option("--precision", callback=_of_plain, help=f"{ARITHMETIC}.")]
AllNumbers = Annotated[
    PrecisionName, typer.Option("--precision", help=f"{ARITHMETIC}, bfloat16 needs one and --engine fused.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Small sizes, to try it, not to measure; goes to bench/quick.")]
Data = Annotated[str, typer.Option(help="auto, synthetic, or a folder or zip of Fashion-MNIST.")]
Unused = Annotated[str, typer.Option(help="Taken like that of the others, and not needed here.")]
Label = Annotated[str, typer.Option(callback=_label, help="Ends the files' names, beside another machine's.")]
Rounds = Annotated[
    int | None, typer.Option(min=1, help="How often each side takes its turn.", show_default="as fits")
]
Graphs = Annotated[
    bool | None,
    typer.Option("--graphs/--no-graphs", help="CUDA graphs; by default where they can be.", show_default=False),
]
ByEngine = Annotated[EngineName, typer.Option("--engine", help="plain, or fused: three kernels an epoch on a GPU.")]
Without = Annotated[
    list[str], typer.Option(callback=_sides, help="A side to leave out, by its name or how that begins; repeatable.")
]
DiskRows = Annotated[
    list[int], typer.Option(min=1, help="A number of rows of the series on disk; repeatable.", show_default="all")
]
Out = Annotated[Path, typer.Option(help="Folder for the JSON file and the picture.")]
RESULTS = Path("bench/results")
QUICK_RESULTS = Path("bench/quick/results")  # with a README.md of their own


@app.command("throughput")
def measure_throughput(
    device: Device = "auto",
    quick: Quick = False,
    data: Data = "auto",
    out: Out = RESULTS,
    precision: AllNumbers = FLOAT32,
    label: Label = "",
    rounds: Rounds = None,
    graphs: Graphs = None,
    engine: ByEngine = PLAIN,
) -> None:
    """Each experiment: samples/s, GFLOP/s, distance from the floor, memory, joules."""
    try:
        check_precision(precision.value, engine.value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--precision") from error
    how: Any = {"graphs": graphs, "engine": engine.value}
    options = Options(device, quick, data, out, precision.value, label, rounds, **how)
    _finish(throughput.run, throughput.draw, options)


@app.command("peers")
def measure_peers(
    device: Device = "auto",
    quick: Quick = False,
    data: Data = "auto",
    out: Out = RESULTS,
    precision: Numbers = FLOAT32,
    label: Label = "",
    rounds: Rounds = None,
    without: Without = [],  # noqa: B006
) -> None:
    """Our engine beside the notebook's arithmetic, PyTorch, JAX and scikit-learn."""
    options = Options(device, quick, data, out, precision.value, label, rounds, tuple(without))
    if found := peers.disagreements(_finish(peers.run, peers.draw, options)):
        print(f"error: {'; '.join(found)}", file=sys.stderr)
        raise typer.Exit(1)


@app.command("scaling")
def measure_scaling(
    device: Device = "auto",
    quick: Quick = False,
    data: Unused = "auto",
    out: Out = RESULTS,
    precision: Numbers = FLOAT32,
    label: Label = "",
    disk_rows: DiskRows = [],  # noqa: B006
) -> None:
    """Time and memory as rows, width and threads grow, and with rows on disk; always on synthetic data."""
    options = Options(device, quick, out=out, precision=precision.value, label=label, disk_rows=tuple(disk_rows))
    _finish(scaling.run, scaling.draw, options)


@app.command("loading")
def measure_loading(
    device: Unused = "auto", quick: Quick = False, data: Data = "auto", out: Out = RESULTS, label: Label = ""
) -> None:
    """Image folder, zip, IDX and cache, against the notebook's loop; always by the CPU."""
    _finish(loading.run, loading.draw, Options("cpu", quick, data, out, precision="", label=label))


@app.command("ranks")
def measure_ranks(
    device: Unused = "auto",
    quick: Quick = False,
    data: Data = "auto",
    out: Out = RESULTS,
    precision: Numbers = FLOAT32,
    label: Label = "",
    rounds: Rounds = None,
) -> None:
    """1, 2, 4, … processes that MPI joins, a model of up to 1,024, and the cost of their sum; always by the CPU."""
    options = Options("cpu", quick, data, out, precision.value, label, rounds)
    _finish(ranks.run, rank_report.draw, options)


@app.command("probe")
def measure_probe(
    device: Device = "cuda", quick: Quick = False, data: Unused = "auto", out: Out = RESULTS, label: Label = ""
) -> None:
    """Each call of an epoch on a GPU, in every precision: device and host time; always on synthetic data."""
    _finish(probe.run, None, Options(device, quick, out=out, precision="", label=label))


@app.command("photographs")
def measure_photographs(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    quick: Quick = False,
    data: Data = "auto",
    out: Out = RESULTS,
    label: Label = "",
    first: Annotated[int, typer.Option(min=0, help="The first of the test images to take.")] = 0,
) -> None:
    """A run's accuracy on 1,000 test images made to photographs of many kinds; always by the CPU."""
    options = Options("cpu", quick, data, out, precision="", label=label, first_row=first)
    _finish(partial(photographs.run, folder=run), None, options)


@app.command("redraw")
def redraw(out: Out = RESULTS) -> None:
    """Draw the pictures of the folder of results again, from its JSON files."""
    drawings = {
        "throughput": throughput.draw,
        "peers": peers.draw,
        "scaling": scaling.draw,
        "ranks": rank_report.draw,
        "loading": loading.draw,
    }
    for path in sorted(out.glob("*.json")):
        record = load(path)
        if draw := drawings.get(record["benchmark"]):
            save_figure(draw(record), path.with_suffix(".png"))
            print(path.with_suffix(".png"))


@app.command("report")
def write_report(out: Out = RESULTS) -> None:
    """Write README.md beside the folder of results, from its JSON files."""
    print(report.write(out))


def _finish(
    run: Callable[[Options], Path], draw: Callable[[dict[str, Any]], Figure] | None, options: Options
) -> dict[str, Any]:
    """Measure, draw, print both files' paths and return the record; an error is one line and exit code 1."""
    if options.quick and options.out == RESULTS:  # keeps the committed results
        options = replace(options, out=QUICK_RESULTS)
    try:
        path = run(options)
    except (FmnistXpError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    record = load(path)
    print(path)
    if draw is not None:
        save_figure(draw(record), path.with_suffix(".png"))
        print(path.with_suffix(".png"))
    return record
