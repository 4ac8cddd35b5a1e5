import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from run_helpers import CLASSES, parse_json, probabilities, read_idx, read_picture

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


def assert_answered(answer: Any) -> None:
    """Assert that it ended well, and said nothing on stderr but that it is not sure."""
    assert answer.code == 0, answer
    for line in answer.err.splitlines():
        assert re.fullmatch(r"fmnist-xp: .*: not sure that it is [A-Z].* \(\d+%\)", line), line


def test_predictions_match_an_independent_computation(
    command: Command, run_folder: Path, idx_folder: Path, workplace: Path
) -> None:
    images = read_idx(idx_folder, "t10k")[0]
    chosen = np.arange(6)
    paths = [save(workplace / f"{index}.png", images[index]) for index in chosen]
    answer = command("predict", run_folder, *paths, "--top", 10, "--device", "cpu")
    assert_answered(answer)
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
    chosen = np.arange(2)
    paths = [save(workplace / f"{index}.png", images[index]) for index in chosen]
    answer = command("predict", run_folder, *paths, "--top", 10, "--device", "cpu", "--json")
    assert_answered(answer)
    found = parse_json(answer.out)
    assert (found["run"], found["best"]) == (str(run_folder), False)
    assert [prediction["image"] for prediction in found["predictions"]] == list(map(str, paths))
    expected = probabilities(run_folder / "model.safetensors", images[chosen])
    for prediction, row in zip(found["predictions"], expected, strict=True):
        classes = {one["name"]: one["probability"] for one in prediction["classes"]}
        assert list(classes.values()) == sorted(classes.values(), reverse=True)
        assert classes == pytest.approx(dict(zip(CLASSES, row.tolist(), strict=True)), abs=1e-5)
    first = parse_json(command("predict", run_folder, paths[0], "--device", "cpu", "--json").out)
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
    assert_answered(answer)
    assert answer.out == "trousers.png: Ankle boot 18.2%, Bag 16.4%, Sneaker 14.5%\n"
    answer = command(*arguments, "--best", "--json")
    assert answer.err == "fmnist-xp: trousers.png: not sure that it is Ankle boot (18%)\n"
    found = parse_json(answer.out)
    assert found["predictions"][0]["warnings"] == ["not sure that it is Ankle boot (18%)"]
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
    assert_answered(answer)
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
    assert_answered(answer)
    found = dict(map(parse, answer.lines))
    assert list(found) == list(map(str, paths))
    for classes in found.values():
        assert sum(classes.values()) == pytest.approx(100, abs=0.5)
    # The same garment: its size, colour, background and file change nothing, or nearly so.
    expected = found[str(workplace / "grey.png")]
    for name in ("light.png", "colour.png", "transparent.png", "deep.png"):
        assert found[str(workplace / name)] == pytest.approx(expected, abs=1), name
    for name in ("photograph.jpg", "huge.png", "wide.png"):
        assert next(iter(found[str(workplace / name)])) == next(iter(expected)), name


def test_trousers_are_trousers(command: Command, run_folder: Path, workplace: Path) -> None:
    """The class that is easiest in the synthetic data set."""
    save(workplace / "trousers.png", draw(400, 300, dark=False))
    answer = command("predict", run_folder, "trousers.png", "--device", "cpu")
    assert answer.lines[0].startswith("trousers.png: Trouser ")


def test_a_missing_photograph_is_one_line(command: Command, run_folder: Path, workplace: Path) -> None:
    answer = command("predict", run_folder, "nowhere.png", "--device", "cpu")
    answer.assert_failed(1, "nowhere.png", "No such file")


def bad_and_good(workplace: Path) -> Path:
    """Make a folder of photographs, of which two are none."""
    for name in ("a.png", "d.PNG"):
        save(workplace / name, draw(60, 40))
        (workplace / "photos").mkdir(exist_ok=True)
        (workplace / name).rename(workplace / "photos" / name)
    (workplace / "photos" / "b.jpg").write_bytes(b"dear")
    (workplace / "photos" / "c.png").write_bytes(b"")
    (workplace / "photos" / "letter.txt").write_bytes(b"dear")
    (workplace / "photos" / "more.png").mkdir()
    return workplace / "photos"


def test_bad_photographs_are_named_and_the_rest_is_predicted(
    command: Command, run_folder: Path, workplace: Path
) -> None:
    folder = bad_and_good(workplace)
    answer = command("predict", run_folder, folder, "--device", "cpu")
    assert answer.code == 1
    assert [parse(line)[0] for line in answer.lines] == [str(folder / "a.png"), str(folder / "d.PNG")]
    errors = [line for line in answer.err.splitlines() if "not sure" not in line]
    assert len(errors) == 2
    for line, name, word in zip(errors, ("b.jpg", "c.png"), ("it begins with b'dear'", "it is empty"), strict=True):
        assert line.startswith(f"fmnist-xp: {folder / name}: not an image in PNG")
        assert word in line
    assert "Traceback" not in answer.err


def test_json_has_an_error_in_place_of_an_answer(command: Command, run_folder: Path, workplace: Path) -> None:
    folder = bad_and_good(workplace)
    answer = command("predict", run_folder, folder, "no*.png", "--device", "cpu", "--json", "--show", "seen")
    assert answer.code == 1
    found = parse_json(answer.out)["predictions"]
    assert [Path(one["image"]).name for one in found] == ["a.png", "b.jpg", "c.png", "d.PNG", "no*.png"]
    for one in (found[0], found[3]):
        assert set(one) == {"image", "classes", "warnings", "picture"}
        read_picture(workplace / one["picture"])
    for one in (*found[1:3], found[4]):
        assert set(one) == {"image", "error"}
        assert one["error"].startswith(one["image"])
        assert f"fmnist-xp: {one['error']}\n" in answer.err


def test_a_pattern_is_for_shells_that_leave_it(command: Command, run_folder: Path, workplace: Path) -> None:
    folder = bad_and_good(workplace)
    answer = command("predict", run_folder, folder / "[ad].*", folder / "a.png", "--device", "cpu")
    assert_answered(answer)
    assert [parse(line)[0] for line in answer.lines] == [str(folder / "a.png"), str(folder / "d.PNG")]


def test_a_file_that_is_no_image_is_one_line(command: Command, run_folder: Path, workplace: Path) -> None:
    for name, data in (("letter.txt", b"dear"), ("empty.png", b"")):
        (workplace / name).write_bytes(data)
        command("predict", run_folder, name, "--device", "cpu").assert_failed(1, name, "not an image")
    (workplace / "folder.png").mkdir()
    command("predict", run_folder, "folder.png", "--device", "cpu").assert_failed(1, "folder.png", "without images")


def test_pictures_among_the_photographs_are_refused(command: Command, run_folder: Path, workplace: Path) -> None:
    folder = bad_and_good(workplace)
    before = sorted(folder.iterdir())
    command("predict", run_folder, folder, "--show", folder).assert_failed(1, "photos", "--show")
    assert sorted(folder.iterdir()) == before


def test_a_blank_picture_is_one_line(command: Command, run_folder: Path, workplace: Path) -> None:
    for size, value in ((28, 0), (90, 128)):
        save(workplace / "blank.png", np.full((size, size), value, np.uint8))
        command("predict", run_folder, "blank.png", "--device", "cpu").assert_failed(1, "blank.png", "blank")
