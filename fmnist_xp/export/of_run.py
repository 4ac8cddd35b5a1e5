"""A finished run as a file for other libraries, with a model card beside it."""

from pathlib import Path

from fmnist_xp.backend import get_backend
from fmnist_xp.data import pixels
from fmnist_xp.errors import FmnistXpError, RunError
from fmnist_xp.evaluation import own_images
from fmnist_xp.export.card import Exported, Figures, card_text, facts
from fmnist_xp.export.files import check_packages, model_bytes
from fmnist_xp.files import write_bytes, write_text
from fmnist_xp.report.tables import confusion_matrix
from fmnist_xp.runs import Run, load_run
from fmnist_xp.runs.folder import OURS


def export_run(
    folder: Path,
    path: Path,
    form: str,
    *,
    card: Path | None,
    takes: str = "images",
    source: str | None = None,
    best: bool = False,
    force: bool = False,
) -> str:
    """Write the network of the run in `folder` to `path`, and its model card to `card`; return what the card lacks.

    The figures are of the test images of `source`, or of the run's own. Where there are none or others, the card says
    so, and has the run's own test accuracy, or with `best`, of whose weights nothing is known, none.

    Raises `RunError` where there is no finished run, its network is missing, damaged or not finite, or a file exists
    and is not to be replaced (`force`), or is one of the run's own; `FmnistXpError` where onnx or PyTorch is needed
    and not installed; `OSError` where a file cannot be written.
    """
    check_packages(form)
    run = load_run(folder)
    network = run.load_network(get_backend("cpu"), best)
    places = [path] if card is None else [path, card]
    for place in places:
        _check_place(place, run, force)
    tested, missing = None, ""
    try:
        synthetic = run.result.dataset.name == "synthetic"  # else such images need not be made: they are others
        test = own_images(run, source, allow_synthetic=synthetic or source is not None)[1]
        X, y = pixels(test)
        tested = Figures(network.evaluate(X, y), confusion_matrix(y, network.predict(X), len(run.class_names)))
    except FmnistXpError as error:
        missing = str(error)
    exported = Exported(
        run=run,
        name=folder.resolve().name,
        network=network,
        best=best,
        file=path.name,
        form=form,
        takes=takes,
        tested=tested,
        missing=missing,
    )
    try:
        content, text = model_bytes(network, form, takes, facts(exported)), card_text(exported)
    except ValueError as error:
        raise RunError(f"the model in {folder} cannot be exported: {error}") from error
    write_bytes(path, content)
    if card is not None:
        write_text(card, text)
    return missing


def _check_place(place: Path, run: Run, force: bool) -> None:
    """Raise `RunError` where nothing must be written to `place`."""
    if place.resolve() in {(run.folder / name).resolve() for name in OURS}:
        raise RunError(f"{place} belongs to the run itself: name another file")
    if place.exists() and not force:
        raise RunError(f"{place} is there already: name another file, or replace it with --force")
