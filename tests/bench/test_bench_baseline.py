import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import baseline, processes
from bench.notebook import NotebookNetwork, OptimizerAdam, OptimizerSGD
from bench.processes import in_fresh_process
from fmnist_xp.experiments import Experiment

SGD = Experiment("some", (4,), "sgd", learning_rate=0.5, decay=0.1, momentum=0.5, l2=0.01)
ADAM = Experiment("other", (4,), "adam", learning_rate=0.1, decay=0.1)


def written(folder: Path) -> tuple[Mapping[str, Any], Any, Any]:
    """Return weights, rows and labels of five inputs, four neurons and three classes; the latter are in `folder`."""
    generator = np.random.default_rng(2)
    X = generator.uniform(-1, 1, (30, 5)).astype(np.float32)
    y = np.arange(30, dtype=np.uint8) % 3
    state = {
        "dense1.weights": generator.normal(size=(5, 4)).astype(np.float32),
        "dense1.biases": np.zeros((1, 4), np.float32),
        "dense2.weights": generator.normal(size=(4, 3)).astype(np.float32),
        "dense2.biases": np.zeros((1, 3), np.float32),
    }
    baseline.write_rows(folder, X, y)
    return state, X, y


@pytest.mark.parametrize(
    ("experiment", "optimizer"), [(SGD, OptimizerSGD(0.5, 0.1, 0.5)), (ADAM, OptimizerAdam(0.1, 0.1))]
)
def test_each_round_is_a_process_that_trains_from_the_initial_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Experiment, optimizer: OptimizerSGD
) -> None:
    state, X, y = written(tmp_path)
    network = NotebookNetwork(state, experiment.l2, optimizer)
    expected = [network.epoch(X, y)[0] for _ in range(baseline.WARM_UP + 3)]
    answers: list[dict[str, list[float]]] = []

    def started(function: Callable[..., Any], *arguments: Any) -> Any:
        answers.append(in_fresh_process(function, *arguments))
        return answers[-1]

    monkeypatch.setattr(baseline, "in_fresh_process", started)
    rounds = baseline.Rounds(tmp_path, asdict(experiment), state, 3, 0)
    seconds = [rounds() for _ in range(2)]
    assert seconds == [answer["seconds"][baseline.WARM_UP :] for answer in answers]
    assert rounds.first == [answer["seconds"][0] for answer in answers]
    for answer in answers:
        assert answer["losses"] == pytest.approx(expected, rel=1e-12)
        assert len(answer["seconds"]) == len(expected)
        assert min(answer["seconds"]) > 0


def test_rows_are_float32_in_every_precision(tmp_path: Path) -> None:
    baseline.write_rows(tmp_path, np.array([[1 / 3, 0.5]]), np.array([7], np.uint8))
    rows = np.load(tmp_path / "X.npy")
    assert rows.dtype == np.float32
    assert rows.tolist() == [[float(np.float32(1 / 3)), 0.5]]
    assert np.load(tmp_path / "y.npy").tolist() == [7]


def test_process_of_the_notebook_imports_numpy_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import bench.baseline;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    root = Path(baseline.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"bench", "numpy"} <= imported
    assert not imported & {"fmnist_xp", "cv2", "matplotlib", "threadpoolctl", "scipy", "torch", "jax", "cupy"}


def test_error_of_a_failed_process(tmp_path: Path) -> None:
    rounds = baseline.Rounds(tmp_path, asdict(SGD), {}, 1, 0)
    command = r"python -m bench\.processes bench\.baseline time_notebook"
    ending = rf'^{command} failed with exit code 1: FileNotFoundError.*; it was given {{"folder": '
    with pytest.raises(RuntimeError, match=ending):
        rounds()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signals here")
def test_error_of_a_killed_process_names_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, signal\ndef measure(rows):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    (tmp_path / "killed.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    ending = r'^python -m bench\.processes killed measure was ended by signal 9 .*; it was given {"rows": 3}$'
    with pytest.raises(RuntimeError, match=ending):
        in_fresh_process(importlib.import_module("killed").measure, {"rows": 3})


def test_a_pause_follows_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(processes.time, "sleep", pauses.append)
    assert in_fresh_process(json.loads, {"s": "[1, 2]"}, 3.5) == [1, 2]
    assert pauses == [3.5]
