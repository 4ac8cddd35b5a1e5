"""The GPU round under a stand-in for the machine: fake programs, and a clock that moves by what the parts take."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import gpu_round
import pytest
from script_helpers import BASH, ROOT, program

NEEDS = {part.name: part.needs for part in gpu_round.choose_parts(Path(), None, Path(), quick=False)}
"""The seconds that each part needs, in the order of the parts."""

pytestmark = pytest.mark.skipif(sys.platform == "win32" or BASH is None, reason="the scripts need bash")

# The programs of the system that the scripts and the fake programs call.
TOOLS = ("bash", "sh", "dirname", "basename", "mkdir", "mktemp", "cat", "cp", "sleep")
PRECISIONS = ("float32", "tf32", "float16", "float64")
FUSED = ("float16", "bfloat16", "float32")
SECONDS = 7
"""Seconds of a part by the clock, unless its plan says otherwise."""

# `timeout --kill-after=5 LIMIT COMMAND...` by the clock. Before a part it copies what would be left if all was killed
# now, and does what the part's plan says, where there is one.
TIMEOUT = """
limit=$2; shift 2
case $2 in -c) exec "$@";; esac
n=$(($(cat {here}/count) + 1)); echo $n > {here}/count
cp -R "$OUT" {here}/seen-$n
seconds={seconds}
[ ! -f {here}/plan-$n ] || . {here}/plan-$n
end=$(($(cat {here}/clock) + (seconds > limit ? limit : seconds)))
if [ $seconds -gt $limit ]; then echo "under way: $*"; echo $end > {here}/clock; exit 124; fi
"$@"; status=$?
echo $end > {here}/clock
exit $status
"""

# Python: the round itself is run by this one, whose clock is the file; what a part is called with is noted.
PYTHON = """
case $1 in scripts/gpu_round.py) exec {python} {here}/machine.py "$@";; esac
case $1 in -c) [ ! -f {here}/lacking ] || {{ echo "ModuleNotFoundError: no such thing" >&2; exit 1; }}; exit 0;; esac
echo "$*" >> {here}/calls
echo "$FMNIST_XP_DATA|$FMNIST_XP_CACHE|$PYTHONPATH" >> {here}/environments
echo "said by $*"
name="$3" precision= eager= out=
for one; do
  case $one in --no-graphs) eager=-eager;; --engine) eager=-fused;; esac
  case $last in --out) out=$one;; --precision) precision=$one;; esac
  last=$one
done
[ -n "$out" ] && mkdir -p "$out" && echo "result of $*" > "$out/$name-$precision$eager.txt"
[ ! -f {here}/failing ] || case "$*" in *$(cat {here}/failing)*) echo "went wrong" >&2; exit 3;; esac
"""

MACHINE = """
import runpy, sys, time
from pathlib import Path
time.monotonic = lambda: float(Path({clock!r}).read_text())
sys.argv = sys.argv[1:]
sys.path.insert(0, "scripts")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Results:
    """What lies in OUT: all that comes back from the machine."""

    folder: Path

    def files(self) -> dict[str, str]:
        """Return the texts of the archive, by their names there."""
        with tarfile.open(self.folder / "gpu-check.tar.gz") as tar:
            members = {m.name.removeprefix("gpu-check/"): tar.extractfile(m) for m in tar}
            return {name: content.read().decode() for name, content in members.items() if content}

    def parts(self) -> dict[str, str]:
        """Return the status of each part in the archive."""
        return {part["name"]: part["status"] for part in json.loads(self.files()["round.json"])["parts"]}

    def summary(self) -> dict[str, str]:
        """Return the status of each part in the summary."""
        lines = re.findall(r"^(\S[\w ]{7}) +\d+\.\d s  ([\w-]+)", self.text(), re.MULTILINE)
        return {name: status.strip() for status, name in lines}

    def text(self) -> str:
        """Return the summary."""
        return (self.folder / "summary.txt").read_text()


@dataclass(frozen=True)
class Machine:
    """The stand-in for the machine, and a copy of the project."""

    here: Path
    project: Path

    @property
    def results(self) -> Results:
        """What lies in OUT now."""
        return Results(self.here / "out put")

    def seen(self, part: int) -> Results:
        """Return a copy of OUT at the start of the part of this number, which a kill would have left."""
        return Results(self.here / f"seen-{part}")

    def plan(self, part: int, text: str) -> None:
        """Set the plan of the part of this number, from 1 on."""
        (self.here / f"plan-{part}").write_text(text)

    def calls(self) -> list[str]:
        """Return what Python was called with."""
        return (self.here / "calls").read_text().splitlines()

    def clock(self) -> int:
        """Return the seconds by the clock."""
        return int((self.here / "clock").read_text())

    def start(self, arguments: str = "", **environment: str) -> "subprocess.Popen[str]":
        """Start `scripts/gpu-check` in a process group of its own."""
        assert BASH is not None
        for name in ("clock", "count"):
            (self.here / name).write_text("0")
        return subprocess.Popen(
            [BASH, self.project / "scripts" / "gpu-check", *shlex.split(arguments)],
            cwd=self.here,
            env={
                "PATH": str(self.here / "programs"),
                "TMPDIR": str(self.here),
                "PYTHON": "python3",
                "OUT": "out put",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, arguments: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run `scripts/gpu-check` to its end."""
        with self.start(arguments, **environment) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def make_machine(here: Path) -> Machine:
    """Make the programs and the copy of the project in a folder."""
    project = here / "project"
    shutil.copytree(ROOT / "scripts", project / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    programs = here / "programs"
    programs.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (programs / name).symlink_to(found)
    words = {"here": shlex.quote(str(here)), "python": shlex.quote(sys.executable), "seconds": SECONDS}
    program(programs / "timeout", TIMEOUT.format(**words))
    program(programs / "python3", PYTHON.format(**words))
    (here / "machine.py").write_text(MACHINE.format(clock=str(here / "clock")))
    return Machine(here, project)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return make_machine(tmp_path)


@dataclass(frozen=True)
class Whole:
    """A round in which nothing goes wrong."""

    machine: Machine
    done: "subprocess.CompletedProcess[str]"

    @property
    def names(self) -> list[str]:
        """The parts, in order."""
        return [*self.machine.results.parts()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    machine = make_machine(tmp_path_factory.mktemp("whole"))
    return Whole(machine, machine.run("--deadline 5000"))


# The round


def test_all_parts_run_in_every_precision_and_the_results_are_two_files(whole: Whole) -> None:
    assert (whole.done.returncode, whole.done.stderr) == (0, "")
    results, calls = whole.machine.results, whole.machine.calls()
    assert {path.name for path in results.folder.iterdir()} == {"gpu-check.tar.gz", "summary.txt"}
    assert whole.names == [*NEEDS]
    assert results.summary() == results.parts() == dict.fromkeys(whole.names, "ok")
    assert whole.done.stdout.count(results.text()) == 1
    assert len(calls) == len(whole.names)
    for precision in PRECISIONS:
        chosen = [call for call in calls if f"--precision {precision} " in call and "--engine" not in call]
        for command in ("-m fmnist_xp parity", "-m bench throughput", "-m bench peers", "-m fmnist_xp train adam"):
            assert any(call.startswith(command) for call in chosen), (command, precision)
        for command in ("-m fmnist_xp parity", "-m bench throughput"):
            of_command = [call for call in chosen if call.startswith(command)]
            if command == "-m bench throughput" and precision == "float64":
                assert ["--no-graphs" in call for call in of_command] == [False]
            else:  # as it is by default, then without CUDA graphs
                assert ["--no-graphs" in call for call in of_command] == [False, True]
            assert all("--graphs" not in call for call in of_command)
    for command in ("-m fmnist_xp parity", "-m bench throughput"):
        fused = [call for call in calls if call.startswith(command) and "--engine fused" in call]
        assert [re.findall(r"--precision (\w+) ", call) for call in fused] == [[precision] for precision in FUSED]
        assert not any("graphs" in call for call in fused)
    without = ("devices", "gpu_fit.py", "gpu_ranks.py", "report")
    assert all("--device cuda" in call for call in calls if not call.partition(" --")[0].endswith(without))


def test_most_important_parts_run_first(whole: Whole) -> None:
    kinds = [name.partition("-")[0] for name in whole.names]
    assert [*dict.fromkeys(kinds)] == [
        "devices", "fit", "probe", "parity", "ranks", "tests", "throughput", "fused", "peers", "train", "scaling",
        "loading", "report",
    ]  # fmt: skip
    order = {name: place for place, name in enumerate(whole.names)}
    for before, kind, after in (
        ("parity-float64", "parity-fused", "ranks"),
        ("throughput-float32", "fused", "peers-tf32"),
    ):
        places = [order[name] for name in (before, *(f"{kind}-{precision}" for precision in FUSED), after)]
        assert places == [*range(places[0], places[0] + 5)]
    for one in ("throughput", "peers"):
        for precision in ("float32", "tf32", "float16"):
            assert order[f"{one}-{precision}"] < order["train-adam-float32"] < order[f"{one}-float64"]


def test_archive_holds_each_parts_log_and_what_it_wrote(whole: Whole) -> None:
    files = whole.machine.results.files()
    calls = dict(zip(whole.names, whole.machine.calls(), strict=True))
    for name, call in calls.items():
        assert files[f"logs/{name}.log"] == f"said by {call}\n"
    for name in "parity-tf32", "train-adam-float32", "report":
        assert f"  {name}\n    said by {calls[name]}\n" in whole.machine.results.text()
    assert files["parity/tf32/parity-tf32.txt"] == f"result of {calls['parity-tf32']}\n"
    assert files["parity/tf32-eager/parity-tf32-eager.txt"] == f"result of {calls['parity-eager-tf32']}\n"
    assert files["bench/results/throughput-tf32.txt"] == f"result of {calls['throughput-tf32']}\n"
    eager = files["bench/results/throughput-tf32-eager.txt"]
    assert eager == f"result of {calls['throughput-eager-tf32']}\n"
    for precision in FUSED:
        name = f"{precision}-fused"
        parity = files[f"parity/{name}/parity-{name}.txt"]
        assert parity == f"result of {calls[f'parity-fused-{precision}']}\n"
        assert files[f"bench/results/throughput-{name}.txt"] == f"result of {calls[f'fused-{precision}']}\n"
    assert files["runs/adam-float16/train-float16.txt"] == f"result of {calls['train-adam-float16']}\n"
    assert files["summary.txt"].splitlines()[1:] == whole.machine.results.text().splitlines()[1:]


def check_done_so_far(results: Results, done: list[str], under_way: str) -> None:
    """Assert that `results` have all of the parts `done`, and that the summary tells what was `under_way`."""
    paths = [*results.folder.rglob("*")]
    assert len(paths) <= 8
    assert all(path.is_file() for path in paths)
    assert results.summary() == {**dict.fromkeys(done, "ok"), under_way: "running"}
    if done:
        assert results.parts() == dict.fromkeys(done, "ok")
        assert {f"logs/{name}.log" for name in done} <= results.files().keys()


def test_results_so_far_survive_a_kill_at_any_time(whole: Whole) -> None:
    """OUT during each part is what a kill then leaves."""
    for place, name in enumerate(whole.names):
        check_done_so_far(whole.machine.seen(place + 1), whole.names[:place], name)


@pytest.mark.parametrize("part", [1, 2, 5])
def test_round_that_is_killed(machine: Machine, part: int) -> None:
    machine.plan(part, f"echo half of it; : > {shlex.quote(str(machine.here))}/reached; sleep 600")
    with machine.start() as process:
        wait_for(machine.here / "reached", process)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    names = [*NEEDS]
    check_done_so_far(machine.results, names[: part - 1], names[part - 1])
    assert (machine.results.folder / "running.log").read_text() == "half of it\n"


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_terminated_round_packs_its_results_and_ends_its_part(machine: Machine, number: int) -> None:
    """With the system's own `timeout`, whose child must not survive."""
    use_real_timeout(machine)
    here = shlex.quote(str(machine.here))
    devices = f"echo half of it; echo $$ > {here}/child; : > {here}/reached; exec sleep 600"
    replace_python(machine, f"case $3 in devices) {devices};; esac")
    with machine.start("devices fit") as process:
        wait_for(machine.here / "reached", process)
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, err) == (128 + number, "")
    assert machine.results.parts() == machine.results.summary() == {"devices": "cut"}
    assert machine.results.files()["logs/devices.log"] == "half of it\n"
    assert "devices: the round was ended" in out
    child = int((machine.here / "child").read_text())
    for _ in range(1000):  # the system may take a while to reap a killed process
        if not lives(child):
            break
        time.sleep(0.01)
    assert not lives(child)


def lives(process: int) -> bool:
    """Return whether there is such a process, other than a zombie."""
    try:
        os.kill(process, 0)
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it has ended meanwhile, or there is no /proc
        return Path("/proc/self/stat").exists() is False


def use_real_timeout(machine: Machine) -> None:
    real = shutil.which("timeout")
    if real is None:
        pytest.skip("needs coreutils' timeout")
    (machine.here / "programs" / "timeout").unlink()
    (machine.here / "programs" / "timeout").symlink_to(real)


# Time that runs out


@pytest.mark.parametrize("name", NEEDS)
def test_deadline_that_runs_out_in_a_part(machine: Machine, name: str) -> None:
    """The part is cut, its log and all that was done before are there, and what comes after is named."""
    names = [*NEEDS]
    before, after = [one for one in ["devices"] if one != name], names[names.index(name) + 1 :][:1]
    machine.plan(len(before) + 1, "seconds=100000")
    deadline = SECONDS * len(before) + NEEDS[name] + gpu_round.RESERVE
    done = machine.run(f"--deadline {deadline} {' '.join([*before, name, *after])}")
    assert (done.returncode, done.stderr) == (1, f"gpu-check: failed: {name}\n")
    results = machine.results
    expected = {**dict.fromkeys(before, "ok"), name: "cut", **dict.fromkeys(after, "skipped")}
    assert results.parts() == results.summary() == expected
    assert f"{name}: it had {NEEDS[name]} s\n" in results.text()
    assert all(f"{one}: 0 s are left, it needs {NEEDS[one]}\n" in results.text() for one in after)
    assert results.files()[f"logs/{name}.log"].startswith("under way: ")
    assert machine.clock() == deadline - gpu_round.RESERVE


def test_endless_part_is_cut_at_its_own_limit_and_the_next_one_runs(machine: Machine) -> None:
    machine.plan(2, "seconds=100000")
    done = machine.run()
    assert (done.returncode, done.stderr) == (1, "gpu-check: failed: fit\n")
    assert "fit: it had 60 s\n" in machine.results.text()
    assert [*machine.results.parts().values()][:4] == ["ok", "cut", "ok", "ok"]


def test_short_part_runs_if_there_is_no_time_for_a_long_one(machine: Machine) -> None:
    done = machine.run(f"--deadline {SECONDS + NEEDS['report'] + gpu_round.RESERVE + 6} devices peers-tf32 report")
    assert done.returncode == 0
    assert machine.results.parts() == {"devices": "ok", "peers-tf32": "skipped", "report": "ok"}


def test_time_of_setting_up_the_environment_counts(machine: Machine) -> None:
    machine.run("--deadline 100 --spent 80 devices fit probe")
    assert machine.results.parts() == {"devices": "ok", "fit": "skipped", "probe": "skipped"}


def test_systems_timeout_ends_a_part(machine: Machine) -> None:
    """After a real second; the stand-in's clock does not count it."""
    use_real_timeout(machine)
    here = shlex.quote(str(machine.here))
    replace_python(machine, f"case $3 in devices) echo half of it; echo 1 > {here}/clock; exec sleep 600;; esac")
    done = machine.run(f"--deadline {1 + gpu_round.RESERVE} devices")
    assert (done.returncode, done.stderr) == (1, "gpu-check: failed: devices\n")
    assert machine.results.parts() == {"devices": "cut"}
    assert machine.results.files()["logs/devices.log"] == "half of it\n"


# Parts that fail, or cannot be done


def test_failing_part_is_named_and_the_others_run(machine: Machine) -> None:
    (machine.here / "failing").write_text("throughput --precision tf32")
    done = machine.run("--deadline 5000")
    assert (done.returncode, done.stderr) == (1, "gpu-check: failed: throughput-tf32 throughput-eager-tf32\n")
    statuses = machine.results.parts()
    assert [*statuses] == [*NEEDS]
    assert {name for name, status in statuses.items() if status != "ok"} == {
        "throughput-tf32",
        "throughput-eager-tf32",
    }
    assert "throughput-tf32: exit status 3\n    said by " in machine.results.text()
    assert "    went wrong\n" in machine.results.text()
    assert machine.results.files()["logs/throughput-tf32.log"].endswith("\nwent wrong\n")


def test_part_without_its_package_is_left_out_with_the_reason(machine: Machine) -> None:
    (machine.here / "lacking").touch()
    done = machine.run("--deadline 5000")
    assert (done.returncode, done.stderr) == (0, "")
    left_out = {name for name, status in machine.results.parts().items() if status == "left out"}
    assert left_out == {name for name in NEEDS if "eager" in name or name in ("tests", "ranks")}
    text = machine.results.text()
    assert "tests: pytest with pytest-xdist does not work here (ModuleNotFoundError: no such thing)" in text
    assert "ranks: mpi4py does not work here (ModuleNotFoundError: no such thing)" in text
    assert "parity-eager-tf32: nvmath-python does not work here (ModuleNotFoundError: no such thing)" in text


def test_failure_to_write_the_archive_is_reported_and_the_round_goes_on(machine: Machine) -> None:
    machine.plan(2, 'mkdir "$OUT/.gpu-check.tar.gz"')
    done = machine.run("devices fit probe")
    assert done.returncode == 0
    assert done.stderr.startswith("gpu-check: the archive could not be made anew: ")
    assert machine.results.parts() == {"devices": "ok"}
    assert machine.results.summary() == {"devices": "ok", "fit": "ok", "probe": "ok"}


def replace_python(machine: Machine, first: str) -> None:
    """Make Python do something else first."""
    python = machine.here / "programs" / "python3"
    python.write_text(python.read_text().replace("\n", f"\n{first}\n", 1))


# What is asked for


def test_parts_are_chosen_by_the_beginnings_of_their_names(machine: Machine) -> None:
    assert machine.run("scaling peers-tf32 throughput --deadline 5000").returncode == 0
    chosen = [name for name in NEEDS if name.startswith(("throughput", "peers-tf32", "scaling"))]
    assert len(chosen) == 9
    assert [*machine.results.parts().items()] == [(name, "ok") for name in chosen]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("devices wings", 2, "wings is none of the parts devices fit probe "),
        ("--wings", 2, "unrecognized arguments: --wings"),
        ("--deadline soon", 2, "argument --deadline: invalid float value: 'soon'"),
        ("--collect", 1, "--collect takes the archive of a round and nothing else: scripts/gpu-check --collect "),
        ("--collect nothing.tar.gz", 1, "--collect takes the archive of a round"),
    ],
)
def test_unknown_arguments_are_one_line_errors(machine: Machine, arguments: str, status: int, message: str) -> None:
    done = machine.run(arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(f"gpu-check: {message}")
    assert done.stderr.count("\n") == 1
    assert not (machine.here / "calls").exists()


def test_quick_round_is_of_small_sizes_and_says_so(machine: Machine) -> None:
    assert machine.run("--quick --deadline 5000").returncode == 0
    calls = machine.calls()
    for call in calls:
        assert ("--quick" in call) == (call.startswith("-m bench") and "bench report" not in call)
        assert ("--epochs 2 " in call) == call.startswith("-m fmnist_xp parity")
        assert ("--epochs 50 " in call) == call.startswith("-m fmnist_xp train")
    assert "--rounds" not in "".join(calls)
    left = {"tests", "peers-float16", "peers-float32", "peers-float64", "scaling"}
    assert machine.results.parts().keys() == NEEDS.keys() - left
    assert "not a result" in machine.results.text().splitlines()[0]
    assert json.loads(machine.results.files()["round.json"])["quick"] is True


def test_wheels_are_installed_first_and_found_before_all_else(machine: Machine) -> None:
    for name in ("b.whl", "a.whl", "notes.txt"):
        (machine.here / "some wheels" / name).parent.mkdir(exist_ok=True)
        (machine.here / "some wheels" / name).touch()
    done = machine.run("devices", WHEELS="some wheels")
    assert (done.returncode, done.stderr) == (0, "")
    install, devices = machine.calls()
    start = "-m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "
    folder = machine.here / "some wheels"
    assert install.startswith(start)
    target = install.removeprefix(start).split()[0]
    assert install == f"{start}{target} {folder}/a.whl {folder}/b.whl"
    assert devices == "-m fmnist_xp devices"
    assert environment(machine)[2] == f"{target}:{machine.project}"


def environment(machine: Machine) -> list[str]:
    """Return FMNIST_XP_DATA, FMNIST_XP_CACHE and PYTHONPATH as the last part has seen them."""
    return (machine.here / "environments").read_text().splitlines()[-1].split("|")


def test_images_beside_the_project_are_used_and_not_the_users_cache(machine: Machine) -> None:
    machine.run("devices")
    assert environment(machine)[0] == ""
    (machine.project / ".gpu-data").mkdir()
    machine.run("devices")
    data, cache, _ = environment(machine)
    assert data == str(machine.project / ".gpu-data")
    assert Path(cache).is_absolute()
    assert not Path(cache).parent.exists()  # removed at the end of the round
    machine.run("devices", FMNIST_XP_DATA="/images", FMNIST_XP_CACHE="/cache", PYTHONPATH="/more")
    assert environment(machine)[:2] == ["/images", "/cache"]
    assert environment(machine)[2].endswith(f":{machine.project}:/more")


# What is packed


def test_too_large_a_file_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, archive = tmp_path / "kept", tmp_path / "gpu-check.tar.gz"
    (folder / "runs").mkdir(parents=True)
    monkeypatch.setattr(gpu_round, "MOST_BYTES", 100_000)
    (folder / "runs" / "a.bin").write_bytes(bytes(200_000))
    (folder / "z.txt").write_text("small")
    assert gpu_round.pack(folder, archive) == ["runs/a.bin"]
    assert Results(tmp_path).files() == {"z.txt": "small"}
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "gpu-check.tar.gz"}


def test_archive_is_kept_if_writing_the_next_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, archive = tmp_path / "kept", tmp_path / "gpu-check.tar.gz"
    folder.mkdir()
    (folder / "a.txt").write_text("first")
    gpu_round.pack(folder, archive)
    (folder / "a.txt").write_text("second")

    def broken_off(*_arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(tarfile.TarFile, "add", broken_off)
    with pytest.raises(OSError, match="no space left"):
        gpu_round.pack(folder, archive)
    assert Results(tmp_path).files() == {"a.txt": "first"}


def test_beginning_and_end_of_a_long_log_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_round, "MOST_LOG", 10)
    for text, kept in ("0123456789", "0123456789"), ("0123456789A", "01234\n[...]\n6789A"):
        (tmp_path / "long.log").write_text(text)
        gpu_round.keep_log(tmp_path / "long.log", tmp_path / "logs" / "part.log")
        assert (tmp_path / "logs" / "part.log").read_text() == kept
