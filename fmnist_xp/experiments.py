"""The notebook's three experiments as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from types import MappingProxyType

from fmnist_xp.backend import Backend
from fmnist_xp.data import CLASS_NAMES
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, Layer, ReLU
from fmnist_xp.optim import Optimizer
from fmnist_xp.registry import registered

N_INPUTS = 28 * 28


@dataclass(frozen=True)
class Experiment:
    """An architecture, an optimizer and a number of epochs.

    `hidden` are the widths of the hidden layers, `optimizer` is the name of a registered one, such as "sgd" (with
    `momentum`) or "adam", and `l2` the strength on the weights and biases of the first layer, the only one that the
    notebook regularizes.
    """

    name: str
    hidden: tuple[int, ...]
    optimizer: str
    learning_rate: float
    decay: float
    momentum: float = 0.0
    l2: float = 5e-4
    epochs: int = 1100

    def make_network(
        self, backend: Backend, seed: int, dtype: str = "float32", classes: int = len(CLASS_NAMES)
    ) -> Sequential:
        """Return the network that tells so many classes apart, with its weights drawn from `seed`.

        Raises `ValueError` for a width or a strength that no layer can have.
        """
        layers: list[Layer] = []
        widths = (N_INPUTS, *self.hidden)
        for number, (inputs, neurons) in enumerate(zip(widths, self.hidden, strict=False)):
            l2 = 0.0 if number else self.l2
            layers += [Dense(inputs, neurons, weight_regularizer_l2=l2, bias_regularizer_l2=l2), ReLU()]
        layers.append(Dense(widths[-1], classes))
        return Sequential(layers, backend=backend, seed=seed, dtype=dtype)

    def make_optimizer(self) -> Optimizer:
        """Return a new optimizer; raise `ValueError` for hyperparameters that it cannot have."""
        kinds = registered(Optimizer)  # type: ignore[type-abstract]
        if self.optimizer not in kinds:
            raise ValueError(f"optimizer must be {' or '.join(kinds)}, got {self.optimizer!r}")
        kind = kinds[self.optimizer]
        return kind(**{name: vars(self)[name] for name in signature(kind).parameters if name in vars(self)})


EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        experiment.name: experiment
        for experiment in (
            Experiment("sgd", (128, 128), "sgd", learning_rate=1.0, decay=0.01),
            Experiment("momentum", (64, 64), "sgd", learning_rate=1.0, decay=0.01, momentum=0.5),
            Experiment("adam", (64, 64), "adam", learning_rate=0.02, decay=1e-5),
        )
    }
)
