"""Output of the command as a separate process: the exit code does not depend on who reads it."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import contents, read_history, read_json

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


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_control_characters_are_escaped(workplace: Path, encoding: str) -> None:
    (workplace / "p\x1b[31m").mkdir()
    done = run(workplace, "runs", "p\x1b[31m", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"no runs in p\x1b[31m" in done.stdout
    failed = run(workplace, "evaluate", "n\x1b[31mж", PYTHONIOENCODING=encoding)
    assert failed.returncode == 1
    assert rb"n\x1b[31m" in failed.stderr
    assert b"\x1b" not in done.stdout + failed.stderr
    assert failed.stderr.count(b"\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "| true"])
def test_closed_streams_change_nothing(workplace: Path, idx_folder: Path, closed: str) -> None:
    arguments = ("train", "adam", "--epochs", "2", "--device", "cpu", "--data", str(idx_folder), "--out", "run")
    done = run(workplace, *arguments, shell=f'{{ "$@"; echo $? > code; }} {closed}')
    assert (workplace / "code").read_text() == "0\n", done
    assert (workplace / "run" / "result.json").is_file()
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_full_disk_on_stdout_is_reported_after_the_run_is_written(workplace: Path, idx_folder: Path) -> None:
    arguments = ("train", "adam", "--epochs", "2", "--device", "cpu", "--data", str(idx_folder), "--out", "run")
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
        (("train", "adam", "--epochs", "1", "--out", "new"), "new/config.json"),
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


def on_terminal(folder: Path, *arguments: str, columns: int = 80, **variables: str) -> tuple[int, bytes]:
    """Run the command on a pseudo-terminal of 25 lines; return its exit code and all that it wrote there."""
    pty = pytest.importorskip("pty")
    import fcntl
    import termios

    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminal can be made here ({error})")
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-m", "fmnist_xp", *arguments],
        cwd=folder, env={**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", **variables},
        stdin=theirs, stdout=theirs, stderr=theirs,
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


@pytest.mark.parametrize("encoding", ["ascii", "cp437"])
def test_tables_and_progress_on_terminals_of_any_code_page(run_folder: Path, encoding: str) -> None:
    """Names never reach it as control characters, not in a traceback either; the progress bar's own do."""

    def shown(*arguments: str) -> tuple[int, bytes]:
        return on_terminal(run_folder.parent, *arguments, PYTHONIOENCODING=encoding)

    code, text = shown("evaluate", run_folder.name, "--device", "cpu")
    assert code == 0, text
    assert b"Ankle boot" in text
    data = read_json(run_folder / "config.json")["data"]["source"]
    code, text = shown("train", "adam", "--epochs", "12", "--data", data, "--device", "cpu", "--out", "new")
    assert code == 0, text
    assert b"epochs/s" in text
    code, text = shown("evaluate", "n\x1b[31m", "--debug")
    assert code == 1
    assert b"Traceback" in text
    assert rb"n\x1b[31m" in text
    assert b"\x1b" not in text


def test_training_on_a_terminal_ends_at_100_percent(workplace: Path, idx_folder: Path) -> None:
    """Of the display, in place all the while, two lines are left above the result."""
    pyte = pytest.importorskip("pyte", reason="pyte, a terminal emulator, is not installed")
    code, text = on_terminal(
        workplace, "train", "adam", "--epochs", "30", "--data", str(idx_folder), "--device", "cpu", "--out", "run"
    )
    assert code == 0, text
    screen = pyte.Screen(80, 25)
    pyte.ByteStream(screen).feed(text)
    shown = [line.rstrip() for line in screen.display if line.strip()]
    (place,) = (number for number, line in enumerate(shown) if "━" in line)
    assert re.match("100%  ━+  30/30  in 0:00:", shown[place])
    history = read_history(workplace / "run" / "history.csv")
    last = f"loss {history['loss'][-1]:.3f}  accuracy {history['accuracy'][-1]:.3f}"
    assert shown[place + 1].startswith(last)
    result = read_json(workplace / "run" / "result.json")
    end = " ".join(shown[place + 2 :])
    assert end.startswith(
        f"test accuracy {result['test_accuracy']:.4f}, test loss {result['test_loss']:.4f} on custom"
    )
    assert end.endswith("written to run")
    assert not any("epoch:" in line for line in shown)


@pytest.mark.parametrize("columns", [80, 40])
def test_tables_are_never_cut_off(run_folder: Path, columns: int) -> None:
    """What has no room in a line goes on in the next; names of classes and numbers stay whole at 80 columns."""
    for arguments in (("devices",), ("runs", "."), ("cache", "info"), ("evaluate", run_folder.name)):
        code, text = on_terminal(run_folder.parent, *arguments, columns=columns, NO_COLOR="1")
        lines = re.sub(r"\x1b\[[\d;]*m", "", text.decode()).splitlines()
        assert code == 0, text
        assert not any("…" in line for line in lines), text
        assert all(len(line) <= columns for line in lines if line[:1] in ("│", "┃", "┏", "└")), text
        if arguments[0] == "evaluate" and columns == 80:
            assert {"T-shirt/top", "Ankle boot", "weighted avg"} < {line[2:15].strip() for line in lines}


@pytest.mark.parametrize(
    ("variables", "colours", "styles"),
    [
        ({}, False, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, True),  # bold is no colour
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False, False),
    ],
    ids=["plain", "forced", "forced without", "dumb"],
)
def test_colours_in_a_pipe(
    workplace: Path, idx_folder: Path, variables: dict[str, str], colours: bool, styles: bool
) -> None:
    arguments = ("train", "adam", "--epochs", "11", "--data", str(idx_folder), "--device", "cpu", "--out", "run")
    done = run(workplace, *arguments, **{"TERM": "xterm", **variables})
    assert (done.returncode, done.stderr) == (0, b"")
    assert bool(re.search(rb"\x1b\[(3[0-7]|38;|9[0-7])", done.stdout)) == colours
    done = run(workplace, "runs", ".", **{"TERM": "xterm", **variables})
    assert (b"\x1b[1m" in done.stdout) == styles
    if "FORCE_COLOR" in variables:
        (listed,) = json.loads(run(workplace, "runs", ".", "--json", **{"TERM": "xterm", **variables}).stdout)
        assert listed["folder"] == "run"


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_command_that_does_not_train_ends_with_the_code_of_its_signal(
    workplace: Path, idx_folder: Path, name: str, code: int
) -> None:
    arguments = ("parity", "--device", "cpu", "--data", str(idx_folder), "--epochs", str(10**7), "--out", "out")
    with subprocess.Popen(
        [sys.executable, "-m", "fmnist_xp", *arguments],
        cwd=workplace, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(getattr(signal, name))
        _rest, err = process.communicate()
    assert (process.returncode, err) == (code, b"fmnist-xp: terminated\n")
