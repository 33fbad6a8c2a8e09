"""Kinds of arrays: which library an array belongs to, and how that library makes a new one.

The extension module reads and writes any of them in place; only what is newly made depends on the kind. NumPy and torch
are looked up when the first of their arrays arrives, so that importing flashc imports neither.
"""

from __future__ import annotations

import operator
import sys
from typing import Any, NamedTuple, Protocol

from . import _core

# Every name of an element type that is understood, and the one name used inside.
_DTYPES = {
    "f32": "float32", "float32": "float32",
    "f16": "float16", "float16": "float16",
    "bf16": "bfloat16", "bfloat16": "bfloat16",
}
_NUMPYS_OWN = ("float32", "float16")  # the others of these are of ml_dtypes
_FLOAT8 = {
    "f8_e4m3": "float8_e4m3fn", "float8_e4m3fn": "float8_e4m3fn",
    "f8_e5m2": "float8_e5m2", "float8_e5m2": "float8_e5m2",
}


def dtype_name(dtype: Any, argument: str, *, float8: bool = False) -> str:
    """"float32", "float16" or "bfloat16" (or one of the 8-bit floats, where they are taken) of a string, a NumPy dtype
    or type, or another library's dtype."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", dtype)
    name = str(name).rpartition(".")[2]
    found = _DTYPES.get(name) or (_FLOAT8.get(name) if float8 else None)
    if found is None:
        names = "float32, float16, bfloat16, float8_e4m3fn or float8_e5m2" if float8 else "float32, float16 or bfloat16"
        raise TypeError(f"{argument}: expected {names}, found {dtype!r}")
    return found


class Kind(Protocol):
    """A library of arrays."""

    def empty(self, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array that the extension module can fill; dtype None is that of `like`."""

    def result(self, like: Any, array: Any) -> Any:
        """What the caller gets for a filled array of `empty`."""

    def strides(self, array: Any) -> tuple[int, ...] | None:
        """All in one unit; None where the library does not tell."""


class _NumPy:
    def __init__(self) -> None:
        import numpy

        self._numpy = numpy

    def empty(self, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        if dtype is None:
            return self._numpy.empty(shape, like.dtype)
        name = dtype_name(dtype, "out_dtype", float8=True)
        if name in _NUMPYS_OWN:
            return self._numpy.empty(shape, name)
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError(f"out_dtype: NumPy arrays of {name} need the package ml_dtypes, "
                            "which is not installed") from None
        return self._numpy.empty(shape, getattr(ml_dtypes, name))

    def result(self, like: Any, array: Any) -> Any:
        return array

    def strides(self, array: Any) -> tuple[int, ...] | None:
        return tuple(array.strides)


class _Torch:
    def __init__(self) -> None:
        import torch

        self._torch = torch

    def empty(self, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        dtype = like.dtype if dtype is None else getattr(self._torch, dtype_name(dtype, "out_dtype", float8=True))
        return self._torch.empty(shape, dtype=dtype, device="cpu")  # whatever torch.set_default_device() says

    def result(self, like: Any, array: Any) -> Any:
        return array

    def strides(self, array: Any) -> tuple[int, ...] | None:
        return tuple(array.stride())


class _Namespace:
    """Arrays of any other library that follows the Python array API standard (JAX, for one)."""

    def __init__(self) -> None:
        self._numpy = _NumPy()

    def empty(self, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        return self._numpy.empty(like, shape, dtype_name(like.dtype, "q") if dtype is None else dtype)

    def result(self, like: Any, array: Any) -> Any:
        namespace = like.__array_namespace__()
        # NumPy has no DLPack export of the types of ml_dtypes: there asarray, which copies.
        return namespace.from_dlpack(array) if array.dtype.name in _NUMPYS_OWN else namespace.asarray(array)

    def strides(self, array: Any) -> tuple[int, ...] | None:
        return None


def refuse_gradients(**arrays: Any) -> None:
    """Raises for torch tensors that need a gradient, backward or forward; the keywords name them."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    forward_ad, backward = torch.autograd.forward_ad, torch.is_grad_enabled()
    forward = forward_ad._current_level >= 0
    if not backward and not forward:
        return
    for name, array in arrays.items():
        if isinstance(array, torch.Tensor) and (
                backward and array.requires_grad or forward and forward_ad.unpack_dual(array).tangent is not None):
            raise RuntimeError(f"{name}: flashc is forward only; expected a tensor that needs no gradient, found one "
                               "that does (use torch.no_grad(), torch.inference_mode() or detach())")


_kind_of_type: dict[type, Kind] = {}
_kinds: dict[type, Kind] = {}


def _get(kind: type) -> Kind:
    if kind not in _kinds:
        _kinds[kind] = kind()
    return _kinds[kind]


def kind_of(array: Any, argument: str) -> tuple[Any, Kind]:
    """The array, as something with .shape and .dtype, and its kind. Plain buffers and DLPack objects become NumPy
    views."""
    kind = _kind_of_type.get(type(array))
    if kind is not None:
        return array, kind
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(array, numpy.ndarray):
        kind = _get(_NumPy)
    elif torch is not None and isinstance(array, torch.Tensor):
        kind = _get(_Torch)
    elif hasattr(array, "__array_namespace__") and hasattr(array, "__dlpack__"):
        kind = _get(_Namespace)
    else:
        return _numpy_view(array, argument), _get(_NumPy)
    _kind_of_type[type(array)] = kind
    return array, kind


def _numpy_view(array: Any, argument: str) -> Any:
    import numpy

    if hasattr(array, "__dlpack__"):
        try:
            return numpy.from_dlpack(array)
        except MemoryError:
            raise
        except Exception as error:  # of any library
            raise ValueError(f"{argument}: expected a dense array that NumPy can read in the CPU's memory, found "
                             f"{type(array)}: {error}") from error
    try:
        return numpy.asarray(memoryview(array))
    except TypeError:
        raise TypeError(f"{argument}: expected an array (NumPy, torch, DLPack or buffer protocol), found an object of "
                        f"type {type(array)}") from None
    except ValueError as error:  # a memoryview that was released
        raise ValueError(f"{argument}: expected readable memory, found {type(array)}: {error}") from error


def integers(array: Any) -> Any:
    """Lengths, positions or pages as the extension module takes them: a buffer, or a list."""
    if array is None or isinstance(array, (list, tuple)):
        return array
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(array, numpy.ndarray):
        return array
    tolist = getattr(array, "tolist", None)  # torch tensors have no buffer
    return array if tolist is None else tolist()


def index(value: Any, argument: str) -> int:
    """Any integer type's value as an int."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument}: expected an int, found {value!r}") from None


class Comparison(NamedTuple):
    """What compare() found."""

    equal: bool
    """every element is within the tolerance"""
    mismatches: int
    """how many are not"""
    worst: int
    """index, in the flat array, of the largest excess over the tolerance; -1 if there are no elements"""
    max_abs_error: float
    """largest |a - b| over elements that are finite in both"""
    max_abs_index: int
    """where; -1 if none is"""


def compare(a: Any, b: Any, *, rtol: float | None = None, atol: float | None = None) -> Comparison:
    """Elementwise |a - b| <= atol + rtol * |b|. NaN equals NaN and nothing else, an infinity itself alone.

    a, b: arrays of one shape, C-contiguous, float32, float16 or bfloat16, each its own.
    rtol, atol: None is the default of the coarser type, as flashc-run's --compare has it: float32 1e-5 and 1e-6,
    float16 2e-3 and 1e-3, bfloat16 1.6e-2 and 8e-3.
    """
    return Comparison(*_core.compare(a, b, rtol, atol))


def is_softmax(y: Any, *, tolerance: float | None = None) -> bool:
    """Whether every row (last axis) of y is non-negative and sums to 1.

    y: [..., n], float32, float16 or bfloat16, contiguous last axis. tolerance: of the sum; None is the element type's
    default (flashc.h states it).
    """
    if tolerance is None:
        tolerance = -1.0
    elif not isinstance(tolerance, str) and tolerance < 0:
        raise ValueError(f"tolerance: expected None or a number from 0, found {tolerance!r}")
    return _core.is_softmax(y, tolerance)


def convert(x: Any, dtype: Any) -> Any:
    """A new array of x's kind and shape with elements of type dtype, rounded to nearest even; NaN stays NaN.

    x: C-contiguous. Both types: float32, float16, bfloat16, float8_e4m3fn or float8_e5m2; dtype as text, or NumPy's or
    torch's object. What is too large becomes infinite, in float8_e4m3fn NaN.
    """
    x, kind = kind_of(x, "x")
    refuse_gradients(x=x)
    out = kind.empty(x, tuple(x.shape), dtype_name(dtype, "dtype", float8=True))
    _core.convert(out, x)
    return kind.result(x, out)
