"""PTX."""

from ptx.errors import (
    Divergence,
    LaunchError,
    Misaligned,
    OutOfBounds,
    PtxError,
    Race,
    Uninitialised,
    UnknownInstruction,
)
from ptx.memory import Memory
from ptx.program import Kernel, Program, pack

__all__ = [
    "Divergence",
    "Kernel",
    "LaunchError",
    "Memory",
    "Misaligned",
    "OutOfBounds",
    "Program",
    "PtxError",
    "Race",
    "Uninitialised",
    "UnknownInstruction",
    "pack",
]
