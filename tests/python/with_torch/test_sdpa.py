"""flashc.torch.scaled_dot_product_attention: results, strides, broadcasts."""

import itertools
import math

import pytest

torch = pytest.importorskip("torch", reason="these tests need torch, which is not installed")

from torch.nn.attention import SDPBackend, sdpa_kernel

from flashc.torch import scaled_dot_product_attention
import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# torch 2.13 has 25 samples per type, 12 of them with dropout.
SAMPLES_AT_LEAST = 25
DROPOUT_SAMPLES_AT_LEAST = 12
# torch's math path keeps f32 inside and rounds as flashc does, so both are within the stated bound of the
# exact result.
MATH_BOUNDS = 2


def torch_samples(dtype):
    pytest.importorskip(
        "expecttest", reason="torch's own sample inputs need the package expecttest, which is not installed"
    )
    from torch.testing._internal.common_methods_invocations import op_db

    (entry,) = (op for op in op_db if op.name == "nn.functional.scaled_dot_product_attention")
    return list(entry.sample_inputs("cpu", dtype, requires_grad=False))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_own_samples(dtype):
    compared = refused = 0
    for sample in torch_samples(dtype):
        arguments = dict(zip(("query", "key", "value"), (sample.input, *sample.args))) | sample.kwargs
        dropout = arguments.pop("dropout_p")
        if dropout > 0:
            with pytest.raises(ValueError, match="dropout_p: .*expected 0.0, found 0.5"):
                scaled_dot_product_attention(dropout_p=dropout, **arguments)
            refused += 1
            continue
        found = scaled_dot_product_attention(dropout_p=dropout, **arguments)
        reference.assert_close(found, **arguments)
        with sdpa_kernel(SDPBackend.MATH):
            math_path = torch.nn.functional.scaled_dot_product_attention(**arguments)
        assert found.shape == math_path.shape and found.dtype == math_path.dtype
        _, bound = reference.attention(**arguments)
        assert ((found.double() - math_path.double()).abs() <= MATH_BOUNDS * bound).all(), sample
        compared += 1
    assert refused >= DROPOUT_SAMPLES_AT_LEAST
    assert compared + refused >= SAMPLES_AT_LEAST


def dense(*shape):
    return torch.randn(shape)


def transposed(*shape):
    """[..., H, L, D] lying as [..., L, H, D]"""
    return torch.randn(*shape[:-3], shape[-2], shape[-3], shape[-1]).transpose(-2, -3)


def sliced(*shape):
    """No axis contiguous."""
    return torch.randn(*shape[:-1], 3 * shape[-1])[..., ::3]


def flipped_heads(*shape):
    """Heads broadcast by stride 0."""
    return torch.randn(*shape[:-3], 1, *shape[-2:]).expand(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", (dense, transposed, sliced, flipped_heads), ids=lambda make: make.__name__)
def test_types_strides_and_masks(dtype, make):
    query, key, value = (
        make(2, 6, 37, 24).to(dtype),
        make(2, 3, 53, 24).to(dtype),
        make(2, 3, 53, 40).to(dtype),
    )
    visible = torch.rand(2, 1, 37, 53) < 0.5
    visible[1, 0, 5] = False
    masks = [
        None,
        visible,
        torch.randn(37, 53, dtype=dtype),
        torch.randn(2, 6, 1, 53),
        visible[0, 0, :, :1],
        torch.where(visible, torch.randn(()), -math.inf),
    ]
    for mask, scale in itertools.product(masks, (None, 0.0, -0.7)):
        arguments = dict(attn_mask=mask, scale=scale, enable_gqa=True)
        reference.assert_close(
            scaled_dot_product_attention(query, key, value, **arguments), query, key, value, **arguments
        )
    arguments = dict(is_causal=True, enable_gqa=True)
    reference.assert_close(
        scaled_dot_product_attention(query, key, value, **arguments), query, key, value, **arguments
    )


BROADCASTS = [  # query, key, value, mask, enable_gqa
    ((5, 8), (7, 8), (7, 9), (5, 7), False),
    ((3, 5, 8), (3, 7, 8), (3, 7, 9), (3, 1, 7), False),
    ((5, 8), (3, 7, 8), (3, 7, 8), (), False),
    ((4, 5, 8), (2, 7, 8), (2, 7, 8), (7,), True),
    ((4, 3, 5, 8), (1, 3, 7, 8), (1, 3, 7, 8), (4, 1, 1, 7), False),
    ((1, 3, 5, 8), (1, 3, 7, 8), (4, 3, 7, 8), (1, 3, 5, 7), False),
    ((3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8), (5, 1), False),
    ((2, 4, 5, 8), (2, 1, 7, 8), (2, 1, 7, 8), None, False),
    ((2, 1, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8), None, False),
    ((4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 8), None, True),
    ((2, 3, 4, 5, 8), (2, 3, 4, 7, 8), (2, 3, 4, 7, 8), (3, 1, 5, 7), False),
    ((2, 3, 4, 5, 8), (1, 3, 2, 7, 8), (2, 1, 2, 7, 8), (2, 1, 4, 1, 7), True),
    ((2, 1, 2, 3, 5, 8), (1, 4, 2, 3, 7, 8), (2, 4, 2, 3, 7, 8), (2, 1, 5, 7), False),
    ((0, 3, 5, 8), (0, 3, 7, 8), (0, 3, 7, 8), None, False),
    ((2, 3, 0, 8), (2, 3, 7, 8), (2, 3, 7, 8), None, False),
    ((2, 3, 5, 8), (2, 3, 0, 8), (2, 3, 0, 8), None, False),
]


@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
def test_broadcasts_as_torch(shapes):
    *qkv, mask, enable_gqa = shapes
    query, key, value = (torch.randn(shape) for shape in qkv)
    masks = [None] if mask is None else [None, torch.randn(mask), torch.rand(mask) < 0.7]
    for mask, is_causal in [(mask, False) for mask in masks] + [(None, True)]:
        arguments = dict(attn_mask=mask, is_causal=is_causal, enable_gqa=enable_gqa)
        found = scaled_dot_product_attention(query, key, value, **arguments)
        reference.assert_close(found, query, key, value, **arguments)
        with sdpa_kernel(SDPBackend.MATH):
            assert (
                found.shape
                == torch.nn.functional.scaled_dot_product_attention(query, key, value, **arguments).shape
            )


def test_five_dimensions_transposed_go_one_by_one():
    query, key, value = transposed(2, 3, 4, 5, 8), transposed(2, 3, 2, 7, 8), transposed(2, 3, 2, 7, 8)
    query = query.transpose(0, 1)  # now the first two axes do not merge
    key, value = key.transpose(0, 1), value.transpose(0, 1)
    found = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    reference.assert_close(found, query, key, value, is_causal=True, enable_gqa=True)


@pytest.mark.parametrize("make", (dense, transposed), ids=lambda make: make.__name__)
def test_memory_order_is_that_of_torch(make):
    query, key, value = make(2, 4, 5, 8), make(2, 4, 7, 8), make(2, 4, 7, 8)
    theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert scaled_dot_product_attention(query, key, value).stride() == theirs.stride()


def test_inputs_are_read_in_place(monkeypatch):
    from flashc import _core

    seen = []
    real = _core.attention
    monkeypatch.setattr(_core, "attention", lambda *args: (seen.extend(args[:3]), real(*args))[1])
    query, key, value = transposed(2, 4, 5, 8), transposed(1, 2, 7, 8), flipped_heads(1, 2, 7, 8)
    scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert [x.data_ptr() for x in seen] == [x.data_ptr() for x in (query, key, value)]


def test_lazily_negated_tensors():
    x = torch.randn(2, 5, 8, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    assert torch.equal(
        scaled_dot_product_attention(x, x, x), scaled_dot_product_attention(*[x.resolve_neg()] * 3)
    )


def test_autocast_as_torch():
    query, key, value = torch.randn(2, 5, 8), torch.randn(2, 7, 8).half(), torch.randn(2, 7, 8)
    mask = torch.randn(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        found = scaled_dot_product_attention(query, key, value, mask)
    lower = [x.bfloat16() for x in (query, key, value, mask)]
    assert found.dtype == torch.bfloat16 and torch.equal(found, scaled_dot_product_attention(*lower))


def test_vmap():
    query, key = torch.randn(4, 3, 5, 8), torch.randn(4, 3, 7, 8)
    found = torch.func.vmap(lambda q, k: scaled_dot_product_attention(q, k, k))(query, key)
    assert torch.equal(found, scaled_dot_product_attention(query, key, key))
