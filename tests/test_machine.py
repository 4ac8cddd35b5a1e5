import os
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from fmnist_xp import machine


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return root


V1 = "25 30 0:22 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OTHERS = (
    "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "26 30 0:23 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


def v1(group: str, quota: object = "", period: object = "100000") -> dict[str, str]:
    folder = f"sys/fs/cgroup/cpu,cpuacct/{group}"
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


def v2(group: str, text: str) -> dict[str, str]:
    return {f"sys/fs/cgroup/{group}/cpu.max": f"{text}\n"}


# The lines of /proc/self/cgroup and of /proc/self/mountinfo, the groups' files, and the cores they leave.
GROUPS: dict[str, tuple[str, str, dict[str, str], float | None]] = {
    "nothing at all": ("", "", {}, None),
    "v2, no limit": ("0::/a\n", V2, v2("a", "max 100000"), None),
    "v2, the root's": ("0::/\n", V2, v2("", "200000 100000"), 2),
    "v2, its own": ("0::/a/b\n", V2, v2("a/b", "150000 100000"), 1.5),
    "v2, the one above": ("0::/a/b\n", V2, v2("a/b", "max 100000") | v2("a", "300000 100000"), 3),
    "v2, the least": ("0::/a/b\n", V2, v2("a/b", "400000 100000") | v2("a", "100000 50000") | v2("", "9 1"), 2),
    "v2, a neighbour's": ("0::/a\n", V2, v2("b", "100000 100000") | v2("a/c", "100000 100000"), None),
    "v2, another period": ("0::/a\n", V2, v2("a", "25000 50000"), 0.5),
    "v2, all that counts": ("0::/a/b\n", V2, v2("a/b", "1 1") | v2("a", "0 100000") | v2("", "200000 100000"), 1),
    "v2, a colon in its name": ("0::/a:b\n", V2, v2("a:b", "200000 100000"), 2),
    "v2, a dash among its options": ("0::/a\n", V2.replace("nsdelegate", "x - y"), v2("a", "200000 100000"), 2),
    "v2, no more than is needed": ("0::/a\n", V2.replace("rw,nosuid,nodev shared:4 ", ""), v2("a", "4 2"), 2),
    "v2, a blank in its name": ("0::/a b\n", V2, v2("a b", "200000 100000"), 2),
    "v2, mounted elsewhere": (
        "0::/a\n",
        V2.replace("/sys/fs/cgroup", "/X/other\\040place"),
        {"X/other place/a/cpu.max": "200000 100000"},
        2,
    ),
    "v2, a container": ("0::/docker/1/a\n", V2.replace(" / ", " /docker/1 "), v2("a", "200000 100000"), 2),
    "v2, a container's top": ("0::/docker/1\n", V2.replace(" / ", " /docker/1 "), v2("", "200000 100000"), 2),
    "v2, outside of what is mounted": ("0::/x\n", V2.replace(" / ", " /docker/1 "), v2("", "200000 100000"), 2),
    "v2, outside of its namespace": ("0::/../x\n", V2, v2("", "200000 100000"), 2),
    "v1, no limit": ("4:cpu,cpuacct:/a\n", V1, v1("a", -1), None),
    "v1, its own": ("4:cpu,cpuacct:/a\n", V1, v1("a", 300000), 3),
    "v1, the one above": ("4:cpu,cpuacct:/a/b\n", V1, v1("a/b", -1) | v1("a", 150000), 1.5),
    "v1, the root's": ("4:cpu,cpuacct:/a\n", V1, v1("", 50000, 25000), 2),
    "v1, without a period": ("4:cpu,cpuacct:/a\n", V1, v1("a", 300000, ""), None),
    "v1, other controllers": ("3:cpuset:/a\n", V1, v1("a", 300000), None),
    "both, in v1": ("4:cpu,cpuacct:/a\n0::/a\n", V1 + V2.replace("cgroup ", "cgroup/unified "), v1("a", 200000), 2),
    "both, the least": ("4:cpu:/a\n0::/b\n", V2 + V1, v1("a", 300000) | v2("b", "200000 100000"), 2),
    "no mounts": ("0::/a\n", "", v2("a", "200000 100000"), None),
    "no groups": ("", V2, v2("", "200000 100000"), None),
    "garbled quota": ("0::/a\n", V2, v2("a", "garbled") | v2("", "200000 100000"), 2),
    "garbled numbers": ("0::/a/b\n", V2, v2("a/b", "-5 100000") | v2("a", "100000 0") | v2("", "1e5 x"), None),
    "huge numbers": ("0::/a/b\n", V2, v2("a/b", "9" * 4000 + " 1") | v2("a", "9" * 5000 + " 1"), None),
    "garbled lines": (
        "garbled\n\n0\n::\n4:cpu\n0::/a\n",
        "- cgroup2\n - cgroup2\n1 2 - cgroup2 x\n1 2 3 4 5 - cgroup\n1 2 3 / /\\000 - cgroup2 x y\n" + V2,
        v2("a", "200000 100000"),
        2,
    ),
    "not UTF-8": ("0::/\udcff\n", V2, v2("\udcff", "200000 100000"), 2),
}


@pytest.mark.parametrize(("groups", "mounts", "files", "cores"), GROUPS.values(), ids=GROUPS)
def test_quota_is_the_least_from_the_processes_group_up_to_the_root(
    tmp_path: Path, groups: str, mounts: str, files: dict[str, str], cores: float | None
) -> None:
    if "\udcff" in groups and sys.platform != "linux":
        pytest.skip("names of files have to be Unicode here")
    system = {"proc/self/cgroup": groups, "proc/self/mountinfo": OTHERS + mounts}
    assert machine.cgroup_cores(write_files(tmp_path, system | files)) == cores


def test_without_the_systems_files_there_is_no_quota(tmp_path: Path) -> None:
    assert machine.cgroup_cores(tmp_path) is None
    (tmp_path / "proc" / "self" / "cgroup").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "mountinfo").mkdir()
    assert machine.cgroup_cores(tmp_path) is None


@pytest.fixture(autouse=True)
def no_thread_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"),
    [({0, 1, 2, 5}, None, 4), ({0, 1, 2, 5}, 2.0, 2), ({0}, 8.0, 1), ({0, 1}, 0.5, 1), ({0, 1, 2}, 2.9, 2)],
)
def test_usable_cores_are_those_of_the_affinity_and_the_quota(
    monkeypatch: pytest.MonkeyPatch, affinity: set[int], quota: float | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: affinity, raising=False)
    monkeypatch.setattr(machine, "cgroup_cores", lambda: quota)
    assert machine.usable_cores() == cores


@pytest.mark.parametrize(("count", "cores"), [(6, 6), (None, 1)])
def test_usable_cores_without_affinity_are_the_systems(
    monkeypatch: pytest.MonkeyPatch, count: int | None, cores: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    monkeypatch.setattr(machine, "cgroup_cores", lambda: None)
    assert machine.usable_cores() == cores


FOUR = {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("own", "sharers", "quota", "variables", "cores"),
    [
        (FOUR, [FOUR], None, {}, 4),
        (FOUR, [FOUR] * 2, None, {}, 2),
        (FOUR, [FOUR] * 3, None, {}, 1),  # 4/3 each
        (FOUR, [FOUR] * 4, None, {}, 1),
        (FOUR, [FOUR] * 9, None, {}, 1),  # at least
        (set(range(6)), [set(range(6))] * 3, None, {}, 2),  # six thirds, which floating point adds up to less
        (set(range(49)), [set(range(49))] * 49, None, {}, 1),
        ({0, 1}, [{0, 1}, {2, 3}], None, {}, 2),  # bound to cores of its own
        (FOUR, [FOUR, {0, 1}], None, {}, 3),  # 1/2 + 1/2 + 1 + 1
        ({0, 1}, [FOUR, {0, 1}], None, {}, 1),
        (FOUR, [FOUR] * 2, 2.0, {}, 1),  # a quota is of all
        (FOUR, [FOUR], 3.0, {}, 3),
        (FOUR, [FOUR] * 2, 64.0, {}, 2),
        (FOUR, [FOUR] * 2, None, {"OMP_NUM_THREADS": "1"}, 1),  # of each process
        (FOUR, [FOUR] * 2, None, {"OMP_NUM_THREADS": "8"}, 2),
    ],
)
def test_cores_are_divided_among_the_processes_that_share_them(
    monkeypatch: pytest.MonkeyPatch,
    own: set[int],
    sharers: list[set[int]],
    quota: float | None,
    variables: dict[str, str],
    cores: int,
) -> None:
    monkeypatch.setattr(machine, "cgroup_cores", lambda: quota)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert machine.cores_among(own, sharers) == cores


def test_affinity_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5} if process == 0 else {1}, raising=False)
    assert machine.affinity() == {3, 5}


@pytest.mark.parametrize(("count", "cores"), [(3, {0, 1, 2}), (None, {0})])
def test_affinity_is_every_core_where_the_system_has_none(
    monkeypatch: pytest.MonkeyPatch, count: int | None, cores: set[int]
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert machine.affinity() == cores


def test_host_name_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "node7")
    assert machine.host_name() == "node7"


@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OPENBLAS_NUM_THREADS": " 2 "}, 2),
        ({"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "4"}, 1),
        ({"BLIS_NUM_THREADS": "5", "VECLIB_MAXIMUM_THREADS": "4", "GOTO_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "4,2,1"}, 4),
        ({"OMP_NUM_THREADS": "64"}, 8),
        ({"OMP_NUM_THREADS": "0", "MKL_NUM_THREADS": "-2"}, 8),
        ({"OMP_NUM_THREADS": "", "MKL_NUM_THREADS": "many", "OPENBLAS_NUM_THREADS": "2.5"}, 8),
        ({"OMP_NUM_THREADS": "9" * 5000, "OPENBLAS_NUM_THREADS": ",3"}, 8),
    ],
)
def test_usable_cores_are_no_more_than_the_environment_gives_to_blas(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "cgroup_cores", lambda: None)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert machine.usable_cores() == cores


def set_file(monkeypatch: pytest.MonkeyPatch, name: str, text: str | None) -> None:
    """Let the file `name` hold `text`, or be missing as all others are."""

    def read_bytes(path: Path) -> bytes:
        if text is None or path != Path(name):
            raise FileNotFoundError(path)
        return text.encode()

    monkeypatch.setattr(machine.Path, "read_bytes", read_bytes)


X86 = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: {name}\nflags\t\t: fpu {flags}\n\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (X86.format(name="AMD EPYC", flags=""), "AMD EPYC (family 25, model 17)"),
        (
            X86.format(name="AMD EPYC", flags="") + X86.format(name="other", flags=""),
            "AMD EPYC (family 25, model 17)",
        ),
        ("model name\t: Some CPU @ 2.5: GHz \nmodel name\t: other\n", "Some CPU @ 2.5: GHz"),
        ("model name\t: Some CPU\nmodel\t: 3\n", "Some CPU"),
        (ARM, "aarch64 (implementer 0x41, part 0xd40)"),
        ("processor\t: 0\n", "aarch64"),
        (None, "aarch64"),
    ],
    ids=["x86", "first of two", "no numbers", "no family", "ARM", "no name", "no file"],
)
def test_cpu_name_has_the_numbers_of_its_model(monkeypatch: pytest.MonkeyPatch, text: str | None, name: str) -> None:
    set_file(monkeypatch, "/proc/cpuinfo", text)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine.cpu_name() == name


def test_cpu_without_a_name_in_the_file_is_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    set_file(monkeypatch, "/proc/cpuinfo", None)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert machine.cpu_name() == "arm"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_resident_size_is_between_the_present_one_and_the_kernels_maximum() -> None:
    import resource

    held = np.ones(64 * 2**20, dtype="uint8")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    peak = machine.peak_resident_bytes()
    assert peak is not None
    assert held.all()
    # The kernel counts pages in batches, and ru_maxrss may be the parent process's.
    assert max(held.nbytes, 0.95 * pages * resource.getpagesize()) <= peak
    assert peak <= 1.05 * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="of Linux, where it can be written")
def test_peak_resident_size_is_reset_to_the_present_one() -> None:
    held = np.ones(2**28, dtype="uint8")
    before, size = machine.peak_resident_bytes() or 0, held.nbytes
    del held
    # The kernel counts pages in batches of each processor: on a large machine it is tens of MB out.
    assert 0 < (machine.reset_peak_resident_bytes() or 0) <= before - size / 2


def test_peak_resident_size_that_cannot_be_reset_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "Path", lambda _path: tmp_path / "missing" / "clear_refs")
    assert machine.reset_peak_resident_bytes() is None


@pytest.mark.parametrize("text", [None, "Name:\tpython\n"], ids=["no file", "no line"])
def test_peak_resident_size_is_none_if_unknown(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    set_file(monkeypatch, "/proc/self/status", text)
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert machine.peak_resident_bytes() is None


def test_peak_resident_size_in_the_status_is_kib(monkeypatch: pytest.MonkeyPatch) -> None:
    set_file(monkeypatch, "/proc/self/status", "Name:\tpython\nVmHWM:\t  1234 kB\n")
    assert machine.peak_resident_bytes() == 1234 * 1024


def test_peak_resident_size_on_macos_is_ru_maxrss(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="the resource module is of POSIX systems")
    set_file(monkeypatch, "/proc/self/status", None)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert machine.peak_resident_bytes() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_memory_is_what_the_system_says_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__, raising=False)
    assert machine.memory_bytes() == 4_096_000


@pytest.mark.parametrize("error", [OSError, ValueError, AttributeError])
def test_memory_is_none_if_unknown(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str) -> int:
        raise error

    monkeypatch.setattr(os, "sysconf", refuse, raising=False)
    assert machine.memory_bytes() is None


@pytest.mark.parametrize(("hosts", "places"), [("aaaa", [0, 1, 2, 3]), ("abab", [0, 0, 1, 1]), ("baa", [0, 0, 1])])
def test_ranks_of_a_host_are_counted_in_their_order(hosts: str, places: list[int]) -> None:
    assert [machine.place_on_host([*hosts], rank) for rank in range(len(hosts))] == places
