"""What a run's network says of photographs."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmnist_xp.backend import Backend
from fmnist_xp.data import Pixels, named_images, prepare_photograph
from fmnist_xp.errors import DataError, RunError
from fmnist_xp.evaluation import load_network
from fmnist_xp.report.drawing import save_figure
from fmnist_xp.report.images import seen_figure
from fmnist_xp.runs import load_run

logger = logging.getLogger("fmnist_xp")

SURE = 0.7
"""Least probability of an answer without a warning. docs/photographs.md has how often such answers are right."""


@dataclass(frozen=True)
class Prediction:
    """The answer to one photograph: class names with their probabilities, most likely first.

    `warnings` say why it may be wrong; `picture` is where it was drawn, or None.
    """

    image: Path
    ranking: Sequence[tuple[str, float]]
    warnings: tuple[str, ...] = ()
    picture: Path | None = None


@dataclass(frozen=True)
class Unreadable:
    """A file that is no photograph of a garment, or a name without one, and a line that names it and says why."""

    image: Path
    error: str


def predict_images(
    folder: Path, images: Sequence[Path], backend: Backend, *, best: bool = False, show: Path | None = None
) -> Iterator[Prediction | Unreadable]:
    """Yield an answer for each photograph in `images`: files, folders and patterns, as in `named_images`.

    With `best` it is that of the run's best epoch. What the network sees is drawn beside the photograph into the
    folder `show`. Warnings are logged. Photographs are read one after another, so that there may be any number of
    them. Raises `RunError` where the model is missing or not finite, or where `show` is a folder of photographs, and
    `OSError` where there cannot be such a folder.
    """
    run = load_run(folder)
    network = load_network(run, backend, best)
    found = list(named_images(images))
    if show is not None:
        show.mkdir(parents=True, exist_ok=True)  # before anything is predicted, should it be impossible
        if show.resolve() in {path.parent.resolve() for path, error in found if not error}:
            raise RunError(f"{show} is where the photographs are: name a folder of its own with --show")
    drawn: set[str] = set()
    for path, error in found:
        try:
            if error is not None:
                raise error
            photograph = prepare_photograph(path, run.longest_edge)
        except DataError as why:
            yield Unreadable(path, str(why))
            continue
        (probabilities,) = network.predict_proba(Pixels(photograph.image[None])).tolist()
        if not np.isfinite(probabilities).all():
            raise RunError(
                f"the model in {folder} gives probabilities that are not finite: its weights are too large, as of a "
                "training that diverged; train again with a lower learning rate"
            )
        pairs = zip(run.class_names, probabilities, strict=True)
        ranking = sorted(pairs, key=lambda pair: pair[1], reverse=True)
        likely, probability = ranking[0]
        warnings = photograph.doubts
        if probability < SURE:
            warnings += (f"not sure that it is {likely} ({probability:.0%})",)
        if warnings:
            logger.warning("%s: %s", path, "; ".join(warnings))
        picture = None
        if show is not None:
            figure = seen_figure(photograph, ranking, warnings, title=path.name)
            picture = save_figure(figure, show / _picture_name(path, drawn))
        yield Prediction(path, ranking, warnings, picture)


def _picture_name(path: Path, drawn: set[str]) -> str:
    """Return the name of a photograph's picture, with a number where one of `drawn` has it, and add it to these.

    Of a long name only the first 60 characters are in it, for which there is room on any file system.
    """
    name, number = f"{path.name[:60]}.png", 1
    while name.casefold() in drawn:  # of other folders, or on file systems that take "a" for "A"
        number += 1
        name = f"{path.name[:60]}-{number}.png"
    drawn.add(name.casefold())
    return name
