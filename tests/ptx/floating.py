"""Decoders of what a thread computes from floats."""

from functools import partial
from typing import Any

import numpy as np

from ptx import conversions, floats, halves
from ptx.decode import DTYPES, INTEGERS, Decoding, Step, instruction

HALVES = ("f16", "f16x2", "bf16", "bf16x2")
ROUNDINGS = ("rn", "rz", "rm", "rp")


def arithmetic(at: Decoding) -> Step:
    """`add`, `sub`, `mul`, `fma` (and `mad`), `div`, `neg`, `abs`, `min`, `max`."""
    kind = at.type("f32", "f64", *HALVES)
    operands = {"fma": 3, "mad": 3, "neg": 1, "abs": 1}.get(at.head, 2)
    if kind in HALVES:
        return half(at, kind, operands)
    name = "fma" if at.head == "mad" else at.head
    options: dict[str, Any] = {}
    if name in ("add", "sub", "mul", "fma"):
        rounding = at.option(*ROUNDINGS)
        if rounding is None and (at.head in ("fma", "mad")):
            raise at.unknown("no rounding")
        options["rounding"] = rounding or "rn"
    elif name == "div":
        kinds = (*ROUNDINGS, "full", "approx") if kind == "f32" else ROUNDINGS
        options["kind" if kind == "f32" else "rounding"] = at.needed(*kinds)
    if kind == "f32":
        options["ftz"] = at.flag("ftz")
        if name in ("add", "sub", "mul", "fma"):
            options["saturate"] = at.flag("sat")
        if name in ("min", "max"):
            options["nan"] = at.flag("NaN")
            options["xorsign_abs"] = xorsign(at)
    function = getattr(floats, f"{name}{kind[1:]}")
    return at.compute(bound(function, options), kind, *[kind] * operands)


def bound(function: Any, options: dict[str, Any]) -> Any:
    """Return a function with its options; itself where these are its defaults, which saves a call."""
    if options == {"rounding": "rn", "ftz": False, "saturate": False}:
        plain = {floats.add32: np.add, floats.sub32: np.subtract, floats.mul32: np.multiply}
        return plain.get(function, function)
    if options == {"rounding": "rn"}:
        plain = {floats.add64: np.add, floats.sub64: np.subtract, floats.mul64: np.multiply}
        return plain.get(function, function)
    return partial(function, **{name: value for name, value in options.items() if value})


def xorsign(at: Decoding) -> bool:
    """Take `.xorsign.abs` off `min` or `max`, if it is there."""
    if not at.flag("xorsign"):
        return False
    at.needed("abs")
    at.needs(86)
    return True


def half(at: Decoding, kind: str, operands: int) -> Step:
    """Return the step of an instruction on f16 or bf16, or on a pair."""
    options: dict[str, Any] = {}
    if at.head in ("div", "mad"):
        raise at.unknown()
    if at.head == "fma":
        at.needed("rn")
    elif at.head in ("add", "sub", "mul"):
        at.option("rn")
    if kind.startswith("f16"):
        options["ftz"] = at.flag("ftz")
        if at.head in ("add", "sub", "mul", "fma"):
            options["saturate"] = at.flag("sat")
    if at.head == "fma":
        options["relu"] = at.flag("relu")
    if at.head in ("min", "max"):
        options["nan"] = at.flag("NaN")
        options["xorsign_abs"] = xorsign(at)
    if kind.startswith("bf16") and at.head in ("add", "sub", "mul"):
        at.needs(90)
    function = halves.operation(at.head, kind)
    given = {name: value for name, value in options.items() if value}
    return at.compute(partial(function, **given) if given else function, kind, *[kind] * operands)


@instruction("rcp", "sqrt", "rsqrt")
def roots(at: Decoding) -> Step:
    """`rcp`, `sqrt` and `rsqrt`, exact and approximate."""
    kind = at.type("f32", "f64")
    approx = at.flag("approx")
    rounding = None if approx else at.needed(*ROUNDINGS)
    ftz = at.flag("ftz")
    if at.head == "rsqrt" and not approx:
        raise at.unknown()
    if kind == "f32":
        if at.head == "rsqrt":
            return at.compute(partial(floats.rsqrt32, ftz=ftz), kind, kind)
        function = floats.rcp32 if at.head == "rcp" else floats.sqrt32
        return at.compute(partial(function, kind=rounding or "approx", ftz=ftz), kind, kind)
    functions = {
        ("rcp", True, True): floats.rcp_approx_ftz64,
        ("rsqrt", True, True): floats.rsqrt_approx_ftz64,
        ("rsqrt", True, False): floats.rsqrt64,
        ("rcp", False, False): partial(floats.rcp64, rounding=rounding),
        ("sqrt", False, False): partial(floats.sqrt64, rounding=rounding),
    }
    chosen = functions.get((at.head, approx, ftz))
    if chosen is None:
        raise at.unknown()
    return at.compute(chosen, kind, kind)


@instruction("ex2", "lg2", "sin", "cos", "tanh")
def approximations(at: Decoding) -> Step:
    """The approximate functions."""
    kind = at.type("f32", *(HALVES if at.head in ("ex2", "tanh") else ()))
    at.needed("approx")
    if kind in HALVES:
        at.needs(90 if kind.startswith("bf16") else 75)
        if at.head == "ex2" and kind.startswith("bf16"):
            at.needed("ftz")
        elif at.flag("ftz"):
            raise at.unknown()
        return at.compute(halves.operation(at.head, kind), kind, kind)
    if at.head == "tanh":
        return at.compute(floats.tanh32, kind, kind)
    function = {"ex2": floats.ex2_32, "lg2": floats.lg2_32, "sin": floats.sin32, "cos": floats.cos32}[at.head]
    return at.compute(partial(function, ftz=at.flag("ftz")), kind, kind)


@instruction("copysign")
def copysign(at: Decoding) -> Step:
    """`copysign` a, b: b with the sign of a."""
    kind = at.type("f32", "f64")
    return at.compute(floats.copysign, kind, kind, kind)


@instruction("testp")
def testp(at: Decoding) -> Step:
    """`testp`."""
    kind = at.type("f32", "f64")
    what = at.needed("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    return at.compute(lambda a: floats.testp(a, what), "pred", kind)


@instruction("cvt")
def cvt(at: Decoding) -> Step:
    """`cvt`; registers may be wider than the types, and are then extended as the result's type says."""
    types = at.modifiers[-2:]
    del at.modifiers[-2:]
    if len(types) != 2:
        raise at.unknown()
    to, source = types
    rounding = at.option("rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi")
    options = {"rounding": rounding, "ftz": at.flag("ftz"), "saturate": at.flag("sat"), "relu": at.flag("relu")}
    if to in ("f16x2", "bf16x2"):
        if source != "f32" or rounding not in ("rn", "rz") or options["ftz"] or options["saturate"]:
            raise at.unknown()
        pair = partial(conversions.convert_pair, to=to, rounding=rounding, relu=options["relu"])
        return at.compute(pair, to, source, source)
    known = {*INTEGERS, "f16", "bf16", "tf32", "f32", "f64"}
    if to not in known or source not in known or ("tf32" in (to, source) and (to, source) != ("tf32", "f32")):
        raise at.unknown()
    newer = ("bf16" in (to, source) and "f32" not in (to, source)) or (to == "tf32" and rounding != "rna")
    at.needs(90 if newer else 80)
    at.done(2)
    given = {name: value for name, value in options.items() if value}
    function = partial(conversions.convert, to=to, from_=source, **given)
    wide = (to in INTEGERS, source in INTEGERS)
    target, register = at.result(to, wider=wide[0]), at.read(1, source, wider=wide[1])
    word, narrow = np.dtype(f"u{DTYPES[source].itemsize}"), DTYPES[source]
    bits = at.assembler.bits[target] // 8
    extended = np.dtype(f"{'i' if to[0] == 's' else 'u'}{bits}") if wide[0] else None
    if extended == DTYPES.get(to):
        extended = None
    try:
        with np.errstate(all="ignore"):
            function(np.zeros(1, narrow))
    except ValueError as error:
        raise at.unknown(str(error)) from None

    def step(launch: Any) -> None:
        value = launch.registers[register]
        if value.dtype is not word:
            value = value.astype(word)
        result = function(value.view(narrow))
        launch.write(target, result if extended is None else result.astype(extended))

    return step
