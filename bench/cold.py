"""A cold disk: files that have to be fetched from it, as after a start of the machine."""

import os
from contextlib import suppress
from pathlib import Path

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def make_cold(folder: Path, *, whole: bool) -> str | None:
    """Empty the disk cache and return how, in words, or None where that cannot be done.

    `whole` empties all of it, names and places of files included, where this process may: on Linux, as root.
    Otherwise, on systems that take the advice, the contents alone of the files below `folder` go. A folder in
    memory (tmpfs) stays there.
    """
    if hasattr(os, "sync"):
        os.sync()  # what has not been written yet would stay
    if whole:
        with suppress(OSError):
            DROP_CACHES.write_text("3")
            return f"sync, then 3 written to {DROP_CACHES}"
    if not hasattr(os, "posix_fadvise"):
        return None
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return "sync, then POSIX_FADV_DONTNEED for the contents of each file"
