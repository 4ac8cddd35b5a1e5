"""The source of the three kernels, for one network and optimizer: sizes and formulas, then kernels.cu."""

from importlib import resources
from math import ceil
from typing import NamedTuple

from fmnist_xp.backend.formulas import HELPERS, Name, Statements, function, text
from fmnist_xp.nn.activations import divide_rows, relu, relu_gradient, shifted_exp
from fmnist_xp.nn.layers import add_penalty_gradient, penalty
from fmnist_xp.nn.loss import CLIP
from fmnist_xp.nn.losses import crossentropy, softmax_crossentropy_gradient
from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer

OPERANDS = {"float16": ("f16", 1), "bfloat16": ("bf16", 1), "float32": ("bf16", 3)}
"""For each precision the format of operands, and how many of them a number becomes."""
ONES = {"f16": 0x3C003C00, "bf16": 0x3F803F80}  # two in 32 bits
WARPS, UPDATE_THREADS, FIGURES = 4, 256, 5

FORMULAS = (
    function("relu", relu, "inputs", "output"),
    function("relu_gradient", relu_gradient, "dvalues", "activation", "output"),
    function("shifted_exp", shifted_exp, "inputs", "row_maximum", "output"),
    function("divide_rows", divide_rows, "values", "row_sum"),
    function("crossentropy", crossentropy, "probability", CLIP, "output"),
    function("loss_gradient", softmax_crossentropy_gradient, "probability", "column", "label", "output"),
    function("penalty", penalty, "value", "part.l1", "part.l2", "output", parameters="Part part"),
    function("penalty_gradient", add_penalty_gradient, "sum", "value", "part.l1", "part.l2", parameters="Part part"),
)


class Source(NamedTuple):
    """The kernels, and what launching them takes: `pass` and `weights` have rows of threads in warps of 32.

    `terms` operands stand for a number, each layer's of as many `pieces` of 16 columns. A block of `pass` takes
    `rows` rows at once and `shared_bytes` of shared memory; `weights` has `slices` times `columns` blocks for a
    share of the rows, of `slice_warps` warps. `operand_bytes` are all weights' as operands.
    """

    text: str
    terms: int
    pieces: list[int]
    rows: int
    shared_bytes: int
    slices: int
    columns: int
    slice_warps: int
    operand_bytes: int


def make_source(network: Network, optimizer: Optimizer) -> Source:
    """Return the kernels of a network and an optimizer that `batch.unfit` has nothing against."""
    widths, (form, terms) = network.widths, OPERANDS[network.dtype]
    pieces = [ceil(width / 16) for width in widths]
    tiles = 2 if terms == 1 or max(widths[1:]) <= 64 else 1  # of 16 rows a warp: its registers hold no more
    slices, columns = ceil(widths[0] / 64), ceil(pieces[1] / 4)
    slice_blocks = ceil(slices / 7)
    biases, forward, backward, parts = [0], [0], [0], list[str]()
    start = place = 0
    for layer, dense in enumerate(network.dense, start=1):
        steps = pieces[layer - 1] if layer > 1 else slices * 4
        count = 32 * terms * steps * pieces[layer]
        forward.append(place)
        backward.append(place + count)
        place += count * (2 if layer > 1 else 1)
        biases.append(start + widths[layer - 1] * widths[layer])
        for name, end in (("weights", biases[-1]), ("biases", biases[-1] + widths[layer])):
            numbers = ", ".join(map(text, dense.penalty_strengths()[name]))
            parts.append(f"if (i < {end}) return {{{layer}, {start}, {int(name == 'weights')}, {numbers}}};")
            start = end
    slice_warps = ceil(slices / slice_blocks)
    tables = {"width": widths, "pieces": pieces, "biases_of": biases, "forward_of": forward, "backward_of": backward}
    lines = [
        f'#define OPERAND "{form}"',
        f"#define TERMS {terms}",
        f"constexpr unsigned int ONES = {ONES[form]:#x}; constexpr float INPUT_SCALE = {text(1 / 255)};",
        f"constexpr int TILES = {tiles}, WARPS = {WARPS}, FIGURES = {FIGURES}, UPDATE_THREADS = {UPDATE_THREADS};",
        f"constexpr int INPUTS = {widths[0]}, LAYERS = {len(widths) - 1}, CLASSES = {widths[-1]}, SIZE = {start};",
        f"constexpr int SLICES = {slices}, SLICE_WARPS = {slice_warps}, SLICE_PIECES = {ceil(pieces[1] / columns)};",
        f"constexpr int FIRST_WEIGHTS = {widths[0] * widths[1]};",
        *_step(optimizer),
        *(_table(name, values) for name, values in tables.items()),
        "struct Part { int layer, start; bool weights; float l1, l2; };",
        f"static __device__ Part part_of(int i) {{ {' '.join(parts)} return {{}}; }}",
        *(HELPERS, *FORMULAS, resources.files(__package__).joinpath("kernels.cu").read_text(encoding="utf-8")),
    ]
    staged = max(a + b for a, b in zip([0, *pieces[1:]], pieces[1:], strict=False))
    return Source(
        text="\n".join(lines),
        terms=terms,
        pieces=pieces,
        rows=16 * tiles * WARPS,
        shared_bytes=terms * staged * tiles * WARPS * 512,
        slices=slice_blocks,
        columns=columns,
        slice_warps=slice_warps,
        operand_bytes=16 * place,
    )


def _table(name: str, values: list[int]) -> str:
    """Return a function in C of a layer's number, for whose values compilers put numbers."""
    chain = "".join(f"layer == {number} ? {value} : " for number, value in enumerate(values))
    return f"static __host__ __device__ constexpr int {name}(int layer) {{ return {chain}0; }}"


def _step(optimizer: Optimizer) -> list[str]:
    """Return what the kernel `update` takes besides, and the update of `parameter` from `gradient`, in C."""
    moments = [Name(f"moment_{number}") for number in range(optimizer.moments + (optimizer.ema is not None))]
    coefficients = [Name(f"coefficients[{number}]") for number in range(len(optimizer.coefficients()))]
    statements = Statements()
    optimizer.compute_update(statements, (Name("parameter"), Name("gradient"), *moments), coefficients)
    read = [f"float {name.text} = {name.text}_of[i];" for name in moments]
    written = [f"{name.text}_of[i] = {name.text};" for name in moments]
    return [
        f"#define MOMENT_PARAMETERS {''.join(f', float* {name.text}_of' for name in moments)}",
        f"#define STEP {' '.join([*read, *statements.lines, *written])}",
    ]
