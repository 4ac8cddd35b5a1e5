"""A network from an ONNX file: a chain of Gemm, Relu, Softmax and their like. Nothing in the file is executed."""

from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend
from fmnist_xp.data.pixels import HALF
from fmnist_xp.errors import RunError
from fmnist_xp.export.counterparts import (
    MAX_BYTES,
    ONNX,
    Linear,
    Step,
    counterpart_of,
    known,
    layer_of,
    needed,
    network_of,
    norm_of,
    onnx_package,
)
from fmnist_xp.files import check_file
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, Layer, LayerNorm
from fmnist_xp.nn.module import Counterpart

_NOTHING = ("Identity", "Dropout")
"""What changes no value outside of training."""
_NO_MATTER = ("Cast", "Flatten", "Reshape")
"""What may come before the first product, since rows are flat here, and of the network's dtype."""
_FLOATS = ("float16", "float32", "float64")


def from_onnx(path: str | Path, backend: Backend | str = "cpu") -> Sequential:
    """Return the network in an ONNX file, on `backend`, in float64 if its weights are, else in float32.

    The graph must be a chain from one input to one output of Gemm, or MatMul and Add, and of operators that a layer
    of this package has, with Identity and Dropout in between. Before the first product it may flatten, cast, and
    scale bytes as the exported graphs do, which `predict` does with bytes itself. A last Softmax becomes a part of
    the loss, and after a Sigmoid the loss is binary cross-entropy; else the outputs are taken for logits.

    Raises `RunError`, naming the node, where the file is missing, damaged or of another kind, or keeps its weights in
    other files; `FmnistXpError` where onnx is not installed.
    """
    path = Path(path)
    try:
        return network_of(_Chain(_read(path)).steps, backend)
    except ValueError as error:
        raise RunError(f"{path} is no network that can be taken over: {error!s:.600}") from error


def _read(path: Path) -> Any:
    """Return the model in a file that ONNX's own checker accepts."""
    onnx, protobuf = onnx_package(), needed("google.protobuf.message", "protobuf")
    try:
        check_file(path, MAX_BYTES)
        model = onnx.load_model_from_string(path.read_bytes())
        tensors = [*model.graph.initializer, *(a.t for n in model.graph.node for a in n.attribute if a.HasField("t"))]
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
            raise ValueError("its weights are in other files: save it with all in one")
        onnx.checker.check_model(model)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except protobuf.DecodeError as error:
        raise RunError(f"{path} is damaged or no ONNX file ({error!s:.200}): export it again") from error
    except onnx.checker.ValidationError as error:
        raise ValueError(f"ONNX's checker refuses it: {error!s:.400}") from error
    return model


class _Chain:
    """The steps that a graph computes one after the other; `ValueError` where it is anything else."""

    def __init__(self, model: Any) -> None:
        onnx, graph = onnx_package(), model.graph
        self.steps: list[Step] = []
        self._scaling: list[tuple[str, float]] = []
        self._to_array = onnx.numpy_helper.to_array
        self._attribute = onnx.helper.get_attribute_value
        opsets = [given.version for given in model.opset_import if given.domain in ("", "ai.onnx")]
        self._schema = partial(onnx.defs.get_schema, max_inclusive_version=max(opsets, default=1))
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._layers = {name: kind for name, kind in known(ONNX).items() if kind is not Dense}
        inputs = [given for given in graph.input if given.name not in self._constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ValueError(f"it has {len(inputs)} inputs and {len(graph.output)} outputs, and one of each is taken")
        value = inputs[0].name
        for number, node in enumerate(graph.node, start=1):
            place = f"node {number} ({node.op_type})"
            attributes = {attribute.name: self._attribute(attribute) for attribute in node.attribute}
            if node.op_type == "Constant":
                self._constants[node.output[0]] = attributes.get("value")
                continue
            if [name for name in node.input if name and name not in self._constants] != [value]:
                raise ValueError(f"{place} does not take the output of the node before alone: it is no chain")
            try:
                self._take(node, value, attributes)
            except (ValueError, TypeError) as error:  # TypeError: an attribute of an older Gemm
                raise ValueError(f"{place} {error}") from error
            value = node.output[0]
        if value != graph.output[0].name:
            raise ValueError("its output is not that of its last node")
        self._check_input(inputs[0].type.tensor_type, onnx.TensorProto.UINT8)

    def _check_input(self, given: Any, uint8: int) -> None:
        """Raise `ValueError` unless the network takes what the graph takes."""
        if not self.steps or not isinstance(first := self.steps[0], Linear):
            raise ValueError("it has no product")
        columns = [dimension.dim_value for dimension in given.shape.dim[1:]]
        if all(columns) and prod(columns) != len(first.weights):
            raise ValueError(
                f"it takes {' × '.join(map(str, columns))} numbers, its first product {len(first.weights)}"
            )
        kind, wanted = ("bytes", [("Sub", HALF), ("Div", HALF)]) if given.elem_type == uint8 else ("floats", [])
        if self._scaling != wanted:
            found, must = (
                ", ".join(f"{operator} {number:g}" for operator, number in scaling) or "nothing"
                for scaling in (self._scaling, wanted)
            )
            raise ValueError(f"it scales {kind} by {found}, and only by {must} can be taken over")

    def _take(self, node: Any, value: str, attributes: Mapping[str, Any]) -> None:
        """Add what a node does to the steps."""
        operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        if operator == "Gemm":
            self._gemm(node, value, **attributes)
        elif operator == "MatMul" and node.input[0] == value:
            weights = self._array(node.input[1], 2)
            self.steps.append(Linear(weights, np.zeros(weights.shape[1], weights.dtype)))
        elif operator == "Add" and self.steps and isinstance(before := self.steps[-1], Linear):
            (name,) = (name for name in node.input if name != value)
            self.steps[-1] = Linear(before.weights, before.biases + self._row(name, len(before.biases)))
        elif operator in _NOTHING or (not self.steps and operator in _NO_MATTER):
            pass
        elif self.steps and operator in self._layers:
            self.steps.append(self._layer(node, self._layers[operator], attributes))
        elif not self.steps and operator in ("Sub", "Div") and node.input[0] == value:
            if (number := self._array(node.input[1])).size != 1:
                raise ValueError(f"has {number.size} numbers, not one for all pixels")
            self._scaling.append((operator, float(number.item())))
        else:
            raise ValueError(
                f"cannot stand there: Gemm, MatMul, Add, {', '.join(self._layers)} can, and before the first product "
                f"{', '.join(_NO_MATTER)}, Sub and Div"
            )

    def _layer(self, node: Any, kind: type[Layer], given: Mapping[str, Any]) -> Layer:
        """Return the layer that a node is; what the layer does not know must be at its default."""
        described = self._schema(node.op_type).attributes.items()
        defaults = {name: self._attribute(one.default_value) for name, one in described if one.default_value.name}
        counterpart = counterpart_of(kind, ONNX) or Counterpart(node.op_type)
        if given.get("axis") == 1:  # the last, of two
            given = {**given, "axis": -1}
        unknown = [name for name, value in given.items() if value != defaults.get(name)]
        unknown = [name for name in unknown if name not in (*counterpart.arguments, *counterpart.fixed)]
        if unknown:
            raise ValueError(f"has {', '.join(unknown)} set, which {kind.__name__} here does not know")
        arguments = {name: _plain(value) for name, value in {**defaults, **given}.items()}
        if kind is not LayerNorm:
            return layer_of(kind, ONNX, arguments)
        gains = self._array(node.input[1])
        biases = self._row(node.input[2], gains.size) if len(node.input) > 2 and node.input[2] else None
        return norm_of(self._row(node.input[1], gains.size), biases, arguments["epsilon"])

    def _gemm(
        self, node: Any, value: str, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
    ) -> None:
        if transA or node.input[0] != value:
            raise ValueError("multiplies from the other side (transA, or weights first): only inputs · weights is")
        weights = self._array(node.input[1], 2)
        weights = weights.T if transB else weights
        biases = np.zeros(weights.shape[1], weights.dtype)
        if len(node.input) > 2 and node.input[2]:
            biases = biases + self._row(node.input[2], len(biases))
        # Exact where they are 1; in the weights' dtype elsewhere.
        scale = weights.dtype.type
        self.steps.append(Linear(weights * scale(alpha), biases * scale(beta)))

    def _array(self, name: str, ndim: int | None = None) -> NDArray[np.floating[Any]]:
        """Return a constant as floating-point numbers; float16 becomes float32."""
        constant = self._constants.get(name)
        if constant is None:
            raise ValueError(f"has no constant numbers in {name!r}")
        try:
            array: NDArray[Any] = self._to_array(constant)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"has {name!r:.80}, which is damaged: {error!s:.80}") from error
        if array.dtype.name not in _FLOATS or (ndim is not None and array.ndim != ndim):
            raise ValueError(f"has {name!r} of {array.dtype} and shape {array.shape}")
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def _row(self, name: str, columns: int) -> NDArray[np.floating[Any]]:
        """Return biases (columns,), which may be given as one number or as a row."""
        array = self._array(name)
        if array.shape not in ((), (1,), (1, 1), (columns,), (1, columns)):
            raise ValueError(f"has biases {name!r} of shape {array.shape} for {columns} outputs")
        return np.broadcast_to(array.reshape(-1), columns)


def _plain(attribute: Any) -> Any:
    """Return an attribute as Python has it: text, and of a number in float32 the shortest that is rounded to it."""
    if isinstance(attribute, float):
        return float(str(np.float32(attribute)))
    return attribute.decode() if isinstance(attribute, bytes) else attribute
