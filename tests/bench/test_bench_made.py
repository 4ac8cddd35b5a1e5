from pathlib import Path

import numpy as np
import pytest

from bench import made
from fmnist_xp.data import load_fashion_mnist, make_synthetic


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "DRAWN", 4)
    monkeypatch.setattr(made, "PIECE", 100)


def test_every_image_is_a_drawn_one_moved_by_up_to_two_pixels(tmp_path: Path) -> None:
    made.write_images(tmp_path, 1_050)
    train, test = load_fashion_mnist(tmp_path)
    drawn, _ = make_synthetic(4, 1)
    moved = {}
    for number, image in enumerate(drawn.images):
        for down in range(-2, 3):
            for right in range(-2, 3):
                copy = np.zeros((28, 28), np.uint8)
                for line in range(28):
                    for column in range(28):
                        if 0 <= line - down < 28 and 0 <= column - right < 28:
                            copy[line, column] = image[line - down, column - right]
                moved[copy.tobytes()] = number, down, right
    assert train.images.shape == (1_050, 28, 28)
    found = [moved[image.tobytes()] for image in train.images]
    assert set(found) == set(moved.values())
    assert [drawn.labels[number] for number, *_ in found] == train.labels.tolist()
    assert len(test) == made.TEST


def test_images_depend_on_their_number_alone_and_fewer_are_the_first_of_more(tmp_path: Path) -> None:
    for name, rows in (("first", 250), ("again", 250), ("more", 320)):
        (tmp_path / name).mkdir()
        made.write_images(tmp_path / name, rows)
    first, again, more = (load_fashion_mnist(tmp_path / name)[0] for name in ("first", "again", "more"))
    assert first.sha256 == again.sha256
    assert np.array_equal(more.images[:250], first.images)
    assert np.array_equal(more.labels[:250], first.labels)


def test_images_are_made_in_pieces() -> None:
    drawn, _ = make_synthetic(4, 1)
    assert [len(images) for images, _labels in made.shifted(drawn, 250)] == [100, 100, 50]
