"""A network as an ONNX model: one graph from the bytes of images to probabilities."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp import __version__
from fmnist_xp.data.pixels import HALF
from fmnist_xp.export.counterparts import MAX_BYTES, ONNX, counterparts, onnx_package
from fmnist_xp.nn import Network

TAKES = ("images", "rows", "floats")
"""What a model may take, n of them, under this name: uint8 (n, 28, 28), uint8 (n, 784), or rows already scaled."""
IR_VERSIONS = {13: 7, 17: 8, 20: 9}
"""By the opset of the operators. Those of ONNX 1.8 (2020), which every onnxruntime from 1.6 on loads; of 1.12 (2022),
which has LayerNormalization; and of 1.15 (2023), which has Gelu."""
OUTPUT = "probabilities"


def onnx_model(network: Network, takes: str = "images", facts: Mapping[str, str] | None = None) -> Any:
    """Return `network` as an `onnx.ModelProto`, checked, with `facts` as its metadata.

    The graph's one input is one of `TAKES`, its output is "probabilities" (n, classes); n is free. Bytes are scaled
    in the graph as `data.pixels.scale_pixels` does. It computes in the dtype of the parameters, float32 or float64.
    Raises `ValueError` for a network without a counterpart in ONNX or too large for it, and for images that are no
    square; `FmnistXpError` where onnx is not installed.
    """
    onnx = onnx_package()
    helper, n_inputs, dtype = onnx.helper, network.n_inputs, np.dtype(network.parameters.dtype)
    if takes not in TAKES:
        raise ValueError(f"takes must be one of {', '.join(TAKES)}, got {takes!r}")
    if network.parameters.nbytes > MAX_BYTES - 2**20:
        raise ValueError(f"the weights have {network.parameters.nbytes:,} bytes, and an ONNX file holds 2 GiB")
    side = isqrt(n_inputs)
    if takes == "images" and side**2 != n_inputs:
        raise ValueError(f"{n_inputs} inputs are no square image: let the model take rows")

    number_type = helper.np_dtype_to_tensor_dtype(dtype)
    given = onnx.TensorProto.UINT8 if takes != "floats" else number_type
    calls: list[tuple[str, Mapping[str, NDArray[Any]], Mapping[str, Any]]] = []
    if takes == "images":
        calls.append(("Flatten", {}, {"axis": 1}))
    if takes != "floats":
        half = {"half": np.array(HALF, dtype)}
        calls += [("Cast", {}, {"to": number_type}), ("Sub", half, {}), ("Div", half, {})]
    pieces = counterparts(network, ONNX)
    calls += [(piece.name, piece.parameters, piece.arguments) for piece in pieces]
    needed = max(piece.opset for piece in pieces)
    opset = min(version for version in IR_VERSIONS if version >= needed)

    nodes, value = [], takes
    constants: dict[str, NDArray[Any]] = {}
    for number, (operator, named, attributes) in enumerate(calls, start=1):
        output = f"{operator.lower()}{number}" if number < len(calls) else OUTPUT
        nodes.append(helper.make_node(operator, [value, *named], [output], name=f"{operator}{number}", **attributes))
        constants |= named
        value = output
    graph = helper.make_graph(
        nodes,
        "fmnist_xp",
        [helper.make_tensor_value_info(takes, given, ["n", side, side] if takes == "images" else ["n", n_inputs])],
        [helper.make_tensor_value_info(OUTPUT, number_type, ["n", network.n_classes])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in constants.items()],
    )
    model = helper.make_model(
        graph,
        producer_name="fmnist-xp",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSIONS[opset],
    )
    helper.set_model_props(model, dict(facts or {}))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:  # a user's own operator
        raise ValueError(f"ONNX does not take this network's operators: {error}") from error
    return model
