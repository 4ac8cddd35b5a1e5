# ruff: noqa: PTH118, PTH208
"""The notebook's arithmetic in plain NumPy, and its reading loop, written as the notebook writes them: the baseline.

Weights are float64 and inputs float32, every step makes new arrays, the gradient of the images is computed and
thrown away, accuracy, data loss and regularization loss are computed in every epoch. Nothing here is tuned, and
nothing here uses the package.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class LayerDense:
    """output = inputs · weights + biases, with an L2 strength on both."""

    def __init__(self, weights: Array, biases: Array, l2: float = 0.0) -> None:
        self.weights = weights.astype(np.float64)
        self.biases = biases.astype(np.float64)
        self.weight_regularizer_l2 = l2
        self.bias_regularizer_l2 = l2

    def forward(self, inputs: Array) -> None:
        self.inputs = inputs
        self.output = np.dot(inputs, self.weights) + self.biases

    def backward(self, dvalues: Array) -> None:
        self.dweights = np.dot(self.inputs.T, dvalues)
        self.dbiases = np.sum(dvalues, axis=0, keepdims=True)
        if self.weight_regularizer_l2 > 0:
            self.dweights += 2 * self.weight_regularizer_l2 * self.weights
        if self.bias_regularizer_l2 > 0:
            self.dbiases += 2 * self.bias_regularizer_l2 * self.biases
        self.dinputs = np.dot(dvalues, self.weights.T)

    def regularization_loss(self) -> float:
        loss = 0.0
        if self.weight_regularizer_l2 > 0:
            loss += self.weight_regularizer_l2 * np.sum(self.weights * self.weights)
        if self.bias_regularizer_l2 > 0:
            loss += self.bias_regularizer_l2 * np.sum(self.biases * self.biases)
        return float(loss)


class ActivationReLU:
    """max(inputs, 0)."""

    def forward(self, inputs: Array) -> None:
        self.inputs = inputs
        self.output = np.maximum(0, inputs)

    def backward(self, dvalues: Array) -> None:
        self.dinputs = dvalues.copy()
        self.dinputs[self.inputs <= 0] = 0


class SoftmaxLossCategoricalCrossentropy:
    """Softmax joined with categorical cross-entropy."""

    def forward(self, inputs: Array, y_true: Array) -> float:
        exp_values = np.exp(inputs - np.max(inputs, axis=1, keepdims=True))
        self.output = exp_values / np.sum(exp_values, axis=1, keepdims=True)
        y_pred_clipped = np.clip(self.output, 1e-7, 1 - 1e-7)
        correct_confidences = y_pred_clipped[range(len(y_true)), y_true]
        return float(np.mean(-np.log(correct_confidences)))

    def backward(self, dvalues: Array, y_true: Array) -> None:
        samples = len(dvalues)
        self.dinputs = dvalues.copy()
        self.dinputs[range(samples), y_true] -= 1
        self.dinputs = self.dinputs / samples


class OptimizerSGD:
    """Gradient descent, with momentum where it is above 0."""

    def __init__(self, learning_rate: float, decay: float, momentum: float) -> None:
        self.learning_rate = learning_rate
        self.current_learning_rate = learning_rate
        self.decay = decay
        self.iterations = 0
        self.momentum = momentum

    def pre_update_params(self) -> None:
        if self.decay:
            self.current_learning_rate = self.learning_rate * (1.0 / (1.0 + self.decay * self.iterations))

    def update_params(self, layer: Any) -> None:
        if self.momentum:
            if not hasattr(layer, "weight_momentums"):
                layer.weight_momentums = np.zeros_like(layer.weights)
                layer.bias_momentums = np.zeros_like(layer.biases)
            weight_updates = self.momentum * layer.weight_momentums - self.current_learning_rate * layer.dweights
            layer.weight_momentums = weight_updates
            bias_updates = self.momentum * layer.bias_momentums - self.current_learning_rate * layer.dbiases
            layer.bias_momentums = bias_updates
        else:
            weight_updates = -self.current_learning_rate * layer.dweights
            bias_updates = -self.current_learning_rate * layer.dbiases
        layer.weights += weight_updates
        layer.biases += bias_updates

    def post_update_params(self) -> None:
        self.iterations += 1


class OptimizerAdam(OptimizerSGD):
    """Adam."""

    def __init__(self, learning_rate: float, decay: float) -> None:
        super().__init__(learning_rate, decay, 0.0)
        self.epsilon = 1e-7
        self.beta_1 = 0.9
        self.beta_2 = 0.999

    def update_params(self, layer: Any) -> None:
        if not hasattr(layer, "weight_cache"):
            layer.weight_momentums = np.zeros_like(layer.weights)
            layer.weight_cache = np.zeros_like(layer.weights)
            layer.bias_momentums = np.zeros_like(layer.biases)
            layer.bias_cache = np.zeros_like(layer.biases)
        layer.weight_momentums = self.beta_1 * layer.weight_momentums + (1 - self.beta_1) * layer.dweights
        layer.bias_momentums = self.beta_1 * layer.bias_momentums + (1 - self.beta_1) * layer.dbiases
        weight_momentums_corrected = layer.weight_momentums / (1 - self.beta_1 ** (self.iterations + 1))
        bias_momentums_corrected = layer.bias_momentums / (1 - self.beta_1 ** (self.iterations + 1))
        layer.weight_cache = self.beta_2 * layer.weight_cache + (1 - self.beta_2) * layer.dweights**2
        layer.bias_cache = self.beta_2 * layer.bias_cache + (1 - self.beta_2) * layer.dbiases**2
        weight_cache_corrected = layer.weight_cache / (1 - self.beta_2 ** (self.iterations + 1))
        bias_cache_corrected = layer.bias_cache / (1 - self.beta_2 ** (self.iterations + 1))
        layer.weights += (
            -self.current_learning_rate
            * weight_momentums_corrected
            / (np.sqrt(weight_cache_corrected) + self.epsilon)
        )
        layer.biases += (
            -self.current_learning_rate * bias_momentums_corrected / (np.sqrt(bias_cache_corrected) + self.epsilon)
        )


class NotebookNetwork:
    """Dense, ReLU, …, Dense, softmax: the notebook's cell, one epoch at a time.

    `state` has the weights and biases as `Network.state_dict` names them, dense1.weights, dense1.biases, …
    """

    def __init__(self, state: Mapping[str, Array], l2: float, optimizer: OptimizerSGD) -> None:
        count = len(state) // 2
        self.dense: Sequence[LayerDense] = [
            LayerDense(state[f"dense{i}.weights"], state[f"dense{i}.biases"], l2 if i == 1 else 0.0)
            for i in range(1, count + 1)
        ]
        self.activations = [ActivationReLU() for _ in range(count - 1)]
        self.loss_activation = SoftmaxLossCategoricalCrossentropy()
        self.optimizer = optimizer

    def epoch(self, X: Array, y: Array) -> tuple[float, float]:
        """Make one update from all rows; return (data loss + regularization loss, accuracy) before it."""
        output = X
        for dense, activation in zip(self.dense, self.activations, strict=False):
            dense.forward(output)
            activation.forward(dense.output)
            output = activation.output
        self.dense[-1].forward(output)
        data_loss = self.loss_activation.forward(self.dense[-1].output, y)
        regularization_loss = sum(layer.regularization_loss() for layer in self.dense)
        predictions = np.argmax(self.loss_activation.output, axis=1)
        accuracy = float(np.mean(predictions == y))

        self.loss_activation.backward(self.loss_activation.output, y)
        self.dense[-1].backward(self.loss_activation.dinputs)
        dinputs = self.dense[-1].dinputs
        for dense, activation in zip(self.dense[-2::-1], self.activations[::-1], strict=True):
            activation.backward(dinputs)
            dense.backward(activation.dinputs)
            dinputs = dense.dinputs

        self.optimizer.pre_update_params()
        for dense in self.dense:
            self.optimizer.update_params(dense)
        self.optimizer.post_update_params()
        return data_loss + regularization_loss, accuracy


def make_network(state: Mapping[str, Array], experiment: Mapping[str, Any]) -> NotebookNetwork:
    """Return the network of an experiment, of which the l2, the optimizer and what that needs are read by name."""
    rates = experiment["learning_rate"], experiment["decay"]
    adam = experiment["optimizer"] == "adam"
    optimizer = OptimizerAdam(*rates) if adam else OptimizerSGD(*rates, experiment["momentum"])
    return NotebookNetwork(state, experiment["l2"], optimizer)


def load_mnist_dataset(dataset: str, path: str) -> tuple[Array, Array]:
    """Return (images, labels) of one split, read one file after the other."""
    import cv2  # here, for the arithmetic is timed in processes that hold NumPy alone

    X, y = [], []
    for label in os.listdir(os.path.join(path, dataset)):
        for file in os.listdir(os.path.join(path, dataset, label)):
            image = cv2.imread(os.path.join(path, dataset, label, file), cv2.IMREAD_UNCHANGED)
            X.append(image)
            y.append(label)
    return np.array(X), np.array(y).astype("uint8")
