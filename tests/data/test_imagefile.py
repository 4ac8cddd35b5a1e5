import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_helpers import chunk, filtered, noise, png
from hypothesis import given, settings
from hypothesis import strategies as st

from fmnist_xp.data.imagefile import check_image, read_file
from fmnist_xp.errors import DataError

IMAGE = noise(1).images[0]
LINES = filtered(IMAGE, [row % 5 for row in range(28)])
PLAIN = png(LINES)
COLOUR = np.dstack([IMAGE, 255 - IMAGE, IMAGE // 2])
TEXT = chunk(b"tEXt", b"Title\0shoe")


def decoded(file: bytes) -> np.ndarray | None:
    image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if image is None else np.asarray(image)


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


RGB = encoded(".png", np.dstack([IMAGE // 100 + 2, IMAGE // 100 + 1, IMAGE // 100]))
PNGS = {
    "plain": PLAIN,
    "a title": png(LINES, before=TEXT),
    "five chunks of pixels": png(LINES, parts=5),
    "colour": encoded(".png", COLOUR),
    "colour and alpha": encoded(".png", np.dstack([COLOUR, IMAGE])),
    "16 bits": encoded(".png", IMAGE.astype(np.uint16) * 257),
    "one bit": png(filtered(IMAGE[:, :4], [0] * 28), depth=1),
    "palette": png(LINES, colour=3, before=chunk(b"PLTE", bytes(range(256)) * 3) + chunk(b"tRNS", b"\0\7")),
    "one grey transparent": png(LINES, before=TEXT + chunk(b"tRNS", b"\0\7")),
    "one colour transparent": RGB[:33] + chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3])) + RGB[33:],
}


@pytest.mark.parametrize("file", PNGS.values(), ids=PNGS)
def test_a_correct_png_is_decoded_unchanged(file: bytes) -> None:
    width, height, kept = check_image(file)
    assert (width, height) == (28, 28)
    assert len(kept) <= len(file)
    before, after = decoded(file), decoded(kept)
    assert before is not None
    assert after is not None
    assert np.array_equal(before, after)


def test_chunks_that_affect_no_pixel_are_dropped() -> None:
    behind = PLAIN[:-12] + chunk(b"tIME", bytes(7)) + PLAIN[-12:] + b"more"
    animated = chunk(b"acTL", struct.pack(">II", 1_000_000, 0)) + chunk(b"iCCP", b"no profile")
    for file in (png(LINES, before=TEXT), behind, png(LINES, before=animated)):
        assert check_image(file).file == PLAIN


def test_the_plainest_png_is_not_copied() -> None:
    assert check_image(PLAIN).file is PLAIN


def test_transparency_is_kept_where_it_shows() -> None:
    image = decoded(check_image(PNGS["one colour transparent"]).file)
    assert image is not None
    assert np.array_equal(image[..., 3] == 0, IMAGE // 100 == 1)
    beyond_8_bits = bytes([1, 1, 0, 2, 0, 3])
    for wrong in (beyond_8_bits, bytes(2)):
        assert check_image(RGB[:33] + chunk(b"tRNS", wrong) + RGB[33:]).file == RGB
    deep = encoded(".png", COLOUR.astype(np.uint16) * 257)
    deep = deep[:33] + chunk(b"tRNS", beyond_8_bits) + deep[33:]
    assert check_image(deep).file == deep


def test_transparency_of_a_palette_has_at_most_one_value_per_entry() -> None:
    palette = chunk(b"PLTE", bytes(6))
    one, two, three = (chunk(b"tRNS", bytes(length)) for length in (1, 2, 3))
    bits = filtered(IMAGE[:, :4], [0] * 28)
    for right in (palette, palette + one, palette + two):
        file = png(bits, depth=1, colour=3, before=right)
        assert check_image(file).file == file
    for wrong in (palette + three, one + palette):
        file = png(bits, depth=1, colour=3, before=wrong)
        assert check_image(file).file == png(bits, depth=1, colour=3, before=palette)


def test_a_photograph_keeps_its_orientation() -> None:
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)  # orientation 6: a quarter turn
    held = chunk(b"eXIf", b"MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4))
    file = check_image(png(LINES, before=TEXT + held)).file
    assert file == png(LINES, before=held)
    little = png(LINES, before=chunk(b"eXIf", b"II*\0" + bytes(20)))
    assert check_image(little).file == little
    assert check_image(png(LINES, before=chunk(b"eXIf", b"nothing"))).file == PLAIN


@given(
    file=st.sampled_from(list(PNGS.values())),
    place=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
)
@settings(max_examples=400, deadline=None)
def test_a_png_with_any_byte_changed_is_refused_or_looks_the_same(file: bytes, place: float, value: int) -> None:
    changed = bytearray(file)
    changed[int(place * len(file))] = value
    try:
        width, height, kept = check_image(bytes(changed))
    except ValueError:
        return
    assert (width, height) == (28, 28)
    before, after = decoded(file), decoded(kept)
    assert before is not None
    assert after is not None
    assert np.array_equal(before, after)


def test_each_byte_of_the_plainest_png_counts() -> None:
    for place in range(len(PLAIN)):
        for changed in (PLAIN[:place], PLAIN[:place] + bytes([PLAIN[place] ^ 1]) + PLAIN[place + 1 :]):
            with pytest.raises(ValueError, match=r"damaged|not an image|empty"):
                check_image(changed)


KINDS = [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"tEXt", b"eXIf", b"acTL", b"fdAT", b"ABCD"]
HEADERS = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(0, 17)] * 2, *[st.integers(0, 2)] * 3)
CHUNKS = st.tuples(st.sampled_from(KINDS), st.binary(max_size=30))


@given(header=HEADERS, chunks=st.lists(CHUNKS, max_size=6), pixels=st.binary(max_size=2000))
@settings(max_examples=300, deadline=None)
def test_only_the_chunks_of_an_image_come_through(
    header: tuple[int, ...], chunks: list[tuple[bytes, bytes]], pixels: bytes
) -> None:
    """OpenCV may still reject the pixels, but allocates no more than the header says."""
    all_chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", *header)),
        *chunks,
        (b"IDAT", zlib.compress(pixels)),
        (b"IEND", b""),
    ]
    try:
        width, height, kept = check_image(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in all_chunks))
    except ValueError:
        return
    assert (width, height) == header[:2]
    image = decoded(kept)
    assert image is None or image.shape[:2] == (height, width)


WRONG_PNGS = {
    "a length beyond the end": PLAIN[:33] + b"\x40" + PLAIN[34:],
    "a length just beyond it": PLAIN[:33] + (len(PLAIN) - 44).to_bytes(4, "big") + PLAIN[37:],
    "no pixels": PLAIN[:33] + PLAIN[-12:],
    "no header": PLAIN[:8] + PLAIN[33:],
    "two headers": PLAIN[:33] + PLAIN[8:],
    "a header of 12 bytes": PLAIN[:8] + chunk(b"IHDR", PLAIN[16:28]) + PLAIN[33:],
    "3 bits": png(LINES, depth=3),
    "colour of type 5": png(LINES, colour=5),
    "interlaced in an unknown way": png(LINES, interlace=2),
    "no columns": png(LINES, width=0),
    "no palette": png(LINES, colour=3),
    "an empty palette": png(LINES, colour=3, before=chunk(b"PLTE", b"")),
    "an incomplete palette": png(LINES, colour=3, before=chunk(b"PLTE", bytes(767))),
    "too large a palette": png(LINES, colour=3, depth=4, before=chunk(b"PLTE", bytes(51))),
    "palette after the pixels": png(LINES, colour=3)[:-12] + chunk(b"PLTE", bytes(768)) + PLAIN[-12:],
    "transparency after the pixels": RGB[:-12] + chunk(b"tRNS", bytes(6)) + RGB[-12:],
    "packed in an unknown way": PLAIN[:8] + chunk(b"IHDR", PLAIN[16:26] + b"\1\0\0") + PLAIN[33:],
    "filtered in an unknown way": PLAIN[:8] + chunk(b"IHDR", PLAIN[16:26] + b"\0\1\0") + PLAIN[33:],
    "an unknown chunk that counts": png(LINES, before=chunk(b"ABCD", b"")),
}


@pytest.mark.parametrize("file", WRONG_PNGS.values(), ids=WRONG_PNGS)
def test_a_wrong_png_is_refused_before_decoding(file: bytes) -> None:
    with pytest.raises(ValueError, match=r"damaged or cut short|a PNG made wrongly|0 x 28 pixels"):
        check_image(file)


def test_one_pixel_is_an_image() -> None:
    file = png(bytes(2), width=1, height=1)
    assert check_image(file) == (1, 1, file)


DAMAGED = "not a whole image: damaged or cut short; copy it again"
PALETTE_OR_ORDER = "a PNG made wrongly: its palette or the order of its chunks is not in the standard"
RIFF = b"RIFF\4\0\0\0WAVE"
SAID = {
    "cut short": (PLAIN[:-1], DAMAGED),
    "two headers": (PLAIN[:33] + PLAIN[8:], PALETTE_OR_ORDER),
    "a header that is not in the standard": (
        png(LINES, depth=3),
        "a PNG made wrongly: its header is not in the standard",
    ),
    "a sound file": (RIFF, f"not an image in PNG, JPEG, WebP or BMP (it begins with {RIFF[:8]!r})"),
    "a JPEG without a frame": (b"\xff\xd8\xff\xda\xff\xd9", "an image of 0 x 0 pixels"),
    "a JPEG whose end is in a comment": (b"\xff\xd8\xff\xfe\0\4\xff\xd9\xff\xda", DAMAGED),
}


@pytest.mark.parametrize(("file", "words"), SAID.values(), ids=SAID)
def test_the_reason_for_a_refusal_is_exact(file: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=r"^.*$") as raised:
        check_image(file)
    assert str(raised.value) == words


PORTRAIT = np.kron(IMAGE[:20, :14], np.ones((3, 3), np.uint8))  # 60 x 42
JPEG = encoded(".jpg", PORTRAIT)
OTHERS = {
    "JPEG": JPEG,
    "JPEG, colour": encoded(".jpg", np.dstack([PORTRAIT] * 3)),
    "JPEG, progressive": encoded(".jpg", PORTRAIT, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "JPEG, with restarts": encoded(".jpg", PORTRAIT, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "JPEG, padded": JPEG[:2] + b"\xff" + JPEG[2:20] + b"\xff" + JPEG[20:],
    "JPEG, with a long comment": JPEG[:2] + b"\xff\xfe" + struct.pack(">H", 40_000) + bytes(39_998) + JPEG[2:],
    "JPEG, with its end in a comment too": JPEG[:2] + b"\xff\xfe\0\4\xff\xd9" + JPEG[2:],
    "WebP": encoded(".webp", np.dstack([PORTRAIT] * 3), cv2.IMWRITE_WEBP_QUALITY, 80),
    "WebP, lossless": encoded(".webp", np.dstack([PORTRAIT] * 3), cv2.IMWRITE_WEBP_QUALITY, 101),
    "BMP": encoded(".bmp", PORTRAIT),
    "BMP, old header": b"BM" + struct.pack("<IIIIHHHH", 26 + 60 * 128, 0, 26, 12, 42, 60, 1, 24) + bytes(60 * 128),
    "BMP, downward": encoded(".bmp", PORTRAIT)[:22] + struct.pack("<i", -60) + encoded(".bmp", PORTRAIT)[26:],
}


@pytest.mark.parametrize("file", OTHERS.values(), ids=OTHERS)
def test_other_formats_give_the_size_of_the_image(file: bytes) -> None:
    image = decoded(file)
    assert image is not None
    assert image.shape[:2] == (60, 42)
    assert check_image(file) == (42, 60, file)


def test_an_extended_webp_gives_the_size_of_the_image() -> None:
    see_through = np.dstack([PORTRAIT] * 4)
    picture = encoded(".webp", see_through, cv2.IMWRITE_WEBP_QUALITY, 80)[12:]
    if not picture.startswith(b"VP8X"):
        picture = (
            b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + (41).to_bytes(3, "little") + bytes([59, 0, 0]) + picture
        )
    file = b"RIFF" + struct.pack("<I", len(picture) + 4) + b"WEBP" + picture
    assert check_image(file) == (42, 60, file)


def test_a_webp_that_lacks_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="damaged or cut short"):
        check_image(OTHERS["WebP"][:-1])


def test_the_width_of_an_old_bmp_is_unsigned() -> None:
    file = b"BM" + struct.pack("<IIIIHHHH", 26, 0, 26, 12, 40_000, 50_000, 1, 24)
    assert check_image(file) == (40_000, 50_000, file)


@pytest.mark.parametrize("file", [*OTHERS.values(), PLAIN])
def test_a_file_cut_short_anywhere_is_refused_or_not_decoded(file: bytes) -> None:
    for length in range(0, len(file), 7):
        try:
            kept = check_image(file[:length]).file
        except ValueError:
            continue
        assert decoded(kept) is None


@given(
    file=st.sampled_from(list(OTHERS.values())),
    changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_a_decoded_image_has_the_size_that_was_checked(file: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(file)
    for place, value in changes:
        changed[place] = value
    try:
        width, height, kept = check_image(bytes(changed))
    except ValueError:
        return
    if width * height < 1_000_000:
        image = decoded(kept)
        assert image is None or image.shape[:2] == (height, width)


@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"BM", b"GIF89a"]), st.binary()
)
def test_any_bytes_are_accepted_or_refused_with_a_reason(start: bytes, rest: bytes) -> None:
    try:
        checked = check_image(start + rest)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 (both outcomes are right)
    else:
        assert checked.width > 0
        assert checked.height > 0


def test_a_file_is_read_with_its_stat(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PLAIN)
    os.utime(path, ns=(1, 1_234_567_890_000_000_000))
    content, state = read_file(str(path), len(PLAIN))
    assert content == PLAIN
    assert (state.st_size, state.st_mtime_ns) == (len(PLAIN), 1_234_567_890_000_000_000)
    with pytest.raises(DataError, match=rf"a\.png: {len(PLAIN):,} bytes found; an image file may have") as raised:
        read_file(str(path), len(PLAIN) - 1)
    assert str(path) in str(raised.value)


def test_a_file_that_grows_is_read_at_its_first_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PLAIN)
    read = os.read

    def some(file: int, length: int) -> bytes:
        with path.open("ab") as other:
            other.write(b"more")
        return read(file, min(length, 100))

    assert len(PLAIN) % 100
    monkeypatch.setattr(os, "read", some)
    content, state = read_file(str(path), len(PLAIN))
    assert content == PLAIN
    assert state.st_size == len(PLAIN)


def test_a_file_of_200_gb_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    try:
        with path.open("wb") as file:
            file.truncate(200_000_000_000)
    except OSError:
        pytest.skip("the file system has no such files")
    with pytest.raises(DataError, match="200,000,000,000 bytes found"):
        read_file(str(path), 1000)


def test_anything_but_a_file_is_named(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "gone", "cannot be read"), (tmp_path, "a folder found|cannot be read")):
        with pytest.raises(DataError, match=words) as raised:
            read_file(str(path), 1000)
        assert str(path) in str(raised.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: a named pipe found where an image file should be"):
        read_file(str(tmp_path / "pipe"), 1000)


def test_a_device_is_not_read() -> None:
    if not Path("/dev/zero").is_char_device():
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(DataError, match="/dev/zero: a device found where an image file should be"):
        read_file("/dev/zero", 1000)
