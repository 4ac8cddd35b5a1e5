"""Tensor cores: fragments by the PTX ISA manual's formulas, sums by the papers that `ptx.tensor` names."""

from collections.abc import Iterator
from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest

from ptx import tensor
from ptx.rational import FORMATS, exponent, rounded

WARPS = 3
THREADS = 32 * WARPS
SHAPES = [
    ("m16n8k16", "f16", "f32"),
    ("m16n8k16", "f16", "f16"),
    ("m16n8k16", "bf16", "f32"),
    ("m16n8k8", "f16", "f32"),
    ("m16n8k8", "f16", "f16"),
    ("m16n8k8", "bf16", "f32"),
    ("m16n8k8", "tf32", "f32"),
    ("m16n8k4", "tf32", "f32"),
]
WMMA_SHAPES = [
    ("m16n16k16", "f16", "f32", "f32"),
    ("m16n16k16", "f16", "f16", "f16"),
    ("m16n16k16", "f16", "f16", "f32"),
    ("m16n16k16", "f16", "f32", "f16"),
    ("m16n16k16", "bf16", "f32", "f32"),
    ("m16n16k8", "tf32", "f32", "f32"),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def place(operand: str, of: str, k: int, lane: int, i: int) -> tuple[int, int]:
    """Row and column of element i in a lane's fragment of mma.m16n8k…, as the manual writes it."""
    group, member = lane >> 2, lane % 4
    if operand == "c":
        return (group if i < 2 else group + 8), member * 2 + (i & 1)
    if of == "tf32":
        if operand == "b":
            return (member if i == 0 else member + 4), group
        return (group if i in (0, 2) else group + 8), (member if i in (0, 1) else member + 4)
    if operand == "b":
        return member * 2 + (i & 1) + (0 if i < 2 else 8), group
    if k == 8:
        return (group if i < 2 else group + 8), member * 2 + (i & 1)
    return (group if 0 <= i < 2 or 4 <= i < 6 else group + 8), member * 2 + (i & 1) + (0 if i < 4 else 8)


def bits(x: float, of: str) -> int:
    if of == "f16":
        return int(np.float16(x).view(np.uint16))
    word = int(np.float32(x).view(np.uint32))
    return word >> 16 if of == "bf16" else word


def value(word: int, of: str) -> float:
    if of == "f16":
        return float(np.uint16(word).view(np.float16))
    return float(np.uint32(word << 16 if of == "bf16" else word).view(np.float32))


def registers(matrices: np.ndarray, operand: str, of: str, k: int) -> list[np.ndarray]:
    """Fragments of matrices (warp, row, column), element by element."""
    each = 1 if of in ("tf32", "f32") else 2
    count = {"a": 16 * k, "b": 8 * k, "c": 128}[operand] // 32
    held = np.zeros((count // each, 32 * len(matrices)), np.uint32)
    for warp, matrix in enumerate(matrices):
        for lane in range(32):
            for i in range(count):
                word = bits(matrix[place(operand, of, k, lane, i)], of)
                held[i // each, 32 * warp + lane] |= word << (16 * (i % each))
    return list(held)


def matrices(held: list[np.ndarray], of: str) -> np.ndarray:
    """The results (warp, row, column) in fragments of d."""
    each = 1 if of == "f32" else 2
    found = np.full((len(held[0]) // 32, 16, 8), nan)
    for thread in range(len(held[0])):
        for i in range(4):
            word = int(held[i // each].view(np.uint32)[thread])
            word = word if each == 1 else word >> (16 * (i % 2)) & 0xFFFF
            found[thread // 32][place("c", of, 0, thread % 32, i)] = value(word, of)
    return found


def multiply(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, shape: str, of: str, result: str, architecture: str
) -> np.ndarray:
    k = int(shape.split("k")[1])
    fragments = registers(a, "a", of, k), registers(b, "b", of, k), registers(c, "c", result, k)
    found = tensor.mma(shape, of, of, result, result, *fragments, architecture)
    assert all(x.dtype == (np.float32 if result == "f32" else np.uint32) for x in found)
    return matrices(found, result)


def dot(
    a: list[float], b: list[float], c: float, of: str = "f16", result: str = "f32", architecture: str = "80"
) -> float:
    """One element of one m16n8k… (the widest), the other rows and columns being zero."""
    k = 8 if of == "tf32" else 16
    row, column = 11, 6
    left, right, addend = np.zeros((1, 16, k)), np.zeros((1, k, 8)), np.zeros((1, 16, 8))
    left[0, row, : len(a)], right[0, : len(b), column], addend[0, row, column] = a, b, c
    product = multiply(left, right, addend, f"m16n8k{k}", of, result, architecture)[0]
    if np.isfinite([*a, *b, c]).all():
        assert np.delete(product.ravel(), row * 8 + column).tolist() == [0] * 127
    return float(product[row, column])


class TestLayouts:
    @pytest.mark.parametrize("architecture", ["80", "90"])
    @pytest.mark.parametrize(("shape", "of", "result"), SHAPES)
    def test_product_of_small_integers(self, shape: str, of: str, result: str, architecture: str) -> None:
        k = int(shape.split("k")[1])
        random = np.random.default_rng(k)
        a = random.integers(-8, 9, (WARPS, 16, k))
        b = random.integers(-8, 9, (WARPS, k, 8))
        c = random.integers(-50, 51, (WARPS, 16, 8))
        assert np.array_equal(multiply(a, b, c, shape, of, result, architecture), a @ b + c)

    @pytest.mark.parametrize("threads", [32, 512, 512 + 32, 1536])
    def test_any_number_of_warps(self, threads: int) -> None:
        """One warp's fragments, in as many warps."""
        random = np.random.default_rng(3)
        a, b, c = (random.integers(-8, 9, shape) for shape in ((1, 16, 16), (1, 16, 8), (1, 16, 8)))
        fragments = registers(a, "a", "bf16", 16), registers(b, "b", "bf16", 16), registers(c, "c", "f32", 16)
        many = ([np.tile(x, threads // 32) for x in fragment] for fragment in fragments)
        found = tensor.mma("m16n8k16", "bf16", "bf16", "f32", "f32", *many, "90")
        one = tensor.mma("m16n8k16", "bf16", "bf16", "f32", "f32", *fragments, "90")
        for x, y in zip(found, one, strict=True):
            assert np.array_equal(x, np.tile(y, threads // 32))

    def test_tf32_ignores_the_last_bits(self) -> None:
        a, b, c = np.ones((1, 16, 4)), np.ones((1, 4, 8)), np.zeros((1, 16, 8))
        left = [x | np.uint32(0x1FFF) for x in registers(a, "a", "tf32", 4)]
        right = [x | np.uint32(0x1FFF) for x in registers(b, "b", "tf32", 4)]
        found = tensor.mma("m16n8k4", "tf32", "tf32", "f32", "f32", left, right, registers(c, "c", "f32", 4), "80")
        assert (matrices(found, "f32") == 4).all()

    def test_accumulators_may_be_held_as_f32(self) -> None:
        c = [np.arange(32, dtype=np.float32) + i for i in range(4)]
        zero = [np.zeros(32, np.uint32)] * 4
        found = tensor.mma("m16n8k16", "f16", "f16", "f32", "f32", zero, zero[:2], c, "80")
        for x, y in zip(found, c, strict=True):
            assert np.array_equal(x, y)

    @pytest.mark.parametrize(
        ("shape", "a", "b", "c", "d"),
        [
            ("m16n8k16", "tf32", "tf32", "f32", "f32"),
            ("m16n8k16", "f16", "bf16", "f32", "f32"),
            ("m16n8k16", "bf16", "bf16", "f16", "f16"),
            ("m16n8k16", "f16", "f16", "f32", "f16"),
            ("m16n8k32", "f16", "f16", "f32", "f32"),
            ("m8n8k4", "f16", "f16", "f32", "f32"),
            ("m16n8k16", "s8", "s8", "s32", "s32"),
        ],
    )
    def test_others_are_errors(self, shape: str, a: str, b: str, c: str, d: str) -> None:
        with pytest.raises(ValueError, match=shape):
            tensor.mma(shape, a, b, c, d, [], [], [], "80")

    def test_other_architectures_are_errors(self) -> None:
        zero = [np.zeros(32, np.uint32)] * 4
        with pytest.raises(KeyError):
            tensor.mma("m16n8k16", "f16", "f16", "f32", "f32", zero, zero[:2], zero, "75")


class TestWmma:
    @staticmethod
    def load(matrices: np.ndarray, operand: str, of: str) -> list[np.ndarray]:
        """wmma.load, by where it puts its elements."""
        rows, columns = tensor.wmma_places(operand, of)
        each = 1 if of in ("tf32", "f32") else 2
        held = np.zeros((len(rows) // each, 32 * len(matrices)), np.uint32)
        for warp, matrix in enumerate(matrices):
            for (i, lane), row in np.ndenumerate(rows):
                word = bits(matrix[row, columns[i, lane]], of)
                held[i // each, 32 * warp + lane] |= word << (16 * (i % each))
        return list(held)

    @pytest.mark.parametrize("architecture", ["80", "90"])
    @pytest.mark.parametrize(("shape", "of", "c_type", "d_type"), WMMA_SHAPES)
    def test_product_of_small_integers(
        self, shape: str, of: str, c_type: str, d_type: str, architecture: str
    ) -> None:
        k = int(shape.split("k")[1])
        random = np.random.default_rng(k)
        a, b, c = (random.integers(-8, 9, (WARPS, *size)) for size in ((16, k), (k, 16), (16, 16)))
        fragments = self.load(a, "a", of), self.load(b, "b", of), self.load(c, "c", c_type)
        found = tensor.wmma_mma(shape, of, c_type, d_type, *fragments, architecture)
        expected = self.load(a @ b + c, "c", d_type)
        assert len(found) == len(expected)
        for x, y in zip(found, expected, strict=True):
            assert np.array_equal(x.view(np.uint32), y)

    @pytest.mark.parametrize(
        ("operand", "of", "count", "copies", "size"),
        [
            ("a", "f16", 8, 2, (16, 16)),
            ("b", "f16", 8, 2, (16, 16)),
            ("a", "bf16", 4, 1, (16, 16)),
            ("b", "bf16", 4, 1, (16, 16)),
            ("a", "tf32", 4, 1, (16, 8)),
            ("b", "tf32", 4, 1, (8, 16)),
            ("c", "f16", 4, 1, (16, 16)),
            ("c", "f32", 8, 1, (16, 16)),
        ],
    )
    def test_registers_hold_every_element(
        self, operand: str, of: str, count: int, copies: int, size: tuple[int, int]
    ) -> None:
        """As many registers as the manual's tables say."""
        rows, columns = tensor.wmma_places(operand, of)
        assert rows.shape == columns.shape == (count * (1 if of in ("tf32", "f32") else 2), 32)
        times = np.zeros(size, int)
        np.add.at(times, (rows, columns), 1)
        assert (times == copies).all()

    def test_others_are_errors(self) -> None:
        for shape, of, c_type, d_type in (
            ("m8n32k16", "f16", "f32", "f32"),
            ("m16n16k16", "bf16", "f16", "f16"),
            ("m16n16k16", "tf32", "f32", "f32"),
        ):
            with pytest.raises(ValueError, match=shape):
                tensor.wmma_mma(shape, of, c_type, d_type, [], [], [], "80")


class TestMatrixMoves:
    def test_movmatrix_transposes(self) -> None:
        """Lane l holds of row l / 4 the columns 2 (l % 4) and the next: of the transposed matrix as of the other."""
        matrix = np.random.default_rng(1).integers(0, 2**16, (WARPS, 8, 8)).astype(np.uint32)

        def held(matrix: np.ndarray) -> list[int]:
            return [int(m[t // 4, 2 * (t % 4)] | m[t // 4, 2 * (t % 4) + 1] << 16) for m in matrix for t in range(32)]

        found = tensor.movmatrix(np.array(held(matrix), np.uint32))
        assert found.tolist() == held(matrix.transpose(0, 2, 1))

    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_ldmatrix(self, count: int, transposed: bool) -> None:
        matrix = np.random.default_rng(2).integers(0, 2**16, (count, 8, 8)).astype(np.uint16)
        rows = {
            8 * m + r: matrix[m, r].tobytes() for m in range(count) for r in range(8)
        }  # what the addresses point to
        lanes, offsets = tensor.ldmatrix_sources(count, transposed)
        assert lanes.shape == offsets.shape == (count, 2, 32)
        for (m, half, lane), source in np.ndenumerate(lanes):
            at = offsets[m, half, lane]
            found = int.from_bytes(rows[int(source)][at : at + 2], "little")
            row, column = lane // 4, 2 * (lane % 4) + half
            assert found == (matrix[m, column, row] if transposed else matrix[m, row, column])

    def test_ldmatrix_makes_the_fragments_of_mma(self) -> None:
        """x4 of the four 8 by 8 quarters (upper left, lower left, upper right, lower right): A of m16n8k16."""
        a = np.random.default_rng(3).integers(-9, 9, (1, 16, 16)).astype(np.float16)
        lanes, offsets = tensor.ldmatrix_sources(4, False)
        loaded = np.zeros((4, 32), np.uint32)
        for (m, half, lane), source in np.ndenumerate(lanes):
            row = a[0, source % 16, 8 * (source // 16) :]
            loaded[m, lane] |= int(row[offsets[m, half, lane] // 2].view(np.uint16)) << (16 * half)
        for x, y in zip(loaded, registers(a, "a", "f16", 16), strict=True):
            assert np.array_equal(x, y)


def cut_off(x: Fraction, unit: Fraction) -> Fraction:
    return (abs(x) // unit) * unit * (1 if x > 0 else -1)


def model(a: list[float], b: list[float], c: float, of: str, result: str, architecture: str) -> float:
    """The papers' model in rational numbers; the least exponent of alignment left out."""
    kept = {"80": 24, "90": 25}[architecture]
    size = {"80": 8, "90": 16}[architecture] // (2 if of == "tf32" else 1)

    def own(x: float, of: str) -> int:
        return max(exponent(abs(Fraction(x))), FORMATS[of][1])

    total = Fraction(c)
    for first in range(0, len(a), size):
        pairs = [(x, y) for x, y in zip(a[first : first + size], b[first : first + size], strict=True) if x and y]
        exponents = [own(x, of) + own(y, of) for x, y in pairs]
        if total:
            exponents.append(own(float(total), "f32"))
        if not exponents:
            continue
        unit = Fraction(2) ** (max(exponents) - kept)
        total = sum((cut_off(Fraction(x) * Fraction(y), unit) for x, y in pairs), cut_off(total, unit))
        total = Fraction(rounded(total, result, "rz" if result == "f32" else "rn"))
    return float(total)


class TestSums:
    """Cut off, not rounded: cases from Fasi et al., section 3, and Khattak & Mikaitis."""

    SMALL = 2.0**-12  # its square is below f32's last bit at 1

    @pytest.mark.parametrize("architecture", ["80", "90"])
    def test_the_result_is_cut_off(self, architecture: str) -> None:
        eps = 2.0**-23
        # 1 + 2^-24 + 2^-24 (1/2): nearer to 1 + 2^-23, to which it would be rounded
        a, b = [self.SMALL, self.SMALL], [self.SMALL, 0.5 * self.SMALL]
        assert dot(a, b, 1.0, architecture=architecture) == 1.0
        below = {"80": 2.0**-24, "90": 2.0**-23}  # the H100 keeps the last bit, and the sum has 25
        assert dot(a, b, -1.0, architecture=architecture) == -1 + below[architecture]
        a, b = [-self.SMALL, -self.SMALL], [self.SMALL, self.SMALL]
        assert dot(a, b, -1.0, architecture=architecture) == -1 - eps  # 2^-24 + 2^-24
        a, b = [self.SMALL * 1.5], [self.SMALL]
        assert dot(a, b, 1 + eps, architecture=architecture) == 1 + eps  # nearest would be 1 + 2 eps
        assert dot([-x for x in a], b, -1 - eps, architecture=architecture) == -1 - eps

    @pytest.mark.parametrize(
        ("architecture", "place", "kept"),
        [("80", 1, True), ("80", 2, False), ("90", 1, True), ("90", 2, True), ("90", 3, False)],
    )
    def test_bits_below_the_last_of_f32_are_kept_while_adding(
        self, architecture: str, place: int, kept: bool
    ) -> None:
        """2^place times the bit in that place make one of the last of f32, where they are kept."""
        count = 2**place
        found = dot([2.0**-12] * count, [2.0 ** (-11 - place)] * count, 1.0, architecture=architecture)
        assert found == (1 + 2.0**-23 if kept else 1.0)

    def test_products_are_added_in_blocks(self) -> None:
        """2^-24, half of f32's last bit at 1, seven times in each half of k: seven at once, or twice 3.5 cut off."""
        tiny = [2.0**-12] * 7 + [0.0]
        assert dot(tiny * 2, [2.0**-12] * 16, 1.0, architecture="90") == 1 + 7 * 2.0**-23
        assert dot(tiny * 2, [2.0**-12] * 16, 1.0, architecture="80") == 1 + 6 * 2.0**-23

    def test_blocks_of_tf32_are_half_as_long(self) -> None:
        tiny = [2.0**-12] * 3 + [0.0]
        assert dot(tiny * 2, [2.0**-12] * 8, 1.0, "tf32", architecture="90") == 1 + 3 * 2.0**-23
        assert dot(tiny * 2, [2.0**-12] * 8, 1.0, "tf32", architecture="80") == 1 + 2 * 2.0**-23

    def test_the_largest_of_a_block_cuts_off_the_others(self) -> None:
        """2^24 + 1 - 2^24: with 24 bits below the leading one, 1 is kept, a half is not."""
        assert dot([4096, 1, -4096], [4096, 1, 4096], 0.0) == 1
        assert dot([4096, 0.5, -4096], [4096, 1, 4096], 0.0) == 0
        assert dot([4096, 0.5, -4096], [4096, 1, 4096], 0.0, architecture="90") == 0.5
        assert dot([4096, 0.25, -4096], [4096, 1, 4096], 0.0, architecture="90") == 0
        assert dot([1, -4096], [0.5, 4096], 2.0**24) == 0  # the accumulator as well
        assert dot([4096, -4096], [4096, 4096], 0.75) == 0

    def test_products_are_not_normalised(self) -> None:
        """1.5 * 1.5 counts as 2^0, though it is above 2: one bit more is kept."""
        assert dot([1.5, 2.0**-12, -1.5], [1.5, 2.0**-12, 1.5], 0.0) == 2.0**-24
        assert dot([2.0, 2.0**-12, -2.0], [1.0, 2.0**-12, 1.0], 0.0) == 0

    def test_f16_results_are_rounded_to_nearest(self) -> None:
        eps = 2.0**-10
        assert dot([eps], [0.5], 1.0, result="f16") == 1.0  # a tie, to even
        assert dot([eps], [0.5], 1 + eps, result="f16") == 1 + 2 * eps
        assert dot([eps, eps], [0.5, 2.0**-10], 1.0, result="f16") == 1 + eps
        assert dot([-eps, -eps], [0.5, 2.0**-10], -1.0, result="f16") == -1 - eps
        assert dot([65504, 65504], [1, 1], 0.0, result="f16") == inf
        assert dot([300], [300], 0.0, result="f16") == inf
        assert dot([300], [300], 0.0, result="f32") == 90000
        # f16 between the A100's blocks: twice 1 + half an eps is 1, then 1
        halves = [eps] + [0.0] * 7 + [eps]
        assert dot(halves, [0.5] * 9, 1.0, result="f16", architecture="80") == 1.0
        assert dot(halves, [0.5] * 9, 1.0, result="f16", architecture="90") == 1 + eps

    def test_subnormal_numbers(self) -> None:
        least = 2.0**-24  # of f16
        assert dot([least], [least], 0.0) == 2.0**-48
        assert dot([least], [1.0], least, result="f16") == 2 * least
        assert dot([least], [0.5], 0.0, result="f16") == 0  # a tie
        assert dot([2.0**-133], [1.0], 0.0, "bf16") == 2.0**-133
        assert dot([2.0**-100], [2.0**-48], 0.0, "bf16") == 2.0**-148
        assert dot([2.0**-100], [2.0**-50], 0.0, "bf16") == 0
        assert dot([1.5 * 2.0**-100], [2.0**-49], 0.0, "bf16") == 2.0**-149  # cut off
        assert dot([0.0], [0.0], 2.0**-149) == 2.0**-149
        # the accumulator's exponent is -126, and below 2^-150 all is cut off on the A100
        assert dot([-(2.0**-76)], [2.0**-74], 2.0**-149, "bf16") == 0
        assert dot([-(2.0**-76)], [2.0**-75], 2.0**-149, "bf16") == 2.0**-149

    @pytest.mark.parametrize(("architecture", "lowest", "lowest_f16"), [("80", -156, -44), ("90", -158, -46)])
    def test_the_least_exponent_of_alignment(self, architecture: str, lowest: int, lowest_f16: int) -> None:
        """min_exp_limit of Khattak & Mikaitis's models, -132 and -133, of f16 -20 and -21, less the bits kept."""
        least = 2.0**-149
        for power, expected in ((lowest, 0), (lowest - 1, least)):
            a, b = [2.0**-75, -(2.0**-80)], [2.0**-74, 2.0 ** (power + 80)]
            assert dot(a, b, 0.0, "bf16", architecture=architecture) == expected
        for power, expected in ((lowest_f16, 2.0**-24), (lowest_f16 - 1, 0)):  # makes a tie more than a tie
            a, b = [2.0**-12, 2.0**-24], [2.0**-13, 2.0 ** (power + 24)]
            assert dot(a, b, 0.0, result="f16", architecture=architecture) == expected

    def test_a_subnormal_factor_has_the_least_exponent(self) -> None:
        """So 2^-24 * 2^10 counts as 2^-4, and all below 2^-28 is cut off on the A100."""
        assert dot([2.0**-24], [2.0**10], 2.0**-28) == 2.0**-14 + 2.0**-28
        assert dot([2.0**-24], [2.0**10], 2.0**-29) == 2.0**-14
        assert dot([2.0**-133], [2.0**100], 2.0**-50, "bf16") == 2.0**-33 + 2.0**-50
        assert dot([2.0**-133], [2.0**100], 2.0**-51, "bf16") == 2.0**-33
        assert dot([2.0**-136], [2.0**100], 2.0**-50, "tf32") == 2.0**-36 + 2.0**-50
        assert dot([2.0**-136], [2.0**100], 2.0**-51, "tf32") == 2.0**-36

    def test_an_accumulator_of_f16_has_its_own_exponent(self) -> None:
        """2 + 1/2 + 2^-20 of f16's least numbers: the last part is kept, and makes three."""
        least = 2.0**-24
        assert dot([2.0**-12, 2.0**-24], [2.0**-13, 2.0**-20], 2 * least, result="f16") == 3 * least

    def test_overflow(self) -> None:
        assert dot([2.0**100, 2.0**127], [2.0**27, 1.0], 0.0, "bf16") == inf
        assert dot([-(2.0**100)], [2.0**28], 0.0, "bf16") == -inf
        assert dot([2.0**100, -(2.0**100)], [2.0**100, 2.0**100], 3.0, "bf16") == 0  # no product is too large
        largest = float(np.finfo(np.float32).max)
        assert dot([2.0**52], [2.0**52], largest, "bf16") == inf
        assert dot([2.0**51], [2.0**51], largest, "bf16") == largest  # below 2^128: cut off

    def test_infinities_and_nan(self) -> None:
        for result in ("f32", "f16"):
            assert dot([inf], [2], 1.0, result=result) == inf
            assert dot([inf], [-2], 1.0, result=result) == -inf
            assert np.isnan(dot([inf], [0], 1.0, result=result))
            assert np.isnan(dot([inf, -inf], [1, 1], 1.0, result=result))
            assert np.isnan(dot([inf], [1], -inf, result=result))
            assert np.isnan(dot([1], [1], nan, result=result))
            assert np.isnan(dot([0] * 9 + [nan], [0] * 10, 1.0, result=result))
            assert dot([1], [1], -inf, result=result) == -inf
            assert dot([inf] + [0] * 8 + [1], [1] * 10, 0.0, result=result) == inf

    def test_nan_is_canonical(self) -> None:
        invalid = [np.full(32, 0x7E017E01, np.uint32)] * 4
        zero = [np.zeros(32, np.uint32)] * 4
        found = tensor.mma("m16n8k16", "f16", "f16", "f32", "f32", invalid, zero[:2], zero, "80")
        assert {int(x) for register in found for x in register.view(np.uint32)} == {0x7FFFFFFF}
        found = tensor.mma("m16n8k16", "f16", "f16", "f16", "f16", invalid, zero[:2], zero[:2], "90")
        assert {int(x) for register in found for x in register} == {0x7FFF7FFF}

    def test_zero_is_positive(self) -> None:
        assert not np.signbit(dot([1, -1], [1, 1], 0.0))
        assert not np.signbit(dot([-1] * 16, [0] * 16, -0.0))
        assert not np.signbit(dot([-1] * 16, [0] * 16, -0.0, result="f16"))

    @pytest.mark.parametrize("architecture", ["80", "90"])
    @pytest.mark.parametrize(("of", "result"), [("f16", "f32"), ("f16", "f16"), ("bf16", "f32"), ("tf32", "f32")])
    def test_against_the_model_in_rational_numbers(self, of: str, result: str, architecture: str) -> None:
        k = 8 if of == "tf32" else 16
        random = np.random.default_rng(7)

        def drawn(shape: tuple[int, ...], of: str, spread: int) -> np.ndarray:
            plain = random.uniform(1, 2, shape) * random.choice([-1, 1, 1], shape)
            scaled = np.ldexp(plain, random.integers(-spread, spread + 1, shape)) * (random.random(shape) < 0.95)
            return np.vectorize(lambda x: rounded(Fraction(x), of), otypes=[float])(scaled)

        # narrow and wide ranges of exponents, one for each warp
        warps = [
            (drawn((16, k), of, spread), drawn((k, 8), of, spread), drawn((16, 8), result, spread))
            for spread in (1, 6)
        ]
        a, b, c = (np.stack(x) for x in zip(*warps, strict=True))
        found = multiply(a, b, c, f"m16n8k{k}", of, result, architecture)
        for (warp, row, column), value in np.ndenumerate(found):
            left, right = a[warp, row].tolist(), b[warp, :, column].tolist()
            assert value == model(left, right, c[warp, row, column], of, result, architecture)
        assert (found != a @ b + c).any()
