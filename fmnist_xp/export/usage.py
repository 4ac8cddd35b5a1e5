"""How an exported model is used: a few lines of Python for its card."""

from math import isqrt

from fmnist_xp.export.states import METADATA, torch_layers
from fmnist_xp.nn import Network

_ONNX = """\
An ONNX model. Its input `{takes}` is {given} {shape}, {scaling};
its output `probabilities` is {dtype} (n, {n_classes}), by label.

```python
import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({file!r})
pixels = np.zeros((1, {side}, {side}), np.uint8)  # yours, (n, {side}, {side})
(probabilities,) = session.run(None, {{"{takes}": {value}}})
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
print(classes[probabilities[0].argmax()], probabilities[0].max())
```
"""

_TORCH = """\
The state of a `torch.nn.Sequential` in {dtype}. It takes rows (n, {n_inputs}) of pixels that are scaled to
[−1, 1], and gives probabilities (n, {n_classes}) by label.

```python
{imports}

model = torch.nn.Sequential(
{layers}).to(torch.{dtype})
model.load_state_dict({state})
model.eval()
pixels = torch.zeros((1, {side}, {side}), dtype=torch.uint8)  # yours, (n, {side}, {side})
with torch.no_grad():
    probabilities = model((pixels.flatten(1).to(torch.{dtype}) - 127.5) / 127.5)
```
"""

_STATES = {
    "safetensors": ("import torch\nfrom safetensors.torch import load_file", "load_file({file!r})"),
    "npz": (
        "import numpy as np\nimport torch",
        f"{{{{name: torch.tensor(a) for name, a in np.load({{file!r}}).items() if name != {METADATA!r}}}}}",
    ),
    "pytorch": ("import torch", "torch.load({file!r}, weights_only=True)"),
}
"""What a format's state is read with: imports, and an expression."""


def usage(network: Network, file: str, form: str, takes: str) -> str:
    """Return what the model in `file` takes and gives, and code that computes probabilities with it."""
    n_inputs, dtype = network.n_inputs, network.parameters.dtype.name
    side = isqrt(n_inputs)
    words = {"file": file, "dtype": dtype, "side": side, "n_inputs": n_inputs, "n_classes": network.n_classes}
    if form == "onnx":
        rows = f"pixels.reshape(-1, {n_inputs})"
        value = {
            "images": "pixels",
            "rows": rows,
            "floats": f"({rows}.astype(np.{dtype}) - 127.5) / 127.5",
        }[takes]
        return _ONNX.format(
            **words,
            takes=takes,
            value=value,
            given=dtype if takes == "floats" else "uint8",
            shape=f"(n, {side}, {side})" if takes == "images" else f"(n, {n_inputs})",
            scaling="pixels that are scaled to [−1, 1]" if takes == "floats" else "pixels, which it scales itself",
        )
    imports, state = _STATES[form]
    layers = "".join(f"    torch.nn.{layer},\n" for layer in torch_layers(network))
    return _TORCH.format(**words, imports=imports, state=state.format(file=file), layers=layers)
