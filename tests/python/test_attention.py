"""flashc.attention against float64 NumPy: shapes, types, masks, biases, alignment; the same bits for any threads."""
import itertools
from typing import Any

import numpy as np
import pytest

import flashc
import oracle
from oracle import DTYPES, normal

LAYOUTS = ("bhsd", "bshd")
SEEDS = range(40)


def problem(rng: np.random.Generator, q_type: str = "f32", kv_type: str = "f32", **sizes: int) -> tuple[Any, Any, Any]:
    """q, k, v [batch, heads, rows, dim], random where sizes are not given."""
    def pick(name: str, *values: int) -> int:
        return sizes.get(name, int(rng.choice(values)))

    batch, heads_k, group = pick("batch", 1, 2, 3), pick("heads_k", 1, 2, 3), pick("group", 1, 2, 4)
    rows, keys = pick("rows", 1, 2, 17, 65, 130), pick("keys", 1, 3, 16, 97, 200, 300)
    dim, dim_v = pick("dim", 1, 5, 16, 64), pick("dim_v", 1, 7, 16, 64)
    return (normal(rng, (batch, heads_k * group, rows, dim), q_type), normal(rng, (batch, heads_k, keys, dim), kv_type),
            normal(rng, (batch, heads_k, keys, dim_v), kv_type))


def to_layout(array: Any, layout: str) -> Any:
    """[batch, heads, rows, dim] as the caller's layout would pass it (a view)."""
    return array.swapaxes(1, 2) if layout == "bshd" else array


@pytest.mark.parametrize("seed", SEEDS)
def test_random_shapes_layouts_and_options(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layout, causal = str(rng.choice(LAYOUTS)), bool(rng.integers(2))
    q, k, v = problem(rng, *(str(t) for t in rng.choice(list(DTYPES), 2)))
    batch, heads, rows, keys = *q.shape[:3], k.shape[2]
    offsets = [int(x) for x in rng.integers(-3, keys + 2, batch)]
    mask = rng.random((batch, heads, rows, keys)) < 0.7 if rng.integers(2) else None
    bias = normal(rng, (heads, 1, keys), str(rng.choice(list(DTYPES)))) if rng.integers(2) else None
    scale = None if rng.integers(2) else float(rng.normal())
    o, lse = flashc.attention(*(to_layout(a, layout) for a in (q, k, v)), layout=layout, scale=scale, causal=causal,
                              align=offsets, mask=mask, bias=bias, return_lse=True)
    exact = oracle.attention(q, k, v, scale=scale, offsets=offsets if causal else None, mask=mask, bias=bias)
    assert o.dtype == q.dtype
    oracle.check(to_layout(o, layout), exact, lse, note=(seed, q.shape, k.shape, v.shape),
                 bf16=all(x.dtype == DTYPES["bf16"] for x in (q, k, v)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rank", (2, 3, 4))
def test_ranks(rank: int, layout: str) -> None:
    """The axes that are left out are of size 1; lse is [batch, heads, rows] in either layout."""
    rng = np.random.default_rng(rank)
    sizes = {2: {"batch": 1, "heads_k": 1, "group": 1}, 3: {"batch": 1, "heads_k": 2, "group": 3}}.get(rank, {})
    q, k, v = problem(rng, rows=9, keys=20, **sizes)
    exact = oracle.attention(q, k, v)
    passed = [to_layout(a, layout) for a in (q, k, v)]
    if rank == 3:
        passed = [a[0] for a in passed]
    elif rank == 2:
        passed = [a.reshape(a.shape[-2:] if layout == "bhsd" else a.shape[1::2]) for a in passed]
    o, lse = flashc.attention(*passed, layout=layout, return_lse=True)
    assert o.ndim == rank and lse.ndim == rank - 1
    assert o.shape[:-1] == passed[0].shape[:-1] and lse.shape == exact.lse.shape[-lse.ndim:]
    o4 = o.reshape(to_layout(exact.o, layout).shape)
    oracle.check(to_layout(o4, layout), exact, lse.reshape(exact.lse.shape))


@pytest.mark.parametrize("in_type", DTYPES)
@pytest.mark.parametrize("out_type", DTYPES)
def test_type_pairs(in_type: str, out_type: str) -> None:
    rng = np.random.default_rng(1)
    q, k, v = problem(rng, in_type, in_type, batch=2, rows=33, keys=70)
    exact = oracle.attention(q, k, v)
    # NumPy's dtype, its scalar type and both names of it mean the same.
    full_name = DTYPES[out_type].name
    for name in (out_type, full_name, DTYPES[out_type], DTYPES[out_type].type):
        o = flashc.attention(q, k, v, out_dtype=name)
        assert o.dtype == DTYPES[out_type]
        oracle.check(o, exact, note=(in_type, out_type), bf16=in_type == "bf16")
    assert flashc.attention(q, k, v).dtype == DTYPES[in_type]
    out = np.full(o.shape, 7, DTYPES[out_type])
    assert flashc.attention(q, k, v, out=out) is out
    assert out.tobytes() == o.tobytes()


def test_every_tensor_has_its_own_type() -> None:
    rng = np.random.default_rng(2)
    for q_type, k_type, v_type, bias_type in itertools.product(DTYPES, repeat=4):
        q, k = normal(rng, (1, 2, 5, 8), q_type), normal(rng, (1, 2, 9, 8), k_type)
        v = normal(rng, (1, 2, 9, 4), v_type)
        bias = normal(rng, (5, 9), bias_type)
        oracle.check(flashc.attention(q, k, v, bias=bias), oracle.attention(q, k, v, bias=bias),
                     note=(q_type, k_type, v_type, bias_type))


FULL_SHAPE = (2, 6, 7, 11)  # batch, heads, rows, keys
BROADCASTS = [shape for ndim in range(5) for shape in itertools.product(*((n, 1) for n in FULL_SHAPE[4 - ndim:]))]


@pytest.mark.parametrize("shape", BROADCASTS, ids=str)
def test_mask_and_bias_broadcast(shape: tuple[int, ...]) -> None:
    """As NumPy broadcasts to [batch, heads, rows, keys], whatever the layout and q's rank."""
    rng = np.random.default_rng(3)
    q, k, v = problem(rng, batch=2, heads_k=3, group=2, rows=7, keys=11, dim=8, dim_v=5)
    mask, bias = rng.random(shape) < 0.6, normal(rng, shape)
    mask, bias = np.asarray(mask), np.asarray(bias)
    for options in ({"mask": mask}, {"bias": bias}, {"mask": mask, "bias": bias}):
        exact = oracle.attention(q, k, v, **options)
        for layout in LAYOUTS:
            o = flashc.attention(*(to_layout(a, layout) for a in (q, k, v)), layout=layout, **options)
            oracle.check(to_layout(o, layout), exact, note=(shape, layout, list(options)))


@pytest.mark.parametrize("rank", (2, 3))
def test_mask_of_rank_4_for_lower_ranks(rank: int) -> None:
    rng = np.random.default_rng(4)
    q, k, v = (normal(rng, (1, 1, n, 8)) for n in (5, 6, 6))
    mask = rng.random((1, 1, 5, 6)) < 0.5
    exact = oracle.attention(q, k, v, mask=mask)
    passed = [a.reshape(a.shape[4 - rank:]) for a in (q, k, v)]
    for shape in ((1, 1, 5, 6), (1, 5, 6), (5, 6)):
        o = flashc.attention(*passed, mask=mask.reshape(shape))
        oracle.check(o.reshape(exact.o.shape), exact, note=shape)


ALIGNMENTS = {
    "top-left": ("top-left", [0, 0]),
    "bottom-right": ("bottom-right", [5, 5]),  # 12 keys - 7 queries
    "int": (3, [3, 3]),
    "negative": (-2, [-2, -2]),
    "numpy int": (np.int32(4), [4, 4]),
    "array without axes": (np.array(4), [4, 4]),
    "list": ([1, -9], [1, -9]),
    "tuple": ((0, 30), [0, 30]),
    "numpy int64": (np.array([2, 6]), [2, 6]),
    "numpy uint8": (np.array([2, 6], np.uint8), [2, 6]),
    "numpy strided": (np.array([2, 0, 6, 0])[::2], [2, 6]),
    "range": (range(2), [0, 1]),
    "extremes": ([2**63 - 1, -2**63], [100, -100]),
}


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_causal_alignments(name: str) -> None:
    align, offsets = ALIGNMENTS[name]
    q, k, v = problem(np.random.default_rng(5), batch=2, rows=7, keys=12)
    o, lse = flashc.attention(q, k, v, causal=True, align=align, return_lse=True)
    oracle.check(o, oracle.attention(q, k, v, offsets=offsets), lse)
    everything = flashc.attention(q, k, v, align=align)  # causal alone hides
    oracle.check(everything, oracle.attention(q, k, v))


@pytest.mark.parametrize("scale", (0, -1.5, 1e-3, np.float32(0.25), np.float64(2), np.array(0.5), True, -0.0))
def test_scales(scale: Any) -> None:
    q, k, v = problem(np.random.default_rng(6))
    oracle.check(flashc.attention(q, k, v, scale=scale), oracle.attention(q, k, v, scale=float(scale)))


@pytest.mark.parametrize("sizes", ({"rows": 0}, {"keys": 0}, {"batch": 0}, {"heads_k": 0}, {"dim_v": 0}), ids=str)
def test_empty_arrays(sizes: dict[str, int]) -> None:
    q, k, v = problem(np.random.default_rng(7), **{"batch": 2, "heads_k": 2, "rows": 3, "keys": 4, **sizes})
    for options in ({}, {"causal": True, "align": "bottom-right"}, {"mask": np.ones((q.shape[2], k.shape[2]), bool)}):
        o, lse = flashc.attention(q, k, v, return_lse=True, **options)
        assert o.shape == (*q.shape[:-1], v.shape[-1]) and lse.shape == q.shape[:-1]
        if sizes.get("keys") == 0:
            assert (o == 0).all() and np.isneginf(lse).all()


def test_hidden_keys_leave_no_trace() -> None:
    """NaN in hidden K and V rows changes no bit."""
    rng = np.random.default_rng(8)
    q, k, v = problem(rng, rows=20, keys=90)
    mask = rng.random(90) < 0.5
    mask[0] = True
    o = flashc.attention(q, k, v, mask=mask)
    k[:, :, ~mask], v[:, :, ~mask] = np.nan, np.nan
    assert flashc.attention(q, k, v, mask=mask).tobytes() == o.tobytes()


def rows_for(kernel: str, rows: int, group: int) -> dict[str, int]:
    """Sizes that the kernel takes: the decode kernels are for 4 query rows per K/V head at the least."""
    return {"rows": 2, "group": 2} if kernel.startswith("decode") else {"rows": rows, "group": group}


RUNNABLE = [kernel.name for kernel in flashc.kernels() if kernel.unavailable is None]


@pytest.mark.parametrize("kernel", RUNNABLE)
def test_every_kernel_by_name(kernel: str) -> None:
    rng = np.random.default_rng(9)
    for types in itertools.product(DTYPES, repeat=2):
        q, k, v = problem(rng, *types, keys=150, **rows_for(kernel, 70, 4))
        plan = flashc.explain(q, k, v, kernel=kernel, causal=True, align=3)
        assert plan.kernel == kernel
        if plan.compute == "bf16" and set(types) != {"bf16"}:
            continue  # the inputs would be rounded first
        o, lse = flashc.attention(q, k, v, kernel=kernel, causal=True, align=3, return_lse=True)
        oracle.check(o, oracle.attention(q, k, v, offsets=[3] * len(q)), lse, note=(kernel, types),
                     bf16=plan.compute == "bf16")


def test_compute() -> None:
    rng = np.random.default_rng(3)
    q, k, v = problem(rng, "bf16", "bf16", rows=100, keys=70)
    o = flashc.attention(q, k, v, compute="f32", out_dtype="float32")
    oracle.check(o, oracle.attention(q, k, v))
    assert flashc.explain(q, k, v, compute="f32").compute == "f32"
    native = [kernel for kernel in RUNNABLE if kernel.startswith("bf16")]
    assert flashc.explain(q, k, v).compute == ("bf16" if native else "f32")
    for kernel in native:
        with pytest.raises(ValueError, match=f"^kernel: {kernel} computes in bf16, compute asks for f32$"):
            flashc.attention(q, k, v, kernel=kernel, compute="f32")
    with pytest.raises(ValueError, match="^compute: expected 'f32' or 'bf16', found 'f16'$"):
        flashc.attention(q, k, v, compute="f16")
    with pytest.raises(TypeError, match="^compute: expected 'f32' or 'bf16', found 16$"):
        flashc.explain(q, k, v, compute=16)


@pytest.mark.parametrize("kernel", RUNNABLE)
def test_same_bits_for_any_threads_and_batch(kernel: str) -> None:
    rng = np.random.default_rng(10)
    q, k, v = problem(rng, batch=3, heads_k=2, keys=3000, dim=64, dim_v=64, **rows_for(kernel, 130, 2))
    options = {"kernel": kernel, "causal": True, "align": "bottom-right"}
    whole = flashc.attention(q, k, v, num_threads=1, **options)
    for threads in (2, 3, 0):
        assert flashc.attention(q, k, v, num_threads=threads, **options).tobytes() == whole.tobytes(), threads
    for b in range(3):
        assert flashc.attention(q[b], k[b], v[b], **options).tobytes() == whole[b].tobytes(), b


def test_items_add_up_to_the_plan() -> None:
    q, k = np.zeros((2, 4, 300, 64), np.float32), np.zeros((2, 2, 300, 64), np.float32)
    plan, items = flashc.explain(q, k, k, causal=True, align="top-left", return_items=True)
    assert plan == flashc.explain(q, k, k, causal=True, align="top-left")
    assert len(items) == plan.num_items and sum(item.rows for item in items) == 2 * 4 * 300
    assert sum(item.flops for item in items) == pytest.approx(plan.flops)
    assert {(item.batch, item.head_k) for item in items} == {(b, h) for b in range(2) for h in range(2)}
    assert all(item.pieces >= 1 and item.edge_tiles <= item.tiles and item.scores > 0 for item in items)


def test_workspace() -> None:
    q, k, v = problem(np.random.default_rng(11), rows=65, keys=97)
    size = flashc.explain(q, k, v, num_threads=2).workspace_size
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    o = flashc.attention(q, k, v, num_threads=2, workspace=memory[start:start + size])
    assert memory[start:start + size].any(), "the workspace was not used"
    assert o.tobytes() == flashc.attention(q, k, v, num_threads=2).tobytes()
    with pytest.raises(ValueError, match=f"workspace.*{size}"):
        flashc.attention(q, k, v, num_threads=2, workspace=memory[start:start + size - 1])


def test_explain_makes_and_reads_nothing() -> None:
    """A shape whose output alone would be 256 GiB."""
    q = np.broadcast_to(np.float32(0), (4, 64, 2**21, 128))
    plan = flashc.explain(q, q, q, return_lse=True)
    assert plan.kernel in RUNNABLE
    assert plan.flops == 2.0 * (128 + 128) * 4 * 64 * 2.0**42
    assert 0 < plan.workspace_size < 2**30
    assert flashc.explain(q, q, q, causal=True, align="top-left").flops == pytest.approx(plan.flops / 2, rel=1e-5)
    one = flashc.explain(q, q, q, num_threads=1)
    assert one.num_threads == 1 and one.num_items == plan.num_items
    assert flashc.explain(q, q[:, :16], q[:, :16, :, :8], out_dtype="bfloat16").kernel in RUNNABLE
    with pytest.raises(ValueError, match="k: expected head_dim 128"):
        flashc.explain(q, q[..., :8], q)
