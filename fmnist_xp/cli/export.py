"""The command `fmnist-xp export`: a run's model for other libraries."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fmnist_xp.cli import options
from fmnist_xp.cli.console import out, say


class ModelFormat(StrEnum):
    """The names in `export.FORMATS`, which would be slow to import for --help."""

    onnx = "onnx"
    safetensors = "safetensors"
    npz = "npz"
    pytorch = "pytorch"


class ModelInput(StrEnum):
    """The names in `export.TAKES`."""

    images = "images"
    rows = "rows"
    floats = "floats"


def export(
    run_folder: Annotated[Path, typer.Argument(parser=options.path, metavar="RUN", help="A run folder.")],
    model: Annotated[
        Path, typer.Argument(parser=options.path, metavar="FILE", help="The file: .onnx, .safetensors, .npz, .pt.")
    ],
    form: Annotated[
        ModelFormat | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="onnx, safetensors, npz or pytorch; by default what the file's suffix tells.",
        ),
    ] = None,
    takes: Annotated[
        ModelInput | None,
        typer.Option(
            "--input",
            metavar="NAME",
            help="What an ONNX model takes: images, bytes (n, 28, 28); rows, bytes (n, 784); or floats, rows that "
            "are scaled already; by default images.",
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card",
            parser=options.path,
            metavar="FILE",
            help="The model card, README.md for a hub; by default FILE with .md behind its name.",
        ),
    ] = None,
    no_card: Annotated[bool, typer.Option("--no-card", help="Write no model card.")] = False,
    data: Annotated[
        str | None,
        options.text("--data", "Where the run's test images are now; by default where they were.", "SOURCE"),
    ] = None,
    best: options.Best = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a run's model for ONNX, PyTorch or NumPy, with a model card beside it."""
    from fmnist_xp.export import format_of
    from fmnist_xp.export.of_run import export_run

    with options.usage():
        chosen = form or format_of(model)
        if takes and chosen != "onnx":
            raise ValueError(f"--input is for ONNX: a file of the format {chosen} has weights alone")
        if card and no_card:
            raise ValueError("--card and --no-card are both given: choose one")
        beside = None if no_card else card or model.with_name(f"{model.name}.md")
        if beside and beside.resolve() == model.resolve():
            raise ValueError(f"{model} cannot be the model and its card")
    missing = export_run(
        run_folder, model, chosen, card=beside, takes=takes or "images", source=data, best=best, force=force
    )
    if missing:
        say(f"not evaluated on its test images: {missing}")
    out.print(f"written to {model}" + (f", its card to {beside}" if beside else ""))
