"""Wrong calls: the type of the error, and a text that names the argument, what was expected and what was found."""
import array
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import flashc
from oracle import BFLOAT16

F = np.float32
Q, K, V = np.zeros((2, 4, 5, 8), F), np.zeros((2, 2, 7, 8), F), np.zeros((2, 2, 7, 6), F)
LSE = Q[..., 0].copy()
SOFTMAX_STATE = flashc.SoftmaxState(2)
RELEASED = memoryview(bytearray(4))
RELEASED.release()


class Shaped:
    """An object with a shape and nothing else."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


def attention(**changed: Any) -> Callable[[], Any]:
    return lambda: flashc.attention(**{"q": Q, "k": K, "v": V, **changed})


NO_ARRAYS = {"list": [[1.0]], "None": None, "float": 1.0, "str": "abc", "object": object(), "dict": {}}
WRONG_TYPES = {
    "float64": np.zeros(4), "int32": np.zeros(4, np.int32), "uint16": np.zeros(4, np.uint16),
    "complex64": np.zeros(4, np.complex64), "object": np.zeros(4, object), "<U3": np.zeros(4, "U3"),
    "|V2": np.zeros(4, "V2"), "int8": np.zeros(4, np.int8), "datetime64": np.zeros(4, "M8[s]"),
    "'d'": memoryview(array.array("d", [0.0])), "'B'": bytearray(4),
}
TYPES_OF_CACHES = {"int8", "'B'"}


def explain(**changed: Any) -> Callable[[], Any]:
    return lambda: flashc.explain(**{"q": Q, "k": K, "v": V, **changed})


# call, exception, argument, parts of the message in their order
TABLE: list[tuple[Callable[[], Any], type[Exception], str, tuple[str, ...]]] = [
    *((attention(**{name: value}), TypeError, name, ("expected an array", f"{type(value)}"))
      for name in ("q", "k", "v", "mask", "bias", "out") for value in NO_ARRAYS.values()
      if value is not None or name in ("q", "k", "v")),
    *((attention(**{name: value}), TypeError, name, ("expected", "found", text))
      for name in ("k", "v", "mask", "bias", "out") for text, value in WRONG_TYPES.items()
      if name not in ("k", "v") or text not in TYPES_OF_CACHES),
    *((attention(q=np.broadcast_to(value, Q.shape)), TypeError, "q", ("expected", "found", text))
      for text, value in WRONG_TYPES.items() if isinstance(value, np.ndarray) for value in (value[0:1],)),
    *((attention(**{name: np.zeros((2, 4, 5, 8), bool)}), TypeError, name, ("float32", "found bool"))
      for name in ("q", "k", "v", "bias", "out")),
    *((attention(mask=np.zeros((5, 7), dtype)), TypeError, "mask", ("expected", "bool", "found"))
      for dtype in (F, np.float16, BFLOAT16, np.uint8)),
    *((explain(**{name: None}), TypeError, name, ("expected an array", "NoneType")) for name in ("q", "k", "v")),
    *((attention(q=Q.astype(dtype)), TypeError, "q", ("float32, float16 or bfloat16", f"found {dtype.__name__}"))
      for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)),
    (explain(q=np.zeros((2, 4, 5, 8))), TypeError, "q", ("float32", "found dtype('float64')")),
    (explain(k=K[..., :4]), ValueError, "k", ("expected head_dim 8", "found 4")),
    (explain(causal=True), ValueError, "align", ("'top-left'", "found None")),
    (attention(k=RELEASED), TypeError, "k", ("expected an array", "memoryview")),
    (attention(q=RELEASED), ValueError, "q", ("expected", "memoryview", "released")),
    (attention(v=Shaped(5)), TypeError, "v", ("expected an array", "Shaped")),
    (attention(v=Shaped(())), TypeError, "v", ("expected an array", "Shaped")),
    (attention(v=Shaped((2, 2, 7, 6))), TypeError, "v", ("expected an array", "Shaped")),
    # shapes
    (attention(q=Q[0, 0, 0]), ValueError, "q", ("expected 2, 3 or 4 axes", "found 1", "[8]")),
    (attention(q=F(1)), ValueError, "q", ("expected 2, 3 or 4 axes", "found 0")),
    (attention(q=Q[None]), ValueError, "q", ("expected 2, 3 or 4 axes", "found 5")),
    (attention(k=memoryview(bytearray(4)).cast("f", (1,) * 33)), ValueError, "k", ("at most 32 axes, found 33",)),
    (attention(k=K[0]), ValueError, "k", ("expected 4 axes", "found 3", "[2, 7, 8]")),
    (attention(v=V[0]), ValueError, "v", ("expected 4 axes", "found 3")),
    (attention(v=F(1)), ValueError, "v", ("expected 4 axes", "found 0")),
    (attention(k=K[:1]), ValueError, "k", ("expected batch 2 as in q [2, 4, 5, 8]", "found 1 in [1, 2, 7, 8]")),
    (attention(k=K[..., :4]), ValueError, "k", ("expected head_dim 8", "found 4")),
    (attention(v=V[:1]), ValueError, "v", ("expected batch 2", "found 1")),
    (attention(v=V[:, :1]), ValueError, "v", ("expected number of heads 2 as in k", "found 1")),
    (attention(v=V[:, :, :3]), ValueError, "v", ("expected number of keys 7", "found 3")),
    (attention(q=Q[:, :3]), ValueError, "k",
     ("number of heads (axis -3 in layout 'bhsd') that divides the 3 of q [2, 3, 5, 8]", "found 2 in [2, 2, 7, 8]")),
    (attention(layout="bshd"), ValueError, "k",
     ("number of heads (axis -2 in layout 'bshd') that divides the 5 of q [2, 4, 5, 8]", "found 7 in [2, 2, 7, 8]")),
    (attention(q=Q[..., :0], k=K[..., :0]), ValueError, "head_dim", ("expected 1", "found 0")),
    (attention(out=np.zeros((2, 4, 5, 8), F)), ValueError, "out", ("expected head_dim 6 as in v", "found 8")),
    (attention(out=np.zeros((2, 4, 4, 6), F)), ValueError, "out", ("expected number of queries 5", "found 4")),
    (attention(out=np.zeros((2, 4, 6), F)), ValueError, "out", ("expected 4 axes", "found 3")),
    (attention(v=K, out=Q), ValueError, "out", ("expected memory of its own", "found elements of q in it")),
    (attention(mask=np.zeros((2, 7), bool)), ValueError, "mask", ("broadcasts to [2, 4, 5, 7]", "found [2, 7]")),
    (attention(mask=np.zeros((1, 2, 4, 5, 7), bool)), ValueError, "mask", ("broadcasts to", "found [1, 2, 4, 5, 7]")),
    (attention(bias=np.zeros((4, 2, 5, 7), F)), ValueError, "bias",
     ("broadcasts to [2, 4, 5, 7]", "found [4, 2, 5, 7]")),
    (attention(bias=np.zeros((5, 0), F)), ValueError, "bias", ("broadcasts to", "found [5, 0]")),
    # of one type, or of caches
    *((attention(**{name: np.zeros(4, t), **others}), TypeError, name, (f"expected elements of type {one}, found",))
      for name, one, others in (("sinks", "float32", {}), ("alibi_slopes", "float32", {"align": 0}),
                                ("k_scale", "float32", {}), ("key_mass", "float32", {}), ("row_max", "float32", {}),
                                ("block_mask", "bool", {"block_mask_tile": (4, 4)}))
      for t in (float, int)),
    (attention(k=K.astype(float)), TypeError, "k", ("bfloat16, int8, float8_e4m3fn", "uint8 (q8_0), found float64")),
    (attention(q=K, block_table=np.zeros((2, 1), np.uint32)), TypeError, "block_table",
     ("int32 or int64 numbers on 2 axes, for each sequence a row", "dtype=uint32")),
    # the other arguments
    (attention(layout="sbhd"), ValueError, "layout", ("'bhsd' or 'bshd'", "found 'sbhd'")),
    (attention(layout=[]), ValueError, "layout", ("found []",)),
    (attention(out_dtype="float64"), TypeError, "out_dtype", ("float32, float16 or bfloat16", "found 'float64'")),
    (attention(out_dtype=float), TypeError, "out_dtype", ("found <class 'float'>",)),
    (attention(out_dtype=3), TypeError, "out_dtype", ("found 3",)),
    (attention(out_dtype="f16", out=np.zeros((2, 4, 5, 6), F)), ValueError, "out_dtype", ("None together with out",)),
    (attention(causal=True), ValueError, "align", ("'top-left'", "'bottom-right'", "found None")),
    (attention(q=Q[:, :, :1], causal=True), ValueError, "align", ("'top-left'", "found None")),
    (attention(causal=np.zeros(2), align=0), TypeError, "causal", ("expected True or False", "found array([0., 0.])")),
    *((attention(causal=x, align=0), TypeError, "causal", ("expected True or False", f"found {x!r}"))
      for x in ("no", None, 2, -1, 0.5)),
    *((attention(**{name: np.ma.masked_array(x)}), TypeError, name, ("without a mask", "MaskedArray", "filled()"))
      for name, x in (("q", Q), ("k", K), ("v", V), ("bias", np.zeros((5, 7), F)), ("cu_seqlens_q", np.array([0, 5])),
                      ("cu_seqlens_k", np.array([0, 7])), ("block_table", np.array([[0], [1]])))),
    (lambda: flashc.append_kv(K, V, K.copy(), V.copy(), np.ma.masked_array([0, 0], [1, 0])), TypeError, "positions",
     ("without a mask", "MaskedArray", "filled()")),
    (lambda: flashc.trace(np.ma.masked_array([1.0, 2.0], [1, 0])), TypeError, "x",
     ("without a mask", "MaskedArray", "compressed()")),
    (attention(align="left"), ValueError, "align", ("expected 'top-left'", "found 'left'")),
    (attention(align=1.5), TypeError, "align", ("expected", "found 1.5")),
    (attention(align=True), TypeError, "align", ("expected", "found True")),
    (attention(align={1, 2}), TypeError, "align", ("expected", "found {1, 2}")),
    (attention(align={0: 1, 1: 2}), TypeError, "align", ("expected", "found {0: 1, 1: 2}")),
    (attention(align=[0, 1.5]), TypeError, "align", ("expected", "found [0, 1.5]")),
    (attention(align=[0, None]), TypeError, "align", ("expected", "found [0, None]")),
    (attention(align=[0]), ValueError, "align", ("one int per batch element, 2", "found 1")),
    (attention(align=np.zeros(3, int)), ValueError, "align", ("one int per batch element, 2", "found 3")),
    (attention(align=2**63), ValueError, "align", ("expected", f"found {2**63}")),
    (attention(align=[0, -2**63 - 1]), ValueError, "align", ("expected", "found [0, -")),
    *((attention(scale=x), ValueError, "scale", ("expected a finite", f"found {x!r}"))
      for x in (np.inf, -np.inf, np.nan, 1e39, -1e39)),
    (attention(scale=1e-60), ValueError, "scale", ("expected 0 or", "found 1e-60")),
    *((attention(scale=x), TypeError, "scale", ("expected a number", f"found {x!r}")) for x in ("1", 1j, [1.0])),
    (attention(scale=10**400), ValueError, "scale", ("expected a number", "found 1000")),
    (attention(scores=np.zeros((2, 4, 5, 7), F), scores_stage=3), TypeError, "scores_stage",
     ("expected 'scaled', 'capped', 'masked' or 'weights'", "found 3")),
    (attention(row_max=np.zeros((2, 4, 5), np.float16)), TypeError, "row_max", ("float32", "found float16")),
    (attention(compute=3), TypeError, "compute", ("expected 'f32' or 'bf16'", "found 3")),
    (attention(compute="f16"), ValueError, "compute", ("expected 'f32' or 'bf16'", "found 'f16'")),
    (attention(scores_stage="masked"), ValueError, "scores_stage", ("'scaled' without scores", "found 'masked'")),
    (attention(num_threads=-1), ValueError, "num_threads", ("expected 0", "found -1")),
    (attention(num_threads=-2**40), ValueError, "num_threads", ("expected 0", "found -2147483648")),
    (attention(num_threads=1.5), TypeError, "num_threads", ("expected an int", "found 1.5")),
    (attention(num_threads=None), TypeError, "num_threads", ("expected an int", "found None")),
    (attention(num_threads=2**80), ValueError, "num_threads", ("expected an int", f"found {2**80}")),
    (attention(kernel="no such"), ValueError, "kernel", ("expected one of", "f32_generic", "no such")),
    (attention(kernel="f32_generic\0"), ValueError, "kernel", ("expected", r"found 'f32_generic\x00'")),
    (attention(kernel="é" * 999), ValueError, "kernel", ("expected one of", "é")),
    (attention(kernel="\ud800"), TypeError, "kernel", ("expected a name", r"found '\ud800'")),
    (attention(kernel=b"f32_generic"), TypeError, "kernel", ("expected a name", "found b'f32_generic'")),
    (attention(progress=3), TypeError, "progress", ("expected a function", "found 3")),
    (attention(workspace=3), TypeError, "workspace", ("expected a writable contiguous buffer", "int")),
    (attention(workspace=b"x" * 64), TypeError, "workspace", ("expected a writable", "bytes")),
    (attention(workspace=np.zeros((64, 2), np.uint8)[:, 0]), TypeError, "workspace", ("contiguous", "ndarray")),
    (attention(workspace=bytearray()), ValueError, "workspace", ("expected", "found")),
    # softmax and arrays
    (lambda: flashc.softmax([1.0]), TypeError, "x", ("expected an array", "list")),
    (lambda: flashc.softmax(np.zeros(3)), TypeError, "x", ("float32", "found float64")),
    (lambda: flashc.softmax(np.zeros(3, bool)), TypeError, "x", ("float32", "found bool")),
    (lambda: flashc.softmax(F(1)), ValueError, "x", ("at least one axis", "found a scalar")),
    (lambda: flashc.softmax(Q[..., ::2]), ValueError, "x", ("contiguous last axis", "[2, 4, 5, 4]", "[160, 40, 8, 2]")),
    (lambda: flashc.softmax(Q[:, :3]), ValueError, "x", ("one constant row stride", "found shape")),
    (lambda: flashc.softmax(Q, out=Q[0]), ValueError, "out", ("expected shape [2, 4, 5, 8] (of x)", "found [4, 5, 8]")),
    (lambda: flashc.softmax(Q, out=np.zeros((*Q.shape, 1), F)), ValueError, "out",
     ("expected shape [2, 4, 5, 8] (of x)", "found [2, 4, 5, 8, 1]")),
    (lambda: flashc.softmax(Q, out=Q.astype("f2")), TypeError, "out",
     ("expected elements of type float32", "found float16")),
    (lambda: flashc.merge_partials(None, []), TypeError, "o_parts", ("sequence of arrays", "found None")),
    (lambda: flashc.merge_partials([Q], 3), TypeError, "lse_parts", ("sequence of arrays", "found 3")),
    (lambda: flashc.merge_partials([], []), ValueError, "o_parts", ("at least one", "found none")),
    (lambda: flashc.merge_partials([Q, Q], [LSE]), ValueError, "lse_parts", ("as many as o_parts, 2", "found 1")),
    (lambda: flashc.merge_partials([Q], [Q[..., 0]]), ValueError, "lse_parts", ("C-contiguous",)),
    (lambda: flashc.merge_partials([Q], [Q]), ValueError, "lse_parts",
     ("expected shape [2, 4, 5]", "found [2, 4, 5, 8]")),
    (lambda: flashc.merge_partials([Q, Q], [LSE, LSE], layout="bshd"), ValueError, "lse_parts",
     ("expected shape [2, 5, 4] (of o_parts, in layout 'bshd')", "found [2, 4, 5], that of layout 'bhsd'")),
    (lambda: flashc.merge_partials([Q], [LSE.reshape(2, 5, 4)]), ValueError, "lse_parts",
     ("expected shape [2, 4, 5] (of o_parts, in layout 'bhsd')", "found [2, 5, 4], that of layout 'bshd'")),
    (lambda: flashc.merge_partials([Q], [LSE[..., None]], layout="bshd"), ValueError, "lse_parts",
     ("expected shape [2, 5, 4]", "found [2, 4, 5, 1]")),
    (lambda: flashc.merge_partials([Q[None]], [LSE], layout="bshd"), ValueError, "o_parts",
     ("expected 2, 3 or 4 axes", "found 5: [1, 2, 4, 5, 8]")),
    (lambda: flashc.merge_partials([Q], [LSE], layout="BSHD"), ValueError, "layout", ("'bhsd' or 'bshd'", "'BSHD'")),
    (lambda: flashc.merge_partials([Q.astype("f2")], [LSE]), TypeError, "o_parts", ("type float32", "found float16")),
    (lambda: flashc.merge_partials([Q, [1]], [LSE] * 2), TypeError, "o_parts", ("expected an array", "list")),
    (lambda: flashc.SoftmaxState(-1), ValueError, "rows", ("0 or more", "found -1")),
    (lambda: flashc.SoftmaxState(2.0), TypeError, "rows", ("expected an int", "found 2.0")),  # type: ignore[arg-type]
    (lambda: flashc.SoftmaxState(2, -3), ValueError, "head_dim_v", ("0 or more", "found -3")),
    (lambda: SOFTMAX_STATE.merge(flashc.SoftmaxState(3)), ValueError, "other.rows", ("self.rows (2)", "found 3")),
    (lambda: SOFTMAX_STATE.merge(SOFTMAX_STATE), ValueError, "other", ("expected another state than self",)),
    (lambda: flashc.SoftmaxState(2).merge(2), TypeError, "other", ("SoftmaxState", "int")),  # type: ignore[arg-type]
    (lambda: flashc.SoftmaxState(2, 3).update(np.zeros((2, 4), F)), ValueError, "v", ("[n, 3]", "found None")),
    (lambda: flashc.SoftmaxState(2, 3).update(np.zeros((2, 4), F), np.zeros((5, 3), F)), ValueError, "scores, v",
     ("[2, n] and [n, 3]", "found [2, 4] and [5, 3]")),
    (lambda: flashc.SoftmaxState(2, 3).update(np.zeros((2, 4), F), np.zeros((4, 5), F)), ValueError, "scores, v",
     ("[2, n] and [n, 3]", "found [2, 4] and [4, 5]")),
    (lambda: flashc.SoftmaxState(2, 3).update(np.zeros((2, 4), F), np.zeros((4, 3), np.float16)), TypeError, "v",
     ("float32", "found float16")),
    (lambda: flashc.SoftmaxState(2).update(np.zeros((2, 4))), TypeError, "scores", ("float32", "found float64")),
    (lambda: flashc.SoftmaxState(2).update(np.zeros((2, 4), np.float16)), TypeError, "scores",
     ("float32", "found float16")),
    (lambda: flashc.trace(3.0), ValueError, "x", ("1 axis", "found 0")),
    (lambda: flashc.trace([[1.0]]), ValueError, "x", ("1 axis", "found 2")),
    (lambda: flashc.trace([1.0, np.inf]), ValueError, "x[1]", ("finite", "found inf")),
    (lambda: flashc.trace(["1"]), TypeError, "x", ("sequence of numbers", "list")),  # type: ignore[list-item]
    (lambda: flashc.trace(np.array([1j])), TypeError, "x", ("sequence of numbers", "ndarray")),
    (lambda: flashc.compare(Q, K), ValueError, "a", ("expected shape [2, 2, 7, 8] (of b)", "found [2, 4, 5, 8]")),
    (lambda: flashc.compare(Q[..., 0], Q[..., 0]), ValueError, "a", ("C-contiguous",)),
    (lambda: flashc.compare(Q > 0, Q), TypeError, "a", ("float32", "found bool")),
    (lambda: flashc.compare(Q, Q.astype(int)), TypeError, "b", ("float32", "found int64")),
    (lambda: flashc.compare(Q, Q, rtol="x"), TypeError, "rtol", ("a number", "found 'x'")),  # type: ignore[arg-type]
    (lambda: flashc.compare(Q, Q, atol=-1), ValueError, "atol", ("expected", "found -1")),
    (lambda: flashc.is_softmax(Q > 0), TypeError, "y", ("float32", "found bool")),
    (lambda: flashc.is_softmax(Q, tolerance=-1), ValueError, "tolerance", ("from 0", "found -1")),
    (lambda: flashc.is_softmax(Q, tolerance=np.nan), ValueError, "tolerance", ("found NaN",)),
    (lambda: flashc.convert(Q, "float64"), TypeError, "dtype",
     ("float32, float16, bfloat16, float8_e4m3fn or float8_e5m2", "found 'float64'")),
    (lambda: flashc.convert(Q, "float8_e4m3"), TypeError, "dtype", ("float8_e4m3fn", "found 'float8_e4m3'")),
    *((lambda x=x: flashc.convert(x, "f32"), TypeError, "x", ("float8_e4m3fn or float8_e5m2", f"found {x.dtype}"))
      for x in (np.zeros(34, np.int8), np.zeros(34, np.uint8), np.zeros(3))),
    (attention(out_dtype="float8_e5m2"), TypeError, "out_dtype",
     ("float32, float16 or bfloat16, found 'float8_e5m2'",)),
    (lambda: flashc.convert(Q, None), TypeError, "dtype", ("found None",)),
    (lambda: flashc.convert(Q[..., 0], "f16"), ValueError, "x", ("C-contiguous",)),
    (lambda: flashc.convert(Q > 0, "f16"), TypeError, "x", ("float32", "found bool")),
]


@pytest.mark.parametrize("row", range(len(TABLE)))
def test_message(row: int) -> None:
    call, exception, argument, parts = TABLE[row]
    with pytest.raises((TypeError, ValueError, OverflowError)) as caught:
        call()
    text = str(caught.value)
    assert caught.type is exception, text
    assert re.match(re.escape(argument) + r"(?![a-z_])", text), f"{argument!r} does not begin {text!r}"
    at = 0
    for part in parts:
        assert part in text[at:], (part, text)
        at = text.index(part, at)


def test_long_lists_are_cut_short() -> None:
    with pytest.raises(TypeError, match=r"^block_table: .* found \[\[0, ") as caught:
        flashc.attention(Q, K, V, block_table=[[0, "x"] * 9999])
    assert len(str(caught.value)) < 400


def test_outputs_stay_as_they_were_after_an_error() -> None:
    out = np.full((2, 4, 5, 6), 7, F)
    for changed in ({"scale": np.nan}, {"kernel": "none"}, {"mask": np.zeros(3, bool)}, {"workspace": bytearray(8)}):
        with pytest.raises(ValueError):
            flashc.attention(Q, K, V, out=out, **changed)
    assert (out == 7).all()


def test_memory_that_cannot_be_had() -> None:
    q = np.broadcast_to(F(0), (2**20, 2**20, 4, 8))
    with pytest.raises(MemoryError):
        flashc.attention(q, q, q)


def test_a_mask_of_numbers_is_told_from_a_bias() -> None:
    for mask in (np.ones((4, 4), np.int64), np.ones((4, 4), np.float32)):
        with pytest.raises(TypeError, match=r"mask: expected elements of type bool \(values to be added are a bias\)"):
            flashc.attention(Q, Q, Q, mask=mask)
