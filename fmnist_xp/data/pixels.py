"""The rows that a network takes, kept as the bytes of their images until they are needed."""

from math import prod
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fmnist_xp.arguments import whole_number
from fmnist_xp.data.dataset import Dataset

HALF = 127.5
"""Half of the range of a pixel."""
_CHUNK = 1000
"""Rows at a time: 3 MB of float32, which stay in the processor's cache between the steps of `scale_pixels`."""


def scale_pixels(xp: Any, output: Any, pixels: Any, half: Any) -> None:
    """Write (pixels - half) / half to `output`, without an array in between.

    `output` is floating point, `pixels` uint8 of the same shape, `half` is `HALF` as a scalar of the output's dtype.
    """
    output[...] = pixels  # first: NumPy casts inside a subtraction more slowly
    xp.subtract(output, half, out=output)
    xp.divide(output, half, out=output)


class Pixels:
    """Rows (n, d) of float32 in [-1, 1], as `preprocess` makes them, kept as the bytes that they come from.

    They take a quarter of the memory, and none where the images are mapped from a file. NumPy's functions take them
    as the float rows, which `numpy.asarray` makes. A row `X[i]` and cells `X[rows, columns]` are float32; rows taken
    by a slice, an index array or a mask are `Pixels` of the same images.
    """

    images: NDArray[np.uint8]
    """The bytes of all images, uint8 (m, d)."""
    order: NDArray[np.integer[Any]] | None
    """Which image each row is, (n,), or None where the rows are the images."""
    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, images: NDArray[np.uint8], order: ArrayLike | None = None) -> None:
        """Take `images`, uint8 (m, …), flattened to (m, d), and the `order` of the rows, whole numbers (n,), or None.

        The images are neither read nor copied, unless pixels of one image do not lie evenly in memory. TypeError for
        images of another dtype or an order that is not whole numbers, ValueError for fewer than 2 dimensions or an
        order of another number than 1, IndexError for an order that leads beyond the images.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise TypeError(f"images of dtype {images.dtype} given; bytes (uint8) are needed")
        if images.ndim < 2:
            raise ValueError(f"images of shape {images.shape} given; (n, 28, 28) or (n, d) is needed")
        self.images = images.reshape(len(images), prod(images.shape[1:]))
        self.order = None if order is None else _checked(np.asarray(order), len(images))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and pixels in each, (n, d)."""
        return len(self), self.images.shape[1]

    @property
    def size(self) -> int:
        """Number of pixels in all rows."""
        return prod(self.shape)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.images if self.order is None else self.order)

    def __repr__(self) -> str:
        """Return how many rows there are of how many pixels."""
        return f"<Pixels: {len(self)} rows of {self.shape[1]}>"

    def bytes(self, part: slice) -> NDArray[np.uint8]:
        """Return the bytes of these rows, in their order: uint8 (k, d), a view of the images where that is theirs."""
        return self.images[part] if self.order is None else self.images[self.order[part]]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the rows, float32 (n, d) or of another dtype; ValueError with copy=False."""
        if copy is False:
            raise ValueError("Pixels are no array until they are scaled: numpy.asarray makes one")
        rows = np.empty(self.shape, self.dtype)
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            scale_pixels(np, rows[part], self.bytes(part), np.float32(HALF))
        return rows if dtype is None else rows.astype(dtype, copy=False)

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, rows: slice | NDArray[Any] | list[int] | list[bool]) -> "Pixels": ...
    @overload
    def __getitem__(self, rows: Any) -> Any: ...
    def __getitem__(self, rows: Any) -> Any:
        """Return one row or cells as float32, several rows as `Pixels`; IndexError as NumPy raises it."""
        if isinstance(rows, tuple):
            return _scaled(self._cells(rows))
        if self.order is None and isinstance(rows, slice):
            return Pixels(self.images[rows])
        if self.order is None and isinstance(rows, int | np.integer):
            return _scaled(self.images[rows])
        order = (np.arange(len(self)) if self.order is None else self.order)[rows]
        return Pixels(self.images, order) if order.ndim == 1 else _scaled(self.images[order])

    def _cells(self, key: tuple[Any, ...]) -> Any:
        """Return the bytes that NumPy finds under `key` in the rows."""
        if self.order is None:
            return self.images[key]
        rows = key[0] if key else ...
        if isinstance(rows, slice):
            return self.bytes(rows)[:, *key[1:]]
        if rows is None or rows is ...:
            return self.bytes(slice(None))[key]
        return self.images[self.order[rows], *key[1:]]


def pixels(dataset: Dataset, shuffle_seed: int | None = None) -> tuple[Pixels, NDArray[np.uint8]]:
    """Return (X, y) of `preprocess` without making the rows: `Pixels` (n, 784) and labels, uint8 (n,).

    With a `shuffle_seed`, rows and labels are in the order of one permutation,
    `numpy.random.default_rng(shuffle_seed).permutation(n)`; without, they keep theirs. TypeError for anything but a
    `Dataset`, ValueError for a seed that is not an integer of at least 0.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset must be a Dataset, not {type(dataset).__name__}: Dataset(images, labels, name, source)"
        )
    if shuffle_seed is None:
        return Pixels(dataset.images), dataset.labels.copy()
    order = np.random.default_rng(whole_number("shuffle_seed", shuffle_seed, 0)).permutation(len(dataset))
    return Pixels(dataset.images, order), dataset.labels[order]


def _checked(order: NDArray[Any], n: int) -> NDArray[np.integer[Any]]:
    if order.dtype.kind not in "iu":
        raise TypeError(f"order of dtype {order.dtype} given; whole numbers are needed")
    if order.ndim != 1:
        raise ValueError(f"order of shape {order.shape} given; (n,) is needed")
    if order.size and (order.min() < -n or order.max() >= n):
        raise IndexError(f"order from {order.min()} to {order.max()} given, but there are {n} images")
    return order


def _scaled(values: Any) -> Any:
    """Return bytes of any shape, or one, as float32."""
    output = np.empty(np.shape(values), np.float32)
    scale_pixels(np, output, values, np.float32(HALF))
    return output[()]
