import builtins
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_helpers import contents

from fmnist_xp.backend import get_backend
from fmnist_xp.errors import DeviceError, FmnistXpError

Command = Callable[..., Any]
ROOT = Path(__file__).parents[2]

USAGE = {
    "unknown command": (("fly",), "fly"),
    "unknown data command": (("data", "eat"), "eat"),
    "unknown option": (("train", "--wings"), "--wings"),
    "unknown experiment": (("train", "rmsprop"), "rmsprop"),
    "two experiments": (("train", "sgd", "adam"), "adam"),
    "no epochs": (("train", "--epochs", 0), "--epochs"),
    "epochs in words": (("train", "--epochs", "many"), "--epochs"),
    "negative seed": (("train", "--seed", -1), "--seed"),
    "log every 0": (("train", "--log-every", 0), "--log-every"),
    "no threads": (("train", "--threads", 0), "--threads"),
    "graphs on the CPU": (("train", "--device", "cpu", "--graphs"), "CUDA graphs need a CUDA device, got cpu"),
    "blocks without rows": (("train", "--block-rows", 0), "--block-rows"),
    "hidden junk": (("train", "--hidden", "junk"), "junk"),
    "hidden empty": (("train", "--hidden", ""), "--hidden"),
    "hidden gap": (("train", "--hidden", "32,,16"), "32,,16"),
    "hidden zero": (("train", "--hidden", "32,0"), "32,0"),
    "hidden negative": (("train", "--hidden", "-5"), "-5"),
    "hidden fraction": (("train", "--hidden", "3.5"), "3.5"),
    "learning rate negative": (("train", "--learning-rate", "-0.1"), "-0.1"),
    "learning rate nan": (("train", "--learning-rate", "nan"), "nan"),
    "decay negative": (("train", "--decay", -1), "decay"),
    "decay infinite": (("train", "--decay", "inf"), "decay"),
    "momentum 1": (("train", "sgd", "--momentum", 1), "momentum"),
    "momentum negative": (("train", "momentum", "--momentum", -0.1), "momentum"),
    "momentum with adam": (("train", "adam", "--momentum", 0.5), "momentum"),
    "momentum with the default": (("train", "--momentum", 0.5), "momentum"),
    "l2 negative": (("train", "--l2", -1), "l2"),
    "l2 nan": (("train", "--l2", "nan"), "l2"),
    "l2 infinite": (("train", "--l2", "inf"), "l2"),
    "device": (("train", "--device", "tpu"), "tpu"),
    "device index": (("train", "--device", "cuda:one"), "cuda:one"),
    "device of evaluate": (("evaluate", "run", "--device", "gpu"), "gpu"),
    "device of predict": (("predict", "run", "image.png", "--device", "gpu"), "gpu"),
    "device of reproduce": (("reproduce", "--device", "gpu"), "gpu"),
    "precision": (("train", "--precision", "float8"), "float8"),
    "engine": (("train", "--engine", "fuse"), "fuse"),
    "engine of reproduce": (("reproduce", "--engine", "other"), "other"),
    "precision of another engine": (("train", "--precision", "bfloat16"), "bfloat16 is for the fused engine alone"),
    "hidden beyond memory": (("train", "--hidden", 999_999_999), "hidden 999999999 takes"),
    "hidden of many digits": (("train", "--hidden", "9" * 5000), "--hidden"),
    "seed beyond 64 bits": (("train", "--seed", 2**64), "--seed"),
    "epochs without end": (("train", "--epochs", 10**12), "--epochs"),
    "learning rate 1e400": (("train", "--learning-rate", "1e400"), "inf"),
    "threads beyond machines": (("train", "--threads", 100_000), "--threads"),
    "data of no name": (("train", "--data", ""), "--data"),
    "out of no name": (("train", "--out", ""), "--out"),
    "out with a NUL": (("train", "--out", "a\0b"), "--out"),
    "address of no name": (("data", "fetch", "--url", ""), "--url"),
    "evaluate no name": (("evaluate", ""), "RUN"),
    "evaluate data of no name": (("evaluate", "run", "--data", ""), "--data"),
    "predict no name": (("predict", "run", ""), "IMAGE"),
    "plot no name": (("plot", ""), "RUN"),
    "plot to no name": (("plot", "run", "--out", ""), "--out"),
    "reproduce to no name": (("reproduce", "--out", ""), "--out"),
    "parity to no name": (("parity", "--out", ""), "--out"),
    "pictures of data to no name": (("data", "info", "--out", ""), "--out"),
    "export to no name": (("data", "export", ""), "folder"),
    "option without a value": (("train", "--epochs"), "--epochs"),
    "evaluate nothing": (("evaluate",), "RUN"),
    "predict nothing": (("predict", "run"), "IMAGE"),
    "predict top 0": (("predict", "run", "image.png", "--top", 0), "--top"),
    "predict top 257": (("predict", "run", "image.png", "--top", 257), "--top"),
    "classes of a run": (("evaluate", "run", "--classes", "fashion"), "--classes"),
    "plot nothing": (("plot",), "RUN"),
    "reproduce without seeds": (("reproduce", "--seeds", 0), "--seeds"),
    "export nowhere": (("data", "export"), "folder"),
    "export format": (("data", "export", "folder", "--format", "gif"), "gif"),
}


def place(arguments: tuple[Any, ...]) -> str:
    """Return the command whose own help tells how it is used."""
    names = ["fmnist-xp", *arguments[: 2 if arguments[0] in ("data", "cache") else 1]]
    return " ".join(names[:-1] if names[-1] in ("fly", "eat") else names)


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_one_line_and_exit_code_2(command: Command, workplace: Path, case: str) -> None:
    arguments, word = USAGE[case]
    answer = command(*arguments)
    answer.assert_failed(2, f"; see {place(arguments)} --help\n")
    assert word.lower() in answer.err.lower()
    assert answer.out == ""
    assert contents(workplace) == {}


@pytest.mark.parametrize(
    "arguments", [("--help",), ("-h",), ("train", "--help"), ("data", "--help"), ("data", "export", "-h")]
)
def test_help_exits_with_0(command: Command, arguments: tuple[str, ...]) -> None:
    answer = command(*arguments)
    answer.assert_went_well()
    assert "Usage: fmnist-xp" in answer.out


def test_an_unknown_experiment_is_told_with_those_that_there_are(command: Command) -> None:
    assert command("train", "adm").err == (
        "fmnist-xp: Invalid value for 'EXPERIMENT': 'adm' is not one of 'sgd', 'momentum', 'adam', 'quick', 'best'; "
        "see fmnist-xp train --help\n"
    )


def test_momentum_is_for_sgd(command: Command) -> None:
    assert command("train", "--momentum", 0.5).err == (
        "fmnist-xp: adam has no momentum: leave it out; see fmnist-xp train --help\n"
    )


def test_help_names_every_command(command: Command) -> None:
    out = command("--help").out
    for name in (
        "train", "evaluate", "predict", "plot", "runs", "report", "reproduce", "devices", "bench", "parity", "data",
        "cache",
    ):  # fmt: skip
        assert f"\n  {name} " in out
    out = command("data", "--help").out
    for name in ("info", "fetch", "export"):
        assert f"\n  {name} " in out
    out = command("train", "--help").out
    for option in (
        "device", "data", "url", "epochs", "seed", "precision", "log-every", "out", "force", "hidden",
        "learning-rate", "decay", "momentum", "l2", "threads", "block-rows", "quiet", "resume", "checkpoint-every",
        "validation", "keep-best", "patience", "keep-going", "tensorboard", "json", "engine",
    ):  # fmt: skip
        assert f"--{option}" in out


def test_version(command: Command) -> None:
    import fmnist_xp

    answer = command("--version")
    answer.assert_went_well()
    assert fmnist_xp.__version__ in answer.out


def test_missing_data_is_one_line(command: Command, workplace: Path) -> None:
    for arguments in (
        ("train", "--data", "nowhere"), ("reproduce", "--data", "nowhere"), ("data", "info", "--data", "nowhere"),
        ("data", "export", "folder", "--data", "nowhere"),
    ):  # fmt: skip
        command(*arguments).assert_failed(1, "nowhere", "no such folder")
    assert contents(workplace) == {}


def test_missing_data_in_the_environment_is_named(
    command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMNIST_XP_DATA", "/nowhere/at all")
    command("train", "--device", "cpu").assert_failed(1, "FMNIST_XP_DATA", "/nowhere/at all")
    assert contents(workplace) == {}


@pytest.mark.parametrize("arguments", [("evaluate", "{}"), ("predict", "{}", "image.png"), ("plot", "{}")])
def test_folder_without_a_run_is_one_line(command: Command, workplace: Path, arguments: tuple[str, ...]) -> None:
    (workplace / "empty").mkdir()
    (workplace / "file").write_text("not a folder")
    for name, words in (("nowhere", "no run folder"), ("empty", "result.json"), ("file", "file")):
        answer = command(*(argument.format(name) for argument in arguments))
        answer.assert_failed(1, name, words)
        assert answer.out == ""


DAMAGE = {
    "result cut short": ("result.json", lambda data: data[: len(data) // 2]),
    "result is a list": ("result.json", lambda _data: b"[1, 2]"),
    "result without its fields": ("result.json", lambda _data: b"{}"),
    "result is no text": ("result.json", lambda _data: b"\xff\xfe\x00"),
    "config cut short": ("config.json", lambda data: data[:30]),
    "config missing": ("config.json", None),
    "history missing": ("history.csv", None),
    "history empty": ("history.csv", lambda _data: b""),
    "history of other columns": ("history.csv", lambda _data: b"epoch,accuracy\n0,0.1\n"),
    "history with words": ("history.csv", lambda data: data + b"50,a,b,c,d\n"),
    "history with a short row": ("history.csv", lambda data: data + b"50,0.5\n"),
}
MODEL_DAMAGE = {
    "model missing": ("model.safetensors", None),
    "model empty": ("model.safetensors", lambda _data: b""),
    "model cut short": ("model.safetensors", lambda data: data[: len(data) // 2]),
    "model of noise": ("model.safetensors", lambda data: bytes(len(data))),
}


def damage(run_folder: Path, case: str) -> str:
    name, change = {**DAMAGE, **MODEL_DAMAGE}[case]
    path = run_folder / name
    if change:
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()
    return name


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("name", ["evaluate", "plot"])
def test_a_damaged_run_is_one_line_that_names_the_file(
    command: Command, run_folder: Path, case: str, name: str
) -> None:
    file = damage(run_folder, case)
    command(name, run_folder).assert_failed(1, str(run_folder / file))


@pytest.mark.parametrize("case", MODEL_DAMAGE)
def test_a_damaged_model_is_one_line_that_names_the_file(
    command: Command, run_folder: Path, case: str, finished_run: Path
) -> None:
    file = damage(run_folder, case)
    for arguments in (("evaluate", run_folder), ("predict", run_folder, finished_run / "metrics.png")):
        command(*arguments, "--device", "cpu").assert_failed(1, str(run_folder / file))


def test_cuda_without_cupy_names_what_to_install(
    command: Command, workplace: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    for arguments in (("train",), ("evaluate", run_folder), ("predict", run_folder, "x.png"), ("reproduce",)):
        answer = command(*arguments, "--device", "cuda")
        answer.assert_failed(1, "CuPy is not installed", 'pip install "fmnist-xp[cuda]"', "fmnist-xp[cuda13]")
        assert answer.out == ""
    assert contents(workplace) == {}


def test_missing_cuda_does_not_fall_back_to_the_cpu(command: Command, workplace: Path, idx_folder: Path) -> None:
    try:
        get_backend("cuda")
    except DeviceError:
        pass
    else:
        pytest.skip("a CUDA device answers here")
    answer = command("train", "--device", "cuda", "--data", idx_folder, "--epochs", 1)
    answer.assert_failed(1, "CUDA")
    # Which of the three is missing depends on the machine; each time it is said what to install.
    assert any(advice in answer.err for advice in ("pip install", "install the driver", "nvidia-smi"))
    assert contents(workplace) == {}


def test_auto_without_cupy_is_the_cpu(
    command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    command("train", "--device", "auto", "--data", idx_folder, "--epochs", 1).assert_went_well()
    assert (workplace / "runs" / "quick-cpu-s0-epochs1" / "result.json").is_file()


@pytest.mark.parametrize("precision", ["tf32", "float16", "bfloat16"])
def test_gpu_precision_on_the_cpu_is_one_line(
    command: Command, workplace: Path, idx_folder: Path, precision: str
) -> None:
    more = ("--engine", "fused") if precision == "bfloat16" else ()
    answer = command(
        *("train", "--precision", precision, *more),
        *("--device", "cpu", "--data", idx_folder, "--epochs", 1, "--quiet"),
    )
    answer.assert_failed(1, "cpu", precision, "float32")
    assert contents(workplace) == {}


def test_too_little_memory_is_one_line(command: Command, workplace: Path, idx_folder: Path) -> None:
    answer = command("train", "--hidden", 10**11, "--device", "cpu", "--data", idx_folder, "--epochs", 1, "--quiet")
    answer.assert_failed(2, "--hidden")
    assert contents(workplace) == {}


def test_an_unwritable_place_is_one_line(
    command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def mkdir(path: Path, *arguments: Any, **more: Any) -> None:
        if path.name == "denied":
            raise PermissionError(13, "Permission denied", str(path))
        make(path, *arguments, **more)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    answer = command("train", "--data", idx_folder, "--device", "cpu", "--epochs", 1, "--out", "denied", "--quiet")
    answer.assert_failed(1, "denied: Permission denied")


def test_without_opencv_it_says_what_to_install(
    command: Command, run_folder: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_module = builtins.__import__

    def without_opencv(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return import_module(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without_opencv)
    answer = command("predict", run_folder, finished_run / "metrics.png", "--device", "cpu")
    answer.assert_failed(1, "opencv-python-headless", "libGL.so.1")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_in_any_position_lets_the_error_through(command: Command, workplace: Path, place: int) -> None:
    arguments = ["evaluate", "nowhere"]
    arguments.insert(place, "--debug")
    with pytest.raises(FmnistXpError, match="no run folder nowhere"):
        command(*arguments)


@pytest.mark.parametrize("error", [RuntimeError("boom"), OSError(28, "No space left on device")])
def test_debug_lets_any_error_through(
    command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_arguments: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr("fmnist_xp.runs.training.pixels", fail)
    arguments = ("train", "--data", idx_folder, "--device", "cpu", "--epochs", 1, "--quiet")
    command(*arguments).assert_failed(1, str(error.args[-1]))
    with pytest.raises(type(error)) as raised:
        command(*arguments, "--debug")
    assert raised.value is error


def test_debug_does_not_turn_wrong_usage_into_a_traceback(command: Command) -> None:
    command("train", "--epochs", 0, "--debug").assert_failed(2, "--epochs")


def test_traceback_of_a_real_process_comes_only_with_debug(workplace: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fmnist_xp", *arguments],
            cwd=workplace,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    plain = run("plot", "nowhere")
    assert (plain.returncode, plain.stdout) == (1, "")
    assert plain.stderr == "fmnist-xp: there is no run folder nowhere: make one with fmnist-xp train\n"
    debug = run("plot", "nowhere", "--debug")
    assert (debug.returncode, debug.stdout) == (1, "")
    assert "Traceback (most recent call last)" in debug.stderr
    assert "no run folder nowhere" in debug.stderr
