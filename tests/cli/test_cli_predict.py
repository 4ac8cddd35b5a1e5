import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from run_helpers import CLASSES, probabilities, read_idx

from fmnist_xp.model import Sequential

Command = Callable[..., Any]


def draw(height: int, width: int, dark: bool = True) -> np.ndarray:
    """Return a grey photograph of trousers: light on dark, or the other way about."""
    background, cloth = (0, 220) if dark else (255, 35)
    image = np.full((height, width), background, np.uint8)
    top, bottom, left, right, middle = (
        round(part * size) for part, size in ((0.1, height), (0.9, height), (0.3, width), (0.7, width), (0.5, width))
    )
    image[top:bottom, left:right] = cloth
    gap = max(1, width // 25)
    image[(top + bottom) // 3 : bottom, middle - gap : middle + gap] = background
    return image


def save(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def parse(line: str) -> tuple[str, dict[str, float]]:
    """Return the file's name and its classes with their percentages, in the order of the line."""
    name, _, rest = line.rpartition(": ")
    found = re.findall(r"(?:^|, )([^,]+?) (\d+\.\d)%", rest)
    return name, {label: float(percent) for label, percent in found}


def test_predictions_match_an_independent_computation(
    command: Command, run_folder: Path, idx_folder: Path, workplace: Path
) -> None:
    images = read_idx(idx_folder, "t10k")[0]
    # Those whose border is black come to the network unchanged.
    borders = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    chosen = np.flatnonzero(np.median(borders, axis=1) == 0)[:6]
    assert len(chosen) == 6
    paths = [save(workplace / f"{index}.png", images[index]) for index in chosen]
    answer = command("predict", run_folder, *paths, "--top", 10, "--device", "cpu")
    answer.assert_went_well()
    expected = probabilities(run_folder / "model.safetensors", images[chosen])
    assert len(answer.lines) == 6
    for line, path, row in zip(answer.lines, paths, expected, strict=True):
        name, classes = parse(line)
        assert name == str(path)
        assert set(classes) == set(CLASSES)
        assert list(classes.values()) == sorted(classes.values(), reverse=True)
        for label, percent in classes.items():
            assert percent == pytest.approx(100 * row[CLASSES.index(label)], abs=0.06)


def test_json_has_the_probabilities(command: Command, run_folder: Path, idx_folder: Path, workplace: Path) -> None:
    images = read_idx(idx_folder, "t10k")[0]
    borders = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    chosen = np.flatnonzero(np.median(borders, axis=1) == 0)[:2]
    paths = [save(workplace / f"{index}.png", images[index]) for index in chosen]
    found = command("predict", run_folder, *paths, "--top", 10, "--device", "cpu", "--json").document()
    assert (found["run"], found["best"]) == (str(run_folder), False)
    assert [prediction["image"] for prediction in found["predictions"]] == list(map(str, paths))
    expected = probabilities(run_folder / "model.safetensors", images[chosen])
    for prediction, row in zip(found["predictions"], expected, strict=True):
        classes = {one["name"]: one["probability"] for one in prediction["classes"]}
        assert list(classes.values()) == sorted(classes.values(), reverse=True)
        assert classes == pytest.approx(dict(zip(CLASSES, row.tolist(), strict=True)), abs=1e-5)
    first = command("predict", run_folder, paths[0], "--device", "cpu", "--json").document()
    names = [[one["name"] for one in answer["predictions"][0]["classes"]] for answer in (first, found)]
    assert names[0] == names[1][:3]


def test_best_is_the_model_of_the_best_epoch(
    command: Command, run_folder: Path, idx_folder: Path, workplace: Path
) -> None:
    """A model that tells the same of every image: a softmax of logarithms is the numbers themselves."""
    save(workplace / "trousers.png", draw(60, 40))
    arguments = ("predict", run_folder, "trousers.png", "--device", "cpu")
    command(*arguments, "--best").assert_failed(1, "model-best.safetensors", "--validation 0.1 --keep-best")
    model = Sequential.load(run_folder / "model.safetensors")
    model.dense[-1].weights[:], model.dense[-1].biases[:] = 0, np.log(np.arange(1, 11) / 55)
    model.save(run_folder / "model-best.safetensors")
    answer = command(*arguments, "--best")
    answer.assert_went_well()
    assert answer.out == "trousers.png: Ankle boot 18.2%, Bag 16.4%, Sneaker 14.5%\n"
    found = command(*arguments, "--best", "--json").document()
    assert found["best"] is True
    assert [one["probability"] for one in found["predictions"][0]["classes"]] == pytest.approx(
        [10 / 55, 9 / 55, 8 / 55], abs=1e-6
    )


@pytest.mark.parametrize(("options", "count"), [((), 3), (("--top", 1), 1), (("--top", 5), 5)])
def test_top_is_the_number_of_classes(
    command: Command, run_folder: Path, workplace: Path, options: tuple[object, ...], count: int
) -> None:
    save(workplace / "trousers.png", draw(60, 40))
    answer = command("predict", run_folder, "trousers.png", *options, "--device", "cpu")
    answer.assert_went_well()
    assert len(answer.lines) == 1
    assert len(parse(answer.lines[0])[1]) == count


def test_photographs_of_any_size_colour_and_background(command: Command, run_folder: Path, workplace: Path) -> None:
    grey = draw(280, 280)
    opaque = np.where(grey > 0, 255, 0).astype(np.uint8)
    pictures = {
        "grey.png": grey,
        "light.png": draw(280, 280, dark=False),
        "colour.png": cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR),
        "photograph.jpg": grey,
        "transparent.png": cv2.merge([255 - grey, 255 - grey, 255 - grey, opaque]),
        "deep.png": grey.astype(np.uint16) * 257,
        "small.png": draw(28, 28),
        "huge.png": draw(1400, 1400),
        "wide.png": cv2.copyMakeBorder(grey, 0, 0, 200, 200, cv2.BORDER_CONSTANT, value=0),
    }
    paths = [save(workplace / name, image) for name, image in pictures.items()]
    answer = command("predict", run_folder, *paths, "--top", 10, "--device", "cpu")
    answer.assert_went_well()
    found = dict(map(parse, answer.lines))
    assert list(found) == list(map(str, paths))
    for classes in found.values():
        assert sum(classes.values()) == pytest.approx(100, abs=0.5)
    # The same garment: its size, colour, background and file change nothing, or nearly so.
    expected = found[str(workplace / "grey.png")]
    for name in ("light.png", "colour.png", "transparent.png", "deep.png", "wide.png"):
        assert found[str(workplace / name)] == pytest.approx(expected, abs=1), name
    for name in ("photograph.jpg", "huge.png"):
        assert next(iter(found[str(workplace / name)])) == next(iter(expected)), name


def test_trousers_are_trousers(command: Command, run_folder: Path, workplace: Path) -> None:
    """The class that is easiest in the synthetic data set."""
    save(workplace / "trousers.png", draw(400, 300, dark=False))
    answer = command("predict", run_folder, "trousers.png", "--device", "cpu")
    assert answer.lines[0].startswith("trousers.png: Trouser ")


def test_a_missing_photograph_is_one_line(command: Command, run_folder: Path, workplace: Path) -> None:
    answer = command("predict", run_folder, "nowhere.png", "--device", "cpu")
    answer.assert_failed(1, "nowhere.png", "No such file")


def test_a_file_that_is_no_image_is_one_line(command: Command, run_folder: Path, workplace: Path) -> None:
    save(workplace / "good.png", draw(50, 50))
    whole = (workplace / "good.png").read_bytes()
    for name, data in (("letter.txt", b"dear"), ("empty.png", b"")):
        (workplace / name).write_bytes(data)
        command("predict", run_folder, "good.png", name, "--device", "cpu").assert_failed(1, name, "not an image")
    (workplace / "folder.png").mkdir()
    command("predict", run_folder, "folder.png", "--device", "cpu").assert_failed(1, "folder.png")
    (workplace / "good.png").write_bytes(whole)
    command("predict", run_folder, "good.png", "--device", "cpu").assert_went_well()


def test_a_blank_picture_is_one_line(command: Command, run_folder: Path, workplace: Path) -> None:
    for size, value in ((28, 0), (90, 128)):
        save(workplace / "blank.png", np.full((size, size), value, np.uint8))
        command("predict", run_folder, "blank.png", "--device", "cpu").assert_failed(1, "blank.png", "blank")
