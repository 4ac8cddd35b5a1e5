import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from script_helpers import BASH, ROOT, program

pytestmark = pytest.mark.skipif(sys.platform == "win32" or BASH is None, reason="the scripts need bash")

# Of the system, nothing but what the scripts call; never its Python, pip or nvidia-smi.
TOOLS = ("sed", "head", "cp", "dirname", "basename", "env", "bash", "mkdir", "cat", "chmod", "tee", "mktemp")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The folder that is the whole PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the scripts need of the project."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def bash(command: str, programs: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    assert BASH is not None
    return subprocess.run(
        [BASH, "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )


def sourced(function: str, programs: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return bash(f". scripts/setup.sh; {function}", programs, folder)


@pytest.mark.parametrize(
    "script",
    [
        "scripts/setup.sh",
        "scripts/train",
        "scripts/test",
        "scripts/fuzz",
        "scripts/gpu-check",
        "scripts/mutation",
        ".ci/run",
    ],
)
def test_syntax(script: str) -> None:
    assert BASH is not None
    checked = subprocess.run([BASH, "-n", ROOT / script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    "script", ["scripts/train", "scripts/test", "scripts/fuzz", "scripts/gpu-check", "scripts/mutation", ".ci/run"]
)
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert (ROOT / script).read_text().startswith("#!/usr/bin/env bash\n")


# The head of nvidia-smi's table, of drivers 550 and 580.
SMI = """
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI {driver}              Driver Version: {driver}      CUDA Version: {cuda}     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
"""


@pytest.mark.parametrize(
    ("answer", "status", "extra"),
    [
        (SMI.format(driver="550.54.15", cuda="12.4"), 0, "cuda"),
        (SMI.format(driver="525.60.13", cuda="12.0"), 0, "cuda"),
        (SMI.format(driver="580.65.06", cuda="13.0"), 0, "cuda13"),
        (SMI.format(driver="580.65.06", cuda="14.1"), 0, "cuda13"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9, ""),
        ("No devices were found", 6, ""),
        ("", 0, ""),
        (None, 0, ""),
    ],
    ids=["12.4", "12.0", "13.0", "14.1", "no driver", "no device", "silent", "none"],
)
def test_extra_fits_the_driver(programs: Path, project: Path, answer: str | None, status: int, extra: str) -> None:
    if answer is not None:
        (programs / "answer.txt").write_text(answer)
        program(programs / "nvidia-smi", f"cat {programs / 'answer.txt'}\nexit {status}")
    found = sourced("cuda_extra", programs, project)
    assert (found.returncode, found.stdout.strip(), found.stderr) == (0, extra, "")


OLD, NEW = "exit 1", "exit 0"  # what a Python of the version answers to the question whether it is new enough


@pytest.mark.parametrize(
    ("pythons", "found"),
    [
        ({"python3": NEW}, "python3"),
        ({"python3": OLD, "python3.12": NEW}, "python3.12"),
        ({"python3": OLD, "python3.11": NEW, "python": NEW}, "python3.11"),
        ({"python": NEW}, "python"),
        ({"python3.14": NEW, "python3.11": NEW}, "python3.14"),
        ({"python3": OLD, "python": OLD}, None),
        ({}, None),
    ],
)
def test_python_that_is_new_enough_is_found(
    programs: Path, project: Path, pythons: dict[str, str], found: str | None
) -> None:
    for name, answer in pythons.items():
        program(programs / name, answer)
    asked = sourced("find_python", programs, project)
    assert (asked.stdout.strip(), asked.returncode == 0) == (found or "", found is not None)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "4.0"])
def test_question_to_a_python_is_the_projects_version(programs: Path, project: Path, version: str) -> None:
    """The question is put to this Python, which says that it is of another version."""
    code = f"import sys; sys.version_info = ({version.replace('.', ', ')}, 0); exec(sys.argv[1])"
    program(programs / "python3", f"exec {sys.executable} -c '{code}' \"$2\"")
    asked = sourced("find_python", programs, project)
    assert asked.stdout.strip() == ("" if version == "3.10" else "python3")


def fake_python(path: Path, log: Path, pip: int = 0) -> None:
    """Write a Python that notes how it is called and makes a .venv with a copy of itself."""
    program(
        path,
        f'echo "$*" >> {log}\n'
        'case "$*" in\n'
        "  -c*) exit 0;;\n"
        "  --version) echo Python 3.13.1;;\n"
        f'  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/pip;;\n'
        f"  -m\\ pip*) exit {pip};;\n"
        '  *) echo "ran: $*";;\n'
        "esac",
    )


def installs(log: Path) -> list[str]:
    """Return what pip was asked to install, call by call."""
    calls = log.read_text().splitlines() if log.is_file() else []
    assert all("--editable" in call for call in calls if "pip install" in call)
    return [call.split()[-1] for call in calls if "pip install" in call]


def test_set_up_makes_an_environment_once(programs: Path, project: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake_python(programs / "python3", log)
    first = sourced("setup test", programs, project)
    assert first.returncode == 0
    assert "making .venv with Python 3.13.1" in first.stderr
    assert installs(log) == [".[test]"]
    again = sourced("setup test", programs, project)
    assert (again.returncode, again.stdout + again.stderr) == (0, "")
    assert installs(log) == [".[test]"]


def test_set_up_installs_again_what_changed(programs: Path, project: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake_python(programs / "python3", log)
    for extras in ("", "test", "test,oracle", "", "test"):
        assert sourced(f'setup "{extras}"', programs, project).returncode == 0
    assert installs(log) == [".", ".[test]", ".[test,oracle]"]
    (project / "pyproject.toml").write_text("changed")
    assert sourced("setup test", programs, project).returncode == 0
    assert installs(log)[3:] == [".[test]"]


def test_failed_set_up_is_reported_and_tried_again(programs: Path, project: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake_python(programs / "python3", log, pip=1)
    for attempt in (1, 2):
        failed = sourced("setup test", programs, project)
        assert failed.returncode == 1
        assert "installing .[test] failed" in failed.stderr
        assert len(installs(log)) == attempt


def test_set_up_without_a_python_says_what_it_needs(programs: Path, project: Path) -> None:
    program(programs / "python3", 'case "$*" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    failed = sourced("setup test", programs, project)
    assert failed.returncode == 1
    assert "needs Python 3.11 or newer, found Python 3.9.2" in failed.stderr
    assert not (project / ".venv").exists()


def test_set_up_without_venv_says_what_to_install(programs: Path, project: Path, tmp_path: Path) -> None:
    """Debian's Python makes the half that it can, and what follows its advice then makes the whole."""
    half = "mkdir -p .venv/bin; cp $0 .venv/bin/python; exit 1"
    program(programs / "python3", f'case "$*" in -m*) {half};; esac')
    for _attempt in range(2):
        failed = sourced("setup test", programs, project)
        assert failed.returncode == 1
        assert "python3-venv" in failed.stderr
    log = tmp_path / "log"
    fake_python(programs / "python3", log)
    assert sourced("setup test", programs, project).returncode == 0
    assert installs(log) == [".[test]"]


@pytest.mark.parametrize(
    ("call", "extras", "more"),
    [
        ("scripts/test", ".[test]", ""),
        ("scripts/test tests/nn -k 'a b'", ".[test]", " tests/nn -k a b"),
        ("scripts/test --full -x", ".[test,oracle]", " -x"),
    ],
)
def test_the_suite_is_run(programs: Path, project: Path, tmp_path: Path, call: str, extras: str, more: str) -> None:
    log = tmp_path / "log"
    fake_python(programs / "python3", log)
    done = bash(f"cd /; {project}/{call}", programs, project)
    ran = f"ran: -m pytest --numprocesses auto --dist worksteal{more}"
    assert (done.returncode, done.stdout.strip()) == (0, ran)
    assert installs(log) == [extras]


@pytest.mark.parametrize("script", ["test", "gpu-check"])
@pytest.mark.parametrize(
    ("data", "found"), [("my data", "{}/my data"), ("/my/data", "/my/data"), ("synthetic", "synthetic"), ("", "")]
)
def test_data_in_the_environment_are_those_of_the_callers_folder(
    programs: Path, project: Path, tmp_path: Path, script: str, data: str, found: str
) -> None:
    program(project / ".venv" / "bin" / "pip", "")
    told = 'echo "$FMNIST_XP_DATA|$FMNIST_XP_CACHE|$PWD"'
    program(project / ".venv" / "bin" / "python", f'case "$*" in -m\\ pip*) ;; *) {told};; esac')
    program(programs / "nvidia-smi", "echo '| NVIDIA-SMI 1  Driver Version: 1  CUDA Version: 12.8 |'")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    call = f"FMNIST_XP_DATA='{data}' FMNIST_XP_CACHE=cache ../project/scripts/{script}"
    done = bash(f"cd {elsewhere}; {call}", programs, project)
    assert done.returncode == 0, done
    assert done.stdout == f"{found.format(elsewhere)}|{elsewhere}/cache|{project}\n"


def test_a_report_of_mutants_without_results_is_one_line(project: Path) -> None:
    """No mutants/ folder: `scripts/mutation --report` before any run."""
    if find_spec("mutmut") is None:
        pytest.skip("mutmut, which the report reads with, is not installed")
    done = subprocess.run(
        [sys.executable, project / "scripts" / "mutation_report.py"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("cuda", "target"), [(None, "."), ("12.8", ".[cuda]"), ("13.1", ".[cuda13]")])
def test_training_is_run_with_its_arguments(
    programs: Path, project: Path, tmp_path: Path, cuda: str | None, target: str
) -> None:
    log = tmp_path / "log"
    fake_python(programs / "python3", log)
    fake_python(project / ".venv" / "bin" / "python", log)
    program(project / ".venv" / "bin" / "fmnist-xp", 'echo "$PWD $# $*"; exit 3')
    if cuda:
        program(programs / "nvidia-smi", f"echo '| NVIDIA-SMI 1  Driver Version: 1  CUDA Version: {cuda} |'")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = bash(f"cd {elsewhere}; ../project/scripts/train --epochs 3 --out 'my run'", programs, project)
    assert done.stdout.strip() == f"{elsewhere} 5 train --epochs 3 --out my run"
    assert done.returncode == 3
    assert installs(log) == [target]


def test_fuzz_goes_on_with_new_seeds_until_a_round_fails(programs: Path, project: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake_python(programs / "python3", log)
    # The third round fails.
    program(
        project / ".venv" / "bin" / "python",
        f'echo "$FMNIST_XP_FUZZ $*" >> {log}\n[ "$(grep -c "tests/fuzz$" {log})" -lt 3 ]',
    )
    program(project / ".venv" / "bin" / "pip", "")
    grep = shutil.which("grep")
    assert grep
    (programs / "grep").symlink_to(grep)
    done = bash("scripts/fuzz 1000000", programs, project)
    assert done.returncode == 1
    rounds = [line.split() for line in log.read_text().splitlines() if line.endswith("tests/fuzz")]
    assert len(rounds) == 3
    assert len({words[words.index("--hypothesis-seed") + 1] for words in rounds}) == 3
    assert all(words[0] == "2" for words in rounds)
    assert installs(log) == [".[test]"]


@pytest.mark.parametrize("seconds", ["soon", "-1", "1.5"])
def test_fuzz_takes_a_number_of_seconds(programs: Path, project: Path, seconds: str) -> None:
    refused = bash(f"scripts/fuzz {seconds}", programs, project)
    assert refused.returncode == 1
    assert refused.stderr.startswith("fuzz: takes a number of seconds")


COMMANDS = "scripts/train --epochs 3|scripts/test"


@pytest.mark.parametrize(
    ("user", "fresh", "status", "end"),
    [
        (0, "exit 0", 0, f"fresh machine: {COMMANDS}"),
        (0, "echo no index; exit 9", 9, "no index"),
        (1000, "exit 0", 0, "left out: the README's commands on a fresh machine"),
        (0, None, 0, "left out: the README's commands on a fresh machine"),
    ],
    ids=["tried", "fails", "not root", "no such script"],
)
def test_the_check_tries_both_commands_on_a_fresh_machine_where_it_can(
    programs: Path, project: Path, tmp_path: Path, user: int, fresh: str | None, status: int, end: str
) -> None:
    shutil.copytree(ROOT / ".ci", project / ".ci")
    fake_python(programs / "python3", tmp_path / "log")
    for name in ("ruff", "mypy", "fmnist-xp"):
        program(project / ".venv" / "bin" / name, f"echo {name} $*")
    program(programs / "id", f"echo {user}")
    program(programs / "rm", "")
    if fresh is not None:
        text = f'echo "fresh machine: $1|$2"\n{fresh}'
        program(tmp_path / "shared" / "tools" / "fresh-machine", text)
    done = bash("cd /; " + str(project / ".ci" / "run"), programs, project)
    assert done.returncode == status, done
    lines = done.stdout.splitlines()
    for command in ("ran: -m pytest", "ruff check .", "ruff format --check .", "mypy", "fmnist-xp train adam"):
        assert any(line.startswith(command) for line in lines), command
    assert lines[-1].startswith(end)
    assert ("fresh machine: " + COMMANDS in lines) == (fresh is not None and user == 0)


def test_gpu_check_without_a_driver_says_what_it_needs(programs: Path, project: Path) -> None:
    done = bash("scripts/gpu-check", programs, project)
    assert done.returncode == 1
    assert "nvidia-smi must work" in done.stderr
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(("cuda", "extra"), [("12.8", "cuda"), ("13.1", "cuda13")])
def test_gpu_check_installs_what_it_measures(
    programs: Path, project: Path, tmp_path: Path, cuda: str, extra: str
) -> None:
    log = tmp_path / "log"
    fake_python(programs / "python3", log)
    fake_python(project / ".venv" / "bin" / "python", log)
    program(programs / "nvidia-smi", f"echo '| NVIDIA-SMI 1  Driver Version: 1  CUDA Version: {cuda} |'")
    assert bash("scripts/gpu-check devices", programs, project).returncode == 0
    assert installs(log) == [f".[{extra},bench,test]"]
