"""Ranks: an epoch on 1, 2, 4, … processes of one thread that MPI joins, their messages, and a model of many more."""

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.made import write_images
from bench.measure import alternate, rounded, summarize
from bench.processes import PAUSE, in_fresh_process
from bench.rank_model import LOG_EVERY
from bench.rank_point import measure_alone, measure_messages, measure_training
from bench.results import Options, about, save
from fmnist_xp.data.cache import cache_folder
from fmnist_xp.errors import RankError
from fmnist_xp.machine import usable_cores

EXPERIMENTS = ("sgd", "adam")
MADE_ROWS = 600_000
QUICK_ROWS = 6_000, 20_000
"""Of the data and of those made."""


def run(options: Options) -> Path:
    """Measure and return the path of the JSON file.

    Raises `RankError` without mpi4py or mpiexec, and `RuntimeError` where ranks do not come to the same weights.
    """
    mpiexec = find_mpiexec()
    backend = options.backend()
    train, _ = options.load()
    rows, made = QUICK_ROWS if options.quick else (len(train), MADE_ROWS)
    settings: dict[str, Any] = {
        "data": about(train) | {"rows": min(rows, len(train))},
        "made_rows": made,
        "ranks": rank_counts(),
        "threads": 1,
        "rounds": options.rounds or (1 if options.quick else 5),
        "epochs": 2 if options.quick else 10,
        "made_rounds": options.rounds or (1 if options.quick else 3),
        "made_epochs": 2 if options.quick else 4,
        "alone_epochs": 20 if options.quick else 300,
        "message_rounds": 2 if options.quick else 15,
        "log_every": LOG_EVERY,
        "pause": 0 if options.quick else PAUSE,
    }
    start = _Start(mpiexec, options.precision, settings["pause"])
    alone = {name: start(measure_alone, 0, name=name, epochs=settings["alone_epochs"]) for name in EXPERIMENTS}
    elements = alone[EXPERIMENTS[0]]["parameters"]
    messages = {
        count: start(measure_messages, count, elements=elements, rounds=settings["message_rounds"])
        for count in settings["ranks"][1:]
    }
    series = [(options.data, settings["data"]["rows"], settings["rounds"], settings["epochs"])]
    place = cache_folder() or options.out
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=place) as folder:
        write_images(Path(folder), made)
        series.append((folder, made, settings["made_rounds"], settings["made_epochs"]))
        points = [point for of_rows in series for point in _train(start, settings["ranks"], *of_rows)]
    settings["mpi"] = f"{messages[2]['mpi']}, mpi4py {version('mpi4py')}"
    results = {
        "experiments": {
            name: found | {key: summarize(found[key]) for key in ("replicated_seconds", "add_seconds")}
            for name, found in alone.items()
        },
        "points": points,
        **_messages(
            {count: found["seconds"] for count, found in messages.items()}, alone[EXPERIMENTS[0]]["vector_bytes"]
        ),
    }
    return save("ranks", options, backend, settings, results)


def find_mpiexec() -> str:
    """Return the mpiexec of this Python's environment, or else of PATH; raise `RankError` without it or mpi4py."""
    found = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    missing = "mpiexec" if found is None else "mpi4py" if importlib.util.find_spec("mpi4py") is None else ""
    if found is None or missing:
        raise RankError(f'ranks are processes of MPI, and {missing} is not installed: pip install "fmnist-xp[mpi]"')
    return found


def rank_counts() -> list[int]:
    """Return the powers of two of ranks for which there is a core each, and at least 1 and 2."""
    return [2**power for power in range(max(2, usable_cores().bit_length()))]


class _Start:
    """Calls functions in processes of their own: with 0 ranks in one without MPI, else on so many, by mpiexec."""

    def __init__(self, mpiexec: str, precision: str, pause: float) -> None:
        self._mpiexec, self._precision, self._pause = mpiexec, precision, pause

    def __call__(self, function: Callable[..., Any], ranks: int, **arguments: Any) -> Any:
        python = [sys.executable]
        if ranks:  # mpi4py sees to it that one that fails ends all
            python = [self._mpiexec, "-n", str(ranks), *python, "-m", "mpi4py"]
        return in_fresh_process(function, {**arguments, "precision": self._precision}, self._pause, python)


class _Side:
    """An experiment on so many ranks: a call trains anew and returns the seconds of its epochs.

    `found` is what `measure_training` returned each time.
    """

    def __init__(self, train: Callable[[], dict[str, Any]]) -> None:
        self._train = train
        self.found: list[dict[str, Any]] = []

    def __call__(self) -> list[float]:
        self.found.append(self._train())
        seconds: list[float] = self.found[-1]["epoch_seconds"]
        return seconds


def _train(
    start: _Start, counts: Sequence[int], source: str, rows: int, rounds: int, epochs: int
) -> Iterator[dict[str, Any]]:
    """Yield the records of every experiment on every number of ranks, which take turns."""
    asked: dict[str, Any] = {"source": source, "rows": rows, "epochs": epochs}
    sides = {
        f"{name} {count}": _Side(partial(start, measure_training, count, name=name, **asked))
        for name in EXPERIMENTS
        for count in counts
    }
    seconds = alternate(sides, rounds)
    for name in EXPERIMENTS:
        check_weights(f"{name} on {rows:,} rows", {count: sides[f"{name} {count}"].found for count in counts})
        one = summarize(seconds[f"{name} {counts[0]}"])["median"]
        for count in counts:
            found, epoch = sides[f"{name} {count}"].found, summarize(seconds[f"{name} {count}"])
            yield {
                "rows": rows,
                "experiment": name,
                "ranks": count,
                "epoch_seconds": epoch,
                "speedup": rounded(one / epoch["median"]),
                "efficiency": rounded(one / epoch["median"] / count),
                **{key: rounded(median(run[key] for run in found)) for key in ("message_seconds", "message_share")},
                "column_share": rounded(found[0]["column_share"]),
                "weights": found[0]["weights"][0],
            }


def check_weights(what: str, found: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
    """Raise `RuntimeError` where a rank ended with other weights than the first one did.

    `found` has what `measure_training` returned, by the number of ranks.
    """
    digests = [
        (f"rank {rank} of {count}", digest)
        for count, runs in found.items()
        for run in runs
        for rank, digest in enumerate(run["weights"])
    ]
    for rank, digest in digests:
        if digest != digests[0][1]:
            first = f"{digests[0][0]} of {digests[0][1][:12]}…"
            raise RuntimeError(f"{what}: {rank} has weights of the SHA-256 {digest[:12]}…, and {first}")


def _messages(found: Mapping[int, Mapping[str, list[float]]], vector_bytes: int) -> dict[str, Any]:
    """Return the record of messages between two ranks, and of the sums over each number of ranks."""
    short, vector = (summarize(found[2][side]) for side in ("short", "vector"))
    return {
        "link": {
            "vector_bytes": vector_bytes,
            "short_seconds": short,
            "vector_seconds": vector,
            "latency": short["median"],
            "bandwidth": rounded(vector_bytes / (vector["median"] - short["median"])),
        },
        "sums": [
            {"ranks": count, **{side: summarize(seconds[side]) for side in ("tree", "allreduce")}}
            for count, seconds in found.items()
        ],
    }
