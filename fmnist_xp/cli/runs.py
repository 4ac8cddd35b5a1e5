"""Commands for finished runs: evaluate, predict, plot."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmnist_xp.cli import options
from fmnist_xp.cli.console import new_table, out, print_json, say

if TYPE_CHECKING:
    from fmnist_xp.report.tables import ClassScore


def evaluate(
    run_folder: Annotated[Path, typer.Argument(parser=options.path, metavar="RUN", help="A run folder.")],
    data: Annotated[
        str | None, options.text("--data", "Data source; by default that of the run.", "SOURCE", options.DATA)
    ] = None,
    no_synthetic: options.NoSynthetic = False,
    classes: options.Classes = None,
    best: options.Best = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Print accuracy, loss, precision and recall on the test images, and save the confusion matrix."""
    from fmnist_xp.evaluation import evaluate_run

    if classes is not None and data is None:
        raise options.UsageError("--classes names the classes of --data: leave it out, a run knows its own")
    backend = options.chosen_backend(device, threads)
    report = evaluate_run(run_folder, data, backend, allow_synthetic=not no_synthetic, best=best, classes=classes)
    metrics = report.metrics
    if as_json:
        macro, weighted = (mean._asdict() for mean in report.averages)
        print_json(
            {
                "run": run_folder,
                "best": best,
                "best_epoch": report.best_epoch,
                "dataset": {"name": report.dataset, "test_rows": report.rows},
                "test_accuracy": metrics.accuracy,
                "test_loss": metrics.loss,
                "classes": [score._asdict() for score in report.scores],
                "macro_avg": macro,
                "weighted_avg": weighted,
                "confusion_matrix": report.matrix,
                "pictures": report.pictures,
            }
        )
        return
    epoch = f", epoch {report.best_epoch}" if best else ""
    out.print_prose(
        f"{report.dataset}: accuracy {metrics.accuracy:.4f}, loss {metrics.loss:.4f} on {report.rows:,} test images"
        f"{epoch}"
    )
    if quiet:
        return
    numbers = "precision", "recall", "F1", "support"
    table = new_table("class", *numbers, right=numbers)
    for score in report.scores:
        table.add_row(*_row(score))
    table.add_section()
    table.add_row("accuracy", "", "", f"{metrics.accuracy:.3f}", f"{report.rows:,}")
    for mean in report.averages:
        table.add_row(*_row(mean))
    out.print(table)
    out.print(f"confusion matrix and mistakes: {', '.join(map(str, report.pictures))}")


def _row(score: "ClassScore") -> tuple[str, ...]:
    figures = (f"{value:.3f}" for value in (score.precision, score.recall, score.f1))
    return (score.name, *figures, f"{score.support:,}")


def predict(
    run_folder: Annotated[Path, typer.Argument(parser=options.path, metavar="RUN", help="A run folder.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            parser=options.path,
            metavar="IMAGE...",
            help='Photographs, each of one thing: files, folders, or patterns such as "shoes/*.jpg".',
        ),
    ],
    top: Annotated[int, options.number(help="Number of classes to print, 1 to 256.", most=256)] = 3,
    best: options.Best = False,
    show: Annotated[
        Path | None,
        typer.Option(
            parser=options.path, metavar="FOLDER", help="Draw what the network sees beside each photograph."
        ),
    ] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Say which of the run's classes each photograph shows."""
    from fmnist_xp.prediction import Prediction, predict_images

    answers: list[dict[str, Any]] = []
    failed = False
    for found in predict_images(run_folder, images, options.chosen_backend(device), best=best, show=show):
        if not isinstance(found, Prediction):
            failed = True
            say(found.error)
            answers.append({"image": found.image, "error": found.error})
            continue
        classes = [{"name": name, "probability": value} for name, value in found.ranking[:top]]
        answers.append(
            {"image": found.image, "classes": classes, "warnings": found.warnings, "picture": found.picture}
        )
        if not as_json:
            words = ", ".join(f"{name} {probability:.1%}" for name, probability in found.ranking[:top])
            out.print_prose(f"{found.image}: {words}")
    if as_json:
        print_json({"run": run_folder, "best": best, "predictions": answers})
    if failed:
        raise typer.Exit(1)


def plot(
    run_folders: Annotated[list[Path], typer.Argument(parser=options.path, metavar="RUN...", help="Run folders.")],
    out_folder: Annotated[Path, options.out_folder("Folder of the pictures.")] = Path("plots"),
    notebook: Annotated[
        bool, typer.Option("--notebook", help="Add the notebook's own curve to runs with its settings and data.")
    ] = False,
) -> None:
    """Draw each run's curves and first-layer weights, and a comparison where there are several."""
    from fmnist_xp.evaluation import plot_runs

    for picture in plot_runs(run_folders, out_folder, notebook=notebook):
        out.print(str(picture))


def runs(
    folder: Annotated[Path, typer.Argument(parser=options.path, metavar="FOLDER", help="A folder of runs.")] = Path(
        "runs"
    ),
    as_json: options.Json = False,
) -> None:
    """List the runs in a folder: settings, state, test accuracy."""
    from fmnist_xp.runs import list_runs
    from fmnist_xp.runs.settings import words

    found = list(list_runs(folder))
    if as_json:
        print_json(found)
        return
    table = new_table("run", "settings", "epochs", "state", "test", right=("epochs", "test"))
    for run in found:
        changed = [
            f"{name.replace('_', ' ')} {words(value)}" for name, value in run.changes.items() if name != "epochs"
        ]
        accuracy = "" if math.isnan(run.test_accuracy) else f"{run.test_accuracy:.4f}"
        epochs = f"{run.epochs:,}" if run.epochs == run.of_epochs else f"{run.epochs:,} of {run.of_epochs:,}"
        settings = ", ".join([run.experiment, run.device, f"seed {run.seed}", *changed])
        table.add_row(str(run.folder), settings, epochs, run.state, accuracy)
    out.print(table) if found else out.print(f"no runs in {folder}")
