"""The folders of the package for scripts/mutation: the files of each to mutate, and the tests to kill the mutants.

`python mutation_folders.py` prints their names; with names, it makes mutants/<name>/, in which mutmut runs.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WORK = ROOT / "mutants"


class Folder(NamedTuple):
    """The files that are mutated, and the tests, of which those run that call a mutated function."""

    files: list[str]
    tests: list[str]


def modules(*names: str) -> list[str]:
    """Return the files of modules at the top of the package."""
    return [f"fmnist_xp/{name}.py" for name in names]


def tests(*names: str) -> list[str]:
    """Return the files of tests by their names below tests/, without "test_"."""
    return [
        f"tests/{folder}{slash}test_{name}.py" for folder, slash, name in (path.rpartition("/") for path in names)
    ]


RUNS = (
    "model",
    "evaluation",
    "prediction",
    "reporting",
    "reproduce",
    "experiments",
    "files",
    "arguments",
    "errors",
    "plain_json",
)
MACHINE = ("machine", "devices", "measure", "speed", "blas", "ranks")
PARITY = ("bounds", "comparison", "curves", "operations", "step", "suite")
FOLDERS = {
    "nn": Folder(
        ["fmnist_xp/nn/*.py", "fmnist_xp/optim/*.py", *modules("registry")],
        [
            "tests/nn",
            "tests/optim",
            *tests("pickling", "model", "train/plan", "parity/parity_operations", "parity/parity_step"),
        ],
    ),
    "train": Folder(
        ["fmnist_xp/train/*.py", "fmnist_xp/train/fused/*.py"],
        ["tests/train", *tests("model", "sample_weight", "nn/own_layers", "backend/graphs")],
    ),
    "backend": Folder(["fmnist_xp/backend/*.py"], ["tests/backend", *tests("parity/training_on_standin")]),
    "parity": Folder(["fmnist_xp/parity/*.py"], tests(*(f"parity/parity_{name}" for name in PARITY))),
    "report": Folder(["fmnist_xp/report/*.py"], ["tests/report"]),
    "export": Folder(["fmnist_xp/export/*.py"], ["tests/export"]),
    "sklearn": Folder(modules("sklearn"), tests("sklearn_checks", "sklearn_estimator", "sklearn_search")),
    "data": Folder(["fmnist_xp/data/*.py"], ["tests/data"]),
    "cli": Folder(["fmnist_xp/cli/*.py"], ["tests/cli"]),
    "runs": Folder(
        ["fmnist_xp/runs/*.py", *modules(*RUNS, "__init__", "__main__", "public")],
        tests(*RUNS, "runs", "run_files", "backend/cuda"),  # the last for half precision
    ),
    "machine": Folder(modules(*MACHINE, "launcher"), tests(*MACHINE, "cli/cli_bench", "cli/cli_devices")),
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
