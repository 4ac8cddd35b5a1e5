"""What each class counts, as weights of its rows."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.arguments import real_number, whole_number
from fmnist_xp.ranks import Ranks

BALANCED = "balanced"


def checked_class_weight(class_weight: Any, classes: int) -> list[float] | str | None:
    """Return what each of so many classes counts, or `BALANCED` or None as given; raise `ValueError` for all else."""
    if class_weight is None or (isinstance(class_weight, str) and class_weight == BALANCED):
        return class_weight
    if isinstance(class_weight, str) or not isinstance(class_weight, Iterable):
        raise ValueError(
            f'class_weight must be "balanced", {{label: weight}} or a weight for each class, got {class_weight!r}'
        )
    weights = [1.0] * classes
    if isinstance(class_weight, Mapping):
        given = [(whole_number("a label in class_weight", label, 0), one) for label, one in class_weight.items()]
    else:
        given = list(enumerate(class_weight))
        if len(given) != classes:
            raise ValueError(f"class_weight must have a weight for each of {classes} classes, got {len(given)}")
    for label, weight in given:
        if label >= classes:
            raise ValueError(f"class_weight has a label {label}, and the labels are 0 to {classes - 1}")
        weights[label] = real_number(f"class_weight of class {label}", weight, 0)
    return weights


def class_weighted(
    class_weight: list[float] | str, labels: NDArray[np.integer], weights: NDArray[np.float64] | None, ranks: Ranks
) -> NDArray[np.float64]:
    """Return this rank's `weights` (rows,), by default 1, each times what `class_weight` says of its label's class.

    Balanced, a class of the K that there are counts Σ weights / (K · Σ weights of the class), over the rows of all
    ranks: without weights n / (K · count), so that all classes weigh the same. King & Zeng, *Logistic Regression in
    Rare Events Data*, Political Analysis 9 (2001). Raises `ValueError` for a product that is not finite.
    """
    own = np.ones(len(labels)) if weights is None else weights
    if isinstance(class_weight, str):
        # In one order on all ranks: the same bits on any number of them.
        sums = np.bincount(ranks.concatenated(labels), ranks.concatenated(own))
        there = sums > 0
        of_classes = np.divide(sums.sum(), there.sum() * sums, out=np.zeros_like(sums), where=there)
    else:
        of_classes = np.array(class_weight)
    with np.errstate(over="ignore"):
        product: NDArray[np.float64] = own * of_classes[labels]
    with ranks.together():
        if not np.isfinite(product).all():
            raise ValueError("sample_weight times class_weight is too large for a float")
    return product
