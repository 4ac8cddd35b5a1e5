import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_helpers import hide
from run_helpers import CLASSES, contents, probabilities, read_idx, read_json
from safetensors.numpy import load_file

from fmnist_xp.cli.export import ModelFormat, ModelInput
from fmnist_xp.export import FORMATS, TAKES, from_onnx

Command = Callable[..., Any]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def onnx() -> Any:
    return pytest.importorskip("onnx", reason="onnx, the extra of that name, is not installed")


def test_the_names_are_those_of_the_library() -> None:
    assert [form.value for form in ModelFormat] == list(FORMATS)
    assert [takes.value for takes in ModelInput] == list(TAKES)


def test_a_model_and_its_card_are_written(
    command: Command, run_folder: Path, finished_run: Path, workplace: Path, onnx: Any
) -> None:
    answer = command("export", run_folder, "model.onnx")
    answer.assert_went_well()
    assert answer.lines == ["written to model.onnx, its card to model.onnx.md"]
    assert list(contents(workplace)) == ["model.onnx", "model.onnx.md"]
    assert contents(run_folder) == contents(finished_run)
    model = onnx.load(workplace / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert (facts["dataset"], facts["dataset_rows"]) == ("custom", "400 training, 200 test")
    assert float(facts["test_accuracy"]) == pytest.approx(read_json(run_folder / "result.json")["test_accuracy"])
    assert "# a-run\n" in (workplace / "model.onnx.md").read_text(encoding="utf-8")
    state = load_file(run_folder / "model.safetensors")
    for name, values in from_onnx(workplace / "model.onnx").state_dict().items():
        np.testing.assert_array_equal(values, state[name])


@pytest.mark.parametrize(("form", "name"), [("safetensors", "a.safetensors"), ("npz", "a.npz"), ("npz", "weights")])
def test_other_formats_go_by_the_suffix_or_the_option(
    command: Command, run_folder: Path, workplace: Path, form: str, name: str
) -> None:
    answer = command("export", run_folder, name, *(() if "." in name else ("--format", form)), "--no-card")
    answer.assert_went_well()
    assert answer.lines == [f"written to {name}"]
    assert list(contents(workplace)) == [name]
    path = workplace / name
    state = load_file(path) if form == "safetensors" else dict(np.load(path))
    own = load_file(run_folder / "model.safetensors")
    for number, place in enumerate((0, 2, 4), start=1):
        np.testing.assert_array_equal(state[f"{place}.weight"], own[f"dense{number}.weights"].T)
        np.testing.assert_array_equal(state[f"{place}.bias"], own[f"dense{number}.biases"][0])


@pytest.mark.parametrize(
    ("takes", "shape"), [("rows", ["n", 784]), ("floats", ["n", 784]), ("images", ["n", 28, 28])]
)
def test_what_an_onnx_model_takes(
    command: Command, run_folder: Path, workplace: Path, onnx: Any, takes: str, shape: list[Any]
) -> None:
    command("export", run_folder, "model", "--format", "onnx", "--input", takes, "--no-card").assert_went_well()
    (given,) = onnx.load(workplace / "model").graph.input
    assert given.name == takes
    assert [size.dim_param or size.dim_value for size in given.type.tensor_type.shape.dim] == shape


def test_a_hub_folder_in_two_commands(command: Command, run_folder: Path, workplace: Path) -> None:
    command("export", run_folder, "hub/model.npz", "--card", "hub/README.md").assert_went_well()
    command("export", run_folder, "hub/model.safetensors", "--no-card").assert_went_well()
    assert set(contents(workplace)) == {f"hub/{name}" for name in ("README.md", "model.npz", "model.safetensors")}
    assert (workplace / "hub" / "README.md").read_text(encoding="utf-8").startswith("---\nlicense: ")


def test_nothing_is_replaced_unless_told(command: Command, run_folder: Path, workplace: Path) -> None:
    command("export", run_folder, "model.npz").assert_went_well()
    made = contents(workplace)
    (workplace / "model.npz").write_text("mine")
    command("export", run_folder, "model.npz").assert_failed(1, "model.npz is there already", "--force")
    (workplace / "model.npz").unlink()
    (workplace / "model.npz.md").write_text("mine")
    command("export", run_folder, "model.npz").assert_failed(1, "model.npz.md is there already", "--force")
    assert contents(workplace) == {"model.npz.md": b"mine"}
    command("export", run_folder, "model.npz", "--force").assert_went_well()
    assert contents(workplace) == made  # one run has one export


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model.h5",), ("model.h5", ".onnx", "pytorch")),
        (("model.npz", "--format", "keras"), ("--format", "keras")),
        (("model.npz", "--input", "rows"), ("--input", "ONNX", "npz")),
        (("model.onnx", "--input", "words"), ("--input", "words")),
        (("model.npz", "--card", "a.md", "--no-card"), ("--card", "--no-card")),
        (("model.npz", "--card", "./model.npz"), ("model.npz", "card")),
        ((), ("FILE",)),
        (("",), ("FILE",)),
    ],
)
def test_wrong_usage_is_one_line(
    command: Command, run_folder: Path, workplace: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    command("export", run_folder, *arguments).assert_failed(2, *words)
    assert contents(workplace) == {}


def test_failures_are_one_line(command: Command, run_folder: Path, workplace: Path) -> None:
    command("export", "nowhere", "model.npz").assert_failed(1, "nowhere", "fmnist-xp train")
    command("export", run_folder, "model.npz", "--best").assert_failed(1, "model-best.safetensors", "--keep-best")
    own = run_folder / "model.safetensors"
    command("export", run_folder, own, "--force").assert_failed(1, str(own), "belongs to the run itself")
    assert contents(workplace) == {}
    os.mkfifo("pipe.npz")
    command("export", run_folder, "pipe.npz", "--force").assert_failed(1, "pipe.npz", "no regular file")
    command("export", run_folder, "model.npz", "--card", ".").assert_failed(1, "there already")
    own.write_bytes(b"")
    command("export", run_folder, "model.npz").assert_failed(1, str(own))
    assert list(workplace.iterdir()) == [workplace / "pipe.npz"]


def test_a_diverged_network_is_not_exported(command: Command, run_folder: Path, workplace: Path) -> None:
    from fmnist_xp import load

    network = load(run_folder / "model.safetensors")
    network.dense[1].weights[0, 0] = np.inf
    network.save(run_folder / "model.safetensors")
    answer = command("export", run_folder, "model.npz")
    answer.assert_failed(1, f"the model in {run_folder} cannot be exported", "layer 3 (Dense)", "not finite")
    assert contents(workplace) == {}


@pytest.mark.parametrize(("name", "package", "cure"), [
    ("model.onnx", "onnx", 'pip install "fmnist-xp[onnx]"'), ("model.pt", "torch", "pip install torch"),
])  # fmt: skip
def test_a_missing_package_is_named(
    command: Command, run_folder: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str,
    cure: str,
) -> None:  # fmt: skip
    hide(monkeypatch, package)
    command("export", run_folder, name).assert_failed(1, package, cure)
    assert contents(workplace) == {}


def test_the_best_epochs_weights(command: Command, idx_folder: Path, workplace: Path) -> None:
    options = ("--validation", 0.2, "--keep-best", "--learning-rate", 0.1, "--epochs", 60, "--data", idx_folder)
    command("train", "adam", *options, "--out", "run", "--device", "cpu", "--quiet")
    command("export", "run", "model.safetensors", "--best").assert_went_well()
    best, last = (load_file(f"run/{name}.safetensors")["dense1.weights"] for name in ("model-best", "model"))
    assert not np.array_equal(best, last)
    np.testing.assert_array_equal(load_file("model.safetensors")["0.weight"], best.T)
    card = Path("model.safetensors.md").read_text(encoding="utf-8")
    epoch = read_json(Path("run/result.json"))["best_epoch"]
    assert f"the weights of epoch {epoch}, the best by validation" in card
    assert "| validation accuracy |" in card
    assert "| training accuracy |" not in card


def test_test_images_may_have_moved_or_be_gone(
    command: Command, run_folder: Path, idx_folder: Path, workplace: Path, tmp_path: Path
) -> None:
    config = read_json(run_folder / "config.json")
    config["data"]["source"] = str(tmp_path / "gone")
    (run_folder / "config.json").write_text(json.dumps(config))
    answer = command("export", run_folder, "model.npz")
    answer.assert_failed(0, "not evaluated on its test images", str(tmp_path / "gone"))
    assert "no confusion matrix" in Path("model.npz.md").read_text(encoding="utf-8")
    moved = shutil.copytree(idx_folder, tmp_path / "moved")
    command("export", run_folder, "other.npz", "--data", moved).assert_went_well()
    assert "Confusion: test images" in Path("other.npz.md").read_text(encoding="utf-8")


def test_help_tells_the_two_exports_apart(command: Command) -> None:
    text = " ".join(command("--help").out.split())
    assert "export Write a run's model for ONNX, PyTorch or NumPy" in text
    assert "Write the data set as" in " ".join(command("data", "--help").out.split())


def test_the_page_runs(command: Command, run_folder: Path, workplace: Path, idx_folder: Path) -> None:
    """The commands of docs/export.md, then its code, block by block, with the probabilities that it computes."""
    for package in ("onnx", "onnxruntime", "torch"):
        pytest.importorskip(package, reason=f"{package}, which the page uses, is not installed")
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    shutil.copytree(run_folder, workplace / "runs" / "adam-cpu-s0")
    for line in page.split("```\n")[1].splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "fmnist-xp"
        command(*arguments).assert_went_well()
    images, _labels = read_idx(idx_folder, "t10k")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(blocks):
        exec(block, names)
        if number == 0:
            assert names["probabilities"].shape == (3, 10)
            names["images"] = images  # for the blocks that follow
        elif number < 3:
            expected = probabilities(run_folder / "model.safetensors", images)
            np.testing.assert_allclose(names["probabilities"], expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(names["network"].predict_proba(images), expected, atol=1e-5, rtol=0)
    found = names["mine"].predict_proba(images)
    session = names["onnxruntime"].InferenceSession("mine.onnx")
    np.testing.assert_allclose(session.run(None, {"images": images})[0], found, atol=1e-5, rtol=0)
