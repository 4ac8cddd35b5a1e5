"""Kernels of a few instructions, for the tests: they have arrays, one element a thread, and keep the results."""

from collections.abc import Sequence

import numpy as np

from ptx import Kernel, Memory, Program, pack

INPUTS, RESULTS = "abcd", "xyzw"
KERNEL = """
.version 8.0
.target {target}
.address_size 64
{module}
.visible .entry test({parameters})
{{
    .reg .pred %p, %q, %no<8>;
    .reg .b16 %h<8>;
    .reg .b32 %t<16>, %index, %width;
    .reg .b64 %l<16>, %place, %p0, %p1, %p2, %p3, %p4, %p5, %p6, %p7;
    {registers}
    mov.u32 %index, %ctaid.x;
    mov.u32 %width, %ntid.x;
    mul.lo.u32 %index, %index, %width;
    mov.u32 %width, %tid.x;
    add.u32 %index, %index, %width;
    {loads}
    {body}
    {stores}
    ret;
}}
"""


def kernel(
    body: str,
    inputs: Sequence[np.dtype | str] = (),
    results: Sequence[np.dtype | str] = (),
    module: str = "",
    target: str = "sm_80",
) -> Kernel:
    """Return a kernel with registers %a to %d for inputs and %x to %w for results, of as many bits as the dtypes.

    There are also %p, %q, %h0…7 (16 bits), %t0…15 (32) and %l0…15 (64); %index is the number of the thread and %p0…
    are the addresses of the arrays, inputs first.
    """
    names = [f"%{letter}" for letter in INPUTS[: len(inputs)] + RESULTS[: len(results)]]
    sizes = [np.dtype(dtype).itemsize for dtype in (*inputs, *results)]
    registers, parts = list[str](), (list[str](), list[str]())
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        registers.append(f".reg .b{max(16, 8 * size)} {name};")
        parts[0].append(f"ld.param.u64 %p{number}, [p{number}];")
        place = f"mad.wide.u32 %place, %index, {size}, %p{number};"
        if number < len(inputs):
            parts[0].append(f"{place} ld.global.b{8 * size} {name}, [%place];")
        else:
            parts[1].append(f"{place} st.global.b{8 * size} [%place], {name};")
    text = KERNEL.format(
        target=target,
        module=module,
        parameters=", ".join(f".param .u64 p{number}" for number in range(len(names))),
        registers="\n    ".join(registers),
        loads="\n    ".join(parts[0]),
        body=body,
        stores="\n    ".join(parts[1]),
    )
    return Program(text).kernels["test"]


def run(
    body: str,
    inputs: Sequence[np.ndarray] = (),
    results: Sequence[np.dtype | str] = ("u4",),
    threads: int | None = None,
    blocks: int = 1,
    module: str = "",
    target: str = "sm_80",
    shared_bytes: int = 0,
) -> list[np.ndarray]:
    """Run a kernel as `kernel` makes it; return the results, one element a thread."""
    arrays = [np.ascontiguousarray(array) for array in inputs]
    count = threads or (len(arrays[0]) // blocks if arrays else 32)
    given = [np.zeros(blocks * count, dtype) for dtype in results]
    one, memory = kernel(body, [array.dtype for array in arrays], results, module, target), Memory()
    for array in arrays:
        memory.add(array, name="input")
    for array in given:
        memory.add(array, initialised=False, name="result")
    one.launch((blocks,), (count,), [pack(array) for array in (*arrays, *given)], memory, shared_bytes)
    return given
