"""The round of scripts/gpu-check: the parts one after another, each under a limit, their results packed after each.

Called by scripts/gpu-check, which says how it is used, with OUT, PYTHON, PYTHONPATH and WHEELS in the environment.
It needs the standard library alone. OUT holds all results so far at any moment: the archive and the summary, each
replaced atomically after a part, and the log of the part that is running.
"""

import argparse
import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from gpu_digest import digest

ROOT = Path(__file__).parents[1]
ARCHIVE, SUMMARY, RUNNING = "gpu-check.tar.gz", "summary.txt", "running.log"
GRACE = 5
"""Seconds from SIGTERM, at a part's limit, to SIGKILL."""
RESERVE = GRACE + 5
"""Seconds at the end that no part is given: for the kill and the last archive."""
MOST_BYTES = 15 << 20
"""Limit of the archive's size, so that it is quick to fetch; files that do not fit are left out."""
MOST_LOG = 1 << 20

PRECISIONS = ("float32", "tf32", "float16", "float64")
FUSED = ("float16", "bfloat16", "float32")
"""The precisions of the fused engine."""
PYTHON = os.environ.get("PYTHON", sys.executable)


@dataclass(frozen=True)
class Part:
    """A command, whose output is its log and whose other results lie in the folder that is packed.

    It is not begun with less time left than it `needs`, and ended after `limit` seconds, or when the whole ends.
    """

    name: str
    needs: int
    limit: int
    command: Sequence[str]
    missing: Callable[[], str] = str
    """Says what it lacks, or nothing."""


@dataclass
class Outcome:
    """What became of a part."""

    name: str
    status: str
    """ok, failed, cut, skipped, left out or running."""
    seconds: float = 0.0
    reason: str = ""
    command: str = ""
    shown: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether it was started and did not succeed."""
        return self.status in ("failed", "cut")

    def lines(self) -> list[str]:
        """Return its lines of the summary."""
        reason = f": {self.reason}" if self.reason else ""
        return [
            f"{self.status:<9}{self.seconds:6.1f} s  {self.name}{reason}",
            *(f"    {line}" for line in self.shown),
        ]


def choose_parts(kept: Path, wheels: Path | None, packages: Path, quick: bool) -> Iterator[Part]:
    """Yield all parts in their order: what matters most comes first. Results go below `kept`."""
    results = kept / "bench" / "results"

    def python(module: str, *arguments: object) -> list[str]:
        return [PYTHON, "-m", module, *map(str, arguments)]

    def parity(precision: str, *more: str, suffix: str = "") -> list[str]:
        folder = kept / "parity" / f"{precision}{suffix}"
        epochs = 2 if quick else 10
        options = ("--device", "cuda", "--precision", precision, *more, "--epochs", epochs, "--out", folder)
        return python("fmnist_xp", "parity", *options)

    def benchmark(name: str, *options: object) -> list[str]:
        return python("bench", name, *options, "--device", "cuda", "--out", results, *(["--quick"] if quick else []))

    def peers(precision: str) -> list[str]:
        rounds = () if quick else ("--rounds", 3)
        return benchmark(
            "peers", "--precision", precision, "--without", "notebook", "--without", "scikit-learn", *rounds
        )

    def throughput(name: str, precision: str, *more: str, missing: Callable[[], str] = str) -> Part:
        command = benchmark("throughput", "--precision", precision, *(() if quick else ("--rounds", 5)), *more)
        return Part(f"{name}-{precision}", 15, 70, command, missing)

    def train(experiment: str, precision: str = "float32") -> Part:
        name = f"{experiment}-{precision}"
        options = ("--device", "cuda", "--precision", precision, "--quiet", "--force")
        epochs = ("--epochs", 50) if quick else ()
        folder = kept / "runs" / name
        command = python("fmnist_xp", "train", experiment, *options, *epochs, "--out", folder)
        return Part(f"train-{name}", 8, 40, command)

    if wheels:
        options = ("-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--target", packages)
        yield Part("wheels", 5, 60, python("pip", "install", *options, *sorted(wheels.glob("*.whl"))))
    yield Part("devices", 1, 40, python("fmnist_xp", "devices"))
    yield Part("fit", 15, 60, [PYTHON, str(ROOT / "scripts" / "gpu_fit.py")])
    yield Part("probe", 45, 80, benchmark("probe"))
    for precision in PRECISIONS:
        yield Part(f"parity-{precision}", 25, 60, parity(precision))
    for precision in FUSED:
        yield Part(f"parity-fused-{precision}", 25, 60, parity(precision, "--engine", "fused", suffix="-fused"))
    yield Part("ranks", 20, 90, [PYTHON, str(ROOT / "scripts" / "gpu_ranks.py")], without_mpi)
    if not quick:
        # Without the comparisons of the parts before. Plugins that warn about each other are left out.
        options = ("-m", "cuda and not parity", "--device", "cuda", "-n", 4, "-q")
        plugins = ("-p", "no:cacheprovider", "-p", "no:benchmark")
        yield Part("tests", 40, 110, python("pytest", *options, *plugins), without_pytest)
    for precision in ("tf32", "float16", "float32"):
        yield throughput("throughput", precision)
    for precision in FUSED:
        yield throughput("fused", precision, "--engine", "fused")
    for precision in ("tf32", "float16", "float32"):
        if precision == "tf32" or not quick:
            yield Part(f"peers-{precision}", 65, 110, peers(precision))
    for precision in ("float32", "float16", "tf32"):
        yield train("adam", precision)

    for precision in ("tf32", "float16", "float32"):
        yield throughput("throughput-eager", precision, "--no-graphs", missing=eager_again)
    for precision in PRECISIONS:
        command = parity(precision, "--no-graphs", suffix="-eager")
        yield Part(f"parity-eager-{precision}", 25, 60, command, eager_again)
    yield throughput("throughput", "float64")
    if not quick:
        yield Part("peers-float64", 40, 120, peers("float64"))
    yield train("adam", "float64")
    yield train("sgd")
    yield train("momentum")
    if not quick:
        yield Part("scaling", 120, 240, benchmark("scaling"))  # 77 s were not enough
    # GPU machines have many cores: how fast they read the images.
    yield Part("loading", 30, 200, benchmark("loading", "--label", "gpuhost"))
    yield Part("report", 2, 20, python("bench", "report", "--out", results))


@functools.cache
def eager_again() -> str:
    """Return why a part without CUDA graphs would only repeat the one before; empty where it would not."""
    return _lacks("nvmath-python", "from nvmath.bindings import cublas; cublas.get_version(cublas.create())")


def without_pytest() -> str:
    """Return why the tests cannot run here; empty where they can."""
    return _lacks("pytest with pytest-xdist", "import pytest, xdist")


def without_mpi() -> str:
    """Return why ranks cannot train here; empty where they can, unless mpiexec is missing."""
    return _lacks("mpi4py", "from mpi4py import MPI")


def _lacks(what: str, code: str) -> str:
    command = ["timeout", f"--kill-after={GRACE}", "30", PYTHON, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return f"{what} does not work here ({said[-1]})"


class Round:
    """The parts that have run, and their results in `out`."""

    def __init__(self, out: Path, kept: Path, deadline: float, quick: bool) -> None:
        self.out, self.kept, self.quick = out, kept, quick
        self.started, self.deadline = time.monotonic(), deadline
        self.date = datetime.now(UTC)
        self.outcomes: list[Outcome] = []
        self.left_out: list[str] = []

    def run(self, part: Part) -> None:
        """Run `part`, and pack the results so far."""
        outcome = Outcome(part.name, "running", command=shlex.join(part.command))
        self.outcomes.append(outcome)
        if self._left() < part.needs:
            outcome.status, outcome.reason = "skipped", f"{self._left():.0f} s are left, it needs {part.needs}"
        elif missing := part.missing():
            outcome.status, outcome.reason = "left out", missing
        else:
            with suppress(OSError):  # such as a full disk: the old files stay, and the archive may have room again
                self.write_summary()
            self._do(part, outcome, max(1, int(min(part.limit, self._left()))))
            self.pack()
            print(f"{self._spent():4.0f} s  {part.name}: {outcome.status}", flush=True)

    def _do(self, part: Part, outcome: Outcome, limit: int) -> None:
        running = self.out / RUNNING
        started = time.monotonic()
        command = ["timeout", f"--kill-after={GRACE}", str(limit), *part.command]
        outcome.status, outcome.reason = "cut", "the round was ended"  # unless it ends by itself
        try:
            with running.open("wb") as log:
                process = subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
                try:
                    code = process.wait()
                except BaseException:
                    process.terminate()  # `timeout` forwards it, and kills after `GRACE`
                    process.wait()
                    raise
            outcome.seconds = time.monotonic() - started
            outcome.status, outcome.reason = "ok", ""
            if code and outcome.seconds >= limit:
                outcome.status, outcome.reason = "cut", f"it had {limit} s"
            elif code:
                outcome.status, outcome.reason = "failed", f"exit status {code}"
        finally:
            outcome.seconds = time.monotonic() - started
            log_path = self.kept / "logs" / f"{part.name}.log"
            keep_log(running, log_path)
            running.unlink()
            outcome.shown = digest(part.name, log_path.read_text("utf-8", "replace"), outcome.failed)

    def pack(self) -> None:
        """Replace the archive and the summary; where that fails, the old ones stay and a line says so."""
        try:
            self.write_summary()
            parts = [
                {"name": o.name, "status": o.status, "seconds": o.seconds, "reason": o.reason, "command": o.command}
                for o in self.outcomes
            ]
            record = {"date": self.date.isoformat(), "quick": self.quick, "deadline": self.deadline, "parts": parts}
            (self.kept / "round.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
            left_out = pack(self.kept, self.out / ARCHIVE)
            if left_out != self.left_out:
                self.left_out = left_out
                self.write_summary()
        except OSError as error:
            print(f"gpu-check: the archive could not be made anew: {error}", file=sys.stderr, flush=True)

    def write_summary(self) -> None:
        """Replace the summary, and put it among what is packed."""
        text = "\n".join(self.summary()) + "\n"
        (self.kept / SUMMARY).write_text(text, encoding="utf-8")
        beside = self.out / f".{SUMMARY}"
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.out / SUMMARY)

    def summary(self) -> list[str]:
        """Return the lines of the summary: for each part its status, its seconds, and a digest of its log."""
        quick = " at small sizes: not a result" if self.quick else ""
        lines = [f"gpu-check of {self.date:%Y-%m-%d %H:%M} UTC{quick}: {self._spent():.0f} of {self.deadline:.0f} s"]
        for outcome in self.outcomes:
            lines += outcome.lines()
        if self.left_out:
            lines.append(f"too large for the archive: {', '.join(self.left_out)}")
        return lines

    def failed(self) -> list[str]:
        """Return the names of the parts that failed."""
        return [outcome.name for outcome in self.outcomes if outcome.failed]

    def _spent(self) -> float:
        return time.monotonic() - self.started

    def _left(self) -> float:
        return max(0.0, self.deadline - self._spent() - RESERVE)


def keep_log(log: Path, kept: Path) -> None:
    """Copy a log; of a very long one, its beginning and its end."""
    kept.parent.mkdir(exist_ok=True)
    with log.open("rb") as source, kept.open("wb") as target:
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        if size <= MOST_LOG:
            shutil.copyfileobj(source, target)
            return
        target.write(source.read(MOST_LOG // 2))
        target.write(b"\n[...]\n")
        source.seek(-(MOST_LOG // 2), os.SEEK_END)
        target.write(source.read())


def pack(folder: Path, archive: Path) -> list[str]:
    """Pack all files below `folder`, replacing `archive` atomically; return the names of those that did not fit.

    The smallest come first, so that one that is very large keeps no other out.
    """
    beside = archive.with_name(f".{archive.name}")
    left_out = []
    files = sorted((path.stat().st_size, path) for path in folder.rglob("*") if path.is_file())
    with tarfile.open(beside, "w:gz", compresslevel=3) as tar:
        for size, path in files:
            name = path.relative_to(folder).as_posix()
            if beside.stat().st_size + size > MOST_BYTES:
                left_out.append(name)
            else:
                tar.add(path, f"gpu-check/{name}")
    beside.replace(archive)
    return left_out


class _OneLine(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"gpu-check: {message}", file=sys.stderr)
        sys.exit(2)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def main() -> int:
    """Run the round and return the exit status."""
    parser = _OneLine(prog="gpu-check", allow_abbrev=False, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--deadline", type=float, default=560, metavar="SECONDS", help="of the whole; by default 560")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--spent", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("parts", nargs="*", help="names, or their beginnings; by default all")
    arguments = parser.parse_args()
    if shutil.which("timeout") is None:
        parser.error("needs the program timeout, of coreutils")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _stop)
    out = Path(os.environ.get("OUT") or tempfile.mkdtemp())
    wheels = Path(os.environ["WHEELS"]) if os.environ.get("WHEELS") else None
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as scratch:
        kept, packages = Path(scratch, "kept"), Path(scratch, "packages")
        (kept / "logs").mkdir(parents=True)
        os.environ.setdefault("FMNIST_XP_CACHE", str(Path(scratch, "cache")))
        os.environ["PYTHONUNBUFFERED"] = "1"  # so that a log is complete wherever a part is cut
        os.environ["COLUMNS"] = "160"  # of tables
        os.environ["PYTHONPATH"] = f"{packages}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

        parts = list(choose_parts(kept, wheels, packages, arguments.quick))
        for asked in arguments.parts:
            if not any(part.name.startswith(asked) for part in parts):
                parser.error(f"{asked} is none of the parts {' '.join(part.name for part in parts)}")
        asked = tuple(arguments.parts) or ("",)
        the_round = Round(out, kept, arguments.deadline - arguments.spent, arguments.quick)
        try:
            for part in parts:
                if part.name.startswith((*asked, "wheels")):
                    the_round.run(part)
        finally:
            the_round.pack()
            print("\n".join(the_round.summary()))
            print(f"results: {out / ARCHIVE}; to take them over: scripts/gpu-check --collect {ARCHIVE}", flush=True)
    if failed := the_round.failed():
        print(f"gpu-check: failed: {' '.join(failed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
