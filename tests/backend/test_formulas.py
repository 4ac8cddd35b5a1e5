"""Formulas as CUDA C++: the texts here are written by hand; that compilers make the right numbers of them is shown in
tests/parity, where the kernels run."""

from typing import Any

import numpy as np
import pytest

from fmnist_xp import optim
from fmnist_xp.backend.formulas import Name, Statements, function, text
from fmnist_xp.nn.activations import relu, relu_gradient, shifted_exp
from fmnist_xp.nn.layers import add_penalty_gradient, penalty
from fmnist_xp.nn.losses import crossentropy, softmax_crossentropy_gradient


@pytest.mark.parametrize(
    ("formula", "arguments", "expected"),
    [
        (relu, ("a", "output"), "(float a) { return largest(a, 0.0f); }"),
        (relu_gradient, ("d", "a", "output"), "(float d, float a) { return (d * (a > 0.0f)); }"),
        (shifted_exp, ("a", "most", "output"), "(float a, float most) { return expf((a - most)); }"),
        (
            softmax_crossentropy_gradient,
            ("p", "column", "label", "output"),
            "(float p, float column, float label) { return (p - (column == label)); }",
        ),
        (
            crossentropy,
            ("p", 0.25, "output"),
            "(float p) { return (-logf(smallest(largest(p, 0.25f), 0.75f))); }",
        ),
    ],
)
def test_formula_is_a_function_in_c(formula: Any, arguments: tuple[Any, ...], expected: str) -> None:
    assert function("f", formula, *arguments) == f"static __device__ float f{expected}"


def test_parameters_of_a_struct_are_not_declared() -> None:
    of_part = {"parameters": "Part part"}
    assert function("f", penalty, "v", "part.l1", "part.l2", "output", **of_part) == (
        "static __device__ float f(float v, Part part) { return ((part.l1 * fabsf(v)) + ((part.l2 * v) * v)); }"
    )
    assert function("f", add_penalty_gradient, "g", "v", "part.l1", "part.l2", **of_part) == (
        "static __device__ float f(float g, float v, Part part) "
        "{ return (g + (((v < 0.0f) ? (-part.l1) : part.l1) + ((2.0f * part.l2) * v))); }"
    )


def test_numbers_are_those_of_float32() -> None:
    assert text(0.1) == "0.10000000149011612f"  # the float32 next to 0.1
    assert text(1) == "1.0f"
    assert text(1e-7) == "1.0000000116860974e-07f"
    assert np.float32(text(1 / 3)[:-1]) == np.float32(1 / 3)


def test_formula_that_writes_to_two_arguments_is_no_function() -> None:
    def both(xp: Any, a: Any, b: Any) -> None:
        xp.add(a, b, out=a)
        xp.multiply(a, b, out=b)

    with pytest.raises(ValueError, match="too many"):
        function("f", both, "a", "b")


def test_statements_are_made_of_what_was_there_before_them() -> None:
    statements = Statements()
    names = map(Name, ("p", "g", "v"))
    optim.SGD(0.5, momentum=0.25)._update(statements, tuple(names), (Name("rate"),))  # type: ignore[arg-type]
    velocity = "((0.25f * v) - (rate * g))"
    assert statements.lines == [
        f"const float new_0_0 = (p + {velocity});",
        f"const float new_0_1 = {velocity};",
        "p = new_0_0;",
        "v = new_0_1;",
    ]


@pytest.mark.parametrize("ema", [None, 0.5])
def test_statements_of_an_update_are_in_order(ema: float | None) -> None:
    statements, optimizer = Statements(), optim.SGD(0.5, ema=ema)
    coefficients = [Name(f"c[{number}]") for number in range(len(optimizer.coefficients()))]
    names = [Name(name) for name in ("p", "g", *(["average"] if ema else []))]
    optimizer.compute_update(statements, names, coefficients)
    expected = ["const float new_0_0 = (p - (c[0] * g));", "p = new_0_0;"]
    averaged = ["const float new_2_0 = (average + (c[1] * (p - average)));", "average = new_2_0;"]
    assert statements.lines == expected + (averaged if ema else [])


def test_function_that_c_has_not_is_an_error() -> None:
    with pytest.raises(AttributeError, match="tanh"):
        function("f", lambda xp, a, output: xp.tanh(a, out=output), "a", "output")
