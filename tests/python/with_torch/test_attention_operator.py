"""torch.ops.flashc.attention: flashc.attention()'s results, under opcheck and torch.compile, and its errors."""

import pytest

torch = pytest.importorskip("torch", reason="these tests need torch, which is not installed")

from torch._dynamo.testing import AotEagerAndRecordGraphs

import flashc
from flashc.torch_attention import attention

OPERATOR = torch.ops.flashc.attention.default


def tensors(rows=5, keys=37, heads_k=2, transposed=False, dtype=torch.float32):
    def make(heads, n):
        x = torch.randn(2, n, heads, 16, dtype=dtype)
        return x.transpose(1, 2) if transposed else x.transpose(1, 2).contiguous()

    return make(4, rows), make(heads_k, keys), make(heads_k, keys)


SINKS = torch.linspace(-1, 2, 4)
SAMPLES = {
    "plain": {},
    "softcap": dict(softcap=2.0),
    "sinks": dict(sinks=SINKS),
    "bf16 sinks": dict(sinks=SINKS.bfloat16()),
    "window": dict(window=(7, 3), align="bottom-right"),
    "open to the right": dict(window=(7, None), align=[30, 2]),
    "causal": dict(is_causal=True, align=11, scale=0.3),
    "padding": dict(is_causal=True, align="bottom-right", leftpad=[0, 20], window=(9, 0), softcap=3.0),
    "mask": dict(attn_mask=torch.rand(5, 37) < 0.7, softcap=2.0, sinks=SINKS),
    "bias": dict(attn_mask=torch.randn(2, 1, 5, 37), is_causal=True, align="bottom-right"),
}


def ours(query, key, value, attn_mask=None, *, is_causal=False, leftpad=None, sinks=None, **options):
    name = "mask" if attn_mask is not None and attn_mask.dtype == torch.bool else "bias"
    return flashc.attention(query, key, value, causal=is_causal, leftpad_k=leftpad,
                            sinks=None if sinks is None else sinks.float(), **{name: attn_mask}, **options)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize("name", SAMPLES)
def test_is_flashc_attention(name, transposed, dtype):
    args = tensors(transposed=transposed, dtype=dtype)
    found = attention(*args, **SAMPLES[name])
    assert torch.equal(found, ours(*args, **SAMPLES[name]))
    assert found.stride() == torch.nn.functional.scaled_dot_product_attention(*args, enable_gqa=True).stride()


@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck_and_compile(name):
    args, options = tensors(transposed=True), dict(SAMPLES[name])
    backend = AotEagerAndRecordGraphs()
    found = torch.compile(lambda *x: attention(*x, **options) * 2, backend=backend, fullgraph=True)(*args)
    assert torch.equal(found, attention(*args, **options) * 2)
    (graph,) = backend.fw_graphs
    (node,) = [n for n in graph.graph.nodes if n.target == OPERATOR]
    kwargs = {k: v for k, v in node.kwargs.items() if not isinstance(v, torch.fx.Node)}
    passed = torch.library.opcheck(OPERATOR, (*args, options.get("attn_mask"), options.get("is_causal", False)),
                                   {**kwargs, "sinks": options.get("sinks")})
    assert set(passed.values()) == {"SUCCESS"} and len(passed) == 4, passed


def test_dynamic_shapes_compile_once():
    compiled = torch.compile(lambda *x: attention(*x, is_causal=True, align="bottom-right", window=(9, 0)),
                             backend="aot_eager", fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows, keys in ((5, 37), (3, 40), (12, 33)):
            args = tensors(rows, keys)
            assert torch.equal(compiled(*args), attention(*args, is_causal=True, align="bottom-right", window=(9, 0)))


def test_autocast():
    args = tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(*args, softcap=2.0)
    assert torch.equal(found, attention(*(x.bfloat16() for x in args), softcap=2.0))


@pytest.mark.parametrize("error, options, words", [
    (ValueError, dict(is_causal=True),
     "align: expected 'top-left', 'bottom-right' or the position of query 0, found None"),
    (ValueError, dict(align="middle"), "align: expected .* found 'middle'"),
    (ValueError, dict(is_causal=True, align=[1, 2, 3]), "align: .*"),
    (TypeError, dict(window=3, align=0), "window: expected a tuple of two ints, found 3"),
    (ValueError, dict(softcap=-1.0), "softcap: expected"),
    (ValueError, dict(sinks=torch.zeros(3)), "sinks: expected"),
    (ValueError, dict(leftpad=[0, 38], is_causal=True, align=3), "leftpad_k"),
    (ValueError, dict(attn_mask=torch.ones(5, 36, dtype=torch.bool)), "mask: expected a shape that broadcasts"),
])
def test_errors(error, options, words):
    with pytest.raises(error, match=words):
        attention(*tensors(), **options)


def test_positions_may_be_tensors():
    query, key, value = tensors()
    for align, number in ((torch.tensor([30, 2]), [30, 2]), (torch.tensor(7), 7)):
        expected = attention(query, key, value, is_causal=True, align=number)
        assert torch.equal(attention(query, key, value, is_causal=True, align=align), expected)


def test_refused():
    query, key, value = tensors()
    with pytest.raises(ValueError, match="key: expected 4 dimensions"):
        attention(query, key[0], value)
    for wrong in (key[..., :3], key[:1]):
        with pytest.raises(ValueError, match="^key: expected query's first and last dimension, 2 and 16, found shape "):
            attention(query, wrong, value)
    with pytest.raises(ValueError, match="^key: expected a number of heads that divides query's, 4, found 3$"):
        attention(*tensors(heads_k=3))
    for wrong in (value[:, :1], value[:, :, :3], value[:1]):
        with pytest.raises(ValueError, match="^value: expected key's shape but for the last dimension, .*, found "):
            attention(query, key, wrong)
    with pytest.raises(TypeError, match="value: expected float32, float16 or bfloat16, found torch.float64"):
        attention(query, key, value.double())
    with pytest.raises(RuntimeError, match="sinks: flashc is forward only"):
        attention(query, key, value, sinks=SINKS.clone().requires_grad_())
