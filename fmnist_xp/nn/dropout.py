"""Dropout: in every epoch other units, drawn by chance, are left out."""

from typing import Any

from fmnist_xp.backend import Array, elementwise
from fmnist_xp.nn.draws import mixed


@elementwise
def dropout(
    xp: Any,
    values: Array,
    keys: Array,
    codes: Array,
    least: Any,
    scale: float,
    output: Array,
    bits: Array | None = None,
) -> None:
    """Write scale · values where a unit's draw is at least `least`, and 0 elsewhere, to `output`.

    `keys` (rows, 1) and `codes` (1, units) set the draws of rows and units apart; `bits` is workspace.
    """
    drawn = mixed(xp, xp.bitwise_xor(keys, codes, out=bits), bits)
    xp.multiply(values, (drawn >= least) * scale, out=output)
