from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmnist_xp as fx
from fmnist_xp.errors import RunError
from fmnist_xp.export import TAKES, from_onnx, save

pytestmark = pytest.mark.usefixtures("onnx")
GENERATOR = np.random.default_rng(0)
W1, W2 = (GENERATOR.standard_normal(shape).astype("float32") for shape in ((6, 5), (5, 3)))
B1, B2 = (GENERATOR.standard_normal(n).astype("float32") for n in (5, 3))
X = GENERATOR.standard_normal((40, 6)).astype("float32")
FLOATS = {"type": "FLOAT", "shape": ["n", 6]}
# (operator, inputs, attributes): each node's output is called v1, v2, …, and the input v0.
TAIL = [("Relu", ["v1"], {}), ("Gemm", ["v2", "W2", "B2"], {}), ("Softmax", ["v3"], {})]
CHAIN = [("Gemm", ["v0", "W1", "B1"], {}), *TAIL]
CONSTANTS = {"W1": W1, "W2": W2, "B1": B1, "B2": B2}


def write(
    onnx: Any,
    path: Path,
    nodes: list[Any],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 13,
    **given: Any,
) -> Path:
    """Write a graph, and return its path; `given` are the type and the shape of its input."""
    helper, given = onnx.helper, FLOATS | given
    made = [helper.make_node(op, inputs, [f"v{n}"], **more) for n, (op, inputs, more) in enumerate(nodes, start=1)]
    graph = helper.make_graph(
        made,
        "made",
        [helper.make_tensor_value_info("v0", getattr(onnx.TensorProto, given["type"]), given["shape"])],
        [helper.make_tensor_value_info(f"v{len(made)}", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, name) for name, v in (CONSTANTS | (constants or {})).items()],
    )
    graph.output[0].type.tensor_type.shape.SetInParent()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    path.write_bytes(model.SerializeToString())
    return path


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values.astype("float64") - values.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def expected(first: np.ndarray, biases: np.ndarray | float, X: np.ndarray = X) -> np.ndarray:
    return softmax(np.maximum(X @ first + biases, 0) @ W2 + B2)


@pytest.mark.parametrize("takes", TAKES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_was_exported_comes_back_with_the_same_bits(tmp_path: Path, takes: str, dtype: str) -> None:
    network = fx.Sequential([fx.Dense(9, 5), fx.ReLU(), fx.Dense(5, 4), fx.Tanh(), fx.Dense(4, 3)], dtype=dtype)
    path = tmp_path / "model.onnx"
    save(network, path, takes=takes)
    again = from_onnx(path)
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in network.layers]
    assert (again.dtype, type(again.loss)) == (dtype, type(network.loss))
    for name, values in network.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], values)
    first = path.read_bytes()
    save(again, path, takes=takes)
    assert path.read_bytes() == first


def test_after_a_sigmoid_the_loss_is_binary_crossentropy(tmp_path: Path) -> None:
    network = fx.Sequential([fx.Dense(9, 4), fx.Sigmoid()], "binary_crossentropy", seed=1)
    save(network, tmp_path / "model.onnx", takes="floats")
    again = from_onnx(tmp_path / "model.onnx")
    assert [type(layer) for layer in again.layers] == [fx.Dense, fx.Sigmoid]
    assert type(again.loss) is fx.BinaryCrossentropy
    rows = np.random.default_rng(0).standard_normal((5, 9)).astype("float32")
    np.testing.assert_array_equal(again.predict_proba(rows), network.predict_proba(rows))


GRAPHS: dict[str, tuple[list[Any], dict[str, np.ndarray], np.ndarray]] = {
    "a plain chain": (CHAIN, {}, expected(W1, B1)),
    "logits": (CHAIN[:-1], {}, expected(W1, B1)),
    "weights transposed": (
        [("Gemm", ["v0", "W1", "B1"], {"transB": 1}), *TAIL], {"W1": W1.T.copy()}, expected(W1, B1)
    ),
    "scaled products": (
        [("Gemm", ["v0", "W1", "B1"], {"alpha": 0.5, "beta": 2.0}), *TAIL], {}, expected(W1 / 2, B1 * 2)
    ),
    "no biases": ([("Gemm", ["v0", "W1"], {}), *TAIL], {}, expected(W1, 0)),
    "biases left empty": ([("Gemm", ["v0", "W1", ""], {}), *TAIL], {}, expected(W1, 0)),
    "one bias for all": ([("Gemm", ["v0", "W1", "B1"], {}), *TAIL], {"B1": np.float32([2])}, expected(W1, 2)),
    "a row of biases": ([("Gemm", ["v0", "W1", "B1"], {}), *TAIL], {"B1": B1[None]}, expected(W1, B1)),
    "softmax along the classes": ([*CHAIN[:-1], ("Softmax", ["v3"], {"axis": 1})], {}, expected(W1, B1)),
    "halves": (CHAIN, {"W1": W1.astype("float16")}, expected(W1.astype("float16").astype("float32"), B1)),
}  # fmt: skip


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_of_others(onnx: Any, tmp_path: Path, case: str) -> None:
    nodes, constants, probabilities = GRAPHS[case]
    network = from_onnx(write(onnx, tmp_path / "model.onnx", nodes, constants))
    assert [type(layer).__name__ for layer in network.layers] == ["Dense", "ReLU", "Dense"]
    np.testing.assert_allclose(network.predict_proba(X), probabilities, atol=1e-5, rtol=0)


def test_products_sums_and_what_does_nothing(onnx: Any, onnxruntime: Any, tmp_path: Path) -> None:
    """As Keras's exporters write them, on images, with the biases before or behind the sum's sign."""
    nodes = [
        ("Constant", [], {"value": onnx.numpy_helper.from_array(np.array([-1, 6]))}),
        ("Reshape", ["v0", "v1"], {}),
        ("MatMul", ["v2", "W1"], {}),
        ("Add", ["v3", "B1"], {}),
        ("Tanh", ["v4"], {}),
        ("Dropout", ["v5"], {}),
        ("Identity", ["v6"], {}),
        ("MatMul", ["v7", "W2"], {}),
        ("Add", ["B2", "v8"], {}),
        ("Softmax", ["v9"], {"axis": -1}),
    ]
    path = write(onnx, tmp_path / "model.onnx", nodes, shape=["n", 2, 3])
    network = from_onnx(path)
    assert [type(layer).__name__ for layer in network.layers] == ["Dense", "Tanh", "Dense"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"v0": X.reshape(-1, 2, 3)})
    np.testing.assert_allclose(network.predict_proba(X), found, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's older exporter, which needs no other package
def test_what_pytorch_exports(torch: Any, tmp_path: Path, images: np.ndarray) -> None:
    nn = torch.nn
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 9), nn.ReLU(), nn.Linear(9, 10), nn.Softmax(dim=1)).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        module, (torch.zeros(1, 28, 28),), str(path), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )
    network = from_onnx(path)
    with torch.no_grad():
        probabilities = module((torch.tensor(images).float() - 127.5) / 127.5).numpy()
    np.testing.assert_allclose(network.predict_proba(images), probabilities, atol=1e-5, rtol=0)


BYTES = {"type": "UINT8", "shape": ["n", 6]}
SCALED = [("Cast", ["v0"], {"to": 1}), ("Sub", ["v1", "A"], {}), ("Div", ["v2", "B"], {}), ("Gemm", ["v3", "W1"], {})]
HALF = {"A": np.float32(127.5), "B": np.float32(127.5)}


def test_bytes_scaled_as_here_are_taken_over(onnx: Any, tmp_path: Path) -> None:
    network = from_onnx(write(onnx, tmp_path / "model.onnx", SCALED, HALF, **BYTES))
    pixels = GENERATOR.integers(0, 256, (40, 6), dtype="uint8")
    scaled = (pixels.astype("float64") - 127.5) / 127.5
    np.testing.assert_allclose(network.predict_proba(pixels), softmax(scaled @ W1), atol=1e-5, rtol=0)


REFUSED: dict[str, tuple[list[Any], dict[str, np.ndarray], dict[str, Any], str]] = {
    "another operator": ([*CHAIN[:1], ("Sin", ["v1"], {})], {}, {}, r"node 2 \(Sin\) cannot stand there"),
    "another domain": ([("Gemm", ["v0", "W1"], {"domain": "mine"})], {}, {}, r"node 1 \(Gemm\) cannot stand there"),
    "an activation first": ([("Relu", ["v0"], {}), ("Gemm", ["v1", "W1"], {})], {}, {}, "cannot stand there"),
    "a shape changed later": ([*CHAIN[:1], ("Flatten", ["v1"], {})], {}, {}, r"node 2 \(Flatten\) cannot stand"),
    "a branch": ([*CHAIN[:2], ("Add", ["v1", "v2"], {})], {}, {}, r"node 3 \(Add\) does not take .*no chain"),
    "a step left out": ([*CHAIN[:2], ("Relu", ["v1"], {})], {}, {}, "no chain"),
    "inputs transposed": ([("Gemm", ["v0", "W1"], {"transA": 1})], {}, {}, "multiplies from the other side"),
    "weights first": ([("Gemm", ["W1", "v0"], {})], {}, {}, "multiplies from the other side"),
    "weights first in MatMul": ([("MatMul", ["W1", "v0"], {})], {}, {}, r"\(MatMul\) cannot stand there"),
    "softmax along the rows": ([*CHAIN[:1], ("Softmax", ["v1"], {"axis": 0})], {}, {}, "has axis set, which Softmax"),
    "no product": ([("Cast", ["v0"], {"to": 1})], {}, {}, "it has no product"),
    "whole numbers": ([("Gemm", ["v0", "W1"], {})], {"W1": np.ones((6, 5), int)}, {}, "'W1' of int64 and shape"),
    "weights of one dimension": ([("Gemm", ["v0", "W1"], {})], {"W1": B1}, {}, r"'W1' of float32 and shape \(5,\)"),
    "biases by rows": ([("Gemm", ["v0", "W1", "B1"], {})], {"B1": np.ones((5, 1), "float32")}, {}, r"shape \(5, 1\)"),
    "widths": ([*CHAIN[:2], ("Gemm", ["v2", "W1"], {})], {}, {}, "dense1 has 5 neurons, but dense2 takes 6"),
    "other columns": (CHAIN, {}, {"shape": ["n", 2, 4]}, "it takes 2 × 4 numbers, its first product 6"),
    "bytes unscaled": ([SCALED[0], ("Gemm", ["v1", "W1"], {})], {}, BYTES, "bytes by nothing, and only by Sub"),
    "another scale": (SCALED, {"A": np.float32(0), "B": np.float32(255)}, BYTES, "by Sub 0, Div 255, and only by"),
    "floats scaled": (SCALED, HALF, {}, "scales floats by Sub 127.5, Div 127.5, and only by nothing"),
    "a scale per pixel": (SCALED, {**HALF, "B": np.ones(6, "float32")}, BYTES, "has 6 numbers, not one for all"),
    "a scale from the rows": (
        [("Sub", ["W1", "v0"], {}), ("Gemm", ["v1", "W1"], {})], {}, {}, r"node 1 \(Sub\) cannot stand there"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_over_is_named(onnx: Any, tmp_path: Path, case: str) -> None:
    nodes, constants, given, message = REFUSED[case]
    path = write(onnx, tmp_path / "model.onnx", nodes, constants, **given)
    if case == "another domain":
        model = onnx.load(path)
        model.opset_import.append(onnx.helper.make_opsetid("mine", 1))
        onnx.save(model, path)
    with pytest.raises(RunError, match=f"model.onnx is no network that can be taken over: .*{message}"):
        from_onnx(path)


def test_other_graphs_are_refused(onnx: Any, tmp_path: Path) -> None:
    path = write(onnx, tmp_path / "model.onnx", CHAIN)
    model = onnx.load(path)
    model.graph.output[0].name = "v2"
    onnx.save(model, path)
    with pytest.raises(RunError, match="its output is not that of its last node"):
        from_onnx(path)
    model.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))
    onnx.save(model, path)
    with pytest.raises(RunError, match="it has 2 inputs and 1 outputs"):
        from_onnx(path)
    write(onnx, path, [("Gemm", ["v0", "W1", "B1"], {"broadcast": 1})], opset=6)
    with pytest.raises(RunError, match=r"node 1 \(Gemm\) .*broadcast"):
        from_onnx(path)


def test_damaged_files_are_one_line(onnx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    for content, message in (
        (b"", "checker refuses it"),
        (b"\xff" * 50, "damaged or no ONNX file"),
        (b"PK", "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(RunError, match=message):
            from_onnx(path)
    with pytest.raises(RunError, match=r"cannot read .*none.onnx: No such file"):
        from_onnx(tmp_path / "none.onnx")
    with pytest.raises(RunError, match=r"it is no file, but a folder"):
        from_onnx(tmp_path)
    for change in ({"data_type": 99}, {"dims": [2**40, 2]}, {"dims": [-1]}, {"raw_data": b"\0"}):
        model = onnx.load(write(onnx, path, CHAIN))
        for name, value in change.items():
            if name == "dims":
                del model.graph.initializer[0].dims[:]
                model.graph.initializer[0].dims.extend(value)
            else:
                setattr(model.graph.initializer[0], name, value)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(RunError, match=r"model\.onnx is no network .*W1"):
            from_onnx(path)
    monkeypatch.setattr("fmnist_xp.export.onnx_reader.MAX_BYTES", 100)
    with pytest.raises(RunError, match="bytes, and 100 are the most read"):
        from_onnx(path)


def test_weights_in_other_files_are_not_read(onnx: Any, tmp_path: Path) -> None:
    path = write(onnx, tmp_path / "model.onnx", CHAIN)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    assert (tmp_path / "weights").stat().st_size > 0
    with pytest.raises(RunError, match="its weights are in other files"):
        from_onnx(path)
