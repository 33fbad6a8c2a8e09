"""What goes with packed sequences besides lengths: block masks, the scores and their sums, pages of two sizes; each
against the sequences one by one."""
from typing import Any

import numpy as np
import pytest

import flashc

F = np.float32
RNG = np.random.default_rng(8)
QUERIES, KEYS = [20, 7, 33], [45, 60, 9]
STARTS_Q, STARTS_K = np.cumsum([0, *QUERIES]), np.cumsum([0, *KEYS])
PACKED: dict[str, Any] = {"cu_seqlens_q": STARTS_Q, "cu_seqlens_k": STARTS_K}
Q, K, V = (RNG.standard_normal(shape, F) for shape in ((4, sum(QUERIES), 16), (2, sum(KEYS), 16), (2, sum(KEYS), 8)))
PLACES = [(slice(*STARTS_Q[b:b + 2]), slice(*STARTS_K[b:b + 2])) for b in range(len(QUERIES))]


def test_block_mask_has_the_tiles_of_the_longest() -> None:
    bits = RNG.random((3, 4, -(-max(QUERIES) // 8), -(-max(KEYS) // 16))) < 0.5
    o = flashc.attention(Q, K, V, block_mask=bits, block_mask_tile=(8, 16), **PACKED)
    for b, (rows, keys) in enumerate(PLACES):
        mask = bits[b].repeat(8, axis=1).repeat(16, axis=2)[:, :QUERIES[b], :KEYS[b]]
        alone = flashc.attention(Q[:, rows], K[:, keys], V[:, keys], mask=mask)
        np.testing.assert_allclose(o[:, rows], alone, rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match=r"^block_mask: expected \[3, 4, 5, 4\]"):
        flashc.attention(Q, K, V, block_mask=bits[:, :, :3], block_mask_tile=(8, 16), **PACKED)


def test_scores_and_sums_of_packed_queries_and_keys() -> None:
    """Only the blocks of the scores that are of one sequence are written."""
    total = (4, sum(QUERIES))
    scores, mass, row_max = np.full((*total, sum(KEYS)), 7, F), np.empty((4, sum(KEYS)), F), np.empty(total, F)
    flashc.attention(Q, K, V, scores=scores, scores_stage="weights", key_mass=mass, row_max=row_max, **PACKED)
    for rows, keys in PLACES:
        exact = np.einsum("hid,hjd->hij", Q[:, rows].astype(float), K[:, keys].repeat(2, axis=0).astype(float)) / 4
        weights = np.exp(exact - exact.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(scores[:, rows, keys], weights, rtol=1e-5)
        np.testing.assert_allclose(mass[:, keys], weights.sum(1), rtol=1e-5)
        np.testing.assert_allclose(row_max[:, rows], exact.max(-1), rtol=0, atol=2e-6)
        scores[:, rows, keys] = 7
    assert (scores == 7).all()


def test_outputs_have_the_axes_of_what_they_are_of() -> None:
    """Queries packed, keys not: the scores of a packed query, the mass of a key of a batch."""
    k, v = (np.zeros((3, 2, max(KEYS), x.shape[-1]), F) for x in (K, V))
    for b, (_, keys) in enumerate(PLACES):
        k[b, :, :KEYS[b]], v[b, :, :KEYS[b]] = K[:, keys], V[:, keys]
    scores, mass = np.empty((4, sum(QUERIES), max(KEYS)), F), np.empty((3, 4, max(KEYS)), F)
    call: dict[str, Any] = {"cu_seqlens_q": STARTS_Q, "seqlens_k": KEYS}
    flashc.attention(Q, k, v, scores=scores, scores_stage="weights", key_mass=mass, **call)
    for b, (rows, _) in enumerate(PLACES):
        np.testing.assert_allclose(scores[:, rows].sum(-1), 1, rtol=1e-5)
        np.testing.assert_allclose(scores[:, rows].sum(1), mass[b], rtol=1e-5, atol=1e-6)
        assert not mass[b, :, KEYS[b]:].any()
    with pytest.raises(ValueError, match=r"^key_mass: expected shape \[3, 4, 60\], found \[4, 60\]"):
        flashc.attention(Q, k, v, key_mass=mass[0], **call)
    with pytest.raises(ValueError, match=r"^key_mass: expected shape \[1, 4, 114\], found \[3, 4, 114\]"):
        flashc.attention(Q, K, V, key_mass=np.empty((3, 4, sum(KEYS)), F), **PACKED)


@pytest.mark.parametrize("name, element", [("mask", True), ("bias", F(0))])
def test_masks_of_packed_sequences_have_no_batch(name: str, element: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected a shape that broadcasts to \[1, 4, 60, 114\]"):
        flashc.attention(Q, K, V, **{name: np.full((3, 1, sum(QUERIES), sum(KEYS)), element)}, **PACKED)


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_pages_of_v_may_be_of_another_size(layout: str) -> None:
    """K in pages of 8 rows, V in pages of 12, of another number."""
    order = (1, 0, 2) if layout == "bshd" else (0, 1, 2)
    caches, tables = [], []
    for rows, size in ((K, 8), (V, 12)):
        each = -(-max(KEYS) // size)
        table = RNG.permutation(3 * each + 2)[:3 * each].reshape(3, each).astype(np.int32)
        heads, dim = rows.shape[0], rows.shape[2]
        caches.append(np.zeros((3 * each + 2, *((size, heads) if layout == "bshd" else (heads, size)), dim), F))
        tables.append(table)
    q, k, v = (x.transpose(order) for x in (Q, K, V))
    pages: dict[str, Any] = {"block_table": tables[0], "block_table_v": tables[1], "layout": layout}
    flashc.append_kv(k, v, *caches, [0, 0, 0], cu_seqlens=STARTS_K, **pages)
    o = flashc.attention(q, *caches, cu_seqlens_q=STARTS_Q, seqlens_k=KEYS, **pages)
    np.testing.assert_array_equal(o, flashc.attention(q, k, v, layout=layout, **PACKED))
