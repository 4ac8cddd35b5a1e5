"""PNG files of 28 x 28 grey pixels, decoded by OpenCV many at a time.

In a file of 600 bytes the pixels are cheap and the calls are dear: OpenCV needs 12 microseconds for one such
file, half of them to set up and tear down a decoder. So the compressed scanlines of a few hundred plain
files are inflated and stacked, uncompressed, into one tall PNG, which OpenCV decodes in one call.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.opencv import opencv
from fmnist_xp.errors import DataError

SIDE = 28
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A scanline is one byte for its filter, then its pixels. A filter may look at the line above, which is all
# zero for the first line of an image: so a line of zeros goes between the images of a stack.
_LINE = 1 + SIDE
_LINES = SIDE * _LINE
_BLANK_LINE = bytes(_LINE)


def decode(files: Sequence[bytes], names: Sequence[str], out: NDArray[np.uint8]) -> None:
    """Decode PNG `files` into `out`, uint8 of shape (len(files), 28, 28).

    A file that is damaged, or is not a PNG of 28 x 28 pixels of 8-bit grey, is a DataError under its name.
    """
    lines = [_scanlines(file) for file in files]
    stack = _BLANK_LINE.join(line or bytes(_LINES) for line in lines) + _BLANK_LINE
    pixels = _imdecode(_wrap(len(files) * (SIDE + 1), zlib.compress(stack, 0)))
    if pixels is None:  # a filter that PNG does not have: let each file speak for itself
        lines = [None] * len(files)
    else:
        out[:] = pixels.reshape(-1, SIDE + 1, SIDE)[:, :SIDE]
    for index, line in enumerate(lines):
        if line is None:
            out[index] = _decode_one(files[index], names[index])


def encode(image: NDArray[np.uint8]) -> bytes:
    """Return `image`, uint8 of shape (28, 28), as the bytes of a PNG file."""
    return bytes(opencv().imencode(".png", image)[1])


def _scanlines(file: bytes) -> bytes | None:
    """Return the 28 filtered scanlines of a plain file; None where OpenCV has to look at the file itself.

    Plain is what image writers make of such an image: header, one block of data, end. The checksum inside
    the compressed data stands for the block's own.
    """
    if not (file.startswith(_HEAD) and file[37:41] == b"IDAT" and file.endswith(_TAIL)):
        return None
    try:
        lines = zlib.decompress(file[41:-16])
    except zlib.error:
        return None
    return lines if len(lines) == _LINES and file[33:37] == struct.pack(">I", len(file) - 57) else None


def _decode_one(file: bytes, name: str) -> NDArray[np.uint8]:
    """Decode one file, or raise DataError saying what is wrong with it."""
    if not file.startswith(_SIGNATURE):
        raise DataError(f"{name}: not a PNG image; replace the file or remove it")
    # OpenCV may return the upper half of a file that is cut short, so look before it does.
    image = _imdecode(file) if _is_whole(file) else None
    if image is None:
        raise DataError(f"{name}: the PNG image is damaged or cut short; copy the file again")
    if image.shape != (SIDE, SIDE) or image.dtype != np.uint8:
        height, width, *channels = image.shape
        found = f"{width} x {height} pixels, {channels[0] if channels else 1} channels, {image.dtype}"
        raise DataError(f"{name}: {found} found; 28 x 28 pixels of one channel of uint8 are needed")
    return image


def _is_whole(file: bytes) -> bool:
    """Return whether every block up to the end is there with the checksum it carries."""
    start = len(_SIGNATURE)
    while start + 12 <= len(file):
        (length,) = struct.unpack_from(">I", file, start)
        block, checksum = file[start + 4 : start + 8 + length], file[start + 8 + length : start + 12 + length]
        if checksum != struct.pack(">I", zlib.crc32(block)):
            return False
        if block == b"IEND":
            return True
        start += 12 + length
    return False


def _imdecode(file: bytes) -> NDArray[np.uint8] | None:
    cv2 = opencv()
    try:
        image: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return image


def _block(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _head(height: int) -> bytes:
    """Return signature and header of a PNG 28 pixels wide: 8 bits, grey, deflate, no interlacing."""
    return _SIGNATURE + _block(b"IHDR", struct.pack(">IIBBBBB", SIDE, height, 8, 0, 0, 0, 0))


_HEAD = _head(SIDE)
_TAIL = _block(b"IEND", b"")


def _wrap(height: int, data: bytes) -> bytes:
    return _head(height) + _block(b"IDAT", data) + _TAIL
