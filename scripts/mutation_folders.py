"""The folders of the package for scripts/mutation: what of each is mutated, and by which tests it is judged.

`python mutation_folders.py` prints their names; with names, it makes mutants/<name>/, in which mutmut runs.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WORK = ROOT / "mutants"


class Folder(NamedTuple):
    """The files that are mutated, and the tests that are run where they come by a mutated function."""

    files: list[str]
    tests: list[str]


def rooms(*names: str) -> list[str]:
    """Return the files of modules at the top of the package."""
    return [f"fmnist_xp/{name}.py" for name in names]


FOLDERS = {
    "nn": Folder(["fmnist_xp/nn/*.py", *rooms("optim")], ["tests/nn", "tests/test_optim.py", "tests/test_model.py"]),
    "train": Folder(
        ["fmnist_xp/train/*.py"],
        ["tests/train", "tests/test_model.py", "tests/nn/test_own_layers.py", "tests/backend/test_graphs.py"],
    ),
    "backend": Folder(["fmnist_xp/backend/*.py"], ["tests/backend", "tests/parity/test_training_on_standin.py"]),
    "parity": Folder(
        ["fmnist_xp/parity/*.py"],
        [
            f"tests/parity/test_parity_{name}.py"
            for name in ("bounds", "comparison", "curves", "operations", "step", "suite")
        ],
    ),
    "report": Folder(["fmnist_xp/report/*.py"], ["tests/report"]),
    "data": Folder(["fmnist_xp/data/*.py"], ["tests/data"]),
    "cli": Folder(["fmnist_xp/cli/*.py"], ["tests/cli"]),
    "runs": Folder(
        [
            "fmnist_xp/runs/*.py",
            *rooms("model", "evaluation", "reproduce", "experiments", "files", "arguments", "errors", "plain_json"),
            *rooms("__init__", "__main__", "public"),
        ],
        [
            f"tests/test_{name}.py"
            for name in (
                *("model", "runs", "run_files", "evaluation", "reproduce", "experiments", "files", "arguments"),
                *("plain_json", "errors"),
            )
        ]
        + ["tests/backend/test_cuda.py"],  # half precision
    ),
    "machine": Folder(
        rooms("machine", "devices", "measure", "speed", "blas"),
        [
            "tests/test_machine.py",
            "tests/test_devices.py",
            "tests/test_measure.py",
            "tests/test_speed.py",
            "tests/test_blas.py",
            "tests/cli/test_cli_bench.py",
            "tests/cli/test_cli_devices.py",
        ],
    ),
}
COPIED = ("fmnist_xp", "tests", "bench", "scripts", "docs", "README.md", "CHANGELOG.md", "LICENSE")


def make(name: str) -> None:
    """Make mutants/<name>/ with what mutmut needs: links to the project, and its settings for this folder."""
    work = WORK / name
    work.mkdir(parents=True, exist_ok=True)
    for entry in COPIED:
        if not (work / entry).is_symlink():
            (work / entry).symlink_to(ROOT / entry)
    settings = {
        "only_mutate": FOLDERS[name].files,
        "pytest_add_cli_args_test_selection": FOLDERS[name].tests,
        "also_copy": [entry for entry in COPIED if entry != "fmnist_xp"],
    }
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (work / "pyproject.toml").write_text(text.replace("[tool.mutmut]\n", "[tool.mutmut]\n" + "".join(lines)), "utf-8")


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        if chosen not in FOLDERS:
            sys.exit(f"mutation: {chosen} is no folder of the package: choose from {', '.join(FOLDERS)}")
        make(chosen)
    if not sys.argv[1:]:
        print(*FOLDERS)
