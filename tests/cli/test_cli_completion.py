"""Completion in the shells that are there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ["sgd", "momentum", "adam", "quick", "best"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="runs POSIX shells")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with `fmnist-xp` among its programs, and a home of its own."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "fmnist-xp"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fmnist_xp "$@"\n')
    program.chmod(0o755)
    (tmp_path / "home").mkdir()
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}


def shell(name: str, options: tuple[str, ...], script: str, environment: dict[str, str]) -> list[str]:
    """Return the lines that a script prints; skip where there is no such shell."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [program, *options, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


BASH = """
eval "$(_FMNIST_XP_COMPLETE=source_bash fmnist-xp)"
of() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _fmnist_xp_completion "$1"; echo "${COMPREPLY[*]}"; }
"""


def test_bash_completes_commands_options_and_values(environment: dict[str, str]) -> None:
    lines = shell(
        "bash",
        ("--norc",),
        BASH + "of fmnist-xp tr; of fmnist-xp train ''; of fmnist-xp train --precision f; of fmnist-xp train --kee;"
        "of fmnist-xp train --activation ta; of fmnist-xp train --optimizer ''; of fmnist-xp cache '';"
        "of fmnist-xp bench --device c; of fmnist-xp evaluate ''; of fmnist-xp train --config ''",
        environment,
    )
    optimizers = lines.pop(5).split()
    assert [line.split() for line in lines] == [
        ["train"], EXPERIMENTS, ["float32", "float64", "float16"], ["--keep-best", "--keep-going"], ["tanh"],
        ["info", "clear"], ["cpu", "cuda"], [], [],  # where there is nothing, bash completes the names of files
    ]  # fmt: skip
    assert {"sgd", "adam"} <= {*optimizers}


def test_bash_completion_is_installed(environment: dict[str, str]) -> None:
    shell("bash", ("--norc",), "fmnist-xp --install-completion; true", environment)
    script = Path(environment["HOME"]) / ".bash_completions" / "fmnist-xp.sh"
    assert "_fmnist_xp_completion" in script.read_text()
    assert str(script) in (Path(environment["HOME"]) / ".bashrc").read_text()
    shown = shell("bash", ("--norc",), "fmnist-xp --show-completion; true", environment)
    assert "complete -o default -F _fmnist_xp_completion fmnist-xp" in shown


def test_zsh_completes_commands_options_and_values(environment: dict[str, str]) -> None:
    script = """
    compdef() {}
    _arguments() { print -r -- "${2:-$1}" }
    _files() { print files }
    eval "$(env _FMNIST_XP_COMPLETE=source_zsh fmnist-xp)"
    of() { words=("$@"); CURRENT=$#; _fmnist_xp_completion }
    of fmnist-xp cache cl; of fmnist-xp train q; of fmnist-xp evaluate ''
    """
    clear, quick, files = (line for line in shell("zsh", ("-f",), script, environment) if line)
    assert clear.startswith('*: :(("clear":"Remove what this program put into the cache')
    assert quick == '*: :(("quick"))'
    assert files == "files"


def test_fish_completes_commands_options_and_values(environment: dict[str, str]) -> None:
    script = """
    env _FMNIST_XP_COMPLETE=source_fish fmnist-xp | source
    complete -C "fmnist-xp trai"
    complete -C "fmnist-xp train "
    complete -C "fmnist-xp train --precision tf"
    complete -C "fmnist-xp evaluate fi"
    """
    (Path(environment["HOME"]) / "file").touch()
    lines = shell("fish", ("--no-config",), f"cd {environment['HOME']}\n{script}", environment)
    assert lines[0] == "train\tTrain an experiment and write its run folder, or go on with a run."
    assert lines[1:] == [*sorted(EXPERIMENTS), "tf32", "file"]


@pytest.mark.parametrize("instruction", ["complete", "complete_tcsh", "sing_bash"])
def test_an_unknown_shell_is_told(environment: dict[str, str], instruction: str) -> None:
    done = subprocess.run(
        ["fmnist-xp"],
        env={**environment, "_FMNIST_XP_COMPLETE": instruction},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
