"""The search for the experiment `best`, on small made images."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import search_best
from search_best import ROUNDS, START, Round, Trial, search

from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import make_synthetic
from fmnist_xp.experiments import EXPERIMENTS, Experiment

CPU = CpuBackend(1)
SMALL = Experiment("best", (4,), "adamw", 0.01, epochs=2, l2=0.0, optimizer_options={"weight_decay": 0.1, "ema": 0.9})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """The experiments that are trained: a wider one does better, dropout and any weight decay do worse."""
    found: list[Experiment] = []

    def made_up(experiment: Experiment, text: str, *_others: Any) -> Trial:
        found.append(experiment)
        accuracy = 0.5 + experiment.hidden[0] / 100 - experiment.dropout
        accuracy -= experiment.optimizer_options["weight_decay"] / 100
        return Trial("", "", accuracy, 0.25, 0.75, text)

    monkeypatch.setattr(search_best, "measured", made_up)
    return found


TWO = (
    Round("width", {"3": {"hidden": (3,)}, "5": {"hidden": (5,)}, "4": {}}),
    Round("dropout", {"0": {}, "0.5": {"dropout": 0.5}}),
    Round("weight decay", {"0": {"optimizer_options": {"weight_decay": 0.0}}, "1": {}}),
)


def test_each_setting_goes_on_with_the_best_of_the_one_before(tmp_path: Path, measured: list[Experiment]) -> None:
    best = search(TWO, SMALL, None, CPU, tmp_path)  # type: ignore[arg-type]
    assert (best.hidden, best.dropout, best.optimizer_options) == ((5,), 0.0, {"weight_decay": 0.0, "ema": 0.9})
    tried = [(one.hidden[0], one.dropout, one.optimizer_options["weight_decay"]) for one in measured]
    assert tried == [(3, 0, 0.1), (5, 0, 0.1), (4, 0, 0.1), (5, 0.5, 0.1), (5, 0, 0.0)]  # none of them twice
    rows = [line for line in (tmp_path / "README.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    assert rows[2:] == [
        "| width | 3 | 0.5290 | 0.2500 | 0.7500 | 2 |",
        "|  | **5** | **0.5490** | 0.2500 | 0.7500 | 2 |",
        "|  | 4 | 0.5390 | 0.2500 | 0.7500 | 2 |",
        "| dropout | **0** | **0.5490** | 0.2500 | 0.7500 | 2 |",
        "|  | 0.5 | 0.0490 | 0.2500 | 0.7500 | 2 |",
        "| weight decay | **0** | **0.5500** | 0.2500 | 0.7500 | 2 |",
        "|  | 1 | 0.5490 | 0.2500 | 0.7500 | 2 |",
    ]


def test_what_was_tried_is_not_tried_again(tmp_path: Path, measured: list[Experiment]) -> None:
    search(TWO[:1], SMALL, None, CPU, tmp_path)  # type: ignore[arg-type]
    del measured[:]
    best = search(TWO, SMALL, None, CPU, tmp_path)  # type: ignore[arg-type]
    assert len(measured) == 2
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["setting"] for row in found] == ["width"] * 3 + ["dropout"] * 2 + ["weight decay"] * 2
    assert Experiment(**json.loads(found[5]["experiment"]) | {"hidden": (5,)}) == best


def test_a_trial_is_measured_on_rows_that_it_was_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _test = make_synthetic(60, 10)
    given: list[Any] = []
    monkeypatch.setattr("fmnist_xp.model.Sequential.fit", lambda self, X, y, **more: given.append((X, y, more)))
    trial = search_best.measured(SMALL, "text", train, CPU)
    (X, y, more) = given[0]
    assert (len(X), len(y), more["epochs"]) == (50, 50, 2)
    assert 0 <= trial.held_out_accuracy <= 1
    assert trial.experiment == "text"


def test_the_experiment_is_what_the_search_came_to() -> None:
    trials = search_best.read_trials(Path(__file__).parents[1] / "docs" / "best" / search_best.TRIALS)
    assert list(dict.fromkeys(trial.setting for trial in trials)) == [one.setting for one in ROUNDS]
    last = [trial for trial in trials if trial.setting == ROUNDS[-1].setting]
    best = max(last, key=lambda trial: trial.held_out_accuracy)
    expected = json.loads(json.dumps(asdict(EXPERIMENTS["best"])))
    share, epochs = expected["schedule"]["warmup"], expected["epochs"]
    expected["schedule"]["warmup"] = round(share * epochs)  # as the search has it
    assert json.loads(best.experiment) == expected


def test_the_settings_that_are_tried_can_be_trained() -> None:
    for _setting, values in ROUNDS:
        for fields in values.values():
            search_best.changed(START, fields).check()
