import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from run_helpers import CLASSES, probabilities, read_idx, read_json, read_picture

from fmnist_xp.backend import CpuBackend
from fmnist_xp.errors import RunError
from fmnist_xp.model import Sequential
from fmnist_xp.plain_json import to_json
from fmnist_xp.prediction import SURE, Prediction, Unreadable, predict_images
from fmnist_xp.runs import load_run

CPU = CpuBackend(2)
pytestmark = pytest.mark.usefixtures("workplace")


def saved(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def square(side: int = 60) -> np.ndarray:
    image = np.full((80, 80), 255, np.uint8)
    image[10 : 10 + side, 10:70] = 30
    return image


def always(folder: Path, *shares: float) -> None:
    """Let the run say the same of every image: a softmax of logarithms is the numbers themselves."""
    network = Sequential.load(folder / "model.safetensors")
    network.dense[-1].weights[:], network.dense[-1].biases[:] = 0, np.log(shares)
    network.save(folder / "model.safetensors")


def test_predictions_keep_the_order_of_the_photographs(run_folder: Path, idx_folder: Path, tmp_path: Path) -> None:
    images = read_idx(idx_folder, "t10k")[0][3::-1]
    paths = [saved(tmp_path / f"{index}.png", image) for index, image in enumerate(images)][::-1]
    found = list(predict_images(run_folder, paths, CPU))
    assert [one.image for one in found] == paths
    expected = probabilities(run_folder / "model.safetensors", images[::-1])
    for one, row in zip(found, expected, strict=True):
        assert isinstance(one, Prediction)
        assert [name for name, _probability in one.ranking] == [CLASSES[i] for i in np.argsort(-row)]
        assert [value for _name, value in one.ranking] == pytest.approx(sorted(row, reverse=True), abs=1e-5)
        assert one.picture is None


def test_predicting_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        list(predict_images(tmp_path / "nowhere", [tmp_path / "image.png"], CPU))


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_probabilities_that_are_not_finite_are_an_error(run_folder: Path, idx_folder: Path, tmp_path: Path) -> None:
    """From weights that are finite, but too large to be multiplied."""
    network = load_run(run_folder).load_network(CPU)
    network.parameters[...] = 1e38
    network.save(run_folder / "model.safetensors")
    assert cv2.imwrite(str(tmp_path / "image.png"), read_idx(idx_folder, "t10k")[0][0])
    with pytest.raises(RunError, match=r"gives probabilities that are not finite: .* lower learning rate$"):
        list(predict_images(run_folder, [tmp_path / "image.png"], CPU))


def test_what_is_no_photograph_is_told_and_the_rest_is_predicted(run_folder: Path, tmp_path: Path) -> None:
    good = saved(tmp_path / "shoes" / "good.png", square())
    (tmp_path / "shoes" / "bad.png").write_bytes(b"dear")
    names = [tmp_path / "shoes", tmp_path / "nowhere.png", tmp_path / "*.gif", good]
    found = list(predict_images(run_folder, names, CPU))
    assert [one.image for one in found] == [tmp_path / "shoes" / "bad.png", good, *names[1:3]]
    assert isinstance(found[1], Prediction)
    errors = [one.error for one in found if isinstance(one, Unreadable)]
    for error, name, word in zip(
        errors, ("bad.png", "nowhere.png", "*.gif"), ("dear", "No such", "no file"), strict=True
    ):
        assert f"{tmp_path}" in error
        assert name in error
        assert word in error


def test_an_unsure_answer_has_a_warning(run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path / "square.png", square())
    always(run_folder, SURE - 0.02, *[(1.02 - SURE) / 9] * 9)
    (unsure,) = predict_images(run_folder, [path], CPU)
    assert isinstance(unsure, Prediction)
    assert unsure.warnings == (f"not sure that it is T-shirt/top ({SURE - 0.02:.0%})",)
    assert caplog.messages == [f"{path}: {unsure.warnings[0]}"]
    always(run_folder, SURE + 0.02, *[(0.98 - SURE) / 9] * 9)
    (sure,) = predict_images(run_folder, [path], CPU)
    assert isinstance(sure, Prediction)
    assert sure.warnings == ()
    assert len(caplog.messages) == 1


def test_what_is_doubtful_about_a_photograph_is_a_warning(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    always(run_folder, 0.91, *[0.01] * 9)
    both = np.hstack([square(), square()])
    (found,) = predict_images(run_folder, [saved(tmp_path / "pair.png", both)], CPU)
    assert isinstance(found, Prediction)
    assert found.warnings == ("2 things are on it",)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_what_the_network_saw_is_drawn_by_a_name_of_its_own(run_folder: Path, tmp_path: Path) -> None:
    paths = [
        saved(tmp_path / place / name, square()) for place in "ab" for name in ("shoe.png", "Shoe.png", "shoe.jpg")
    ]
    (tmp_path / "c.png").write_bytes(b"")
    found = list(predict_images(run_folder, [*paths, tmp_path / "c.png"], CPU, show=tmp_path / "seen"))
    pictures = [one.picture for one in found if isinstance(one, Prediction)]
    names = ["shoe.png.png", "Shoe.png-2.png", "shoe.jpg.png", "shoe.png-3.png", "Shoe.png-4.png", "shoe.jpg-2.png"]
    assert pictures == [tmp_path / "seen" / name for name in names]
    assert sorted((tmp_path / "seen").iterdir()) == sorted(tmp_path / "seen" / name for name in names)
    for picture in pictures:
        assert picture is not None
        read_picture(picture)


def test_long_names_have_pictures_of_their_own(run_folder: Path, tmp_path: Path) -> None:
    try:
        paths = [saved(tmp_path / f"{'ü' * 120}{end}.png", square()) for end in "ab"]
    except (OSError, AssertionError):
        pytest.skip("the file system does not take these names")
    found = list(predict_images(run_folder, paths, CPU, show=tmp_path / "seen"))
    names = [one.picture.name for one in found if isinstance(one, Prediction) and one.picture]
    assert names == [f"{'ü' * 60}.png", f"{'ü' * 60}-2.png"]


def test_pictures_never_lie_among_the_photographs(run_folder: Path, tmp_path: Path) -> None:
    saved(tmp_path / "shoe.png", square())
    for show in (tmp_path, tmp_path / "a" / ".."):
        (tmp_path / "a").mkdir(exist_ok=True)
        with pytest.raises(RunError, match="is where the photographs are: name a folder of its own with --show"):
            list(predict_images(run_folder, [tmp_path / "shoe.png"], CPU, show=show))
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".png") == ["shoe.png"]


def test_things_are_fitted_as_the_runs_training_images_are(run_folder: Path, tmp_path: Path) -> None:
    config = read_json(run_folder / "config.json")
    assert config["data"]["longest_edge"] == load_run(run_folder).longest_edge
    path = saved(tmp_path / "square.png", 255 - np.pad(np.full((12, 12), 250, np.uint8), 9))
    config["data"]["longest_edge"] = 12
    (run_folder / "config.json").write_text(to_json(config))
    (answer,) = predict_images(run_folder, [path], CPU)
    assert isinstance(answer, Prediction)
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, 8:20, 8:20] = 255
    (expected,) = probabilities(run_folder / "model.safetensors", image)
    assert [dict(answer.ranking)[name] for name in CLASSES] == pytest.approx(expected, abs=1e-4)


def test_a_run_from_before_the_longest_edge_was_noted_has_garments(run_folder: Path) -> None:
    config = read_json(run_folder / "config.json")
    del config["data"]["longest_edge"]
    (run_folder / "config.json").write_text(to_json(config))
    assert load_run(run_folder).longest_edge == 28
    for wrong in (0, 29, 20.0, "20", True, None):
        config["data"]["longest_edge"] = wrong
        (run_folder / "config.json").write_text(to_json(config))
        with pytest.raises(RunError, match=r"config\.json is damaged: longest_edge is .* not 1 to 28$"):
            _ = load_run(run_folder).longest_edge
