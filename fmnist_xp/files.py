"""Writing files so that a reader, or a second process, never sees half of one; what is worth reading."""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = re.compile(r"\..+-[0-9a-f]{16}(\.\w+)?")
"""Names that `replacing` gives to its temporary files; a process that was killed leaves them behind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move it to `path` when the block ends well.

    The temporary file keeps the suffix of `path`, since some writers choose their format by it. When the block
    raises, `path` keeps what it held before and the temporary file is removed. The file is as readable as the user's
    mask says, also where a writer puts a private file of its own in its place, as safetensors does. An `OSError` of
    the temporary file, or of no file, as where a disk fills up, leaves with the name of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}{path.suffix}")
    # Not tempfile.mkstemp, whose files are private to the user; this one has the mode of any new file.
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


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, beside `path` and then renamed."""
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
    """Return what a path of this mode is, or None where it is a regular file, which ends somewhere."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def check_file(path: Path, limit: int) -> None:
    """Raise `OSError` where `path` is no file (but a folder, a pipe or a device) or longer than `limit` bytes.

    A pipe that nobody writes to, a device without end and a sparse file of terabytes are told before they are opened.
    """
    found = path.stat()
    if kind := other_kind(found.st_mode):
        raise OSError(errno.EINVAL, f"it is no file, but {kind}", str(path))
    if found.st_size > limit:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and {limit:,} are the most read", str(path))


def read_text(path: Path, limit: int) -> str:
    """Return the UTF-8 text of `path`, which must be a file of at most `limit` bytes (`OSError`, `ValueError`)."""
    check_file(path, limit)
    return path.read_bytes().decode()
