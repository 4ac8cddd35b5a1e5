"""Reading the files of a run without the package: JSON, CSV, IDX, safetensors, and a reference network."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors.numpy import load_file

RUN_FILES = {"config.json", "history.csv", "metrics.png", "model.safetensors", "result.json", "checkpoints", ".lock"}
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def parse_json(text: str) -> Any:
    """Parse strict JSON: NaN and Infinity, which Python would take, are errors."""

    def refuse(token: str) -> None:
        raise ValueError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of strict JSON that holds an object."""
    values = parse_json(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def read_history(path: Path) -> dict[str, list[float]]:
    """Return the columns of a history by name."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def read_idx(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, labels) of the split "train" or "t10k"."""
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 28, 28)
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read()[8:], np.uint8)
    return images, labels


def read_picture(path: Path) -> np.ndarray:
    """Return a picture, checked to be a PNG and not of one colour."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.std() > 1
    return picture


def probabilities(model: Path, images: np.ndarray) -> np.ndarray:
    """Compute the network in `model` on uint8 images in float64: Dense, ReLU, …, Dense, softmax."""
    state = {name: values.astype(np.float64) for name, values in load_file(model).items()}
    values = images.reshape(len(images), -1) / 127.5 - 1.0
    depth = len(state) // 2
    for number in range(1, depth + 1):
        values = values @ state[f"dense{number}.weights"] + state[f"dense{number}.biases"]
        if number < depth:
            values = np.maximum(values, 0)
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def reference_metrics(model: Path, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return (accuracy, mean data loss) of the network in `model`."""
    predicted = probabilities(model, images)
    true_class = predicted[np.arange(len(labels)), labels]
    return float(np.mean(predicted.argmax(axis=1) == labels)), float(-np.log(np.maximum(true_class, 1e-7)).mean())


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
