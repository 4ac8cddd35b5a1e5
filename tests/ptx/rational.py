"""Rounding by the definition, in rational numbers: what the tests of the floating-point instructions compare with."""

from fractions import Fraction
from math import inf

# Bits of the significand; least and greatest exponent of normal numbers
FORMATS = {
    "f16": (11, -14, 15),
    "bf16": (8, -126, 127),
    "tf32": (11, -126, 127),
    "f32": (24, -126, 127),
    "f64": (53, -1022, 1023),
}


def exponent(x: Fraction) -> int:
    """The e with 2^e <= x < 2^(e + 1)."""
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if x >= Fraction(2) ** guess else guess - 1


def rounded(x: Fraction, of: str, rounding: str = "rn") -> float:
    """x as a number of the format (which a Python float holds), infinity included."""
    if x == 0:
        return 0.0
    precision, least, greatest = FORMATS[of]
    unit = Fraction(2) ** (max(exponent(abs(x)), least) - precision + 1)
    units = abs(x) / unit
    whole, rest = units // 1, units % 1
    half = Fraction(1, 2)
    up = {
        "rn": rest > half or (rest == half and whole % 2 == 1),
        "rna": rest >= half,
        "rz": False,
        "rm": rest > 0 and x < 0,
        "rp": rest > 0 and x > 0,
    }[rounding]
    value = (whole + up) * unit
    largest = (2 - Fraction(2) ** (1 - precision)) * Fraction(2) ** greatest
    if value > largest:
        to_infinity = rounding in ("rn", "rna") or (rounding == "rp" and x > 0) or (rounding == "rm" and x < 0)
        value = inf if to_infinity else largest
    return -float(value) if x < 0 else float(value)
