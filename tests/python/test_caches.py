"""append_kv(), and attention() on lengths, packed sequences and pages: the bits of a padded batch."""

import ctypes

import numpy as np
import pytest
from ml_dtypes import bfloat16

import flashc

LENGTHS = [5, 0, 37, 3]
STARTS = np.cumsum([0, *LENGTHS])
HEADS, HEADS_K, DIM = 4, 2, 16
PAGE = 8
CAUSAL = {"causal": True, "align": "bottom-right"}


def padded(heads, fill=1e30, seed=0):
    """[B, heads, longest, DIM] and the same packed, [heads, total, DIM]."""
    x = np.random.default_rng(seed).standard_normal((len(LENGTHS), heads, max(LENGTHS), DIM)).astype(np.float32)
    for b, n in enumerate(LENGTHS):
        x[b, :, n:] = fill
    return x, np.concatenate([x[b, :, :n] for b, n in enumerate(LENGTHS)], axis=1)


def tables():
    """Pages in no order; what no length reaches is no page."""
    needed = [-(-n // PAGE) for n in LENGTHS]
    pages = iter(np.random.default_rng(1).permutation(sum(needed) + 2))
    table = np.full((len(LENGTHS), max(needed)), -7, np.int32)
    for b, n in enumerate(needed):
        table[b, :n] = [next(pages) for _ in range(n)]
    return table, sum(needed) + 2


@pytest.fixture(scope="module")
def batch():
    q, packed_q = padded(HEADS, seed=1)
    k, packed_k = padded(HEADS_K, seed=2)
    v, packed_v = padded(HEADS_K, seed=3)
    o, lse = flashc.attention(q, k, v, seqlens_q=LENGTHS, seqlens_k=LENGTHS, return_lse=True, **CAUSAL)
    expected = np.concatenate([o[b, :, :n] for b, n in enumerate(LENGTHS)], axis=1)
    return packed_q, packed_k, packed_v, k, v, expected, lse


@pytest.mark.parametrize("numbers", [list, np.int32, np.int64], ids=str)
def test_packed(batch, numbers):
    q, k, v, padded_k, padded_v, expected, lse = batch
    starts = STARTS.tolist() if numbers is list else STARTS.astype(numbers)
    o, packed_lse = flashc.attention(q, k, v, cu_seqlens_q=starts, cu_seqlens_k=starts, return_lse=True, **CAUSAL)
    assert np.array_equal(o, expected) and packed_lse.shape == (HEADS, STARTS[-1])
    assert np.array_equal(packed_lse[:, :5], lse[0, :, :5])
    o = flashc.attention(q, padded_k, padded_v, cu_seqlens_q=starts, seqlens_k=LENGTHS, **CAUSAL)
    assert np.array_equal(o, expected)
    o = flashc.attention(*(x.transpose(1, 0, 2) for x in (q, k, v)), layout="bshd", cu_seqlens_q=starts,
                         cu_seqlens_k=starts, **CAUSAL)
    assert np.array_equal(o.transpose(1, 0, 2), expected)
    plan = flashc.explain(q, k, v, cu_seqlens_q=starts, cu_seqlens_k=starts)
    assert plan.flops == sum(4 * DIM * HEADS * n * n for n in LENGTHS)


@pytest.mark.parametrize("number", [ctypes.c_int32, ctypes.c_int64])
def test_numbers_of_ctypes(batch, number):
    """Its arrays have no strides in the buffer protocol."""
    q, k, v, padded_k, padded_v, expected, _ = batch
    starts = (number * len(STARTS))(*STARTS.tolist())
    o = flashc.attention(q, k, v, cu_seqlens_q=starts, cu_seqlens_k=starts, **CAUSAL)
    assert np.array_equal(o, expected)
    one_page_each = (number * 1 * len(LENGTHS))(*[(number * 1)(b) for b in range(len(LENGTHS))])
    lengths = (number * len(LENGTHS))(*LENGTHS)
    o = flashc.attention(q, padded_k, padded_v, cu_seqlens_q=starts, seqlens_k=lengths,
                         block_table=one_page_each, **CAUSAL)
    assert np.array_equal(o, expected)
    table, count = tables()
    pages = [np.zeros((count, HEADS_K, PAGE, DIM), np.float32) for _ in range(2)]
    flashc.append_kv(k, v, *pages, [0] * len(LENGTHS), cu_seqlens=STARTS, block_table=table)
    row = number * table.shape[1]
    o = flashc.attention(q, *pages, cu_seqlens_q=starts, seqlens_k=lengths,
                         block_table=(row * len(table))(*(row(*numbers) for numbers in table.tolist())), **CAUSAL)
    assert np.array_equal(o, expected)


@pytest.mark.parametrize("rows, pages", [(2 ** 59, 32), (2 ** 48, 2 ** 16)])
def test_pages_that_only_claim_to_be_large(rows, pages):
    """Rows in all that no int64 holds."""
    k = np.broadcast_to(np.int8(0), (1, 1, rows, 8))
    table = np.zeros((1, pages), np.int32)
    scale = np.ones((1, 1, 1), np.float32)
    q = np.zeros((1, 1, 1, 8), np.float32)
    with pytest.raises(ValueError, match="^seqlen_k: expected 0 to 2\\^48"):
        flashc.attention(q, k, k, k_scale=scale, v_scale=scale, block_table=table, seqlens_k=[1])


def test_mask_and_bias_of_packed_sequences(batch):
    q, k, v, _, _, expected, _ = batch
    total = STARTS[-1]
    bias = np.full((total, total), -np.inf, np.float32)
    for b, n in enumerate(LENGTHS):
        rows = slice(STARTS[b], STARTS[b + 1])
        bias[rows, rows] = np.where(np.tri(n, dtype=bool), 0, -np.inf)
    packed = {"cu_seqlens_q": STARTS, "cu_seqlens_k": STARTS}
    assert np.array_equal(flashc.attention(q, k, v, bias=bias, **packed), expected)
    assert np.array_equal(flashc.attention(q, k, v, mask=bias == 0, **packed), expected)
    # One sequence of everything: the mask keeps them apart.
    assert np.allclose(flashc.attention(q, k, v, mask=bias == 0), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_pages(batch, dtype, layout):
    """Rows appended to pages and to a contiguous cache give the same attention."""
    q, k, v, *_ = batch
    order = (1, 0, 2) if layout == "bshd" else (0, 1, 2)
    q, k, v = (x.transpose(order) for x in (q, k, v))
    table, count = tables()
    shape = (PAGE, HEADS_K) if layout == "bshd" else (HEADS_K, PAGE)
    long = (50, HEADS_K) if layout == "bshd" else (HEADS_K, 50)
    paged = [np.full((count, *shape, DIM), np.nan, dtype) for _ in range(2)]
    contiguous = [np.full((len(LENGTHS), *long, DIM), np.nan, dtype) for _ in range(2)]
    zeros = [0] * len(LENGTHS)
    assert flashc.append_kv(k, v, *paged, zeros, cu_seqlens=STARTS, block_table=table, layout=layout) is None
    flashc.append_kv(k, v, *contiguous, zeros, cu_seqlens=STARTS, layout=layout)
    options = {"cu_seqlens_q": STARTS, "seqlens_k": LENGTHS, "layout": layout, **CAUSAL}
    o = flashc.attention(q, *paged, block_table=table, **options)
    assert np.array_equal(o, flashc.attention(q, *contiguous, **options)) and np.isfinite(o).all()
    both = flashc.attention(q, *paged, block_table=table, block_table_v=table.tolist(), **options)
    assert np.array_equal(o, both)
    spaced = np.repeat(table, 2, axis=1)[:, ::2]
    o = flashc.attention(q, *paged, block_table=spaced, block_table_v=np.asfortranarray(table), **options)
    assert np.array_equal(o, both)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation(interleaved):
    rng = np.random.default_rng(3)
    q, k = (rng.standard_normal((2, h, 3, DIM)).astype(np.float32) for h in (HEADS, HEADS_K))
    angles = rng.uniform(0, 6, (20, 6))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    cache = np.zeros((2, HEADS_K, 12, DIM), np.float32)
    at, rotary = [4, 9], [10, 0]

    def rotated(x):
        out = x.astype(np.float64)
        first, second = (slice(0, 12, 2), slice(1, 12, 2)) if interleaved else (slice(0, 6), slice(6, 12))
        for b, p in enumerate(rotary):
            c, s = cos[p:p + 3].astype(np.float64), sin[p:p + 3].astype(np.float64)
            out[b, :, :, first] = x[b, :, :, first] * c - x[b, :, :, second] * s
            out[b, :, :, second] = x[b, :, :, second] * c + x[b, :, :, first] * s
        return out

    new_q = flashc.append_kv(k, None, cache, None, at, q=q, cos=cos, sin=sin, interleaved=interleaved,
                             rotary_positions=rotary)
    assert np.allclose(new_q, rotated(q), atol=1e-6)
    for b, p in enumerate(at):
        assert np.allclose(cache[b, :, p:p + 3], rotated(k)[b], atol=1e-6)
        cache[b, :, p:p + 3] = 0
    assert not cache.any()
    expected = new_q.copy()
    assert flashc.append_kv(None, None, None, None, None, q=q, q_out=q, cos=cos, sin=sin, interleaved=interleaved,
                            rotary_positions=rotary) is q
    assert np.array_equal(q, expected)


def test_errors(batch):
    q, k, v, padded_k, padded_v, *_ = batch
    packed = {"cu_seqlens_q": STARTS, "cu_seqlens_k": STARTS}
    table, count = tables()
    pages = np.zeros((count, HEADS_K, PAGE, DIM), np.float32)

    def attention(words, error=ValueError, arrays=(q, k, v), **options):
        with pytest.raises(error, match=words):
            flashc.attention(*arrays, **options)

    attention(r"cu_seqlens_q\[4\]: expected seqlen_q = 45, found 44", **{**packed, "cu_seqlens_q": [0, 5, 5, 42, 44]})
    attention("cu_seqlens_k: expected 5 numbers, found 2", **{**packed, "cu_seqlens_k": [0, 45]})
    for name in packed:
        attention(f"^{name}: expected a number for each sequence", **{**packed, name: []})
    attention("cu_seqlens_q: expected int32 or int64", TypeError, **{**packed, "cu_seqlens_q": STARTS * 1.0})
    attention("cu_seqlens_q: expected int32 or int64", TypeError, **{**packed, "cu_seqlens_q": STARTS.astype(">i8")})
    attention("cu_seqlens_q: expected int32 or int64", TypeError, **{**packed, "cu_seqlens_q": "many"})
    attention("cu_seqlens_q: expected int32 or int64", TypeError, **{**packed, "cu_seqlens_q": [1.5]})
    attention("cu_seqlens_q: expected int32 or int64", TypeError, **{**packed, "cu_seqlens_q": [False, 5, 5, 42, 45]})
    for lengths in ("seqlens_q", "seqlens_k"):
        attention(f"^{lengths}: expected None beside cu_{lengths}, .* found both", **packed, **{lengths: LENGTHS})
    attention(r"k: expected 4 axes \(a batch\), found 3", cu_seqlens_q=STARTS)
    for n in (3, 5):
        k_of, v_of = (np.resize(x, (n, *x.shape[1:])) for x in (padded_k, padded_v))
        attention(f"k: expected batch 4, .*, found {n}", arrays=(q, k_of, v_of), cu_seqlens_q=STARTS)
    paged = {"arrays": (q, pages, pages), "cu_seqlens_q": STARTS, "seqlens_k": LENGTHS}
    attention("^v: expected number of keys 8 as in k", block_table=table,
              **{**paged, "arrays": (q, pages, pages[:, :, 1:])})
    attention(r"block_table\[0\]\[0\]: expected a page 0 to 8, found 99", block_table=np.full_like(table, 99), **paged)
    attention(r"block_table\[0\]\[1\]: expected a page number of 32 bits", block_table=[[0, 2 ** 40]] * 4, **paged)
    attention(r"block_table\[3\]\[0\]: expected a page number of 32 bits, found -1099511627776",
              block_table=[[0], [0], [0], [-2 ** 40]], **paged)
    for ragged in ([[0, 1], [2]], [[0], [1, 2]]):
        attention("block_table: expected int32 or int64 numbers on 2 axes", TypeError, block_table=ragged, **paged)
    for few in (table[:3], []):
        attention(f"block_table: expected 4 numbers, found {len(few)}", block_table=few, **paged)
    attention("^block_table: expected page numbers beside block_table_v, found None", block_table_v=table, **paged)
    attention("^cu_seqlens_k: expected None beside block_table, .*seqlens_k.*, found both", block_table=table,
              arrays=(q, pages, pages), **packed)
    for words, arguments, options in (
        (r"positions\[1\]: expected 0 to 1", ([0, 2, 0, 0],), {}),
        ("positions: expected 4 numbers, found 1", ([0],), {}),
        ("positions: expected one per sequence", (None,), {}),
        ("cos, sin: expected both", ([0] * 4,), {"cos": np.ones((9, 2), np.float32)}),
        ("^block_table: expected page numbers beside block_table_v, found None", ([0] * 4,),
         {"block_table_v": [[0]] * 4}),
        ("^seqlens: expected None beside cu_seqlens, .* found both", ([0] * 4,),
         {"seqlens": [0] * 4, "cu_seqlens": [0] * 5}),
        ("^cos, sin: expected arrays beside interleaved, found None", ([0] * 4,), {"interleaved": True}),
        ("^cos, sin: expected arrays beside rotary_positions, found None", ([0] * 4,), {"rotary_positions": [0] * 4}),
        (r"^seqlens\[3\]: expected 0 to seqlen = 37, found 39$", ([0] * 4,), {"seqlens": [0, 0, 0, 39]}),
        ("v, v_cache: expected both or neither, found v_cache alone", ([0] * 4,), {"v_cache": padded_v}),
        ("q, q_out: expected both or neither, found q_out alone", ([0] * 4,), {"q_out": padded_k.copy()}),
        ("k_cache: expected heads 2, found 1", ([0] * 4,), {"k_cache": np.zeros((4, 1, 38, DIM), np.float32)}),
        ("k_cache", ([0] * 4,), {"k_cache": padded_k[:, :, :9]}),
    ):
        caches = {"k_cache": np.zeros((4, HEADS_K, 38, DIM), np.float32), "v_cache": None, **options}
        with pytest.raises(ValueError, match=words):
            flashc.append_kv(padded_k, None, caches.pop("k_cache"), caches.pop("v_cache"), *arguments, **caches)


def test_errors_of_append(batch):
    """Each array that append_kv() is given is held against the others, before anything is written."""
    rows = np.ones((2, HEADS_K, 3, DIM), np.float32)
    at = [0, 0]

    def cache(*shape, dtype=np.float32):
        return np.zeros(shape, dtype)

    def append(words, k_cache=None, v_cache=None, k=rows, v=rows, **options):
        caches = [cache(2, HEADS_K, 8, DIM) if given is None else given for given in (k_cache, v_cache)]
        with pytest.raises(ValueError, match=words):
            flashc.append_kv(k, v, *caches, at, **options)
        assert not any(given.any() for given in caches)

    for n in (1, 3):
        append(f"^k_cache: expected batch 2, found {n}", k_cache=cache(n, HEADS_K, 8, DIM))
        append(f"^v_cache: expected batch 2, found {n}", v_cache=cache(n, HEADS_K, 8, DIM))
    codes = cache(2, HEADS_K, 8, DIM, dtype=np.int8)
    append("^k_cache: expected memory of its own, found the address of k_scale ", k_cache=codes,
           k_scale=codes.reshape(-1)[:2 * HEADS_K * 8 * 4].view(np.float32).reshape(2, HEADS_K, 8))
    append("^cu_seqlens: expected a number for each sequence and one more, found none", cu_seqlens=[], k=rows[0],
           v=rows[0])
    append("^v_cache: expected rows 8, found 7", v_cache=cache(2, HEADS_K, 7, DIM))
    append("^v_cache: expected rows 8, found 9", v_cache=cache(2, HEADS_K, 9, DIM))
    table = [[0], [1]]
    append("^v_cache: expected pages 2, found 3", v_cache=cache(3, HEADS_K, 8, DIM), block_table=table)
    append("^v: expected rows 3, found 2", v=rows[:, :, :2])
    angles = np.ones((9, 4), np.float32)
    for shape in ((4,), (9, 4, 1)):
        append(f"^cos: expected 2 axes, found {len(shape)}", cos=np.ones(shape, np.float32), sin=angles)
    append("^sin: expected columns 4, found 3", cos=angles, sin=angles[:, :3])
    append("^sin: expected positions 9, found 8", cos=angles, sin=angles[:8])
    scales = np.zeros((2, HEADS_K, 8), np.float32)
    scales.flags.writeable = False
    append("^v_scale: expected an array that can be written", v_cache=cache(2, HEADS_K, 8, DIM, dtype=np.int8),
           v_scale=scales)
    assert not scales.any()


def test_values_alone_in_pages():
    """block_table is then of pages of v_cache."""
    rows = np.arange(2 * 3 * DIM, dtype=np.float32).reshape(2, 1, 3, DIM) + 1
    pages = np.zeros((4, 1, 2, DIM), np.float32)
    flashc.append_kv(None, rows, None, pages, [0, 1], block_table=[[3, 0], [2, 1]])
    flat = pages[[3, 0, 2, 1], 0].reshape(2, 4, DIM)
    assert np.array_equal(flat[0, :3], rows[0, 0]) and np.array_equal(flat[1, 1:], rows[1, 0])
    assert not flat[0, 3].any() and not flat[1, 0].any()
