"""Writing files atomically, and reading them within bounds."""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = re.compile(r"\..+-[0-9a-f]{16}(\.\w+)?")
"""Names of the temporary files of `replacing`; a killed process leaves them behind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, and move it to `path` when the block succeeds.

    The temporary file has the suffix of `path`, since some writers choose their format by it. If the block raises,
    `path` keeps its content and the temporary file is removed. The new file has the mode that the user's umask gives,
    even if a writer replaces the temporary file by a private one, as safetensors does. An `OSError` that names the
    temporary file, or no file (a full disk), is changed to name `path`. Raises `OSError` where `path` is a device, a
    pipe or a socket: root could rename a file over /dev/null.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is no regular file, and is not replaced", str(path))
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}{path.suffix}")
    # Not tempfile.mkstemp, whose files are private to the user; this one gets the mode of any new file.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        if error.strerror and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, by `replacing` it."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, by `replacing` it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def other_kind(mode: int) -> str | None:
    """Return what kind of thing a path of this mode is, or None for a regular file."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def check_file(path: Path, limit: int) -> None:
    """Raise `OSError` unless `path` is a regular file (not a folder, pipe or device) of at most `limit` bytes.

    So a pipe without a writer, an endless device and a sparse file of terabytes are never opened.
    """
    found = path.stat()
    if kind := other_kind(found.st_mode):
        raise OSError(errno.EINVAL, f"it is no file, but {kind}", str(path))
    if found.st_size > limit:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and {limit:,} are the most read", str(path))


def read_text(path: Path, limit: int) -> str:
    """Return the UTF-8 text of `path`; raises `OSError`, as `check_file` does, and `ValueError` for other bytes."""
    check_file(path, limit)
    return path.read_bytes().decode()
