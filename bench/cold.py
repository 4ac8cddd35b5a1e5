"""A cold disk cache, as after a start of the machine."""

import os
from contextlib import suppress
from pathlib import Path

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def make_cold(folder: Path, *, whole: bool) -> str | None:
    """Empty the disk cache and return how, in words, or None where that cannot be done.

    `whole` drops all of it, directory entries and inodes included, where this process may: on Linux, as root.
    Otherwise, on systems with posix_fadvise, only the contents of the files below `folder` are dropped. A folder in
    memory (tmpfs) is not affected.
    """
    if hasattr(os, "sync"):
        os.sync()  # pages that are not written yet would stay cached
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
