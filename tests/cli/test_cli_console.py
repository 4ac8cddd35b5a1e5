"""Output of the command as a separate process: the exit code does not depend on who reads it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import contents, read_json

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, descriptors and names are POSIX's")


def run(
    folder: Path, *arguments: str, shell: str = 'exec "$@"', **variables: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-m", "fmnist_xp", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    "moment", ["rich.console", "numpy._core", "typer", "fmnist_xp.cli.train", "fmnist_xp.evaluation"]
)
@pytest.mark.parametrize(
    ("name", "code", "message"),
    [("SIGINT", 130, b"interrupted"), ("SIGTERM", 143, b"terminated"), ("SIGHUP", 129, b"terminated")],
)
def test_signal_while_the_command_starts_is_one_line(
    workplace: Path, tmp_path: Path, moment: str, name: str, code: int, message: bytes
) -> None:
    """While a module is being imported; before `fmnist_xp.cli` is, Python handles it."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(name, *_more):\n"
        f"        if name == {moment!r} and 'fmnist_xp.cli' in sys.modules: os.kill(os.getpid(), signal.{name})\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    done = run(workplace, "evaluate", "nowhere", PYTHONPATH=f"{hook}:{ROOT}")
    assert (done.returncode, done.stderr) == (code, b"fmnist-xp: " + message + b"\n")


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "cp437", "ascii"])
def test_control_characters_are_escaped(run_folder: Path, encoding: str) -> None:
    done = run(run_folder.parent, "plot", run_folder.name, "--out", "p\x1b[31m", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"p\x1b[31m/a-run/loss.png" in done.stdout
    failed = run(run_folder.parent, "evaluate", "n\x1b[31mж", PYTHONIOENCODING=encoding)
    assert failed.returncode == 1
    assert rb"n\x1b[31m" in failed.stderr
    assert b"\x1b" not in done.stdout + failed.stderr
    assert failed.stderr.count(b"\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "| true"])
def test_closed_streams_change_nothing(workplace: Path, idx_folder: Path, closed: str) -> None:
    arguments = ("train", "--epochs", "2", "--device", "cpu", "--data", str(idx_folder), "--out", "run")
    done = run(workplace, *arguments, shell=f'{{ "$@"; echo $? > code; }} {closed}')
    assert (workplace / "code").read_text() == "0\n", done
    assert (workplace / "run" / "result.json").is_file()
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_full_disk_on_stdout_is_reported_after_the_run_is_written(workplace: Path, idx_folder: Path) -> None:
    arguments = ("train", "--epochs", "2", "--device", "cpu", "--data", str(idx_folder), "--out", "run")
    done = run(workplace, *arguments, shell='exec "$@" >/dev/full')
    assert (done.returncode, done.stderr) == (1, b"fmnist-xp: stdout: No space left on device\n")
    assert (workplace / "run" / "result.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (("plot", "a-run"), "plots/a-run/accuracy.png"),
        (("evaluate", "a-run"), "a-run/confusion.png"),
        (("data", "info"), "custom-samples.png"),
        (("data", "export", "new"), "new"),
        (("data", "export", "new", "--format", "idx"), "new"),
        (("train", "--epochs", "1", "--out", "new"), "new/config.json"),
        (("reproduce", "--epochs", "1"), "reproduce/runs/sgd-s0/config.json"),
    ],
)
def test_a_full_disk_is_one_line_that_names_the_file(
    run_folder: Path, idx_folder: Path, arguments: tuple[str, ...], file: str
) -> None:
    """A file size limit of 0 bytes fails as a full disk does."""
    before = contents(run_folder)
    variables = {"FMNIST_XP_DATA": str(idx_folder), "FMNIST_XP_CACHE": str(run_folder.parent / "cache")}
    done = run(run_folder.parent, *arguments, shell='ulimit -f 0; exec "$@"', **variables)
    assert done.returncode == 1, done
    *warnings, error = done.stderr.decode().splitlines()
    assert re.fullmatch(rf"fmnist-xp: {file}: .*File too large.*", error), done
    assert all("the data set is decoded at each start" in warning for warning in warnings), done
    assert contents(run_folder) == before
    assert not (run_folder.parent / "new").exists()


def test_library_messages_are_shown_only_for_debug(workplace: Path, tmp_path: Path) -> None:
    """Logged while the command runs, at an import."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import logging, os, sys, warnings\n"
        "class Finder:\n"
        "    def find_spec(name, *_more):\n"
        "        if name != 'fmnist_xp.evaluation': return\n"
        "        warnings.warn('this is old'); warnings.warn('this goes', FutureWarning)\n"
        "        logging.getLogger('matplotlib').warning('no such font')\n"
        "        logging.getLogger('cupy').error('two of us')\n"
        "        os.write(2, b'libpng error: bad adaptive filter value\\n')\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    plain, debug = (
        run(workplace, "plot", "nowhere", *more, PYTHONPATH=f"{hook}:{ROOT}").stderr for more in ((), ("--debug",))
    )
    assert plain == b"fmnist-xp: there is no run folder nowhere: make one with fmnist-xp train\n"
    for said in (b"this is old", b"this goes", b"no such font", b"two of us", b"libpng error"):
        assert said in debug


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "utf-8"])
def test_tables_and_progress_on_terminals_of_any_code_page(run_folder: Path, encoding: str) -> None:
    """Names never reach it as control characters, not in a traceback either; the progress bar's own do."""
    pty = pytest.importorskip("pty")
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "TERM": "xterm"}

    def shown(*arguments: str) -> tuple[int, bytes]:
        try:
            ours, theirs = pty.openpty()
        except OSError as error:
            pytest.skip(f"no terminal can be made here ({error})")
        with subprocess.Popen(
            [sys.executable, "-m", "fmnist_xp", *arguments],
            cwd=run_folder.parent, env=variables, stdin=theirs, stdout=theirs, stderr=theirs,
        ) as process:  # fmt: skip
            os.close(theirs)
            text = b""
            try:
                while piece := os.read(ours, 2**16):
                    text += piece
            except OSError:  # EIO, as Linux has it: nobody writes to it any more
                pass
        os.close(ours)
        return process.returncode, text

    code, text = shown("evaluate", run_folder.name, "--device", "cpu")
    assert code == 0, text
    assert b"Ankle boot" in text
    data = read_json(run_folder / "config.json")["data"]["source"]
    code, text = shown("train", "--epochs", "12", "--data", data, "--device", "cpu", "--out", "new")
    assert code == 0, text
    assert b"epochs/s" in text
    code, text = shown("evaluate", "n\x1b[31m", "--debug")
    assert code == 1
    assert b"Traceback" in text
    assert rb"n\x1b[31m" in text
    assert b"\x1b" not in text
