"""The commands `fmnist-xp data`: look at the data set, fetch it, export it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fmnist_xp.cli import options
from fmnist_xp.cli.console import new_table, out, print_json


class ExportFormat(StrEnum):
    """The names in `data.FORMATS`, which would be slow to import for --help."""

    png = "png"
    idx = "idx"


def info(
    data: options.Data = "auto",
    no_synthetic: options.NoSynthetic = False,
    url: options.Url = None,
    classes: options.Classes = None,
    out_folder: Annotated[Path, options.out_folder("Folder of the pictures.")] = Path(),
    as_json: options.Json = False,
) -> None:
    """Print shapes, class counts and checksums, and save a grid of samples and one image's grey values."""
    from fmnist_xp import data as datasets
    from fmnist_xp.evaluation import plot_dataset

    train_data, test_data = datasets.load_fashion_mnist(
        data, url=url, allow_synthetic=not no_synthetic, classes=classes
    )
    splits = datasets.describe(train_data, test_data)
    pictures = plot_dataset(train_data, out_folder)
    if as_json:
        described = {split.split: split for split in splits}
        print_json({**described, "class_names": train_data.class_names, "pictures": pictures})
        return
    for split in splits:
        published = "the published images" if split.published else "not the published images"
        out.print(f"{split.split}: {split.shape} {split.dtype}, {split.name}, {published}")
        out.print(f"  {split.source}")
        out.print(f"  pixel mean {split.pixel_mean:.4f}, deviation {split.pixel_std:.4f}, of 0 to 1")
        out.print(f"  SHA-256 {split.sha256}")
    columns = [split.split for split in splits]
    table = new_table("class", *columns, right=columns)
    names = train_data.class_names
    for label, name in enumerate(names):
        counts = (f"{split.class_counts[label]:,}" for split in splits)
        table.add_row(name if datasets.is_numbered(names) else f"{label} {name}", *counts)
    out.print(table)
    for picture in pictures:
        out.print(f"saved {picture}")


def fetch(url: options.Url = None) -> None:
    """Download Fashion-MNIST into the cache, and say where it lies."""
    from fmnist_xp.data import fetch as fetch_images

    out.print(str(fetch_images(url)))


def export(
    folder: Annotated[Path, typer.Argument(parser=options.path, metavar="FOLDER", help="A new or empty folder.")],
    form: Annotated[
        ExportFormat, typer.Option("--format", metavar="NAME", help="png, an image folder, or idx, four files.")
    ] = ExportFormat["png"],
    data: options.Data = "auto",
    no_synthetic: options.NoSynthetic = False,
    classes: options.Classes = None,
) -> None:
    """Write the data set as the notebook's image folder, or as the four IDX files, with its class names."""
    from fmnist_xp import data as datasets

    splits = datasets.load_fashion_mnist(data, allow_synthetic=not no_synthetic, classes=classes)
    datasets.export(*splits, folder, form.value)
    out.print(f"written to {folder}")
