"""Labels: class indices or one-hot rows in, class indices in range out."""

from fmnist_xp.backend import Array


def index_dtype(classes: int) -> str:
    """Return the smallest dtype that holds the indices of `classes` classes."""
    return next(f"uint{bits}" for bits in (8, 16, 32, 64) if classes <= 2**bits)


def class_indices(labels: Array, classes: int, name: str = "labels") -> Array:
    """Return `labels` as class indices (n,) of the `index_dtype` of so many classes.

    `labels`, an array of NumPy or CuPy, are class indices (n,) or (n, 1) of an integer dtype, or one-hot rows
    (n, classes). Raises `ValueError`, naming the argument, where they are neither, or out of range. Reads values of
    the device on the host.
    """
    given = labels
    if labels.ndim == 2 and labels.shape[1] == 1 != classes:
        labels = labels[:, 0]
    if labels.ndim == 2:
        if labels.shape[1] != classes or not ((labels == 0) | (labels == 1)).all() or (labels.sum(axis=1) != 1).any():
            raise ValueError(
                f"{name} of two dimensions must be one-hot rows (n, {classes}) or one column (n, 1), "
                f"got the shape {given.shape}"
            )
        labels = labels.argmax(axis=1)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be class indices (n,) of an integer dtype or one-hot rows (n, {classes}), "
            f"got the shape {given.shape} of dtype {given.dtype}"
        )
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high >= classes:
        raise ValueError(f"{name} must be from 0 to {classes - 1}, got {low} to {high}")
    return labels.astype(index_dtype(classes), copy=False)
