"""The bounds: by hand, against arithmetic in known precisions, and how they grow."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmnist_xp.backend import PRECISIONS
from fmnist_xp.nn import Dense
from fmnist_xp.nn.activations import relu_gradient_bound, softmax_bound
from fmnist_xp.nn.losses import CLIP, CategoricalCrossentropy
from fmnist_xp.optim import Adam
from fmnist_xp.parity import bounds
from fmnist_xp.parity.bounds import Bounded
from fmnist_xp.parity.tolerances import FUNCTION_ULPS, FUSED, LAMBDA, ROUNDOFF, Roundoff
from fmnist_xp.train.fused.source import OPERANDS

SINGLE, DOUBLE = ROUNDOFF["float32"], ROUNDOFF["float64"]
SEEDS = st.integers(0, 2**32 - 1)


def exact(value: Any, roundoff: Roundoff = SINGLE) -> Bounded:
    return Bounded.exact(value, roundoff)


def singles(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Return float32 numbers of many sizes, as float64."""
    values = generator.standard_normal(shape) * 2.0 ** generator.integers(-8, 9, shape)
    return values.astype("float32").astype("float64")


def test_every_precision_has_its_roundoff() -> None:
    assert ROUNDOFF.keys() == {name for name, precision in PRECISIONS.items() if not precision.fused}
    for name in ROUNDOFF:
        parameters = np.finfo(PRECISIONS[name].parameters)
        assert ROUNDOFF[name].unit == parameters.eps / 2
        assert ROUNDOFF[name].underflow == parameters.smallest_normal
    half = np.finfo("float16")
    assert ROUNDOFF["float16"].operand == ROUNDOFF["float16"].stored == half.eps / 2
    assert ROUNDOFF["float16"].stored_underflow == half.smallest_subnormal / 2
    # Cutting 10 bits of mantissa off loses between 0 and 2^-10.
    tf32 = ROUNDOFF["tf32"]
    assert tf32.operand_bias - tf32.operand == 0
    assert tf32.operand_bias + tf32.operand == 2.0**-10 == tf32.disturbance
    assert ROUNDOFF["float32"].disturbance == 2.0**-24


def test_fused_engine_has_the_roundoff_of_its_operands() -> None:
    assert FUSED.keys() == OPERANDS.keys()
    assert FUSED["float16"] == ROUNDOFF["float16"]
    bits = FUSED["bfloat16"]
    assert bits.operand == bits.stored == 2.0**-bits.operand_bits == 2.0**-8
    # What three bfloat16 leave of a float32, and what six of their nine products leave of a product, at the worst.
    generator = np.random.default_rng(0)
    a, b = (np.ldexp(generator.integers(2**23, 2**24, 10_000).astype("float64"), -23) for _ in range(2))
    terms = [split(numbers) for numbers in (a, b)]
    np.testing.assert_array_equal(sum(terms[0]), a)
    kept = sum(terms[0][i] * terms[1][j] for i in range(3) for j in range(3 - i))
    assert 2.0**-26 < np.max(np.abs(kept / (a * b) - 1)) <= 2 * FUSED["float32"].operand


def split(numbers: np.ndarray) -> list[np.ndarray]:
    """Return three numbers of 8 bits for each, from the largest on, rounded to nearest."""
    terms, rest = [], numbers
    for _ in range(3):
        fraction, exponent = np.frexp(rest)
        terms.append(np.ldexp(np.rint(fraction * 2**8), exponent - 8))
        rest = rest - terms[-1]
    return terms


def test_what_fits_into_fewer_bits_goes_in_as_it_is() -> None:
    numbers = np.array([[1 + 2.0**-7, 1 + 2.0**-8, 255.0, 257.0, 0.0]])  # of 8, 9, 8, 9 bits, and none
    errors = Bounded.exact(numbers, FUSED["bfloat16"]).operand_errors()[0]
    assert (errors > 0).tolist() == [[False, True, False, True, False]]
    assert not Bounded.exact(numbers, FUSED["float16"]).operand_errors().any()


def test_lambda_leaves_little_to_chance() -> None:
    sums, terms = 1e6, 784
    assert sums * 2 * terms * math.exp(-(LAMBDA**2) / 2) < 2.1e-5


def test_exact_numbers_have_no_error() -> None:
    assert exact([1.0, -2.0]).tolerance.tolist() == [0, 0]


def test_one_rounding_is_one_unit_roundoff() -> None:
    result = exact(3.0) + exact(5.0)
    assert result.value == 8
    assert result.tolerance == pytest.approx(8 * 2.0**-24, rel=1e-12)


def test_python_number_is_rounded_too() -> None:
    # 2·0.1: the factor is off by u·0.1, and the product is rounded.
    assert (exact(2.0) * 0.1).tolerance == pytest.approx(2 * 0.2 * 2.0**-24, rel=1e-6)


def test_errors_of_operands_go_on() -> None:
    unit = 2.0**-24
    a = exact(3.0) + exact(5.0)  # 8, off by 8u
    assert (a - exact(7.0)).tolerance == pytest.approx((8 + 1) * unit, rel=1e-6)
    assert (a * exact(2.0)).tolerance == pytest.approx((16 + 16) * unit, rel=1e-6)
    assert (exact(16.0) / a).tolerance == pytest.approx((2 + 2) * unit, rel=1e-6)
    assert a.sqrt().tolerance == pytest.approx((math.sqrt(8) / 2 + math.sqrt(8)) * unit, rel=1e-6)
    assert a.exp().tolerance == pytest.approx(math.exp(8) * (8 + 2 * FUNCTION_ULPS) * unit, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.5, 0.25, math.sqrt(0.5) - 0.5),  # the root is steeper below
        (1.0, 4.0, math.sqrt(5) - 1),  # and there is none below 0
    ],
)
def test_root_is_off_by_the_wider_side(value: float, error: float, expected: float) -> None:
    root = Bounded(np.array([value]), np.full((3, 1), error), SINGLE).sqrt()
    assert root.tolerance == pytest.approx(expected, rel=1e-6)


def test_quotient_by_what_may_be_0_has_no_bound() -> None:
    unsure = Bounded(np.array([0.5]), np.full((3, 1), 0.5), SINGLE)
    assert (exact([1.0]) / unsure).tolerance == [math.inf]


@settings(deadline=None, max_examples=50)
@given(SEEDS)
def test_arithmetic_in_float32_stays_within_its_bounds(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = singles(generator, 50), singles(generator, 50)
    x, y = a.astype("float32"), b.astype("float32")
    p, q = exact(a), exact(b)
    for computed, bounded in (
        ((x + y) * x - y, (p + q) * p - q),
        (x / (y * y + np.float32(0.1)), p / (q * q + 0.1)),
        (np.sqrt(x * x + y * y), (p * p + q * q).sqrt()),
        (np.exp(-(x * x) / (x * x + y * y)), (p * p * -1.0 / (p * p + q * q)).exp()),
    ):
        assert computed.dtype == np.float32
        np.testing.assert_array_less(np.abs(computed - bounded.value), bounded.tolerance * (1 + 1e-6) + 1e-300)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 3000))
def test_sums_of_products_in_float32_stay_within_their_bounds_in_any_order(seed: int, terms: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = singles(generator, 1, terms), singles(generator, terms, 4)
    bounded = bounds.product(exact(a), exact(b))
    x, y = a.astype("float32"), b.astype("float32")
    one_by_one = np.cumsum(x.T * y, axis=0, dtype="float32")[-1:]
    for computed in (x @ y, one_by_one, np.sum(x.T[::-1] * y[::-1], axis=0, keepdims=True)):
        assert np.all(np.abs(computed - bounded.value) <= bounded.tolerance)


def test_tolerance_of_a_sum_grows_with_the_root_of_its_terms() -> None:
    def tolerance(terms: int, precision: str) -> float:
        ones = np.ones((1, terms))
        roundoff = ROUNDOFF[precision]
        return float(bounds.product(exact(ones, roundoff), exact(ones.T, roundoff)).tolerance[0, 0]) / terms

    for precision, unit in (("float32", 2.0**-24), ("float64", 2.0**-53)):
        assert tolerance(1, precision) == pytest.approx(unit, rel=1e-6)
        assert tolerance(784, precision) == pytest.approx(LAMBDA * 28 * unit, rel=1e-3)
        assert tolerance(10_000, precision) == pytest.approx(LAMBDA * 100 * unit, rel=1e-2)
    # Cut off instead of rounded, all errors have one sign.
    assert tolerance(784, "float16") == pytest.approx(784 * 2.0**-23, rel=1e-3)


def test_what_cancels_counts_for_the_tolerance() -> None:
    result = bounds.product(exact([[1.0, 1.0]]), exact([[1000.0], [-1000.0]]))
    assert result.value == 0
    assert result.tolerance == pytest.approx(2 * 2000 * 2.0**-24, rel=1e-6)


@pytest.mark.parametrize(("precision", "operand"), [("float16", 2.0**-11), ("tf32", 2.0**-10)])
def test_operands_are_rounded_where_they_do_not_fit(precision: str, operand: float) -> None:
    roundoff = ROUNDOFF[precision]
    unfit = bounds.product(exact([[1 + 2.0**-12]], roundoff), exact([[1.0]], roundoff))
    assert unfit.tolerance[0, 0] == pytest.approx(operand, rel=2e-3)
    fit = bounds.product(exact([[1 + 2.0**-10]], roundoff), exact([[1.0]], roundoff))
    assert fit.tolerance[0, 0] == pytest.approx(2.0**-23, rel=2e-3)


def test_spread_of_many_operands_adds_up_as_the_root_of_squares_but_not_over_rows() -> None:
    roundoff = ROUNDOFF["float16"]
    a, b = exact(np.full((1, 10_000), 1 + 2.0**-12), roundoff), exact(np.ones((10_000, 1)), roundoff)
    sums = bounds.product(a, b), bounds.product(a, b, over_rows=True)
    additions = 10_000 * 10_000 * 2.0**-23
    assert sums[0].tolerance[0, 0] - additions == pytest.approx(LAMBDA * 100 * 2.0**-11, rel=0.05)
    assert sums[1].tolerance[0, 0] - additions == pytest.approx(10_000 * 2.0**-11, rel=0.05)


def test_halves_between_layers_are_rounded() -> None:
    assert exact([1.0], ROUNDOFF["float16"]).stored().tolerance == pytest.approx(2.0**-11 + 2.0**-25)
    assert exact([1.0]).stored().tolerance == 0


def test_relu_gradient_is_free_where_the_input_may_lie_on_either_side() -> None:
    inputs = Bounded(np.array([0.1, 0.1, -0.1, -0.1]), np.array([[0.2, 0.01, 0.2, 0.01]] * 2 + [[0.0] * 4]), SINGLE)
    gradient = relu_gradient_bound(exact([3.0, 3.0, 3.0, 3.0]), inputs, inputs.maximum(0))
    assert gradient.value.tolist() == [3, 3, 0, 0]
    assert gradient.tolerance.tolist() == [3, 0, 3, 0]


def test_correct_is_free_where_two_classes_may_be_highest() -> None:
    probabilities = Bounded(np.array([[0.6, 0.4], [0.51, 0.49]]), np.full((3, 2, 2), 0.02), SINGLE)
    correct = probabilities.argmax_is(np.array([0, 1]))
    assert correct.value.tolist() == [1, 0]
    assert correct.tolerance.tolist() == [0, 1]


def test_correct_where_two_classes_are_as_high() -> None:
    # Exact, the first of them is taken by everyone; a quarter beside each other, both ends are the same number.
    values, errors = np.array([[0.5, 0.5], [0.75, 0.25], [0.75, 0.25]]), np.zeros((3, 3, 2))
    errors[:, 1], errors[:, 2] = 0.25, 0.24
    correct = Bounded(values, errors, SINGLE).argmax_is(np.array([0, 1, 1]))
    assert correct.value.tolist() == [1, 0, 0]
    assert correct.tolerance.tolist() == [0, 1, 0]


def test_probability_is_off_by_no_more_than_1() -> None:
    logits = Bounded(np.array([[0.0, 1.0]]), np.full((3, 1, 2), 50.0), SINGLE)
    assert np.all(softmax_bound(logits).tolerance <= 1)


def test_first_update_of_adam_is_bounded_also_where_the_gradient_may_be_0() -> None:
    gradient = Bounded(np.array([1e-9]), np.full((3, 1), 1e-3), SINGLE)
    step = next(Adam(0.02).bound_updates(exact([1.0]), [gradient]))
    assert step.tolerance == pytest.approx(2 * 0.02, rel=1e-3)


def test_later_updates_of_adam_have_no_such_bound() -> None:
    gradient = Bounded(np.array([1e-9]), np.full((3, 1), 1e-3), SINGLE)
    first, second = (step.tolerance for step in Adam(0.02).bound_updates(exact([1.0]), [gradient] * 2))
    assert (first < 0.05, second) == (True, math.inf)


# With coarse roundings, where all terms show: every figure by hand.

UNIT, OPERAND, ALIKE, ADDITION, STORED, TINY, TINY_HALF = 1 / 8, 1 / 8, 1 / 16, 1 / 5, 1 / 2, 1 / 32, 1 / 64
COARSE = Roundoff(UNIT, 0.0, 0.0, ADDITION, False, STORED, TINY, TINY_HALF)
COARSE_OPERANDS = COARSE._replace(operand=OPERAND, operand_bias=ALIKE)


def bounded(value: Any, worst: Any, bias: Any, spread: Any, roundoff: Roundoff = COARSE) -> Bounded:
    return Bounded(np.array(value, dtype=float), np.array([worst, bias, spread], dtype=float), roundoff)


def test_exact_numbers_are_doubles() -> None:
    assert exact([1, 2]).value.dtype == exact([1, 2]).errors.dtype == np.float64


def test_rounding_of_a_result_counts_its_errors_too() -> None:
    result = bounded(-8, 2, 1, 3).rounded(np.array(-8.0), np.array([2.0, 1.0, 3.0]))
    assert result.errors.tolist() == [2 + (8 + 2) * UNIT + TINY, 1 + TINY, 3 + (8 + 3) * UNIT + TINY]


def test_error_of_a_function_is_the_same_for_the_same_argument() -> None:
    share = 2 * FUNCTION_ULPS * UNIT
    result = bounded(-8, 2, 1, 3).from_function(np.array(-8.0), np.array([2.0, 1.0, 3.0]))
    assert result.errors.tolist() == [2 + (8 + 2) * share + TINY, 1 + (8 + 1) * share + TINY, 3 + TINY]


def test_what_is_stored_is_rounded_once_more() -> None:
    result = bounded(-8, 2, 1, 3).stored()
    assert result.value == -8
    assert result.errors.tolist() == [
        2 + (8 + 2) * STORED + TINY_HALF,
        1 + TINY_HALF,
        3 + (8 + 3) * STORED + TINY_HALF,
    ]


def test_sum_rounds_as_often_as_it_has_terms() -> None:
    result = bounded([[3, -5, 1, 0]], [[1, 2, 0, 0]], [[1, 0, 0, 0]], [[0, 3, 0, 0]]).sum(axis=1)
    worst = 4 * UNIT / (1 - 4 * UNIT)
    assert result.value.tolist() == [-1]
    assert result.errors[:, 0].tolist() == [
        3 + (9 + 3) * worst + 4 * TINY,
        1 + 4 * TINY,
        3 + (9 + 3) * math.sqrt(4) * UNIT + 4 * TINY,
    ]


def test_quotient_is_off_by_what_its_parts_are() -> None:
    result = bounded(8, 2, 1, 3) / bounded(-4, 2, 2, 0)  # 8 / −4, where the divisor may be −2
    worst, bias, spread = (2 + 2 * 2) / 2, (1 + 2 * 2) / 2, 3 / 2
    assert result.value == -2
    assert result.errors.tolist() == [
        worst + (2 + worst) * UNIT + TINY,
        bias + TINY,
        spread + (2 + spread) * UNIT + TINY,
    ]
    assert (exact(0.0) / bounded(4, 4, 4, 4)).errors.tolist()[0] == math.inf  # 0 / 0


def test_operands_errors_before_a_product() -> None:
    unfit = bounded([8, 1 + 2.0**-12, 1e6, -8], [2, 0, 0, 0], [1, 0, 0, 0], [3, 0, 0, 0], COARSE_OPERANDS)
    assert unfit.operand_errors().T.tolist() == [
        [2 + 10 * (OPERAND + ALIKE) + TINY_HALF, 1 + TINY_HALF, 3 + 11 * OPERAND + TINY_HALF],
        *(
            [size * (OPERAND + ALIKE) + TINY_HALF, TINY_HALF, size * OPERAND + TINY_HALF]
            for size in (1 + 2.0**-12, 1e6)
        ),
        [0, 0, 0],  # a number that halves have
    ]


@pytest.mark.parametrize("cut", [False, True])
def test_product_of_numbers_that_are_off(cut: bool) -> None:
    # 8, off by 3, 1 or 2, times −1, off by 1, ¼ or ½: in a spread √((2·1.5)² + (8·½)²) = 5.
    roundoff = COARSE._replace(cut=cut)
    a, b = bounded([[8]], [[3]], [[1]], [[2]], roundoff), bounded([[-1]], [[1]], [[0.25]], [[0.5]], roundoff)
    worst = ADDITION / (1 - ADDITION)
    expected = [
        (3 * 2 + 8 * 1) + (8 + 3) * 2 * worst + TINY,
        (1 * 1.25 + 8 * 0.25) + ((8 + 1) * 1.25 * worst if cut else 0) + TINY,
        5 + (0 if cut else (8 + 2) * 1.5 * ADDITION) + TINY,
    ]
    for over_rows in (False, True):  # whose numbers are rounded alike only where operands are rounded
        result = bounds.product(a, b, over_rows=over_rows)
        assert result.value == -8
        np.testing.assert_allclose(result.errors[:, 0, 0], expected, rtol=1e-15)


@pytest.mark.parametrize("over_rows", [False, True])
def test_product_of_operands_that_are_rounded(over_rows: bool) -> None:
    a = bounded([[8]], [[3]], [[1]], [[2]], COARSE_OPERANDS)
    b = bounded([[-1]], [[1]], [[0.25]], [[0.5]], COARSE_OPERANDS)
    (a_worst, a_bias, a_spread), (b_worst, b_bias, b_spread) = (
        side.operand_errors().ravel().tolist() for side in (a, b)
    )
    left, right = a_spread * (1 + b_spread), 8 * b_spread
    expected = [
        a_worst * (1 + b_worst) + 8 * b_worst + (8 + a_worst) * (1 + b_worst) * ADDITION / (1 - ADDITION) + TINY,
        a_bias * (1 + b_bias) + 8 * b_bias + 2 * 8 * ALIKE + TINY,
        (left + right if over_rows else math.hypot(left, right)) + (8 + a_spread) * (1 + b_spread) * ADDITION + TINY,
    ]
    result = bounds.product(a, b, over_rows=over_rows)
    np.testing.assert_allclose(result.errors[:, 0, 0], expected, rtol=1e-14)


def test_dense_adds_its_biases_and_stores_what_a_hidden_layer_gives() -> None:
    inputs, weights, biases = exact([[2.0]], COARSE), exact([[3.0]], COARSE), exact([[1.0]], COARSE)
    layer, parameters = Dense(1, 1), {"weights": weights, "biases": biases}
    hidden, _backward = layer.bound_pass(inputs, parameters)
    layer.precision = layer.precision._replace(wide=True)
    output, _backward = layer.bound_pass(inputs, parameters)
    assert output.value == hidden.value == 7
    np.testing.assert_array_equal(output.errors, (bounds.product(inputs, weights) + biases).errors)
    stored = bounds.product(inputs, weights).stored()
    np.testing.assert_array_equal(hidden.errors, (stored + biases).stored().errors)


def test_gradients_are_sums_over_rows() -> None:
    generator = np.random.default_rng(0)
    x, w, d = (exact(generator.random(shape), COARSE_OPERANDS) for shape in ((3, 2), (2, 4), (3, 4)))
    _output, backward = Dense(2, 4).bound_pass(x, {"weights": w, "biases": exact(np.zeros((1, 4)), COARSE_OPERANDS)})
    dinputs, gradients = backward(d)
    ones = exact(np.ones((1, 3)), COARSE_OPERANDS)
    for result, a, b in ((gradients["weights"], x.moved(np.transpose), d), (gradients["biases"], ones, d)):
        np.testing.assert_array_equal(result.value, a.value @ b.value)
        np.testing.assert_array_equal(result.errors, bounds.product(a, b, over_rows=True).errors)
        assert (result.errors[bounds.SPREAD] > bounds.product(a, b).errors[bounds.SPREAD]).all()
    expected = bounds.product(d, w.moved(np.transpose)).stored()
    np.testing.assert_array_equal(dinputs.errors, expected.errors)


def test_relu_gradient_is_free_where_the_input_may_just_be_0() -> None:
    inputs = bounded([-0.25, -0.25], [0.25, 0.125], [0.25, 0.125], [0, 0])
    assert exact([3.0, 3.0]).where_positive(inputs).tolerance.tolist() == [3, 0]


def test_choice_of_two_is_off_by_their_difference_where_either_may_be_right() -> None:
    gate = bounded([-0.25, 0.25, 0.5, -0.5], [0.25] * 4, [0.25] * 4, [0] * 4)
    this, other = (
        bounded([3.0] * 4, [0.5] * 4, [0.5] * 4, [0] * 4),
        bounded([2.0] * 4, [0.25] * 4, [0] * 4, [0.125] * 4),
    )
    chosen = this.where_positive(gate, other)
    assert chosen.value.tolist() == [2, 3, 3, 2]
    # The larger error and what lies between the two, where the gate may be on either side.
    assert chosen.errors.tolist() == [[1.5, 1.5, 0.5, 0.25], [1.5, 1.5, 0.5, 0], [0.125, 0.125, 0, 0.125]]


def test_choice_between_numbers_without_end_is_sure() -> None:
    infinite = exact([math.inf, -math.inf])
    chosen = infinite.where_positive(infinite, exact([0.0, -math.inf]))
    assert chosen.value.tolist() == [math.inf, -math.inf]
    assert not chosen.errors.any()


@pytest.mark.parametrize(
    ("probability", "error", "loss", "off"),
    [
        # ½, off by ¼ and by its rounding, 1/16, is 3/16 at least: further from it in logarithms than 13/16.
        (0.5, 0.25, math.log(2), math.log(0.5 / (3 / 16))),
        # Where it may be 0, it is clipped, and the end of the range may be rounded to half of itself.
        (0.5, 0.5, math.log(2), math.log(0.5 / (CLIP / 2))),
        (0.0, 0.5, -math.log(CLIP), math.log1p(0.5 / CLIP + UNIT)),
    ],
)
def test_loss_is_off_by_the_further_end(probability: float, error: float, loss: float, off: float) -> None:
    predictions = bounded([[probability, 0.5]], *[[[error, 0.0]]] * 3)
    _output, result, _dinputs = CategoricalCrossentropy().bound_pass(predictions, np.array([0]), 1)
    assert result.value[0] == pytest.approx(loss, rel=1e-15)
    share = 2 * FUNCTION_ULPS * UNIT * (loss + off)
    expected = [off + share + TINY, off + share + TINY, off + TINY]
    np.testing.assert_allclose(result.errors[:, 0], expected, rtol=1e-12)


def test_bound_of_the_whole_is_no_less_than_of_its_parts() -> None:
    generator = np.random.default_rng(0)
    x, w, b = (exact(singles(generator, *shape)) for shape in ((5, 30), (30, 7), (1, 7)))
    output, _backward = Dense(30, 7).bound_pass(x, {"weights": w, "biases": b})
    assert np.all(output.tolerance >= bounds.product(x, w).tolerance)
    for kind, other in itertools.pairwise((output.errors[bounds.BIAS], output.errors[bounds.WORST])):
        assert np.all(kind <= other)


def test_tanh_is_off_by_its_argument_where_it_is_steepest() -> None:
    # ½ off by ¼ may be ¼, where the slope is 1 − tanh(¼)²; where 0 is within reach, it is 1.
    result = bounded([0.5, -0.5, 0.5], [0.25, 0.25, 0.75], [0.125, 0.125, 0.75], [0, 0, 0]).tanh()
    slope = 1 - math.tanh(0.5 - 0.125) ** 2  # the bias is all that is likely
    value, share = math.tanh(0.5), 2 * FUNCTION_ULPS * UNIT
    for element, sign, worst, bias, steepest in (
        (0, 1, 0.25, 0.125, slope),
        (1, -1, 0.25, 0.125, slope),
        (2, 1, 0.75, 0.75, 1),
    ):
        assert result.value[element] == sign * value
        errors = [worst * steepest, bias * steepest]
        expected = [error + (value + error) * share + TINY for error in errors] + [TINY]
        np.testing.assert_allclose(result.errors[:, element], expected, rtol=1e-14)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(2.0**-20, 4.0))
def test_tanh_of_all_that_an_argument_may_be_stays_within_its_bound(seed: int, error: float) -> None:
    generator = np.random.default_rng(seed)
    values = 3 * generator.standard_normal(50)
    result = Bounded(values, np.stack([np.full(50, error)] * 2 + [np.zeros(50)]), DOUBLE).tanh()
    for share in (-1, -0.5, 0.5, 1):
        assert np.all(np.abs(np.tanh(values + share * error) - result.value) <= result.tolerance)


def test_what_is_not_finite_is_to_be_followed_exactly() -> None:
    result = exact([[np.inf, -np.inf, np.nan]]).tanh()
    np.testing.assert_array_equal(result.value, [[1, -1, np.nan]])
    assert (result.tolerance[0, 2], exact([np.inf], ROUNDOFF["float16"]).stored().tolerance[0]) == (0, 0)
    assert result.tolerance[0, 0] == pytest.approx(2 * FUNCTION_ULPS * 2.0**-24)


def test_ends_of_a_range_are_rounded_too() -> None:
    value = bounded([0.25, 3.0], [0.5, 0.25], [0.25, 0], [0, 0.125])
    assert value.maximum(0).errors.tolist() == value.errors.tolist()
    held = value.maximum(1.0)
    assert held.value.tolist() == [1, 3]
    np.testing.assert_array_equal(held.errors, value.rounded(held.value, value.errors).errors)
    clipped = value.clip(1.0, 2.0)
    assert clipped.value.tolist() == [1, 2]
    assert (clipped.errors - value.errors).tolist() == [[UNIT, 2 * UNIT]] * 3
    below = (-value).clip(-2.0, -1.0)
    assert below.value.tolist() == [-1, -2]
    np.testing.assert_array_equal(below.errors, clipped.errors)


def test_negated_numbers_are_off_by_as_much() -> None:
    value = bounded([0.25, -3.0], [0.5, 0.25], [0.25, 0], [0, 0.125])
    assert (-value).value.tolist() == [-0.25, 3]
    assert (-value).errors is value.errors


def test_numbers_beside_others_are_exact_and_of_their_shape() -> None:
    beside = exact([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], COARSE)
    rows = beside.one_hot(np.array([2, 0], dtype="uint8"))
    assert rows.value.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert beside.exactly(7).value.tolist() == [[7] * 3] * 2
    for made in (rows, beside.exactly(7)):
        assert made.roundoff is COARSE
        assert made.errors.shape == (3, 2, 3)
        assert not made.errors.any()
