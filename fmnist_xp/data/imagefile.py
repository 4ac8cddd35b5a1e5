"""Image files, read within bounds and checked before OpenCV allocates whatever their headers promise.

PNG: W3C, Portable Network Graphics, section 5; JPEG: ITU-T T.81, annex B; WebP: RFC 9649; BMP: Microsoft's
BITMAPCOREHEADER and BITMAPINFOHEADER.
"""

import os
import re
import struct
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from fmnist_xp.errors import DataError
from fmnist_xp.files import other_kind

_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Non-blocking, so that opening a pipe returns at once."""

_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_IHDR = struct.Struct(">I4sIIBBBBBI")
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits per sample that each colour type may have."""
_IEND = bytes(4) + b"IEND" + crc32(b"IEND").to_bytes(4, "big")
_ORDER = re.compile(b"IHDR(PLTE)?(tRNS)?(IDAT)+IEND")
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""JPEG's markers of frame headers, which have the image's size."""
_DAMAGED = "not a whole image: damaged or cut short; copy it again"


class CheckedImage(NamedTuple):
    """An image's size in pixels, and the bytes to give to OpenCV."""

    width: int
    height: int
    file: bytes


def read_file(path: str, limit: int) -> tuple[bytes, os.stat_result]:
    """Return the bytes of a file, and its `stat` when it was read.

    DataError, naming it, for what cannot be read, is not a regular file (but a folder, a pipe, a device), or has
    more than `limit` bytes, none of which are read.
    """
    try:
        file = os.open(path, _FLAGS)
        try:
            state = os.fstat(file)
            if kind := other_kind(state.st_mode):
                raise DataError(f"{path}: {kind} found where an image file should be")
            if state.st_size > limit:
                raise DataError(f"{path}: {state.st_size:,} bytes found; an image file may have {limit:,} here")
            content = os.read(file, state.st_size)
            while len(content) < state.st_size and (more := os.read(file, state.st_size - len(content))):
                content += more
            return content, state
        finally:
            os.close(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def check_image(file: bytes) -> CheckedImage:
    """Check the bytes of a PNG, JPEG, WebP or BMP file, in time and memory proportional to their number.

    ValueError says why it is not such a file, or that it is damaged. In a PNG, every chunk must lie within the file,
    match its checksum and be in its place; chunks that affect no pixel are dropped from the result. The other formats
    carry no checksums: their header and their end are checked.
    """
    try:
        if file.startswith(_PNG):
            checked = _png(file)
        elif file.startswith(b"\xff\xd8\xff"):
            checked = _jpeg(file)
        elif file[:4] == b"RIFF" and file[8:12] == b"WEBP":
            checked = _webp(file)
        elif file.startswith(b"BM"):
            checked = _bmp(file)
        else:
            found = f"it begins with {file[:8]!r}" if file else "it is empty"
            raise ValueError(f"not an image in PNG, JPEG, WebP or BMP ({found})")
    except (struct.error, IndexError):  # a field would lie past the last byte
        raise ValueError(_DAMAGED) from None
    if checked.width < 1 or checked.height < 1:
        raise ValueError(f"an image of {checked.width} x {checked.height} pixels")
    return checked


def _png(file: bytes) -> CheckedImage:
    width, height, depth, colour = _png_header(file[8:33])
    if (  # the plain file that most are: one chunk of pixels between the header and the end
        colour != 3
        and file[37:41] == b"IDAT"
        and int.from_bytes(file[33:37], "big") == len(file) - 57
        and file[-16:] == crc32(file[37:-16]).to_bytes(4, "big") + _IEND
    ):
        return CheckedImage(width, height, file)
    view = memoryview(file)
    kept: list[bytes | memoryview] = [_PNG]
    kinds = []
    entries = 0  # of the palette
    start, kind = 8, b""
    while kind != b"IEND":
        length, kind = _CHUNK.unpack_from(file, start)
        end = start + 12 + length
        if end > len(file) or crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ValueError(_DAMAGED)
        if kind == b"PLTE":
            entries = length // 3 if length % 3 == 0 and length <= 3 << depth else 0
            needed = colour == 3
        elif kind == b"tRNS":
            # OpenCV ignores it in a grey image; an 8-bit sample is the second of two bytes.
            samples_fit = length == 6 and (depth == 16 or not any(file[start + 8 : start + 14 : 2]))
            needed = (colour == 2 and samples_fit) or (colour == 3 and length <= entries)
        else:
            needed = kind in (b"IHDR", b"IDAT", b"IEND")
            if not needed and kind[0] & 0x20 == 0:
                raise ValueError(f"a PNG made wrongly: its chunk {kind!r} is not in the standard")
        if needed:
            kinds.append(kind)
        if needed or (kind == b"eXIf" and file[start + 8 : start + 12] in (b"II*\0", b"MM\0*")):  # orientation
            kept.append(view[start:end])
        start = end
    if not _ORDER.fullmatch(b"".join(kinds)) or (colour == 3 and not entries):
        raise ValueError("a PNG made wrongly: its palette or the order of its chunks is not in the standard")
    return CheckedImage(width, height, b"".join(kept))


@lru_cache(maxsize=64)
def _png_header(chunk: bytes) -> tuple[int, int, int, int]:
    """Return width, height, depth and colour type from the chunk IHDR."""
    size, name, width, height, depth, colour, packing, filtering, interlacing, checksum = _IHDR.unpack(chunk)
    if (size, name, checksum) != (13, b"IHDR", crc32(chunk[4:21])):
        raise ValueError(_DAMAGED)
    if depth not in _DEPTHS.get(colour, ()) or packing or filtering or interlacing > 1:
        raise ValueError("a PNG made wrongly: its header is not in the standard")
    return width, height, depth, colour


def _jpeg(file: bytes) -> CheckedImage:
    width = height = 0
    at = 2
    while (marker := file[at + 1]) != 0xDA:  # where the pixels begin
        if file[at] != 0xFF:
            raise ValueError(_DAMAGED)
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", file, at + 5)
        (length,) = struct.unpack_from(">H", file, at + 2)
        at += 2 + length
    if file.rfind(b"\xff\xd9") < at:
        raise ValueError(_DAMAGED)
    return CheckedImage(width, height, file)


def _webp(file: bytes) -> CheckedImage:
    if int.from_bytes(file[4:8], "little") + 8 > len(file):
        raise ValueError(_DAMAGED)
    kind = file[12:16]
    if kind == b"VP8X":
        (numbers,) = struct.unpack_from("<Q", file[24:30] + b"\0\0")
        return CheckedImage((numbers & 0xFFFFFF) + 1, (numbers >> 24) + 1, file)
    if kind == b"VP8L":
        (numbers,) = struct.unpack_from("<I", file, 21)
        return CheckedImage((numbers & 0x3FFF) + 1, (numbers >> 14 & 0x3FFF) + 1, file)
    width, height = struct.unpack_from("<HH", file, 26)
    return CheckedImage(width & 0x3FFF, height & 0x3FFF, file)


def _bmp(file: bytes) -> CheckedImage:
    (header,) = struct.unpack_from("<I", file, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", file, 18)
    return CheckedImage(width, abs(height), file)
