import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import fmnist_xp as fx
from fmnist_xp.errors import RunError
from fmnist_xp.export import from_torch, save
from fmnist_xp.export.states import torch_layers, torch_state
from fmnist_xp.parity.operations import registered_losses

LOSSES = {name: partial(kind, **arguments) for name, kind, arguments in registered_losses()}
NAMES = {
    "0.weight": (32, 784), "0.bias": (32,), "2.weight": (16, 32), "2.bias": (16,), "4.weight": (10, 16),
    "4.bias": (10,),
}  # fmt: skip


def written_out(torch: Any) -> Any:
    """Return the `torch.nn.Sequential` of the fixture `network`, with weights of its own."""
    nn = torch.nn
    return nn.Sequential(
        nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 10), nn.Softmax(dim=1)
    )


def test_names_and_shapes_are_pytorchs(network: fx.Sequential, torch: Any) -> None:
    state = torch_state(network)
    assert {name: values.shape for name, values in state.items()} == NAMES
    assert {name: tuple(values.shape) for name, values in written_out(torch).state_dict().items()} == NAMES
    for number, layer in zip((0, 2, 4), network.dense, strict=True):
        np.testing.assert_array_equal(state[f"{number}.weight"], layer.weights.T)
        np.testing.assert_array_equal(state[f"{number}.bias"], layer.biases[0])
    assert torch_layers(network) == [
        "Linear(784, 32)", "ReLU()", "Linear(32, 16)", "Tanh()", "Linear(16, 10)", "Softmax(dim=1)",
    ]  # fmt: skip


def read_back(torch: Any, path: Path) -> Any:
    """Return the state in a file, read as its users do."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file as load_tensors

        return load_tensors(path)
    if path.suffix == ".npz":
        arrays = np.load(path)
        return {name: torch.tensor(arrays[name]) for name in arrays.files if name != "metadata"}
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
def test_an_equal_module_computes_the_same(
    network: fx.Sequential, images: np.ndarray, torch: Any, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    save(network, path)
    module = written_out(torch)
    module.load_state_dict(read_back(torch, path), strict=True)
    with torch.no_grad():
        found = module((torch.tensor(images).flatten(1).float() - 127.5) / 127.5).numpy()
    np.testing.assert_allclose(found, network.predict_proba(images), atol=1e-5, rtol=0)
    assert np.ptp(found) > 0.5


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_way_back_has_the_same_bits(torch: Any, tmp_path: Path, suffix: str, dtype: str) -> None:
    layers = [fx.Dense(6, 5), fx.Tanh(), fx.Dense(5, 4), fx.Tanh(), fx.Dense(4, 3)]
    network = fx.Sequential(layers, seed=3, dtype=dtype)
    path = tmp_path / f"model{suffix}"
    save(network, path)
    again = from_torch(path, activation="tanh")
    assert again.dtype == dtype
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in network.layers]
    for name, values in network.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], values)
    first = path.read_bytes()
    save(again, path)
    assert path.read_bytes() == first


def test_facts_lie_beside_the_weights(network: fx.Sequential, tmp_path: Path) -> None:
    facts = {"classes": json.dumps(["a", "ü"]), "test_accuracy": "0.9"}
    save(network, tmp_path / "model.safetensors", facts=facts)
    save(network, tmp_path / "model.npz", facts=facts)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        found = json.loads(file.metadata()["metadata"])
    assert found == json.loads(str(np.load(tmp_path / "model.npz")["metadata"]))
    assert found == {**facts, "fmnist_xp_version": fx.__version__}


def hostile(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["model.safetensors", "model.npz", "model.pt"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02", bytes(1000)])
def test_a_damaged_file_is_one_line(torch: Any, tmp_path: Path, name: str, content: bytes) -> None:
    path = hostile(tmp_path, name, content)
    with pytest.raises(RunError, match=f"{name} is damaged"):
        from_torch(path, activation="relu")


def test_what_is_no_such_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read .*none.npz: No such file"):
        from_torch(tmp_path / "none.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(RunError, match=r"folder.npz: it is no file, but a folder"):
        from_torch(tmp_path / "folder.npz")
    with pytest.raises(RunError, match=r"none of .safetensors, .npz, .pt, .pth"):
        from_torch(hostile(tmp_path, "model.bin", b""))


def test_no_pickle_is_executed(torch: Any, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "was-here",)

    torch.save({"0.weight": Attack()}, tmp_path / "model.pt")
    np.savez(tmp_path / "model.npz", **{"0.weight": np.array([Attack()], object)})
    for name in ("model.pt", "model.npz"):
        with pytest.raises(RunError, match=f"{name} is damaged or"):
            from_torch(tmp_path / name)
    assert not (tmp_path / "was-here").exists()
    torch.load(tmp_path / "model.pt", weights_only=False)  # it would have been
    assert (tmp_path / "was-here").exists()


def test_sizes_are_bounded(tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "model.npz", **{"0.weight": np.zeros((1000, 1000), "float32")})
    assert (tmp_path / "model.npz").stat().st_size < 100_000
    monkeypatch.setattr("fmnist_xp.export.states.MAX_BYTES", 100_000)
    with pytest.raises(RunError, match=r"unpacked it has 4,000,\d+ bytes, and 100,000 are the most read"):
        from_torch(tmp_path / "model.npz")
    torch.save({"0.weight": torch.zeros(1000, 1000)}, tmp_path / "model.pt")
    with pytest.raises(RunError, match=r"has 4,00\d,\d+ bytes, and 100,000 are the most read"):
        from_torch(tmp_path / "model.pt")


def test_other_content_of_a_file_is_one_line(torch: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(RunError, match="holds a list, not a state"):
        from_torch(tmp_path / "list.pt")
    save_file({"0.weight": torch.zeros((3, 2), dtype=torch.bfloat16)}, tmp_path / "half.safetensors")
    with pytest.raises(RunError, match=r"half.safetensors is .*bfloat16"):
        from_torch(tmp_path / "half.safetensors")
    save(fx.Sequential([fx.Dense(3, 4), fx.ReLU(), fx.Dense(4, 2)]), tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"model.safetensors is no network .* activation must be one of"):
        from_torch(tmp_path / "model.safetensors")
    assert set(load_file(tmp_path / "model.safetensors")) == {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize("make_loss", LOSSES.values(), ids=LOSSES)
def test_module_has_what_the_loss_makes_of_the_output(torch: Any, make_loss: Callable[[], fx.Loss]) -> None:
    loss = make_loss()
    network = fx.Sequential([fx.Dense(6, 5), *([loss.ends_with()] if loss.ends_with else [])], loss, seed=1)
    network.parameters[...] *= 100
    module = torch.nn.Sequential(*(eval(f"torch.nn.{layer}", {"torch": torch}) for layer in torch_layers(network)))
    module.load_state_dict({name: torch.tensor(values) for name, values in torch_state(network).items()})
    X = np.random.default_rng(0).standard_normal((9, 6)).astype("float32")
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.tensor(X)).numpy(), network.predict_proba(X), atol=1e-5, rtol=0)
