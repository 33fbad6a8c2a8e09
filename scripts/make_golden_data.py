#!/usr/bin/env python3
"""Makes data/golden: small attention problems with O and LSE from NumPy in float64.

Each case is a folder of .npy files and an entry of data/golden/cases.json, which holds the options that
flashc-run needs and the tolerances. The seed is below; the files in the repository are what counts.

    scripts/make_golden_data.py            # writes data/golden (needs NumPy)
    scripts/make_golden_data.py --check    # compares with what is there
"""
import argparse
import json
import pathlib
import sys

import numpy as np

SEED = 20240607
OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "golden"
# Unit roundoff of f32, and half an ulp relative to the value for the 16-bit types.
U = 2.0**-24
HALF_ULP = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8}
# Key tiles of any kernel hold at least so many keys; the LSE bound counts tiles.
MIN_TILE = 16


def bf16_bits(x):
    """f32 -> bfloat16 bits, round to nearest even; finite values only."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_values(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def positions(seqlen_q, seqlen_k, align):
    offset = {"top-left": 0, "bottom-right": seqlen_k - seqlen_q}.get(align, align)
    return np.arange(seqlen_q)[:, None] + offset, np.arange(seqlen_k)[None, :]


def attention(q, k, v, scale=None, causal=False, align=None, mask=None, bias=None):
    """[B,H,L,D] in float64, three passes over the whole score matrix. Returns O, LSE and the bound's A."""
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), group, axis=1) for x in (k, v))
    q = q.astype(np.float64)
    scale = q.shape[-1] ** -0.5 if scale is None else float(np.float32(scale))
    scores = scale * (q @ k.swapaxes(-1, -2))
    size = abs(scale) * (np.abs(q) @ np.abs(k).swapaxes(-1, -2))
    visible = np.ones(scores.shape, dtype=bool)
    if bias is not None:
        with np.errstate(invalid="ignore"):  # NaN keys behind a bias of -inf
            scores = scores + bias
        size = size + np.abs(bias)
        visible &= bias != -np.inf
    if mask is not None:
        visible &= mask
    if causal:
        p, j = positions(q.shape[2], k.shape[2], align)
        visible &= j <= p
    weights = np.zeros(scores.shape)
    lse = np.full(scores.shape[:-1], -np.inf)
    rows = visible.any(axis=-1)
    scores = np.where(visible, scores, -np.inf)
    top = scores[rows].max(axis=-1, keepdims=True, initial=-np.inf)
    weights[rows] = np.exp(scores[rows] - top)
    total = weights[rows].sum(axis=-1, keepdims=True)
    weights[rows] /= total
    lse[rows] = (top + np.log(total))[:, 0]
    # A hidden row of V is left out: 0 * NaN would not be 0.
    with np.errstate(invalid="ignore"):
        products = np.where(visible[..., None], weights[..., None] * v[:, :, None, :, :], 0.0)
    return products.sum(axis=-2), lse, size[visible].max(initial=0.0)


class Writer:
    def __init__(self):
        self.random = np.random.default_rng(SEED)
        self.cases = []
        self.files = {}

    def normal(self, *shape, dtype="f32"):
        x = self.random.standard_normal(shape).astype(np.float32)
        return {"f32": x, "f16": x.astype(np.float16), "bf16": bf16_values(bf16_bits(x))}[dtype]

    def qkv(self, heads=2, heads_k=None, seqlen_q=5, seqlen_k=7, dim=8, dim_v=None, batch=1, dtype="f32"):
        heads_k = heads_k or heads
        return (self.normal(batch, heads, seqlen_q, dim, dtype=dtype),
                self.normal(batch, heads_k, seqlen_k, dim, dtype=dtype),
                self.normal(batch, heads_k, seqlen_k, dim_v or dim, dtype=dtype))

    def add(self, name, why, q, k, v, dtype="f32", out_dtype=None, scale=None, causal=False, align=None, mask=None,
            bias=None, bshd=False, rank=4, stored=None):
        """Writes one case. stored: how an input is kept in its file, where that is not simply C order."""
        o, lse, a = attention(q, k, v, scale, causal, align, mask, bias)
        out_dtype = out_dtype or dtype
        options = []
        if dtype == "bf16":
            options += ["--dtype", "bf16"]
        if out_dtype != dtype:
            options += ["--out-dtype", out_dtype]
        if scale is not None:
            options += [f"--scale={scale}"]
        if causal:
            options += ["--causal"]
        if align is not None:
            options += [f"--align={align}"]
        if bshd:
            options += ["--layout", "bshd"]

        arrays = {"q": q, "k": k, "v": v}
        for tensor, array in arrays.items():
            if dtype == "bf16":
                array = bf16_bits(array).view("V2")
            if bshd:
                array = np.ascontiguousarray(array.transpose(0, 2, 1, 3))
            arrays[tensor] = array
        for tensor, array in (("mask", mask), ("bias", bias)):
            if array is not None:
                arrays[tensor] = array
        o = o.transpose(0, 2, 1, 3) if bshd else o
        arrays["o"], arrays["lse"] = np.ascontiguousarray(o, dtype=np.float32), lse.astype(np.float32)
        for tensor in arrays:
            arrays[tensor] = arrays[tensor][(0,) * (4 - rank)]
        arrays.update({tensor: convert(arrays[tensor]) for tensor, convert in (stored or {}).items()})
        for tensor, array in arrays.items():
            self.files[f"{name}/{tensor}.npy"] = array

        # design bound on zero-mean data, 4 u (1 + A) max|v|, and the bound on LSE: see flashc.h.
        finite_v = np.abs(v[np.isfinite(v)]).max(initial=0.0)
        finite_lse = np.abs(lse[np.isfinite(lse)]).max(initial=0.0)
        n = k.shape[2]
        self.cases.append({
            "name": name, "why": why, "options": options,
            "inputs": [tensor for tensor in arrays if tensor not in ("o", "lse")],
            "rtol": HALF_ULP[out_dtype],
            "atol": float(f"{4 * U * (1 + a) * finite_v + (2.0**-25 if out_dtype == 'f16' else 0.0):.3g}"),
            "lse_atol": float(f"{U * (16 * max(1, finite_lse, a) + 2 * (n + -(-n // MIN_TILE))):.3g}"),
        })


def make_cases(w):
    w.add("full", "two query blocks, three key tiles", *w.qkv(seqlen_q=70, seqlen_k=261, dim=16, heads=1))
    w.add("batch", "two batch elements, three heads", *w.qkv(batch=2, heads=3, seqlen_q=9, seqlen_k=33, dim=16))
    w.add("head-dim-128", "a wide head", *w.qkv(heads=1, seqlen_q=3, seqlen_k=13, dim=128))
    w.add("one-by-one", "a softmax over one key is 1", *w.qkv(heads=1, seqlen_q=1, seqlen_k=1, dim=1))
    w.add("causal-top-left", "query 0 sees key 0 alone", *w.qkv(seqlen_q=67, seqlen_k=90), causal=True,
          align="top-left")
    w.add("causal-bottom-right", "the last query sees every key", *w.qkv(seqlen_q=19, seqlen_k=150), causal=True,
          align="bottom-right")
    w.add("causal-empty-rows", "more queries than keys: the first rows see nothing, O = 0, LSE = -inf",
          *w.qkv(seqlen_q=12, seqlen_k=7), causal=True, align="bottom-right")
    w.add("causal-offset", "an explicit offset, negative", *w.qkv(seqlen_q=11, seqlen_k=9), causal=True, align=-3)
    q, k, v = w.qkv(seqlen_q=6, seqlen_k=40)
    mask = w.random.random((1, 2, 6, 40)) < 0.6
    mask[0, 0, 2] = False
    w.add("mask", "a mask of its own for each head; one row hidden whole", q, k, v, mask=mask)
    q, k, v = w.qkv(batch=3, seqlen_q=5, seqlen_k=20)
    mask = np.arange(20)[None, None, None, :] < np.array([20, 7, 1])[:, None, None, None]
    w.add("mask-padding", "a padded batch: [B,1,1,L]", q, k, v, mask=mask)
    q, k, v = w.qkv(seqlen_q=5, seqlen_k=23)
    mask = np.ones((1, 1, 1, 23), dtype=bool)
    mask[..., [0, 4, 21]] = False
    k[:, :, [0, 4]] = np.nan
    v[:, :, [0, 21]] = np.array([np.nan, np.inf], dtype=np.float32)[:, None]
    w.add("mask-over-nan", "hidden keys hold NaN and infinity", q, k, v, mask=mask)
    q, k, v = w.qkv(seqlen_q=6, seqlen_k=30)
    bias = w.normal(1, 2, 6, 30)
    bias[0, 1, 3, 5:] = -np.inf
    bias[0, 0, 4] = -np.inf
    w.add("bias", "a bias; -inf hides", q, k, v, bias=bias)
    q, k, v = w.qkv(seqlen_q=20, seqlen_k=31)
    bias, mask = w.normal(1, 1, 20, 31), w.random.random((1, 2, 1, 31)) < 0.7
    w.add("bias-mask-causal", "all three at once, broadcast", q, k, v, bias=bias, mask=mask, causal=True,
          align="bottom-right")
    w.add("gqa", "three query heads to a K/V head", *w.qkv(heads=6, heads_k=2, seqlen_q=9, seqlen_k=25))
    w.add("mqa-decode", "one query, one K/V head", *w.qkv(heads=4, heads_k=1, seqlen_q=1, seqlen_k=200))
    w.add("value-wider", "head_dim_v > head_dim", *w.qkv(seqlen_q=9, seqlen_k=17, dim=8, dim_v=24))
    w.add("value-odd", "odd head_dim, smaller odd head_dim_v", *w.qkv(seqlen_q=9, seqlen_k=17, dim=7, dim_v=5))
    w.add("scale-negative", "a scale given, negative", *w.qkv(seqlen_q=5, seqlen_k=9), scale=-0.5)
    w.add("scale-zero", "scale 0: the mean of V", *w.qkv(seqlen_q=5, seqlen_k=9), scale=0.0)
    q, k, v = w.qkv(seqlen_q=5, seqlen_k=64)
    w.add("large-logits", "logits in the hundreds, rising along the keys", q * 100, k * np.linspace(
        0.1, 4, 64, dtype=np.float32)[:, None], v)
    w.add("f16", "f16 in and out", *w.qkv(seqlen_q=9, seqlen_k=70, dim=16, dtype="f16"), dtype="f16")
    w.add("f16-to-f32", "f16 in, f32 out", *w.qkv(seqlen_q=9, seqlen_k=70, dim=16, dtype="f16"), dtype="f16",
          out_dtype="f32")
    w.add("bf16", "bf16 as raw two-byte data, in and out", *w.qkv(seqlen_q=9, seqlen_k=70, dim=16, dtype="bf16"),
          dtype="bf16")
    w.add("bf16-to-f32", "bf16 in, f32 out", *w.qkv(seqlen_q=9, seqlen_k=70, dim=16, dtype="bf16"), dtype="bf16",
          out_dtype="f32")
    w.add("bshd", "heads inside the sequence axis", *w.qkv(batch=2, heads=3, seqlen_q=9, seqlen_k=15), bshd=True)
    w.add("rank-3", "files without a batch axis", *w.qkv(heads=3, seqlen_q=9, seqlen_k=15), rank=3)
    w.add("rank-2", "files without batch and head axes", *w.qkv(heads=1, seqlen_q=9, seqlen_k=15), rank=2)
    w.add("file-orders", "Fortran order (q), big-endian (k), both (v)",
          *w.qkv(seqlen_q=9, seqlen_k=15), stored={"q": np.asfortranarray, "k": lambda x: x.astype(">f4"),
                                                   "v": lambda x: np.asfortranarray(x.astype(">f4"))})
    w.add("no-keys", "seqlen_k = 0: O = 0, LSE = -inf", *w.qkv(seqlen_q=3, seqlen_k=0))
    w.add("no-queries", "seqlen_q = 0: an empty result", *w.qkv(seqlen_q=0, seqlen_k=5))


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and (
        a.tobytes() == b.tobytes() if a.dtype.kind not in "f"
        else np.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files there instead of writing")
    check = parser.parse_args().check
    w = Writer()
    make_cases(w)
    lines = ",\n  ".join(json.dumps(case) for case in w.cases)
    text = f'{{"generator": "scripts/make_golden_data.py", "seed": {SEED}, "cases": [\n  {lines}\n]}}\n'
    differing = []
    for name, array in w.files.items():
        path = OUT / name
        if check:
            if not path.exists() or not same(np.load(path), array):
                differing.append(name)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    if check:
        if (OUT / "cases.json").read_text() != text:
            differing.append("cases.json")
        sys.exit("differs from what this script makes: " + ", ".join(differing) if differing else 0)
    (OUT / "cases.json").write_text(text)
    print(f"{len(w.cases)} cases, {sum(array.nbytes for array in w.files.values())} bytes of data")


if __name__ == "__main__":
    main()
