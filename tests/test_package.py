import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmnist_xp as fx

ROOT = Path(__file__).parents[1]
PACKAGE = Path(fx.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# The public API as it was specified; what each line promises is checked below.
AS_WRITTEN = """
import fmnist_xp as fx

backend = fx.get_backend("cpu")
train, test = fx.load_fashion_mnist()
X, y = fx.preprocess(train, shuffle_seed=0)
X_test, y_test = fx.preprocess(test)
network = fx.Sequential(
    [fx.Dense(784, 128, weight_regularizer_l2=5e-4, bias_regularizer_l2=5e-4), fx.ReLU(),
     fx.Dense(128, 128), fx.ReLU(), fx.Dense(128, 10)],
    loss=fx.SoftmaxCategoricalCrossentropy(), backend=backend, seed=0, dtype="float32")
history = network.fit(X, y, epochs=1100, optimizer=fx.SGD(learning_rate=1.0, decay=0.01), log_every=10)
history.accuracy, history.loss, history.learning_rate, history.regularization_loss, history.epoch
metrics = network.evaluate(X_test, y_test)
probabilities = network.predict_proba(X_test)
weights = network.state_dict()
network.load_state_dict(weights)
network.save("model.safetensors"); network = fx.load("model.safetensors", backend=backend)
"""


def run_as_written(text: str) -> dict[str, Any]:
    """Run the lines, with fewer epochs than 1,100, and return the names that they define."""
    assert "epochs=1100" in text
    names: dict[str, Any] = {}
    exec(text.replace("epochs=1100", "epochs=25"), names)
    return names


@pytest.fixture
def small_images(workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_XP_DATA", str(idx_folder))


@pytest.mark.usefixtures("small_images")
def test_public_api_runs_as_written(capsys: pytest.CaptureFixture[str], workplace: Path) -> None:
    names = run_as_written(AS_WRITTEN)
    X, y, X_test, y_test, train = (names[name] for name in ("X", "y", "X_test", "y_test", "train"))
    assert (train.images.dtype, train.images.shape, train.labels.dtype, train.labels.shape) == (
        np.uint8, (400, 28, 28), np.uint8, (400,),
    )  # fmt: skip
    assert (X.dtype, X.shape, X.min(), X.max()) == (np.float32, (400, 784), -1, 1)
    assert not np.array_equal(y, train.labels)
    assert sorted(y) == sorted(train.labels)
    np.testing.assert_array_equal(y_test, names["test"].labels)

    history = names["history"]
    assert history.epoch == [0, 10, 20]
    for column in (history.accuracy, history.loss, history.learning_rate, history.regularization_loss):
        assert [type(value) for value in column] == [float] * 3
    assert history.learning_rate == pytest.approx([1.0, 1 / 1.09, 1 / 1.19])
    assert capsys.readouterr().out.count("epoch: ") == 3

    probabilities, metrics = names["probabilities"], names["metrics"]
    assert isinstance(probabilities, np.ndarray)
    assert probabilities.shape == (200, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert metrics.accuracy == pytest.approx(np.mean(probabilities.argmax(axis=1) == y_test))
    assert metrics.loss == pytest.approx(-np.log(probabilities[np.arange(200), y_test]).mean(), rel=1e-4)

    weights = names["weights"]
    assert {name: values.shape for name, values in weights.items()} == {
        "dense1.weights": (784, 128), "dense1.biases": (1, 128), "dense2.weights": (128, 128),
        "dense2.biases": (1, 128), "dense3.weights": (128, 10), "dense3.biases": (1, 10),
    }  # fmt: skip
    assert all(type(values) is np.ndarray for values in weights.values())
    np.testing.assert_array_equal(names["network"].predict_proba(X_test), probabilities)
    assert (workplace / "model.safetensors").is_file()


@pytest.mark.usefixtures("small_images")
def test_the_readmes_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 1
    for block in blocks:
        names = run_as_written(block)
    assert names["probabilities"].shape == (200, 10)
    assert "epoch: 20, acc: " in capsys.readouterr().out


PARAMETERS = {
    "get_backend": ("device",),
    "load_fashion_mnist": ("source",),
    "preprocess": ("dataset", "shuffle_seed"),
    "pixels": ("dataset", "shuffle_seed"),
    "Pixels": ("images", "order"),
    "load": ("path", "backend"),
    "Sequential": ("layers", "loss", "backend", "seed", "dtype"),
    "Sequential.fit": ("self", "X", "y", "epochs", "optimizer", "log_every", "callbacks"),
    "Sequential.evaluate": ("self", "X", "y"),
    "Sequential.predict_proba": ("self", "X"),
    "Sequential.state_dict": ("self",),
    "Sequential.load_state_dict": ("self", "state"),
    "Sequential.save": ("self", "path"),
    "Dense": (
        "n_inputs", "n_neurons", "weight_regularizer_l1", "weight_regularizer_l2", "bias_regularizer_l1",
        "bias_regularizer_l2",
    ),
    "Dense.forward": ("self", "inputs"),
    "Dense.backward": ("self", "dvalues"),
    "CategoricalCrossentropy.calculate": ("self", "predictions", "labels"),
    "CategoricalCrossentropy.regularization_loss": ("self", "layers"),
    "CategoricalCrossentropy.backward": ("self", "dvalues", "labels"),
    "SGD": ("learning_rate", "decay", "momentum"),
    "Adam": ("learning_rate", "decay", "beta_1", "beta_2", "epsilon"),
    "SGD.pre_update_params": ("self",),
    "SGD.update_params": ("self",),
    "SGD.post_update_params": ("self",),
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_promised(name: str) -> None:
    """These come first, in this order; more may follow."""
    found: Any = fx
    for part in name.split("."):
        found = getattr(found, part)
    parameters = tuple(inspect.signature(found).parameters)
    assert parameters[: len(PARAMETERS[name])] == PARAMETERS[name]


def test_defaults_are_the_notebooks() -> None:
    defaults = {
        name: {key: p.default for key, p in inspect.signature(getattr(fx, name)).parameters.items()}
        for name in ("SGD", "Adam", "preprocess", "load_fashion_mnist", "get_backend")
    }
    assert defaults["SGD"]["momentum"] == 0.0
    assert [defaults["Adam"][key] for key in ("beta_1", "beta_2", "epsilon")] == [0.9, 0.999, 1e-7]
    assert defaults["preprocess"]["shuffle_seed"] is None
    assert defaults["load_fashion_mnist"]["source"] == "auto"
    assert defaults["get_backend"]["device"] == "auto"


def test_everything_promised_is_public() -> None:
    promised = {name.split(".")[0] for name in PARAMETERS} | {
        "ReLU", "Softmax", "SoftmaxCategoricalCrossentropy", "Dataset", "Metrics", "History",
    }  # fmt: skip
    assert promised <= set(fx.__all__)
    assert all(hasattr(fx, name) for name in fx.__all__)
    for name in fx.__all__:
        assert inspect.getdoc(getattr(fx, name)), name


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()


def loaded(code: str) -> set[str]:
    """Return the modules that a new Python process has loaded after `code`."""
    answer = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(answer.stdout.split())


def test_import_is_light() -> None:
    assert "numpy" not in loaded("import fmnist_xp")
    modules = loaded("from fmnist_xp import Sequential")
    assert "numpy" in modules
    assert not modules & {"cv2", "matplotlib", "cupy", "pooch", "typer", "requests"}


def test_help_is_light() -> None:
    modules = loaded("import fmnist_xp.cli.app")
    assert "typer" in modules
    assert not modules & {"cv2", "matplotlib", "cupy", "pooch", "requests"}


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere, relative ones with their dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def named(modules: set[str], name: str) -> bool:
    return any(module.split(".")[0] == name for module in modules)


def test_cupy_is_imported_in_one_file() -> None:
    assert [path.name for path in MODULES if named(imports(path), "cupy")] == ["cuda.py"]


def test_formulas_are_written_against_xp() -> None:
    formulas = [*(PACKAGE / "nn").glob("*.py"), *(PACKAGE / "optim").glob("*.py")]
    assert len(formulas) > 4
    for path in formulas:
        assert not named(imports(path), "numpy"), path


# For each folder, the modules that are on a higher level in docs/architecture.md, which it must not use.
HIGHER = {
    "nn": "parity report runs cli train experiments evaluation export model optim",
    "optim": "parity report runs cli train experiments evaluation export model",
    "data": "parity report runs cli train experiments evaluation export model optim nn backend",
    "train": "parity report runs cli experiments evaluation export model",
    "report": "parity runs cli evaluation reproduce reporting export",
    "export": "parity cli reproduce reporting",
    "parity": "cli reproduce evaluation",
}


@pytest.mark.parametrize("room", HIGHER)
def test_rooms_use_only_lower_levels(room: str) -> None:
    files = list((PACKAGE / room).glob("*.py"))
    assert files
    for path in files:
        assert not [m for m in imports(path) if m.startswith(tuple(f"fmnist_xp.{up}" for up in HIGHER[room].split()))]


def tracked() -> list[Path]:
    if not shutil.which("git"):
        pytest.skip("git, which lists the files, is not installed")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    if not files:
        pytest.skip("not a clone of the repository")
    return [path for path in files if path.is_file()]


def mentions(pattern: str) -> list[str]:
    """Return "file:line: text" for each matching line of the tracked text files, except this one."""
    found = []
    for path in tracked():
        if path == Path(__file__) or path.suffix in {".png", ".safetensors", ".gz"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    return found


def test_no_import_is_relative() -> None:
    files = [path for path in tracked() if path.suffix == ".py"]
    assert files
    assert not [path for path in files if any(module.startswith(".") for module in imports(path))]


def test_no_file_refers_outside_the_repository() -> None:
    """Except for the check in .ci, which looks for the images on its own machine."""
    found = [
        line for line in mentions(r"\.\./shared|(?<![\w.])/(work|home|root|Users)/") if not line.startswith(".ci/")
    ]
    assert not found


def test_no_file_names_a_package_index() -> None:
    assert not mentions(r"index-url|pythonhosted|pypi\.org/simple|find-links|download\.pytorch\.org")
