"""Networks as files for other libraries, and networks from there.

Weights have the names and shapes of a `torch.nn.Sequential`, but for ONNX, whose file is the whole computation.
"""

from fmnist_xp.export.files import FORMATS, format_of, save
from fmnist_xp.export.onnx_graph import TAKES
from fmnist_xp.export.onnx_reader import from_onnx
from fmnist_xp.export.torch_reader import from_torch

__all__ = ["FORMATS", "TAKES", "format_of", "from_onnx", "from_torch", "save"]
