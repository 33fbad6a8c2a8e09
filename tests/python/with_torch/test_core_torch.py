"""torch tensors in the core functions: read and written where they lie; those without plain memory are refused."""
import gc
import sys
from typing import Any

import numpy as np
import pytest
import torch

import flashc
import oracle

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def to_numpy(t: Any) -> Any:
    """NumPy's array of the same bits, bfloat16 by ml_dtypes."""
    if t.dtype == torch.bfloat16:
        return t.contiguous().view(torch.uint16).numpy().view(oracle.BFLOAT16)
    return t.contiguous().numpy()


def normal(seed: int, *shape: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("out_type", DTYPES)
@pytest.mark.parametrize("in_type", DTYPES)
def test_types(in_type: str, out_type: str) -> None:
    q, k, v = (normal(i, 2, 3, 9, 8, dtype=DTYPES[in_type]) for i in range(3))
    bias, mask = normal(3, 3, 9, 9, dtype=DTYPES[in_type]), normal(4, 9, 9) > 0
    exact = oracle.attention(*(to_numpy(t) for t in (q, k, v)), mask=mask.numpy(), bias=to_numpy(bias))
    o, lse = flashc.attention(q, k, v, mask=mask, bias=bias, out_dtype=DTYPES[out_type], return_lse=True)
    assert type(o) is torch.Tensor and o.dtype == DTYPES[out_type] and lse.dtype == torch.float32
    oracle.check(to_numpy(o), exact, lse.numpy())
    assert flashc.attention(q, k, v).dtype == q.dtype
    out = torch.zeros_like(o)
    assert flashc.attention(q, k, v, mask=mask, bias=bias, out=out) is out and torch.equal(out, o)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides(dtype: str) -> None:
    base = normal(1, 2, 9, 3, 16, dtype=DTYPES[dtype])
    q = base.transpose(1, 2)[..., ::2]
    k = normal(2, 1, 1, 9, 8, dtype=DTYPES[dtype]).expand(2, 3, 9, 8)
    v = normal(3, 8, 9, 3, 2, dtype=DTYPES[dtype]).permute(3, 2, 1, 0)
    packed = flashc.attention(q.contiguous(), k.contiguous(), v.contiguous())
    assert torch.equal(flashc.attention(q, k, v), packed)
    out = torch.full((2, 3, 9, 20), 7, dtype=DTYPES[dtype])
    flashc.attention(q, k, v, out=out[..., 2:18:2])
    assert torch.equal(out[..., 2:18:2], packed)
    out[..., 2:18:2] = 7
    assert (out == 7).all()


def test_tensors_and_arrays_mix() -> None:
    """Results are of q's kind, whatever the others are."""
    t = [normal(i, 4, 8) for i in range(3)]
    a = [x.numpy() for x in t]
    expected = flashc.attention(*a)
    assert torch.equal(flashc.attention(t[0], a[1], t[2]), torch.from_numpy(expected))
    o = flashc.attention(a[0], t[1], a[2])
    assert type(o) is np.ndarray and o.tobytes() == expected.tobytes()
    out = torch.zeros(4, 8)
    assert flashc.attention(*a, out=out) is out and out.numpy().tobytes() == expected.tobytes()
    aligned = flashc.attention(*t, causal=True, align=torch.tensor(2))
    assert torch.equal(aligned, flashc.attention(*t, causal=True, align=2))


def test_empty_tensors() -> None:
    """Their data pointer is NULL."""
    some, none = torch.ones(3, 4), torch.ones(0, 4)
    assert flashc.attention(none, some, some).shape == (0, 4)
    o, lse = flashc.attention(some, none, none, mask=torch.ones(3, 0, dtype=torch.bool), return_lse=True)
    assert (o == 0).all() and torch.isneginf(lse).all()


def test_other_functions() -> None:
    x = normal(1, 3, 50)
    y, lse = flashc.softmax(x, return_lse=True)
    torch.testing.assert_close(y, x.softmax(-1))
    torch.testing.assert_close(lse, x.logsumexp(-1))
    assert flashc.is_softmax(y) and flashc.compare(y, y.numpy()).equal
    assert torch.equal(flashc.convert(x, torch.bfloat16), x.bfloat16())
    o, merged = flashc.merge_partials([x, x], [lse, lse])
    torch.testing.assert_close(o, x)
    torch.testing.assert_close(merged, lse + np.log(2))
    state = flashc.SoftmaxState(3)
    state.update(x)
    torch.testing.assert_close(torch.from_numpy(state.finish()[1]), lse)
    assert flashc.trace(x[0])["x"].tolist() == x[0].tolist()


def test_lazy_negation_is_refused() -> None:
    """x.conj().imag shares memory that holds the opposite signs."""
    x = torch.complex(normal(1, 4, 8), normal(2, 4, 8)).conj().imag
    assert x.is_neg()
    plain = x.resolve_neg()
    for arguments in ((x, plain, plain), (plain, x, plain), (plain.numpy(), plain, x)):
        with pytest.raises(ValueError, match=r"^[qkv]: .*resolve_neg\(\)"):
            flashc.attention(*arguments)
    with pytest.raises(ValueError, match="^x: .*resolve_neg"):
        flashc.softmax(x)
    with pytest.raises(ValueError, match="^a: .*resolve_neg"):
        flashc.compare(x, plain)


@pytest.mark.parametrize("argument", ("q", "k", "v", "bias", "out"))
@pytest.mark.parametrize("q_kind", ("torch", "numpy"))
def test_forward_only(argument: str, q_kind: str) -> None:
    plain: Any = torch.ones(4, 4)
    arguments = {"q": plain if q_kind == "torch" else plain.numpy(), "k": plain, "v": plain,
                 argument: torch.ones(4, 4, requires_grad=True)}
    with pytest.raises(RuntimeError, match="forward only.*detach"):
        flashc.attention(**arguments)
    with torch.no_grad():
        assert (torch.as_tensor(flashc.attention(**{**arguments, "bias": None})) == 1).all()
    assert flashc.explain(**arguments).num_items == 1


def test_forward_only_of_what_else_has_values() -> None:
    """Scales, tables, scores and outputs: a gradient would be lost without a word."""
    def needing(*shape: int) -> torch.Tensor:
        return torch.ones(shape, requires_grad=True)

    x, scale, codes = torch.ones(1, 4, 8), torch.ones(1, 4), torch.ones(1, 4, 8, dtype=torch.int8)
    state = flashc.AttentionState(x, seqlen_k=8)
    state.accumulate(x, x)
    calls = {
        "k_scale": lambda: flashc.attention(x, codes, x, k_scale=needing(1, 4)),
        "v_scale": lambda: state.accumulate(x, codes, v_scale=needing(1, 4)),
        "prefix_k_scale": lambda: flashc.shared_prefix_attention(x, codes, x, x, x, prefix_k_scale=needing(1, 4)),
        "scores": lambda: flashc.attention(x, x, x, scores=needing(1, 4, 4)),
        "key_mass": lambda: flashc.attention(x, x, x, key_mass=needing(1, 4)),
        "row_max": lambda: state.finish(row_max=needing(1, 4)),
        "out": lambda: state.finish(out=needing(1, 4, 8)),
        "cos": lambda: flashc.append_kv(x, x, x.clone(), x.clone(), [0], cos=needing(4, 4), sin=torch.ones(4, 4)),
        "v": lambda: flashc.SoftmaxState(4, 8).update(torch.ones(4, 4), needing(4, 8)),
    }
    for argument, call in calls.items():
        with pytest.raises(RuntimeError, match=f"^{argument}: flashc is forward only"):
            call()
    with torch.no_grad():
        flashc.attention(x, codes, codes, k_scale=needing(1, 4), v_scale=scale)


NO_MEMORY = {
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "zero tensor": lambda t: torch._efficientzerotensor(t.shape),
}


@pytest.mark.parametrize("argument", ("q", "k", "v", "out"))
@pytest.mark.parametrize("kind", NO_MEMORY)
def test_tensors_without_plain_memory(kind: str, argument: str) -> None:
    t = torch.ones(4, 8)
    with pytest.raises(ValueError, match=rf"^{argument.replace('out', 'o(ut)?')}\b.*expected.*found"):
        flashc.attention(**{"q": t, "k": t, "v": t, argument: NO_MEMORY[kind](t)})


def test_the_default_device_does_not_matter() -> None:
    t = normal(1, 4, 8)
    expected = flashc.attention(t, t, t)
    torch.set_default_device("meta")
    try:
        assert torch.equal(flashc.attention(t, t, t), expected)
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("dtype", (torch.float64, torch.int32, torch.bool, torch.complex64))
def test_other_types(dtype: Any) -> None:
    t = torch.ones(4, 8)
    for argument in ("q", "k", "v", "bias", "out"):
        with pytest.raises(TypeError, match=rf"^{argument}: expected .*found"):
            flashc.attention(**{"q": t, "k": t, "v": t, argument: t.to(dtype)})


def test_no_reference_is_kept() -> None:
    tensors = [normal(i, 4, 8) for i in range(3)]
    mask = torch.ones(4, 4)

    def run_all() -> None:
        flashc.attention(*tensors, return_lse=True)
        for wrong in ({"mask": mask}, {"kernel": "none"}, {"out": mask}):
            with pytest.raises((TypeError, ValueError)):
                flashc.attention(*tensors, **wrong)

    run_all()
    before = [sys.getrefcount(t) for t in (*tensors, mask)]
    for _ in range(200):
        run_all()
    gc.collect()
    assert all(abs(b - a) < 100 for a, b in zip(before, (sys.getrefcount(t) for t in (*tensors, mask)), strict=True))


def test_positions_may_be_a_tensor():
    q, k = torch.randn(2, 1, 3, 8), torch.randn(2, 1, 9, 8)
    expected = flashc.attention(q, k, k, causal=True, align=[1, 5])
    assert torch.equal(flashc.attention(q, k, k, causal=True, align=torch.tensor([1, 5])), expected)


def test_forward_mode_gradients_are_refused():
    x = torch.randn(4, 8)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        with pytest.raises(RuntimeError, match="^k: flashc is forward only"):
            flashc.attention(x, dual, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_prefix(dtype):
    """Several queries each: the copy of q is torch's own, and so is the result."""
    q, k, v = (torch.randn(2, heads, 6, 16).to(dtype) for heads in (4, 2, 2))
    prefix_k, prefix_v = (torch.randn(2, 50, 16).to(dtype) for _ in "kv")
    whole = [torch.cat((prefix.expand(2, -1, -1, -1), own), 2) for prefix, own in ((prefix_k, k), (prefix_v, v))]
    expected = flashc.attention(q, *whole, causal=True, align="bottom-right")
    found = flashc.shared_prefix_attention(q, prefix_k, prefix_v, k, v, causal=True)
    assert type(found) is torch.Tensor and found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=2e-6 if dtype == torch.float32 else 0.02, rtol=0)
