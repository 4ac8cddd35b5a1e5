"""Signals that ask a training to end, in a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fmnist_xp.train.interrupts import SIGNALS, noted_interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

SCRIPT = """
import os, signal, sys
import numpy as np
from fmnist_xp import Dense, Sequential

def interrupt(history):
    if history.epoch[-1] == 10:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))

if sys.argv[2] == "handled":
    signal.signal(getattr(signal, sys.argv[1]), lambda *_: print("handled"))
if sys.argv[2] == "ignored":
    signal.signal(getattr(signal, sys.argv[1]), signal.SIG_IGN)
network = Sequential([Dense(3, 2)], seed=0)
folder = {"checkpoint": sys.argv[3]} if len(sys.argv) > 3 else {}
X, y = np.eye(3, dtype="float32"), [0, 1, 0]
history = network.fit(X, y, epochs=100, log_every=5, verbose=0, callbacks=interrupt, **folder)
print(len(history.epoch_seconds), history.interrupted, history.signal, history.stopped)
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)], capture_output=True, text=True, env={**os.environ}
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_that_nobody_handles_ends_the_process_as_ever(name: str) -> None:
    done = run(name, "default")
    assert (done.returncode, done.stdout) == (-getattr(signal, name), "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_with_a_checkpoint_folder_it_ends_the_process_after_a_checkpoint(name: str, tmp_path: Path) -> None:
    done = run(name, "default", tmp_path)
    assert (done.returncode, done.stdout) == (-getattr(signal, name), "")
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "epoch-000000011.safetensors"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signal_with_a_handler_ends_the_training_and_not_more(name: str) -> None:
    done = run(name, "handled")
    assert (done.returncode, done.stdout) == (0, f"11 True {getattr(signal, name).value} interrupted\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_ignored_signal_stays_ignored(name: str, tmp_path: Path) -> None:
    assert run(name, "ignored", tmp_path).stdout == "100 False 0 \n"


def test_handlers_of_before_are_back_after_a_signal() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    seen: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        with noted_interrupts() as noted:
            os.kill(os.getpid(), signal.SIGTERM)
            assert noted == [signal.SIGTERM]
            os.kill(os.getpid(), signal.SIGTERM)  # the second does what it did before
            assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
