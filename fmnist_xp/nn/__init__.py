"""Layers, activations, losses and the network: forward and backward."""

from fmnist_xp.nn.activations import Activation, ReLU, Softmax, Tanh
from fmnist_xp.nn.dropout import Dropout
from fmnist_xp.nn.labels import class_indices
from fmnist_xp.nn.layers import Dense, Layer
from fmnist_xp.nn.losses import CategoricalCrossentropy, SoftmaxCategoricalCrossentropy
from fmnist_xp.nn.network import Network

__all__ = [
    "Activation",
    "CategoricalCrossentropy",
    "Dense",
    "Dropout",
    "Layer",
    "Network",
    "ReLU",
    "Softmax",
    "SoftmaxCategoricalCrossentropy",
    "Tanh",
    "class_indices",
]
