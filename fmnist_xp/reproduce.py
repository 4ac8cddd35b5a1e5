"""The notebook's three experiments over several seeds, compared with the notebook's own results."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from fmnist_xp.backend import Backend
from fmnist_xp.blas import blas_name
from fmnist_xp.data import Dataset
from fmnist_xp.errors import RunError
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.files import write_text
from fmnist_xp.report import plots
from fmnist_xp.report.drawing import save_figures
from fmnist_xp.report.notebook import notebook_history
from fmnist_xp.report.tables import reproduce_table
from fmnist_xp.runs import Run, Settings, dataset_sha256, load_run, train_run

REPORT = "reproduce.md"


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
) -> Path:
    """Train every experiment with the seeds 0 … `seeds` − 1, write pictures and a report, and return its path.

    Runs are kept in `folder`/runs. A finished run with the same settings and data is reused, so that an interrupted
    reproduction resumes where it stopped; any other is trained again.
    Raises `RunError`, before anything is trained, for an experiment that the notebook does not have.
    """
    for name in EXPERIMENTS:
        notebook_history(name)  # which the report needs after hours of training
    runs: dict[str, list[Run]] = {}
    for name, experiment in EXPERIMENTS.items():
        if epochs is not None:
            experiment = replace(experiment, epochs=epochs)
        for seed in range(seeds):
            run_folder = folder / "runs" / f"{name}-s{seed}"
            settings = Settings(experiment, seed=seed)
            run = _finished(run_folder, settings, dataset_sha256(train, test), backend)
            if run is None:
                run = train_run(
                    settings, train, test, backend, run_folder, source=source, force=True, verbose=verbose
                )
            if run.history.interrupted:
                raise KeyboardInterrupt
            runs.setdefault(name, []).append(run)
    return write_report(runs, folder)


def write_report(runs: Mapping[str, Sequence[Run]], folder: Path) -> Path:
    """Write the pictures and the Markdown report of `runs`, by experiment, to `folder`; return the report's path."""
    pictures: list[Path] = []
    for name, of_seeds in runs.items():
        notebook = notebook_history(name)
        histories = {run.result.seed: run.history for run in of_seeds}
        figures = plots.seeds_figures(histories, experiment=name, title=_title(name, of_seeds), notebook=notebook)
        pictures += save_figures(figures, folder)
        figures = plots.run_figures(of_seeds[0].history, title=of_seeds[0].title, experiment=name, notebook=notebook)
        save_figures(figures, folder / name)
    first = {name: of_seeds[0].history for name, of_seeds in runs.items()}
    some = next(iter(runs.values()))
    figures = plots.comparison_figures(first, title=_title("the three experiments, first seed", some[:1]))
    pictures += save_figures(figures, folder)
    table = reproduce_table(
        {name: [asdict(run.result) for run in of_seeds] for name, of_seeds in runs.items()},
        {name: [run.history for run in of_seeds] for name, of_seeds in runs.items()},
    )
    result = some[0].result
    text = (
        "# The notebook's experiments, reproduced\n\n"
        f"{result.epochs:,} full-batch epochs each on {result.dataset.train_rows:,} images of "
        f"{result.dataset.name} on {result.device_name} "
        f"({result.device}, {result.precision}; BLAS: {result.blas}).\n\n"
        f"{table}\n"
        + "".join(f"![{picture.stem}]({picture.relative_to(folder).as_posix()})\n\n" for picture in pictures).rstrip()
        + "\n"
    )
    write_text(folder / REPORT, text)
    return folder / REPORT


def _finished(folder: Path, settings: Settings, data_sha256: str, backend: Backend) -> Run | None:
    """Return the run in `folder` if it was trained to its end with `settings` on this device and data.

    The BLAS must be the same too: other kernels give other results from the same seed.
    """
    try:
        run = load_run(folder)
    except RunError:
        return None
    result = run.result
    found = (run.config.get("device_name"), result.blas, result.epochs, result.dataset.sha256)
    wanted = (backend.device_name, blas_name(), settings.experiment.epochs, data_sha256)
    return run if settings.are_in(run.config) and found == wanted else None


def _title(subject: str, runs: Sequence[Run]) -> str:
    result = runs[0].result
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else f"seed {result.seed}"
    return f"{subject} · {result.device} · {seeds} · {result.dataset.name}"
