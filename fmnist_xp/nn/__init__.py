"""Layers, activations, losses and the network: forward and backward."""

from fmnist_xp.nn.activations import Activation, LeakyReLU, ReLU, Softmax, Tanh
from fmnist_xp.nn.dropout import Dropout
from fmnist_xp.nn.labels import class_indices
from fmnist_xp.nn.layers import Dense, Layer
from fmnist_xp.nn.loss import Loss
from fmnist_xp.nn.losses import CategoricalCrossentropy, SoftmaxCategoricalCrossentropy
from fmnist_xp.nn.network import Network
from fmnist_xp.nn.normalization import LayerNorm
from fmnist_xp.nn.sigmoids import GELU, Sigmoid
from fmnist_xp.nn.target_losses import BinaryCrossentropy, MeanSquaredError

__all__ = [
    "GELU",
    "Activation",
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Dense",
    "Dropout",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Loss",
    "MeanSquaredError",
    "Network",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "SoftmaxCategoricalCrossentropy",
    "Tanh",
    "class_indices",
]
