"""Fashion-MNIST, its synthetic stand-in and other data of its form: found, fetched, read, written and prepared."""

from fmnist_xp.data.classes import is_numbered, name_classes
from fmnist_xp.data.dataset import CLASS_NAMES, Dataset
from fmnist_xp.data.download import fetch
from fmnist_xp.data.fashion_mnist import load_fashion_mnist
from fmnist_xp.data.formats import FORMATS, export
from fmnist_xp.data.info import SplitInfo, describe
from fmnist_xp.data.named_images import named_images
from fmnist_xp.data.photographs import Photograph, longest_edge, prepare_photograph
from fmnist_xp.data.pixels import Pixels, pixels
from fmnist_xp.data.preprocess import preprocess
from fmnist_xp.data.published import is_published
from fmnist_xp.data.synthetic import make_synthetic

__all__ = [
    "CLASS_NAMES",
    "FORMATS",
    "Dataset",
    "Photograph",
    "Pixels",
    "SplitInfo",
    "describe",
    "export",
    "fetch",
    "is_numbered",
    "is_published",
    "load_fashion_mnist",
    "longest_edge",
    "make_synthetic",
    "name_classes",
    "named_images",
    "pixels",
    "prepare_photograph",
    "preprocess",
]
