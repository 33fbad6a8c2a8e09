"""scripts/bench_peers, the parts that need no other system: cases, float64 check, turns, statistics."""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from peers import machine, reference, statistics, systems  # noqa: E402
from peers.cases import CACHE_SIZE, CURVES, ITEM_SIZE, Case, all_cases, select  # noqa: E402
from peers.reference import REDUCED, RIGHT, WRONG  # noqa: E402

SEED = 3
SMALL = [
    Case("f32", 8, 6),
    Case("f32", 8, 6, causal=True, heads=4, heads_k=2, batch=2),
    Case("f16", 12, 7, 3, head_dim_v=4),
    Case("bf16", 8, 9, 1, heads=6, heads_k=2, cold=True),
    Case("f32", 8, 5, bias="head"),
    Case("f32", 8, 5, bias="shared"),
    Case("f32", 4, 9, heads=2, causal=True, window=3),
    Case("f32", 8, 5, softcap=0.7),
    Case("f32", 8, 6, causal=True, alibi=True, heads=4),
    Case("f32", 8, 6, causal=True, window=2, sinks=True, heads=4, heads_k=2),
    Case("f32", 8, 6, batch=3, heads=2, causal=True, lengths=(2, 6, 3)),
    Case("f32", 32, 9, 1, heads=4, heads_k=2, cold=True, cache="i8"),
    Case("f32", 64, 9, 1, heads=4, heads_k=2, cold=True, cache="q8_0"),
    Case("f32", 8, 8, 1, heads=4, heads_k=2, cold=True, page=4),
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_work_counts_what_a_loop_counts(case: Case) -> None:
    operations = 0
    for b, _, i, j in itertools.product(*map(range, (case.batch, case.heads, case.seqlen_q, case.seqlen_k))):
        if case.lengths and max(i, j) >= case.lengths[b]:
            continue
        if (j <= i or not case.causal) and (not case.window or j > i - case.window):
            operations += 2 * case.head_dim + 2 * case.head_dim_v
    assert case.flops == operations
    arrays = reference.make_arrays(case, SEED)
    if case.cache:
        caches = (arrays.k_codes, arrays.v_codes, arrays.k_scale, arrays.v_scale)
        assert case.kv_bytes == sum(x.nbytes for x in caches if x is not None)
    else:
        padding = (sum(case.lengths) or case.batch * case.seqlen_k) / (case.batch * case.seqlen_k)
        assert case.kv_bytes == (arrays.k.nbytes + arrays.v.nbytes) * padding
    assert case.work == pytest.approx(1e-9 * (case.kv_bytes if case.cold else operations))


def test_a_list_that_nobody_reads_ends_in_silence() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "peers", "--list"], cwd=SCRIPTS, stdout=writer,
                          stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("quick", [False, True])
def test_cases_are_unique_and_cover_what_is_asked(quick: bool) -> None:
    cases = all_cases(quick)
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    assert {case.dtype for case in cases} == set(ITEM_SIZE)
    window = "window96" if quick else "window1024"
    plain = {case.kind for case in cases if "+" not in case.kind}
    assert plain == {"full", "causal", window, "decode", "bias", "shared-bias"}
    more = {part for case in cases for part in case.kind.split("+")[1:]}
    assert more >= {"i8", "q8_0", "pages16", "softcap", "alibi", "sinks", "packed"}
    assert {group for case in cases for group in case.groups} == {"table", "features", *CURVES}
    assert any(case.heads != case.heads_k for case in cases) and any(
        case.head_dim != case.head_dim_v for case in cases
    )


def test_selection_by_name_group_and_threads() -> None:
    cases = all_cases()
    assert [c.name for c in select(cases, ["f32/causal/d64/h8/L2048/t1"], 8)] == [
        "f32/causal/d64/h8/L2048/t1"
    ]
    assert {g for c in select(cases, ["batch"], 8) for g in c.groups} >= {"batch"}
    assert all(case.threads == 1 for case in select(cases, [], 1)) and select(cases, [], 2) == cases
    both = next(case for case in cases if case.name == "f32/causal/d64/h8/L2048/t1")
    assert both.groups == ("table", "seqlen")


def plain(case: Case, arrays: reference.Arrays) -> np.ndarray:
    """Attention as three loops over numbers, float64."""
    o = np.zeros(reference.shapes(case)["o"])
    for b, h, i in np.ndindex(o.shape[:3]):
        length = case.lengths[b] if case.lengths else case.seqlen_k
        if case.lengths and i >= length:
            continue
        g = h * case.heads_k // case.heads
        keys = range(max(0, i + 1 - case.window) if case.window else 0, i + 1 if case.causal else length)
        scores = []
        for j in keys:
            s = (
                sum(float(x) * float(y) for x, y in zip(arrays.q[b, h, i], arrays.k[b, g, j]))
                / case.head_dim**0.5
            )
            if case.softcap:
                s = case.softcap * np.tanh(s / case.softcap)
            if arrays.slopes is not None:
                s -= float(arrays.slopes[h]) * abs(i - j)
            scores.append(
                s + (0.0 if arrays.bias is None else float(arrays.bias[0, h % arrays.bias.shape[1], i, j]))
            )
        weights = np.exp(np.array(scores) - max(scores))
        total = weights.sum()
        if arrays.sinks is not None:
            total += np.exp(float(arrays.sinks[h]) - max(scores))
        o[b, h, i] = sum(w * arrays.v[b, g, j].astype(float) for j, w in zip(keys, weights)) / total
    return o


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_reference_is_attention(case: Case) -> None:
    arrays = reference.make_arrays(case, SEED)
    found = reference.attention(case, arrays, np.arange(case.seqlen_q))
    np.testing.assert_allclose(found, plain(case, arrays), rtol=1e-12, atol=1e-12)


def test_the_reference_by_blocks_and_by_chosen_rows() -> None:
    case = Case("f32", 4, 600, heads=1, causal=True)
    arrays = reference.make_arrays(case, SEED)
    rows = np.array([0, 1, 255, 256, 300, 599])
    np.testing.assert_allclose(
        reference.attention(case, arrays, rows), plain(case, arrays)[:, :, rows], rtol=1e-12, atol=1e-12
    )


def test_the_group_as_rows_is_the_same_computation() -> None:
    case = Case("f32", 8, 9, 2, heads=6, heads_k=2)
    grouped = case.grouped()
    assert grouped is not None and (grouped.heads, grouped.seqlen_q, grouped.flops) == (2, 6, case.flops)
    arrays = reference.make_arrays(case, SEED)
    folded = reference.Arrays(arrays.q.reshape(reference.shapes(grouped)["q"]), arrays.k, arrays.v)
    np.testing.assert_allclose(
        plain(grouped, folded).reshape(reference.shapes(case)["o"]), plain(case, arrays), rtol=1e-12
    )
    assert SMALL[0].grouped() is None and SMALL[1].grouped() is None


@pytest.mark.parametrize("cache", CACHE_SIZE)
def test_codes_stand_for_their_values(cache: str) -> None:
    x = np.random.default_rng(SEED).standard_normal((2, 3, 5, 64), dtype=np.float32)
    x[0, 0, 0] = 0.0
    codes, scale, exact = reference.quantise(cache, x)
    if cache == "i8":
        assert codes.dtype == np.int8 and scale is not None
        found = codes * scale[..., None]
    else:
        blocks = codes.reshape(2, 3, 5, 2, 34)
        scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
        found = (np.ascontiguousarray(blocks[..., 2:]).view(np.int8) * scales).reshape(x.shape)
        assert scale is None
    assert (found == exact).all() and np.abs(exact - x).max() < np.abs(x).max() / 127
    assert (exact.astype(np.float64) == found.astype(np.float64)).all()


def test_what_systems_without_a_feature_are_given() -> None:
    """Bias, extra key and pages give plain attention the case's result."""
    for case in SMALL:
        arrays = reference.make_arrays(case, SEED)
        mask, k, v = systems.added(case, arrays), arrays.k, arrays.v
        if case.sinks:
            k, v, mask = systems.with_sink_key(case, arrays, mask)
        if case.page:
            (pool, table), (pool_v, table_v) = systems.pages(case, k), systems.pages(case, v)
            assert (table == table_v).all() and table.shape == (case.batch, case.seqlen_k // case.page)
            assert (pool[table].swapaxes(1, 2).reshape(k.shape) == k).all() and pool_v.shape[2] == case.page
        group = case.heads // case.heads_k
        k, v = (x.repeat(group, axis=1).astype(np.float64) for x in (k, v))
        scores = arrays.q.astype(np.float64) @ k.swapaxes(2, 3) * case.head_dim**-0.5
        scores = case.softcap * np.tanh(scores / case.softcap) if case.softcap else scores
        scores += 0 if mask is None else mask
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        found = weights @ v / weights.sum(-1, keepdims=True)
        for b, length in enumerate(case.lengths):
            found[b, :, length:] = 0.0
        np.testing.assert_allclose(found, plain(case, arrays), rtol=1e-6, atol=1e-6, err_msg=case.name)


def test_checked_rows() -> None:
    assert list(reference.checked_rows(SMALL[0])) == list(range(6))
    long = reference.checked_rows(Case("f32", 128, 65536))
    assert long[0] == 0 and long[-1] == 65535 and 16 <= len(long) < 65536 and (np.diff(long) > 0).all()


@pytest.mark.parametrize(
    ("dtype", "error", "status"),
    [
        ("f32", 1e-6, RIGHT),
        ("f32", 1e-3, REDUCED),
        ("f32", 0.1, WRONG),
        ("f16", 3e-4, RIGHT),
        ("f16", 5e-3, REDUCED),
        ("bf16", 3e-3, RIGHT),
        ("bf16", 0.05, WRONG),
        ("f32", np.nan, WRONG),
        ("f32", np.inf, WRONG),
    ],
)
def test_verdicts(dtype: str, error: float, status: str) -> None:
    exact = np.random.default_rng(SEED).standard_normal((1, 2, 4, 8))
    result = exact.copy()
    result[0, 1, 2] *= 1 + error
    verdict = reference.judge(dtype, result, exact, np.arange(4))
    assert verdict.status == status
    assert not np.isfinite(error) or verdict.row_error == pytest.approx(error)
    # NaN in a row that is not compared is seen too.
    result[0, 0, 3, 0] = np.nan
    assert reference.judge(dtype, result, exact[:, :, :2], np.arange(2)).status == WRONG


def test_turns_are_fair() -> None:
    systems = ["a", "b", "c", "d", "e"]
    rounds = [statistics.turns(systems, index) for index in range(10)]
    assert all(sorted(order) == systems for order in rounds)
    assert {order[0] for order in rounds} == set(systems)
    assert len({pair for order in rounds for pair in itertools.pairwise(order)}) == 10
    assert statistics.turns([], 3) == []


def test_statistics() -> None:
    values = [3.0, 1.0, 2.0, 10.0]
    assert statistics.median(values) == np.median(values) and statistics.median(values[:3]) == 2.0
    assert statistics.mean(values) == np.mean(values)
    assert (
        statistics.stddev(values) == pytest.approx(np.std(values, ddof=1)) and statistics.stddev([1.0]) == 0.0
    )
    assert statistics.spread(values) == 9.0 / 2.5
    assert statistics.calls_for(0.1, 0.05) == 1 and statistics.calls_for(0.001, 0.05) >= 50


def test_copies_leave_the_cache_and_fit_in_memory() -> None:
    assert machine.copies_of(100, 1000, 10**9, 5) == 40
    assert machine.copies_of(10**6, 1000, 10**9, 5) == 2
    assert machine.copies_of(100, 1000, 20000, 5) == 20
    assert machine.copies_of(100, 1000, 10, 5) == 1
