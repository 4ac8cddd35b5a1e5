"""Files that name classes: their forms, and what is wrong with one."""

from pathlib import Path

import pytest

from fmnist_xp.data import class_files
from fmnist_xp.errors import DataError

MAPPINGS = {
    "letters": ("emnist-letters-mapping.txt", "1 65 97\n2 66 98\n", (("A", "B"), 1)),
    "balanced, in another order": ("emnist-balanced-mapping.txt", "1 49\n0 48\n2 65\n\n", (("0", "1", "A"), 0)),
    "a class map": ("k49_classmap.csv", "index,codepoint,char\n0,U+3042,あ\n1,U+309D,ゝ\n", (("あ", "ゝ"), 0)),
    "a class map with other columns": ("x_classmap.csv", 'char,index\n"a,b",0\nc,1\n', (("a,b", "c"), 0)),
    "a list": ("classes.txt", "1 65\n a cat\n", (("1 65", "a cat"), None)),
    "a list of another name": ("anything", "a\rb\r\nc", (("a", "b", "c"), None)),
}


@pytest.mark.parametrize(("name", "text", "expected"), MAPPINGS.values(), ids=MAPPINGS)
def test_forms(tmp_path: Path, name: str, text: str, expected: tuple[tuple[str, ...], int | None]) -> None:
    path = tmp_path / name
    for content in (text.encode(), text.encode("utf-8-sig")):
        path.write_bytes(content)
        assert class_files.read_path(path) == (*expected, str(path))


WRONG: dict[str, tuple[str, bytes, str]] = {
    "nothing": ("classes.txt", b"", "0 class names found; 1 to 256 are possible: labels are bytes"),
    "blank": ("classes.txt", b" \n\n", "0 class names found"),
    "a gap": ("classes.txt", b"a\n\nb\n", "line 2 is empty; a name a line is needed, by label"),
    "twice": ("classes.txt", b"a\nb\na \n", "class name 'a' found twice"),
    "too many": ("classes.txt", b"".join(b"%d\n" % n for n in range(257)), "257 class names found"),
    "a control character": ("classes.txt", b"a\x1b[2J\n", r"'a\\x1b\[2J' is no class name"),
    "Latin-1": ("classes.txt", "Hüte".encode("latin-1"), "no UTF-8 at byte 1; save it as UTF-8"),
    "large": ("classes.txt", b"a" * 70_000, "more than 65,536 bytes found"),
    "no code": ("emnist-mapping.txt", b"0 48\n1\n", "'1' found in line 2; a label and a code are needed"),
    "words": ("x-mapping.txt", b"0 A\n", "'0 A' found in line 1"),
    "a code beyond Unicode": ("x-mapping.txt", b"0 1114112\n", "found in line 1"),
    "a surrogate": ("x-mapping.txt", b"0 55296\n", r"is no class name"),
    "from 2": ("x-mapping.txt", b"2 65\n3 66\n", "its labels do not go from 0 or 1 on, one after the other"),
    "labels with a gap": ("x-mapping.txt", b"0 65\n2 66\n", "its labels do not go from 0 or 1 on"),
    "a label twice": ("x-mapping.txt", b"0 65\n0 66\n1 67\n", "its labels do not go from 0 or 1 on"),
    "an empty mapping": ("x-mapping.txt", b"\n", "0 class names found"),
    "an empty class map": ("x_classmap.csv", b"index,codepoint,char\n", "0 class names found"),
    "no char": ("x_classmap.csv", b"index,codepoint,char\n0,U+3042\n", "no index or char found in line 2"),
    "no index": ("x_classmap.csv", b"number,char\n0,a\n", "no index or char found in line 2"),
}


@pytest.mark.parametrize(("name", "content", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        class_files.read_path(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert str(raised.value).isprintable()


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder found; a regular file is needed"):
        class_files.read_path(tmp_path)
    with pytest.raises(DataError, match=r"gone: cannot be read \(No such file or directory\)"):
        class_files.read_path(tmp_path / "gone")
