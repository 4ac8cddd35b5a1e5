"""Other data of this form, from `train` to `report`: its classes' number and names, and nowhere a garment's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from character_helpers import letters, printed
from run_helpers import CLASSES, parse_json, probabilities, read_json, read_picture
from table_helpers import csv_file, csv_rows, folder_of, idx_files, npy_file, sideways, zip_file, zip_to

from fmnist_xp.data import Dataset, load_fashion_mnist
from fmnist_xp.files import write_text

Command = Callable[..., Any]
Splits = tuple[Dataset, Dataset]
ALPHABET = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
KANA = tuple("おきすつなはまやれを")
THREE = ("cross", "ring", "wave")
QUICK = ("--epochs", 60, "--learning-rate", 0.005, "--device", "cpu", "--threads", 2)


def made(characters: str, first: int = 0) -> Splits:
    return printed(characters, 30, 0, first), printed(characters, 8, 1, first)


def three_folders(splits: Splits) -> dict[str, bytes]:
    return {
        f"{split}/{THREE[label]}/{number:03d}.png": bytes(cv2.imencode(".png", image)[1])
        for split, dataset in zip(("train", "test"), splits, strict=True)
        for number, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True))
    }


@pytest.fixture(scope="session")
def alphabet() -> Splits:
    return made("".join(ALPHABET), 1)


@pytest.fixture
def data(workplace: Path, alphabet: Splits) -> Path:
    """Letters and kana as they are published, three folders of images, a zip of these, and digits."""
    folder = workplace / "data"
    three, digits = made("xow"), made("0123456789")  # these for the kana, too, which OpenCV cannot print
    arrays = {"train-imgs": digits[0].images, "train-labels": digits[0].labels, "test-imgs": digits[1].images}
    arrays["test-labels"] = digits[1].labels
    kana = {f"kmnist-{name}.npz": zip_file({"arr_0.npy": npy_file(values)}) for name, values in arrays.items()}
    class_map = "".join(f"{number},U+{ord(sign):X},{sign}\n" for number, sign in enumerate(KANA))
    folder_of(folder / "kana", kana | {"kmnist_classmap.csv": f"index,codepoint,char\n{class_map}".encode()})
    folder_of(folder / "letters", letters(alphabet))
    folder_of(folder / "three", three_folders(three))
    zip_to(folder / "three.zip", three_folders(three))
    for name, split in zip(("train", "test"), digits, strict=True):
        folder_of(folder / "digits", {f"mnist_{name}.csv": csv_file(csv_rows(split))})
    return folder


def photograph(path: Path, character: str) -> Path:
    """Write a character, dark on light, as large as in the images of `printed`."""
    canvas = np.full((280, 280), 240, np.uint8)
    cv2.putText(canvas, character, (50, 230), cv2.FONT_HERSHEY_SIMPLEX, 8.2, 20, 20)
    assert cv2.imwrite(str(path), canvas)
    return path


def assert_no_garments(*texts: str) -> None:
    for text in texts:
        assert not [name for name in (*CLASSES, "garment") if name in text]


SETS = {
    "letters": ("letters", ALPHABET, "A"),
    "a folder": ("three", THREE, "o"),
    "a zip": ("three.zip", THREE, "w"),
    "kana": ("kana", KANA, "3"),
    "digits": ("digits", tuple("0123456789"), "7"),
}


@pytest.mark.parametrize(("source", "names", "character"), SETS.values(), ids=SETS)
def test_from_train_to_report(
    command: Command, workplace: Path, data: Path, source: str, names: tuple[str, ...], character: str
) -> None:
    pytest.importorskip("plotly", reason="Plotly, which reports are made with, is not installed")
    pytest.importorskip("jinja2", reason="Jinja2, which reports are made with, is not installed")
    path = data / source
    info = command("data", "info", "--data", path, "--out", "pictures")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in info.lines if "│" in line]
    titles = names if names[0] == "0" else [f"{label} {name}" for label, name in enumerate(names)]
    assert rows == [[title, "30", "8"] for title in titles]
    trained = command("train", "adam", "--data", path, *QUICK, "--out", "run")
    assert f"{30 * len(names)} + {8 * len(names)} images of {len(names)} classes" in trained.out.replace(",", "")
    result, config = (read_json(workplace / "run" / name) for name in ("result.json", "config.json"))
    assert result["dataset"]["class_names"] == config["data"]["class_names"] == list(names)
    assert result["test_accuracy"] > 0.8

    told = command("evaluate", "run")
    document = command("evaluate", "run", "--json").document()
    assert [score["name"] for score in document["classes"]] == list(names)
    test = load_fashion_mnist(path)[1]
    expected = np.zeros((len(names), len(names)), int)
    predicted = probabilities(workplace / "run" / "model.safetensors", test.images).argmax(1)
    np.add.at(expected, (test.labels, predicted), 1)
    assert document["confusion_matrix"] == expected.tolist()
    for picture in document["pictures"]:
        read_picture(workplace / picture)
    rows = [line.split("│")[1].strip() for line in told.lines if "│" in line]
    assert rows[: len(names)] == list(names)

    image = photograph(workplace / "photo.png", character)
    predicted_classes = command("predict", "run", image, "--top", 256, "--json").document()["predictions"][0][
        "classes"
    ]
    assert sorted(entry["name"] for entry in predicted_classes) == sorted(names)
    assert sum(entry["probability"] for entry in predicted_classes) == pytest.approx(1, abs=1e-5)
    said = command("predict", "run", image)
    assert said.out.startswith(f"{image}: {predicted_classes[0]['name']} ")

    answers = (info, trained, told, said, command("report", "run"))
    for answer in answers:
        answer.assert_went_well()
    page = (workplace / "report.html").read_text(encoding="utf-8").split("<body>")[1].split("<script>/**")[0]
    for name in names:
        assert f'<th scope="col">{name}</th>' in page
    assert_no_garments(*(answer.out for answer in answers), page, json.dumps([config, result, document]))
    assert_no_garments(*(str(path) for path in workplace.rglob("*")))


def test_run_goes_on_with_its_classes(command: Command, workplace: Path, data: Path) -> None:
    names = "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z"
    command(
        "train", "adam", "--data", data / "letters", "--classes", names, *QUICK, "--out", "whole"
    ).assert_went_well()
    half = ("--epochs", 30, *QUICK[2:])
    command(
        "train", "adam", "--data", data / "letters", "--classes", names, *half, "--out", "half"
    ).assert_went_well()
    command("train", "--resume", "half", "--epochs", 60, "--device", "cpu").assert_went_well()
    for name in ("model.safetensors", "history.csv"):
        assert (workplace / "half" / name).read_bytes() == (workplace / "whole" / name).read_bytes()
    config = read_json(workplace / "half" / "config.json")["data"]
    assert (config["class_names"], config["classes"]) == (names.split(","), names)
    (data / "letters" / "emnist-letters-mapping.txt").unlink()  # whatever they are called there now
    document = command("evaluate", "half", "--json").document()
    assert [score["name"] for score in document["classes"]] == names.split(",")
    # Other classes are other data.
    folder_of(data / "letters", {"classes.txt": b"a\nb\nc\n"})
    command("evaluate", "half").assert_failed(1, "there are 3 class names", "classes.txt")
    command("train", "--resume", "half", "--data", data / "three", "--epochs", 70).assert_failed(
        1, "half was trained on other classes: name its own data with --data", "3 classes found"
    )


def test_the_command_on_the_page_names_the_classes(command: Command, workplace: Path, data: Path) -> None:
    from fmnist_xp.reporting import command_line

    write_text(workplace / "names", "o\nx\nw\n")
    command(
        "train", "adam", "--data", data / "three", "--classes", "names", "--epochs", 2, "--out", "run"
    ).assert_went_well()
    config = read_json(workplace / "run" / "config.json")
    assert config["data"]["classes"] == str(workplace / "names")  # as from anywhere
    assert config["data"]["class_names"] == ["o", "x", "w"]
    assert f" --classes {workplace / 'names'} " in command_line(config, "custom")


def test_evaluation_on_other_data_matches_classes_by_their_names(
    command: Command, workplace: Path, data: Path, alphabet: Splits
) -> None:
    command("train", "adam", "--data", data / "letters", *QUICK, "--out", "run").assert_went_well()
    own = command("evaluate", "run", "--json").document()
    # The same letters in another order of labels, as folders of images.
    order = np.random.default_rng(0).permutation(26)
    shuffled = tuple(Dataset(split.images, order[split.labels - 1], "custom", "") for split in alphabet)
    named = [ALPHABET[label] for label in np.argsort(order)]
    folder_of(workplace / "shuffled", idx_files(*shuffled) | {"classes.txt": "\n".join(named).encode()})
    other = command("evaluate", "run", "--data", "shuffled", "--json").document()
    assert other["confusion_matrix"] == own["confusion_matrix"]
    assert other["classes"] == own["classes"]
    # Some of them are enough.
    few = tuple(Dataset(s.images[s.labels < 3], s.labels[s.labels < 3] - 1, "custom", "") for s in alphabet)
    folder_of(workplace / "few", idx_files(*few) | {"classes.txt": b"A\nB\n"})
    document = command("evaluate", "run", "--data", "few", "--json").document()
    assert document["dataset"]["test_rows"] == 16
    assert document["confusion_matrix"][:2] == own["confusion_matrix"][:2]
    # Without names they go by label, which is said.
    (workplace / "few" / "classes.txt").unlink()
    answer = command("evaluate", "run", "--data", "few", "--json")
    assert parse_json(answer.out)["confusion_matrix"] == document["confusion_matrix"]
    assert answer.err == ("fmnist-xp: classes are matched by label: the run has A, B, C, D, E, …, few has 0, 1\n")
    command("evaluate", "run", "--data", "few", "--classes", "A,B").assert_went_well()
    # Others are refused, and more too.
    command("evaluate", "run", "--data", data / "three").assert_failed(
        1, "run tells 26 classes apart (A, B, C, D, E, …)", "has others (cross, ring, wave)", "--classes"
    )
    folder_of(workplace / "many", idx_files(*(printed("x" * 27, 1) for _ in range(2))))
    answer = command("evaluate", "run", "--data", "many")
    assert (answer.code, answer.out) == (1, "")
    assert "labels from 0 to 26 found, but there are 26 class names, of run" in answer.err


def test_export_keeps_names(command: Command, workplace: Path, data: Path, alphabet: Splits) -> None:
    for form in ("png", "idx"):
        command("data", "export", form, "--format", form, "--data", data / "letters").assert_went_well()
        train, test = load_fashion_mnist(workplace / form)
        assert train.class_names == test.class_names == ALPHABET
        expected = sideways(sideways(alphabet[0]))
        pairs = zip(map(bytes, expected.images), (expected.labels - 1).tolist(), strict=True)
        assert dict(zip(map(bytes, train.images), train.labels.tolist(), strict=True)) == dict(pairs)
    command("data", "export", "idx2", "--format", "idx", "--data", "idx", "--classes", ",".join(ALPHABET[::-1]))
    assert load_fashion_mnist(workplace / "idx2")[0].class_names == ALPHABET[::-1]


def test_names_that_fashion_has_are_the_users_word(command: Command, data: Path, workplace: Path) -> None:
    answer = command("data", "info", "--data", data / "digits", "--classes", "fashion", "--out", "pictures")
    answer.assert_went_well()
    assert "0 T-shirt/top" in answer.out
    shutil.rmtree(workplace / "pictures")
    command("data", "info", "--data", data / "three", "--classes", "fashion").assert_failed(
        1, "3 classes found (cross, ring, wave), but there are 10 class names, given: T-shirt/top"
    )


def test_parity_refuses_more_classes_than_its_networks_have(command: Command, data: Path) -> None:
    command("parity", "--data", data / "letters", "--epochs", 1, "--quiet").assert_failed(
        1, "26 classes found; parity compares networks of 10"
    )


def test_reproduction_on_other_data_says_that_it_is_not_comparable(
    command: Command, workplace: Path, data: Path
) -> None:
    command("reproduce", "--data", data / "three", "--epochs", 2, "--quiet").assert_went_well()
    report = (workplace / "reproduce" / "reproduce.md").read_text(encoding="utf-8")
    assert "Not comparable with the notebook: custom data, 2 epochs." in report
