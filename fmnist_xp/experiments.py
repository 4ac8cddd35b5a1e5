"""Experiments as data: the notebook's three, a quick one, and the best one.

Nothing is imported before a network or an optimizer is made: the command has the names at once.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fmnist_xp.arguments import one_of, real_number, whole_number
from fmnist_xp.machine import memory_bytes

if TYPE_CHECKING:
    from fmnist_xp.backend import Backend
    from fmnist_xp.model import Sequential
    from fmnist_xp.nn import Layer, Loss
    from fmnist_xp.optim import Optimizer
    from fmnist_xp.train.augmentation import Augmentation

N_INPUTS = 28 * 28
N_CLASSES = 10

OWN = ("learning_rate", "decay", "momentum")
"""Arguments of optimizers that are an experiment's own fields."""


@dataclass(frozen=True)
class Experiment:
    """An architecture, a loss, an optimizer and a number of epochs, in values that JSON has.

    `hidden` are the widths of the hidden layers, each of which is a Dense layer, layer normalisation with
    `layer_norm`, the `activation`, and dropout of the rate `dropout` where that is above 0. `l2` is the strength on
    the weights and biases of the first layer, the only one that the notebook regularizes. `activation`, `loss`,
    `optimizer` and `schedule["type"]` are registered names. `optimizer_options` are further arguments of the
    optimizer's class, the rest of `schedule` those of the schedule's; a schedule begins at `learning_rate`, and one
    that asks for a number of `updates` has the epochs. Images are mirrored at random with `mirror`, and moved by up
    to `shift` pixels.
    """

    name: str
    hidden: tuple[int, ...]
    optimizer: str
    learning_rate: float
    decay: float = 0.0
    momentum: float = 0.0
    l2: float = 5e-4
    epochs: int = 1100
    activation: str = "relu"
    initializer: str = "normal"
    layer_norm: bool = False
    dropout: float = 0.0
    loss: str = "softmax_categorical_crossentropy"
    label_smoothing: float = 0.0
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] | None = None
    mirror: bool = False
    shift: int = 0

    def check(self) -> None:
        """Raise `ValueError`, naming the field, for a value that it cannot have, before anything is made of it."""
        if not re.fullmatch(r"\w[\w.+-]{0,63}", self.name):  # folders are called by it
            raise ValueError(f"name must be up to 64 letters, digits, or any of . _ + -, got {self.name!r}")
        for width in self.hidden:
            whole_number("hidden", width, 1)
        whole_number("epochs", self.epochs, 1)
        whole_number("shift", self.shift, 0)
        real_number("l2", self.l2, 0)
        real_number("dropout", self.dropout, 0, 1)
        real_number("label_smoothing", self.label_smoothing, 0, 1)
        numbers = sum(inputs * neurons for inputs, neurons in pairwise((N_INPUTS, *self.hidden)))
        memory = memory_bytes() or 2**40
        if (needed := 8 * numbers) > memory:  # weights and their gradients, in float32; the last layer's are few
            widths = ",".join(map(str, self.hidden))
            raise ValueError(
                f"hidden {widths[:80]} takes {needed / 2**30:,.0f} GiB for weights and gradients alone, and this "
                f"machine has {memory / 2**30:,.0f}: choose narrower layers"
            )
        replace(self, hidden=(1,) * bool(self.hidden)).make_layers(seed=0)
        self.make_optimizer()
        self.make_augmentation(seed=0)

    def make_network(
        self, backend: "Backend", seed: int, dtype: str = "float32", classes: int = N_CLASSES
    ) -> "Sequential":
        """Return the network that tells so many classes apart, with its weights drawn from `seed`.

        Raises `ValueError` for a width, a strength or a name that no layer can have.
        """
        from fmnist_xp.model import Sequential

        return Sequential(
            self.make_layers(seed, classes), loss=self.make_loss(), backend=backend, seed=seed, dtype=dtype
        )

    def make_layers(self, seed: int, classes: int = N_CLASSES) -> "list[Layer]":
        """Return the layers; what they draw while they train comes from `seed`. Raises as `make_network` does."""
        from fmnist_xp.nn import Activation, Dense
        from fmnist_xp.registry import registered

        activations = registered(Activation)
        activation = activations[one_of("activation", self.activation, activations)]
        layers: list[Layer] = []
        widths = (N_INPUTS, *self.hidden)
        for number, (inputs, neurons) in enumerate(pairwise(widths)):
            l2 = 0.0 if number else self.l2
            layers.append(
                Dense(inputs, neurons, weight_regularizer_l2=l2, bias_regularizer_l2=l2, initializer=self.initializer)
            )
            if self.layer_norm:
                layers.append(_layer("layer_norm", neurons))
            layers.append(activation())
            if self.dropout:
                layers.append(_layer("dropout", self.dropout, seed=seed + number))
        layers.append(Dense(widths[-1], classes, initializer=self.initializer))
        ends_with = self.make_loss().ends_with
        return [*layers, ends_with()] if ends_with else layers

    def make_loss(self) -> "Loss":
        """Return a new loss; raise `ValueError` for one that is not there, or has no labels to smooth."""
        from fmnist_xp.nn import Loss
        from fmnist_xp.registry import arguments_of, registered

        kinds = registered(Loss)
        kind = kinds[one_of("loss", self.loss, kinds)]
        return kind(**self._taken(self.loss, arguments_of(kind), "label_smoothing"))

    def make_optimizer(self) -> "Optimizer":
        """Return a new optimizer; raise `ValueError` for hyperparameters that it cannot have."""
        from fmnist_xp.optim import Optimizer
        from fmnist_xp.registry import arguments_of, registered

        kinds = registered(Optimizer)  # type: ignore[type-abstract]
        kind = kinds[one_of("optimizer", self.optimizer, kinds)]
        known = arguments_of(kind)
        own = self._taken(self.optimizer, known, "decay", "momentum")
        for name in self.optimizer_options:
            one_of(f"an option of {self.optimizer}", name, [name for name in known if name not in OWN])
        return kind(learning_rate=self._rate(), **own, **self.optimizer_options)

    def make_augmentation(self, seed: int) -> "Augmentation | None":
        """Return what changes the images in every epoch, drawn from `seed`; None where nothing does."""
        from fmnist_xp.train.augmentation import Augmentation

        return Augmentation(self.mirror, self.shift, seed) if self.mirror or self.shift else None

    def _taken(self, kind: str, known: Collection[str], *names: str) -> dict[str, Any]:
        """Return the fields `names` that a class has among its arguments, `known`; the others must be 0."""
        for name in names:
            if name not in known and getattr(self, name):
                raise ValueError(f"{kind} has no {name.replace('_', ' ')}: leave it out")
        return {name: getattr(self, name) for name in names if name in known}

    def _rate(self) -> Any:
        """Return the learning rate, or the schedule that begins at it."""
        if self.schedule is None:
            return self.learning_rate
        from fmnist_xp.optim import Schedule, make_schedule
        from fmnist_xp.registry import arguments_of, registered

        kinds = registered(Schedule)  # type: ignore[type-abstract]
        kind = one_of("the type of a schedule", self.schedule.get("type"), kinds)
        known = arguments_of(kinds[kind])
        own = {"learning_rate": self.learning_rate, "updates": self.epochs}
        for name in self.schedule.keys() - {"type"}:
            one_of(f"an option of the schedule {kind}", name, [name for name in known if name not in own])
        return make_schedule({**self.schedule, **{name: own[name] for name in own if name in known}})

    def with_optimizer(self, optimizer: str) -> "Experiment":
        """Return the experiment with another optimizer, which begins with its own defaults; itself if it has it.

        Raises `ValueError` where there is none of that name.
        """
        from fmnist_xp.optim import Optimizer
        from fmnist_xp.registry import arguments_of, registered

        kinds = registered(Optimizer)  # type: ignore[type-abstract]
        kind = kinds[one_of("optimizer", optimizer, kinds)]
        if optimizer == self.optimizer:
            return self
        rate = arguments_of(kind)["learning_rate"].default
        return replace(self, optimizer=optimizer, learning_rate=rate, decay=0.0, momentum=0.0, optimizer_options={})


def _layer(name: str, *arguments: Any, **more: Any) -> "Layer":
    """Return a new layer of a registered name; `ValueError` where there is none."""
    from fmnist_xp.nn import Layer
    from fmnist_xp.registry import registered

    kinds = registered(Layer)
    return kinds[one_of("a layer", name, kinds)](*arguments, **more)


def _by_name(*experiments: Experiment) -> Mapping[str, Experiment]:
    return MappingProxyType({experiment.name: experiment for experiment in experiments})


NOTEBOOK_EXPERIMENTS = _by_name(
    Experiment("sgd", (128, 128), "sgd", learning_rate=1.0, decay=0.01),
    Experiment("momentum", (64, 64), "sgd", learning_rate=1.0, decay=0.01, momentum=0.5),
    Experiment("adam", (64, 64), "adam", learning_rate=0.02, decay=1e-5),
)
"""Those that the notebook has, with its figures to compare with."""

EXPERIMENTS = _by_name(
    *NOTEBOOK_EXPERIMENTS.values(),
    Experiment(
        "quick",
        (128, 64),
        "adam",
        learning_rate=0.01,
        l2=0.0,
        epochs=300,
        initializer="he_normal",
        optimizer_options={"clip_norm": 0.3},
        schedule={"type": "cosine", "warmup": 0.05},
    ),
    Experiment(
        "best",
        (512, 256),
        "adamw",
        learning_rate=0.01,
        l2=0.0,
        epochs=600,
        initializer="he_normal",
        dropout=0.1,
        label_smoothing=0.1,
        optimizer_options={"weight_decay": 0.3, "beta_2": 0.99, "clip_norm": 0.3, "ema": 0.98},
        schedule={"type": "cosine", "warmup": 0.033},
        mirror=True,
        shift=1,
    ),
)
"""All that the command has by name: the notebook's, one for a first look, and the most accurate."""
