"""All experiments over several seeds, side by side, the notebook's three compared with its own results."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from fmnist_xp.backend import Backend
from fmnist_xp.blas import blas_name
from fmnist_xp.data import Dataset
from fmnist_xp.errors import RunError
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.files import write_text
from fmnist_xp.report.drawing import save_figures
from fmnist_xp.report.notebook import NOTEBOOK_TEST, data_differences, notebook_history, result_differences
from fmnist_xp.report.seeds import ends_figure, medians_figure, seeds_figures
from fmnist_xp.report.tables import reproduce_table
from fmnist_xp.runs import Run, Settings, dataset_sha256, load_run, resume_run, train_run
from fmnist_xp.runs.training import settings_to_resume
from fmnist_xp.train.history import ended_in_dip

REPORT = "reproduce.md"
SEEDS = "seeds.csv"


def reproduce(
    train: Dataset,
    test: Dataset,
    backend: Backend,
    folder: Path,
    *,
    seeds: int,
    epochs: int | None,
    source: str,
    verbose: bool,
    names: Sequence[str] = (*EXPERIMENTS,),
    engine: str = "plain",
) -> Path:
    """Train the experiments `names` with the seeds 0 … `seeds` − 1, write pictures and a report, and return its path.

    `engine` is that of `Sequential.fit`.
    Runs are kept in `folder`/runs. A finished run with the same settings and data is reused, and an unfinished one
    resumed, so that an interrupted reproduction goes on where it stopped; any other is trained again.
    """
    runs: dict[str, list[Run]] = {}
    for name in names:
        experiment = EXPERIMENTS[name]
        if epochs is not None:
            experiment = replace(experiment, epochs=epochs)
        for seed in range(seeds):
            run_folder = folder / "runs" / f"{name}-s{seed}"
            settings = Settings(experiment, seed=seed, engine=engine)
            run = _finished(run_folder, settings, dataset_sha256(train, test), backend)
            run = run or _resumed(run_folder, settings, train, test, backend, verbose)
            run = run or train_run(
                settings, train, test, backend, run_folder, source=source, force=True, verbose=verbose
            )
            if run.history.interrupted:
                raise KeyboardInterrupt
            runs.setdefault(name, []).append(run)
    return write_report(runs, folder)


def write_report(runs: Mapping[str, Sequence[Run]], folder: Path) -> Path:
    """Write pictures, the seeds' metrics and the Markdown report of `runs`, by experiment, to `folder`.

    Every experiment has the same seeds. Returns the report's path.
    """
    histories = {name: [run.history for run in of_seeds] for name, of_seeds in runs.items()}
    results = {name: [asdict(run.result) for run in of_seeds] for name, of_seeds in runs.items()}
    first = next(iter(runs.values()))[0].result
    same_data = not any(data_differences(asdict(first.dataset)))
    comparable = {name for name in runs if name in NOTEBOOK_TEST and not any(result_differences(results[name][0]))}
    figures = {
        "test-accuracy.png": ends_figure(
            {name: [run["test_accuracy"] for run in of_seeds] for name, of_seeds in results.items()},
            label="Test accuracy after the last update",
            title=_title("", runs),
            notebook={name: NOTEBOOK_TEST[name].test_accuracy for name in runs if name in comparable},
        ),
        "comparison-accuracy.png": medians_figure(histories, title=_title("", runs)),
    }
    for name, of_seeds in histories.items():
        notebook = notebook_history(name) if same_data and name in NOTEBOOK_TEST else None
        figures |= seeds_figures(of_seeds, experiment=name, title=_title(name, runs), notebook=notebook)
    pictures = save_figures(figures, folder)
    write_text(folder / SEEDS, _seeds_csv(runs))
    parts = [
        "# The experiments, side by side\n",
        f"{_count(runs)} of each experiment, full batch on {first.dataset.train_rows:,} images of "
        f"{first.dataset.name} on {first.device_name} ({first.device}, {first.precision}{_engine(runs)}; "
        f"BLAS: {first.blas}): {_lengths(runs)}. The metrics of each are in [{SEEDS}]({SEEDS}).\n",
        reproduce_table(results, histories),
        *(f"![{picture.stem}]({picture.name})\n" for picture in pictures),
    ]
    write_text(folder / REPORT, "\n".join(parts))
    return folder / REPORT


def _seeds_csv(runs: Mapping[str, Sequence[Run]]) -> str:
    """Return each run's metrics after its last update, and the best training accuracy that it logged, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = ("test_accuracy", "test_loss", "train_accuracy", "train_loss")
    writer.writerow(("experiment", "seed", *metrics, "best_logged_accuracy", "ended_in_dip"))
    for name, of_seeds in runs.items():
        for result, history in ((run.result, run.history) for run in of_seeds):
            dip = ended_in_dip(history, result.train_accuracy) is not None
            values = (getattr(result, metric) for metric in metrics)
            writer.writerow((name, result.seed, *values, max(history.accuracy), int(dip)))
    return text.getvalue()


def _finished(folder: Path, settings: Settings, data_sha256: str, backend: Backend) -> Run | None:
    """Return the run in `folder` if it was trained to its end, or diverged, with `settings` on this device and data.

    The BLAS must be the same too: other kernels give other results from the same seed.
    """
    try:
        run = load_run(folder)
    except RunError:
        return None
    result = run.result
    ended = result.diverged or result.epochs == settings.experiment.epochs
    found = (run.config.get("device_name"), result.blas, result.dataset.sha256)
    wanted = (backend.device_name, blas_name(), data_sha256)
    return run if ended and settings.are_in(run.config) and found == wanted else None


def _resumed(
    folder: Path, settings: Settings, train: Dataset, test: Dataset, backend: Backend, verbose: bool
) -> Run | None:
    """Go on with the run in `folder`, unfinished or interrupted, and return it.

    None where it would not come to the bits that are wanted, or what it has to go on from is damaged.
    """
    try:
        config, _ = settings_to_resume(folder)
        versions = config.get("versions")
        blas = versions.get("blas") if isinstance(versions, dict) else None
        found = (config.get("device_name"), blas, config["data"].get("sha256"))
        if not settings.are_in(config) or found != (backend.device_name, blas_name(), dataset_sha256(train, test)):
            return None
        return resume_run(folder, train, test, backend, verbose=verbose)
    except RunError:
        return None


def _title(name: str, runs: Mapping[str, Sequence[Run]]) -> str:
    result = next(iter(runs.values()))[0].result
    return " · ".join(filter(None, [name, _count(runs), result.device, result.dataset.name]))


def _engine(runs: Mapping[str, Sequence[Run]]) -> str:
    """Return what to say of the engine, in words, where it is not the plain one."""
    return ", fused engine" if next(iter(runs.values()))[0].config.get("engine") == "fused" else ""


def _lengths(runs: Mapping[str, Sequence[Run]]) -> str:
    """Return the epochs and the median seconds of each experiment in words."""
    lengths = []
    for name, of_seeds in runs.items():
        epochs = of_seeds[0].config["experiment"]["epochs"]  # a run that diverged has fewer
        seconds = statistics.median(run.result.total_seconds for run in of_seeds)
        lengths.append(f"{name} {epochs:,} {'epochs' if epochs > 1 else 'epoch'} in {seconds:,.0f} s")
    return ", ".join(lengths)


def _count(runs: Mapping[str, Sequence[Run]]) -> str:
    number = len(next(iter(runs.values())))
    return f"{number} seeds" if number > 1 else "1 seed"
