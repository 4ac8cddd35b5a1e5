import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_helpers import RUN_FILES, contents, read_json, read_picture

Command = Callable[..., Any]


def test_report_pictures_and_runs_of_two_seeds(
    command: Command, workplace: Path, small_synthetic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("reproduce", "--epochs", 5, "--seeds", 2, "--device", "cpu", "--data", "synthetic", "--out", "made")
    answer = command(*arguments)
    answer.assert_went_well()
    folder = workplace / "made"
    report = (folder / "reproduce.md").read_text(encoding="utf-8")
    assert report.strip() in answer.out
    assert answer.lines[-1] == "written to made/reproduce.md"
    assert {path.name for path in (folder / "runs").iterdir()} == {
        f"{name}-s{seed}" for name in ("sgd", "momentum", "adam", "quick", "best") for seed in (0, 1)
    }

    for name in ("sgd", "momentum", "adam", "quick", "best"):
        results = [read_json(folder / "runs" / f"{name}-s{seed}" / "result.json") for seed in (0, 1)]
        assert [result["epochs"] for result in results] == [5, 5]
        row = next(line for line in report.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        low, high = sorted(result["test_accuracy"] for result in results)
        assert float(cells[1]) == pytest.approx((low + high) / 2, abs=0.0006)
        assert cells[2:4] == ["—", f"{low:.3f}–{high:.3f}"]
        assert cells[4:6] == ["—", "—"]  # of the notebook
    for words in (
        "2 seeds of each experiment, full batch on",
        "quick 5 epochs in",
        "400 images",
        "Synthetic data",
        "Not comparable with the notebook: synthetic data, 5 epochs.",
    ):
        assert words in report

    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", report)
    assert len(pictures) == len(set(pictures)) == 12
    for picture in pictures:
        read_picture(folder / picture)

    # Again: nothing is trained, and what was trained is left as it is.
    monkeypatch.setattr("fmnist_xp.reproduce.train_run", None)
    before = contents(folder / "runs")
    (folder / "reproduce.md").unlink()
    command(*arguments).assert_went_well()
    assert contents(folder / "runs") == before
    assert (folder / "reproduce.md").read_text(encoding="utf-8") == report


def test_quiet_prints_the_report_alone(
    command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmnist_xp.reproduce.save_figures", lambda *_: [])  # other tests look at the pictures
    arguments = ("reproduce", "--epochs", 1, "--device", "cpu", "--threads", 2, "--data", idx_folder)
    loud = command(*arguments)
    loud.assert_went_well()
    assert "epoch: 0, acc: " in loud.out
    quiet = command(*arguments, "--quiet")
    quiet.assert_went_well()
    assert "epoch: " not in quiet.out
    assert quiet.lines[0].startswith("# ")
    assert (workplace / "reproduce" / "reproduce.md").is_file()
    assert "Not comparable with the notebook: custom data, 1 epoch." in quiet.out
    assert "1 seed of each experiment, full batch on" in quiet.out
    config = read_json(workplace / "reproduce" / "runs" / "adam-s0" / "config.json")
    assert (config["threads"], config["graphs"]) == (2, False)
    assert {path.name for path in (workplace / "reproduce" / "runs" / "sgd-s0").iterdir()} >= RUN_FILES


def test_an_interrupted_reproduction_says_so(
    command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fmnist_xp.reproduce as module

    train = module.train_run

    def interrupted(*arguments: Any, **more: Any) -> Any:
        run = train(*arguments, **more)
        run.history.interrupted = True
        return run

    monkeypatch.setattr(module, "train_run", interrupted)
    answer = command("reproduce", "--epochs", 1, "--device", "cpu", "--data", idx_folder, "--quiet")
    assert answer.code == 130
    assert answer.err.strip() == "fmnist-xp: interrupted"
    assert [path.name for path in (workplace / "reproduce" / "runs").iterdir()] == ["sgd-s0"]
    assert not (workplace / "reproduce" / "reproduce.md").exists()


def test_a_failure_is_one_line(command: Command, workplace: Path, idx_folder: Path) -> None:
    (workplace / "reproduce").write_text("a file")
    answer = command("reproduce", "--epochs", 1, "--device", "cpu", "--data", idx_folder, "--quiet")
    answer.assert_failed(1, "reproduce")
