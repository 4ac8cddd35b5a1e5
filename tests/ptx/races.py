"""Races."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ptx.machine import Launch

Array = np.ndarray


class Accesses:
    """Who touched what in a region."""

    def note(
        self, kind: str, offsets: Array, size: int, threads: Array | None, launch: "Launch", site: Any
    ) -> None:
        """Remember an access: kind is read, write or atomic."""
