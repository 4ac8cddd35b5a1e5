"""Commands for finished runs: evaluate, predict, plot."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fmnist_xp.cli import options
from fmnist_xp.cli.console import out


def evaluate(
    run_folder: Annotated[Path, typer.Argument(parser=options.path, metavar="RUN", help="A run folder.")],
    data: Annotated[str | None, options.text("--data", "Data source; by default that of the run.")] = None,
    no_synthetic: options.NoSynthetic = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Print accuracy, loss, precision and recall on the test images, and save the confusion matrix."""
    from fmnist_xp.evaluation import evaluate_run

    report = evaluate_run(run_folder, data, options.chosen_backend(device, threads), allow_synthetic=not no_synthetic)
    out.print(
        f"{report.dataset}: accuracy {report.metrics.accuracy:.4f}, loss {report.metrics.loss:.4f} "
        f"on {report.rows:,} test images"
    )
    table = Table("class", "precision", "recall", "F1", "support")
    for score in report.scores:
        values = (f"{value:.3f}" for value in (score.precision, score.recall, score.f1))
        table.add_row(score.name, *values, str(score.support))
    out.print(table)
    out.print(f"confusion matrix: {report.picture}")


def predict(
    run_folder: Annotated[Path, typer.Argument(parser=options.path, metavar="RUN", help="A run folder.")],
    images: Annotated[
        list[Path], typer.Argument(parser=options.path, metavar="IMAGE...", help="Photographs of single garments.")
    ],
    top: Annotated[int, typer.Option(min=1, max=10, help="Number of classes to print.")] = 3,
    device: options.Device = "auto",
) -> None:
    """Say what garment is on each photograph."""
    from fmnist_xp.evaluation import predict_images

    for image, ranking in predict_images(run_folder, images, options.chosen_backend(device)):
        classes = ", ".join(f"{name} {probability:.1%}" for name, probability in ranking[:top])
        out.print(f"{image}: {classes}")


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
