"""`mpiexec -n P fmnist-xp train --mpi`: the files of a run without MPI, and how it ends where something happens."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mpi_helpers import ROOT, environment, mpiexec, needs_mpi, passed_on, run_ranks
from run_helpers import RUN_FILES, contents, parse_json, read_json

from fmnist_xp.cli.app import app
from fmnist_xp.data import export, make_synthetic

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
REAL = os.environ.get("FMNIST_XP_DATA") and Path(os.environ["FMNIST_XP_DATA"]).resolve()  # before a test moves

EPOCHS, MOMENT = 40, 20
OPTIONS = (
    "adam", "--device", "cpu", "--epochs", EPOCHS, "--log-every", 4, "--seed", 5, "--block-rows", 32,
    "--checkpoint-every", 6,
    "--validation", 0.2, "--keep-best",
)  # fmt: skip
COMPARED = ("model.safetensors", "model-best.safetensors", "history.csv")

# The command, in which something happens to the process of rank {rank}, one of several.
COMMAND = """
import os, signal, sys, time
from pathlib import Path
import fmnist_xp.data
from fmnist_xp.cli import main
from fmnist_xp.train.epochs import Epochs

def kill(name):
    os.kill(os.getpid(), getattr(signal, name))

def wait_for_interrupt():
    handler = signal.getsignal(signal.SIGINT)
    Path("waiting").touch()
    while signal.getsignal(signal.SIGINT) is handler:  # until the first one is noted
        time.sleep(0.01)

def at(moment, happen):
    run, calls = Epochs.run, []
    def called(*arguments):
        calls.append(1)
        if len(calls) == moment:
            happen()
        return run(*arguments)
    Epochs.run = called

def fail(error):
    raise error

def read_instead(folder):
    load = fmnist_xp.data.load_fashion_mnist
    fmnist_xp.data.load_fashion_mnist = lambda _source, **more: load(folder, **more)

if int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK"))) == {rank}:
    {what}
main()
"""


@pytest.fixture
def ranks(workplace: Path) -> Run:
    """A function that runs `fmnist-xp` on so many ranks, on one of which something may happen."""

    def run(count: int, *arguments: object, rank: int = 0, what: str = "pass") -> Done:
        return run_ranks(count, "-c", COMMAND.format(rank=rank, what=what), *arguments)

    return run


@pytest.fixture
def train(ranks: Run, idx_folder: Path) -> Run:
    """A function that trains on so many ranks, to the folder `run`."""

    def run(count: int, *arguments: object, **happens: Any) -> Done:
        return ranks(count, "train", *OPTIONS, "--data", idx_folder, "--out", "run", "--mpi", *arguments, **happens)

    return run


def without_mpi(*arguments: object, folder: Path, **variables: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "fmnist_xp", *map(str, arguments)],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, idx_folder: Path) -> tuple[Path, Done]:
    """The folder of a run of one process without MPI, and how it ended."""
    folder = tmp_path_factory.mktemp("whole")
    cache = {"FMNIST_XP_CACHE": str(folder / "cache")}
    done = without_mpi(
        "train", *OPTIONS, "--data", idx_folder, "--out", "run", "--threads", 2, folder=folder, **cache
    )
    assert done.returncode == 0, done
    return folder / "run", done


def assert_equal(folder: Path, whole: Path) -> None:
    for name in COMPARED:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def assert_said(done: Done, code: int, *words: str) -> None:
    """Assert the exit code of each process, and that one of them said one line, with all `words`."""
    launched = done.args[0] != sys.executable
    assert done.returncode in (passed_on(code) if launched else [code]), done
    lines = [line for line in done.stderr.splitlines() if line.startswith("fmnist-xp: ")]
    assert len(lines) == 1, done
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in done.stdout + done.stderr


# What a run comes to


@needs_mpi
@pytest.mark.parametrize("count", [1, 3])
def test_run_has_the_files_of_one_process(train: Run, workplace: Path, whole: tuple[Path, Done], count: int) -> None:
    done = train(count)
    assert (done.returncode, done.stderr) == (0, "")
    folder, alone = whole
    assert_equal(workplace / "run", folder)
    assert {path.name for path in (workplace / "run").iterdir()} == RUN_FILES | {"model-best.safetensors"}

    found, expected = (read_json(path / "result.json") for path in (workplace / "run", folder))
    host, share = platform.node(), found.pop("message_share")
    of_one = {"ranks": 1, "hosts": None, "threads": 2}
    assert {name: expected.pop(name) for name in of_one} == of_one
    of_ranks = {"ranks": count, "hosts": {host: count} if count > 1 else None, "threads": 1}
    assert {name: found.pop(name) for name in of_ranks} == of_ranks
    assert share is None if count == 1 else 0 < share < 1
    assert expected.pop("message_share") is None
    for name in ("epoch_seconds", "samples_per_second", "total_seconds", "peak_memory_bytes"):
        assert found.pop(name) != expected.pop(name)
    assert found == expected

    lines, of_alone = done.stdout.splitlines(), alone.stdout.splitlines()
    told = [line for line in lines if " ranks: " in line]
    assert told == ([f"{count} ranks: {count} on {host}; gradients by MPI"] if count > 1 else [])
    same = [line for line in of_alone if line.startswith(("custom: ", "epoch: ", "validation accuracy "))]
    assert [line for line in lines if line in same] == same
    assert len(lines) == len(of_alone) + len(told)  # what the other ranks would say is not among them


@needs_mpi
def test_json_is_one_document(train: Run, workplace: Path) -> None:
    done = train(3, "--json", "--threads", 2)
    assert (done.returncode, done.stderr) == (0, "")
    document = parse_json(done.stdout)
    assert document.pop("run") == "run"
    assert document.pop("best_epoch_before_dip") is None
    assert document == read_json(workplace / "run" / "result.json")
    assert (document["ranks"], document["threads"]) == (3, 2)  # as many as were asked for


@needs_mpi
def test_run_on_the_real_images(ranks: Run, workplace: Path) -> None:
    if not REAL:
        pytest.skip("real Fashion-MNIST not found: set FMNIST_XP_DATA to the folder of the four IDX .gz files")
    options = ("train", "adam", "--device", "cpu", "--data", REAL, "--epochs", 2, "--log-every", 1)
    assert ranks(3, *options, "--mpi", "--out", "ranks").returncode == 0
    assert without_mpi(*options, "--out", "alone", folder=workplace).returncode == 0
    for name in ("model.safetensors", "history.csv"):
        assert (workplace / "ranks" / name).read_bytes() == (workplace / "alone" / name).read_bytes(), name


# What is refused


@needs_mpi
def test_processes_that_would_train_a_run_each_are_refused(ranks: Run, workplace: Path, idx_folder: Path) -> None:
    assert_said(ranks(2, "train", "adam", "--data", idx_folder), 2, "2 processes were started together", "add --mpi")
    assert contents(workplace) == {}


COMMANDS = [*app.registered_commands, *app.registered_groups]
NAMES = {str(one.name or one.callback.__name__) for one in COMMANDS}  # type: ignore[union-attr]


@pytest.mark.parametrize("variables", [("PMI_SIZE", "PMI_RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")])
@pytest.mark.parametrize("name", sorted(NAMES - {"train", "devices"}))
def test_commands_for_one_process_are_refused_by_all_and_rank_0_says_so(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, variables: tuple[str, str]
) -> None:
    assert {"evaluate", "data", "reproduce"} < NAMES
    size, rank = variables
    monkeypatch.setenv(size, "3")
    monkeypatch.setenv(rank, "0")
    command(name).assert_failed(2, f"3 processes were started together, and {name} is for one")
    monkeypatch.setenv(rank, "2")
    answer = command(name)
    assert (answer.code, answer.out, answer.err) == (2, "", "")


@needs_mpi
@pytest.mark.parametrize(
    ("option", "value", "code", "words"),
    [
        ("--device", "tpu", 2, "device must be auto, cpu, cuda or cuda:<index>, got 'tpu'"),
        ("--epochs", 0, 2, "Invalid value for '--epochs'"),
        ("--data", "nowhere", 1, "nowhere: no such folder or file"),
        ("--precision", "tf32", 1, "does not compute in tf32"),
    ],
)
def test_what_all_ranks_find_wrong_is_told_once_before_anything_is_written(
    train: Run, workplace: Path, option: str, value: object, code: int, words: str
) -> None:
    assert_said(train(2, option, value), code, words)
    assert contents(workplace) == {}


@needs_mpi
def test_run_that_there_is_stays(train: Run, workplace: Path, whole: tuple[Path, Done]) -> None:
    shutil.copytree(whole[0], workplace / "run")
    before = contents(workplace)
    assert_said(train(2), 1, "run holds a finished run", "--force")
    assert contents(workplace) == before


@needs_mpi
@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--seed", "6", "seed 6, and rank 0 5"),
        ("--hidden", "8,8", "hidden (8, 8), and rank 0 (64, 64)"),
    ],
)
def test_ranks_with_other_settings_are_refused(
    train: Run, workplace: Path, option: str, value: str, words: str
) -> None:
    done = train(3, rank=2, what=f"sys.argv.extend([{option!r}, {value!r}])")
    assert_said(done, 1, f"rank 2 has {words}: all ranks must have the same")
    assert contents(workplace) == {}


@needs_mpi
@pytest.mark.parametrize(
    ("rank", "option", "value", "words"),
    [
        (0, "--epochs", "0", "Invalid value for '--epochs'"),
        (2, "--validation", "5", "validation must be above 0"),
    ],
)
def test_rank_that_fails_before_mpi_has_begun_ends_all(
    train: Run, workplace: Path, rank: int, option: str, value: str, words: str
) -> None:
    done = train(3, rank=rank, what=f"sys.argv.extend([{option!r}, {value!r}])")
    assert_said(done, 2, words)
    assert (done.stdout, contents(workplace)) == ("", {})


@needs_mpi
def test_rank_that_goes_on_with_a_run_where_others_begin_one_is_refused(
    train: Run, workplace: Path, whole: tuple[Path, Done]
) -> None:
    what = f"sys.argv = [*sys.argv[:2], '--device', 'cpu', '--mpi', '--resume', {str(whole[0])!r}]"
    before = contents(whole[0])
    assert_said(train(2, rank=1, what=what), 1, "rank 1", "to go on with a run", "rank 0 to train a run")
    assert (contents(workplace), contents(whole[0])) == ({}, before)


@needs_mpi
def test_rank_with_other_images_is_refused(train: Run, workplace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    export(*make_synthetic(400, 200, seed=1), other, "idx")
    # The first rank of a host reads the data before the others.
    for count, rank, differing in ((2, 1, 1), (3, 0, 1)):
        done = train(count, rank=rank, what=f"read_instead({str(other)!r})")
        assert_said(done, 1, f"rank {differing} has training images of the SHA-256", "(400 of custom)")
    assert contents(workplace) == {}


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_rank_whose_images_are_damaged_ends_all(
    train: Run, workplace: Path, tmp_path: Path, idx_folder: Path, rank: int
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(idx_folder, damaged)
    path = damaged / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    assert_said(train(2, rank=rank, what=f"read_instead({str(damaged)!r})"), 1, path.name)
    assert contents(workplace) == {}


# Without mpi4py


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("ModuleNotFoundError(\"No module named 'mpi4py'\", name='mpi4py')", "mpi4py is not installed"),
        ("ImportError('libmpi.so.12: cannot open shared object file')", "mpi4py does not load (libmpi.so.12: cannot"),
    ],
    ids=["missing", "not loading"],
)
def test_without_mpi4py_a_line_says_what_to_install(
    workplace: Path, tmp_path: Path, idx_folder: Path, error: str, words: str
) -> None:
    (tmp_path / "absent" / "mpi4py").mkdir(parents=True)
    (tmp_path / "absent" / "mpi4py" / "__init__.py").write_text(f"raise {error}\n")
    path = os.pathsep.join([str(tmp_path / "absent"), str(ROOT)])
    arguments = ("train", *OPTIONS, "--data", idx_folder, "--out", "run")
    done = without_mpi(*arguments, "--mpi", folder=workplace, PYTHONPATH=path)
    assert_said(done, 1, words, 'pip install "fmnist-xp[mpi]"')
    assert (done.stdout, contents(workplace)) == ("", {})
    assert without_mpi(*arguments, "--quiet", folder=workplace, PYTHONPATH=path).returncode == 0


# Runs that are ended, and go on


def go_on(ranks: Run, workplace: Path, count: int) -> None:
    resume = ("train", "--resume", "run", "--device", "cpu", "--quiet")
    done = ranks(count, *resume, "--mpi") if count else without_mpi(*resume, folder=workplace)
    assert (done.returncode, done.stderr) == (0, "")


@needs_mpi
@pytest.mark.parametrize(("rank", "on"), [(0, 3), (1, 0)])
def test_killed_rank_ends_all_and_the_run_goes_on_to_the_same_bits(
    train: Run, ranks: Run, workplace: Path, whole: tuple[Path, Done], rank: int, on: int
) -> None:
    done = train(2, rank=rank, what=f"at({MOMENT}, lambda: kill('SIGKILL'))")
    assert done.returncode != 0
    assert not (workplace / "run" / "result.json").exists()
    assert (workplace / "run" / "checkpoints" / "epoch-000000018.safetensors").is_file()
    go_on(ranks, workplace, on)
    assert_equal(workplace / "run", whole[0])


@needs_mpi
@pytest.mark.parametrize(
    ("error", "rank", "words"),
    [
        ("MemoryError('5 GiB')", 1, "the CPU's memory is full (5 GiB)"),
        ("LookupError('lost')", 0, "unexpected LookupError: lost"),
    ],
)
def test_error_of_one_rank_is_told_by_that_ends_all_and_the_run_goes_on_to_the_same_bits(
    train: Run, ranks: Run, workplace: Path, whole: tuple[Path, Done], error: str, rank: int, words: str
) -> None:
    assert_said(train(3, rank=rank, what=f"at({MOMENT}, lambda: fail({error}))"), 1, words)
    assert not (workplace / "run" / "result.json").exists()
    go_on(ranks, workplace, 2)
    assert_equal(workplace / "run", whole[0])


def assert_interrupted_in_order(code: int, said: str, number: int, workplace: Path) -> None:
    assert code in passed_on(128 + number), said
    assert "fmnist-xp: interrupted: what was learned is kept in run; fmnist-xp train --resume run goes on" in said
    assert said.count("fmnist-xp: ") == 1
    result = read_json(workplace / "run" / "result.json")
    assert (result["interrupted"], result["epochs"]) == (True, MOMENT)
    assert (workplace / "run" / "checkpoints" / f"epoch-{MOMENT:09}.safetensors").is_file()


@needs_mpi
@pytest.mark.parametrize(("name", "rank", "on"), [("SIGINT", 1, 2), ("SIGTERM", 2, 0)])
def test_signal_to_one_rank_ends_all_after_the_epoch_under_way(
    train: Run, ranks: Run, workplace: Path, whole: tuple[Path, Done], name: str, rank: int, on: int
) -> None:
    done = train(3, rank=rank, what=f"at({MOMENT}, lambda: kill({name!r}))")
    assert_interrupted_in_order(done.returncode, done.stderr, getattr(signal, name), workplace)
    go_on(ranks, workplace, on)
    assert_equal(workplace / "run", whole[0])


@needs_mpi
def test_ctrl_c_at_the_launcher_ends_all_after_the_epoch_under_way(
    ranks: Run, workplace: Path, idx_folder: Path, whole: tuple[Path, Done]
) -> None:
    arguments = ("train", *OPTIONS, "--data", idx_folder, "--out", "run", "--mpi")
    program = COMMAND.format(rank=0, what=f"at({MOMENT}, wait_for_interrupt)")
    with subprocess.Popen(
        mpiexec(2, "-c", program, *arguments),
        env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while process.poll() is None and not (workplace / "waiting").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _out, said = process.communicate()
    assert_interrupted_in_order(process.returncode, said, signal.SIGINT, workplace)
    go_on(ranks, workplace, 3)
    assert_equal(workplace / "run", whole[0])
