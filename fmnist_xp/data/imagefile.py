"""An image file, read within bounds and judged before OpenCV makes room for whatever its header promises.

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
"""A pipe is not waited for."""

_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_IHDR = struct.Struct(">I4sIIBBBBBI")
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits of a sample that each type of colour may have."""
_IEND = bytes(4) + b"IEND" + crc32(b"IEND").to_bytes(4, "big")
_ORDER = re.compile(b"IHDR(PLTE)?(tRNS)?(IDAT)+IEND")
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""JPEG's markers before a frame's header, where its size stands."""


class Judged(NamedTuple):
    """An image's size in pixels, and its file as OpenCV is to have it."""

    width: int
    height: int
    file: bytes


def read_file(path: str, limit: int) -> tuple[bytes, os.stat_result]:
    """Return the bytes of a file, and its state when it was read.

    DataError, naming it, for what cannot be read, is no file (a folder, a pipe, a device), or has more than `limit`
    bytes, of which none is read.
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


def judge(file: bytes) -> Judged:
    """Judge the bytes of a PNG, JPEG, WebP or BMP file, in time and memory that grow with their number alone.

    ValueError says in words why it is none, or that it is damaged. Every chunk of a PNG lies within the file, has the
    checksum it carries and stands where it belongs; those that change no pixel are left out of what is returned. Of
    the other forms, which carry no checksums, the header is looked at, and whether the end is there.
    """
    try:
        if file.startswith(_PNG):
            judged = _png(file)
        elif file.startswith(b"\xff\xd8\xff"):
            judged = _jpeg(file)
        elif file[:4] == b"RIFF" and file[8:12] == b"WEBP":
            judged = _webp(file)
        elif file.startswith(b"BM"):
            judged = _bmp(file)
        else:
            found = f"it begins with {file[:8]!r}" if file else "it is empty"
            raise ValueError(f"not an image in PNG, JPEG, WebP or BMP ({found})")
    except (struct.error, IndexError):  # a field would lie behind the last byte
        raise _damaged() from None
    if judged.width < 1 or judged.height < 1:
        raise ValueError(f"an image of {judged.width} x {judged.height} pixels")
    return judged


def _damaged() -> ValueError:
    return ValueError("not a whole image: damaged or cut short; copy it again")


def _png(file: bytes) -> Judged:
    width, height, depth, colour = _png_header(file[8:33])
    if (  # the plainest file, which most are: one chunk of pixels between the header and the end
        colour != 3
        and file[37:41] == b"IDAT"
        and int.from_bytes(file[33:37], "big") == len(file) - 57
        and file[-16:] == crc32(file[37:-16]).to_bytes(4, "big") + _IEND
    ):
        return Judged(width, height, file)
    view = memoryview(file)
    kept: list[bytes | memoryview] = [_PNG]
    kinds = []
    entries = 0  # of the palette
    start, kind = 8, b""
    while kind != b"IEND":
        length, kind = _CHUNK.unpack_from(file, start)
        end = start + 12 + length
        if end > len(file) or crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise _damaged()
        if kind == b"PLTE":
            entries = length // 3 if length % 3 == 0 and length <= 3 << depth else 0
            needed = colour == 3
        elif kind == b"tRNS":
            # OpenCV passes over it in a grey image; a sample of 8 bits is the second of two bytes.
            samples_fit = length == 6 and (depth == 16 or not any(file[start + 8 : start + 14 : 2]))
            needed = (colour == 2 and samples_fit) or (colour == 3 and length <= entries)
        elif kind in (b"IHDR", b"IDAT", b"IEND"):
            needed = True
        elif kind[0] & 0x20 == 0:
            raise ValueError(f"a PNG made wrongly: its chunk {kind!r} is not in the standard")
        else:
            needed = False
        if needed:
            kinds.append(kind)
        if needed or (kind == b"eXIf" and file[start + 8 : start + 12] in (b"II*\0", b"MM\0*")):  # how it is turned
            kept.append(view[start:end])
        start = end
    if not _ORDER.fullmatch(b"".join(kinds)) or (colour == 3 and not entries):
        raise ValueError("a PNG made wrongly: its palette or the order of its chunks is not in the standard")
    return Judged(width, height, b"".join(kept))


@lru_cache(maxsize=64)
def _png_header(chunk: bytes) -> tuple[int, int, int, int]:
    """Return width, height, depth and type of colour from the chunk IHDR."""
    size, name, width, height, depth, colour, packing, filtering, interlacing, checksum = _IHDR.unpack(chunk)
    if (size, name, checksum) != (13, b"IHDR", crc32(chunk[4:21])):
        raise _damaged()
    if depth not in _DEPTHS.get(colour, ()) or packing or filtering or interlacing > 1:
        raise ValueError("a PNG made wrongly: its header is not in the standard")
    return width, height, depth, colour


def _jpeg(file: bytes) -> Judged:
    width = height = 0
    at = 2
    while (marker := file[at + 1]) != 0xDA:  # where the pixels begin
        if file[at] != 0xFF:
            raise _damaged()
        if marker == 0xFF:  # one more to fill up
            at += 1
            continue
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", file, at + 5)
        (length,) = struct.unpack_from(">H", file, at + 2)
        at += 2 + length
    if file.rfind(b"\xff\xd9") < at:
        raise _damaged()
    return Judged(width, height, file)


def _webp(file: bytes) -> Judged:
    if int.from_bytes(file[4:8], "little") + 8 > len(file):
        raise _damaged()
    kind = file[12:16]
    if kind == b"VP8X":
        (numbers,) = struct.unpack_from("<Q", file[24:30] + b"\0\0")
        return Judged((numbers & 0xFFFFFF) + 1, (numbers >> 24) + 1, file)
    if kind == b"VP8L":
        (numbers,) = struct.unpack_from("<I", file, 21)
        return Judged((numbers & 0x3FFF) + 1, (numbers >> 14 & 0x3FFF) + 1, file)
    width, height = struct.unpack_from("<HH", file, 26)
    return Judged(width & 0x3FFF, height & 0x3FFF, file)


def _bmp(file: bytes) -> Judged:
    (header,) = struct.unpack_from("<I", file, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", file, 18)
    return Judged(width, abs(height), file)
