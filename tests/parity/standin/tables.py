"""What the stand-in allows: the names of CuPy that it has, and the parameters that they take."""

from collections.abc import Iterable, Sized

# Element-wise functions: all that a fused function may call.
UFUNCS = (
    *("add", "subtract", "multiply", "divide", "true_divide", "floor_divide", "remainder", "power"),
    *("negative", "absolute", "abs", "sign", "reciprocal", "square", "sqrt", "rint", "floor", "ceil"),
    *("exp", "expm1", "log", "log1p", "log2", "tanh", "sin", "cos", "arctan", "hypot"),
    *("maximum", "minimum", "fmax", "fmin"),
    *("less", "less_equal", "equal", "not_equal", "greater", "greater_equal"),
    *("logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "bitwise_xor", "invert"),
    *("left_shift", "right_shift"),
    *("isfinite", "isinf", "isnan"),
)
# The other functions, each with the parameters that it takes; those after the bar by keyword only.
ELEMENTWISE = {"where": "condition x y", "clip": "a a_min a_max out"}
CREATION = {
    "empty": "shape dtype order",
    "zeros": "shape dtype order",
    "ones": "shape dtype order",
    "full": "shape fill_value dtype order",
    "arange": "start stop step dtype",
    "array": "obj dtype | copy order ndmin",
    "asarray": "a dtype order",
    "ascontiguousarray": "a dtype",
}
FUNCTIONS = {
    "empty_like": "prototype dtype order | shape",
    "zeros_like": "a dtype order | shape",
    "ones_like": "a dtype order | shape",
    "full_like": "a fill_value dtype order | shape",
    "copyto": "dst src casting where",
    "reshape": "a newshape | order",
    "transpose": "a axes",
    "ravel": "a order",
    "broadcast_to": "array shape",
    "expand_dims": "a axis",
    "concatenate": "tup axis out",
    "stack": "tup axis out",
    "shape": "a",
    "ndim": "a",
    "take": "a indices axis out",
    "sum": "a axis dtype out keepdims",
    "prod": "a axis dtype out keepdims",
    "mean": "a axis dtype out keepdims",
    "max": "a axis out keepdims",
    "min": "a axis out keepdims",
    "any": "a axis out keepdims",
    "all": "a axis out keepdims",
    "argmax": "a axis | out keepdims",
    "argmin": "a axis | out keepdims",
    "cumsum": "a axis dtype out",
    "argsort": "a axis",
    "sort": "a axis",
    "dot": "a b out",
    "matmul": "x1 x2 | out",
    "outer": "a b out",
    "vdot": "a b",
}
TYPES = (
    *("dtype", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
CONSTANTS = ("e", "inf", "nan", "newaxis", "pi")
# Functions of dtypes that CuPy takes from NumPy as they are.
OF_DTYPES = ("promote_types",)

# Methods of an array that are functions of the module, with the same parameters, and those of NumPy's array.
FUNCTION_METHODS = ("all", "any", "argmax", "argmin", "cumsum", "dot", "max", "mean", "min", "prod", "sum")
ARRAY_METHODS = {
    "astype": "dtype | copy",
    "copy": "order",
    "flatten": "order",
    "ravel": "order",
    "reshape": "*shape | order",
    "squeeze": "axis",
    "swapaxes": "axis1 axis2",
    "transpose": "*axes",
    "view": "dtype",
}

# Functions and methods that touch no element of an array that they are given, and take one of any device.
UNTOUCHING = (
    *("reshape", "transpose", "ravel", "squeeze", "swapaxes", "view", "broadcast_to", "expand_dims", "shape", "ndim"),
    *("empty_like", "zeros_like", "ones_like", "full_like"),
)

BINARY_OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
COMPARISONS = {
    "lt": "less",
    "le": "less_equal",
    "eq": "equal",
    "ne": "not_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
UNARY_OPERATORS = {"neg": "negative", "abs": "absolute", "invert": "invert"}


def parameters(text: str) -> tuple[list[str], list[str]]:
    """Return the names of parameters in a table's entry: those given by position, and those by keyword only."""
    positional, _, by_keyword = text.partition("|")
    return positional.split(), by_keyword.split()


def check_arguments(name: str, text: str, args: Sized, kwargs: Iterable[str]) -> None:
    """Raise `TypeError` for arguments that are not in the entry `text` of a table."""
    positional, by_keyword = parameters(text)
    if len(args) > len(positional) and not text.startswith("*"):
        raise TypeError(f"{name} takes {len(positional)} positional arguments, got {len(args)}")
    if unknown := sorted(set(kwargs) - {*positional, *by_keyword}):
        raise TypeError(f"the stand-in's {name} takes no {', '.join(unknown)}")
