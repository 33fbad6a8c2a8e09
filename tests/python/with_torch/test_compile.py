"""The operator under torch.library.opcheck, torch.compile and torch.export: whole, with equal results."""

import shutil

import pytest

torch = pytest.importorskip("torch", reason="these tests need torch, which is not installed")

from torch._dynamo.testing import AotEagerAndRecordGraphs

from flashc.torch import scaled_dot_product_attention

OPERATOR = torch.ops.flashc.scaled_dot_product_attention.default
NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch's inductor needs g++, which is not installed"
)
BACKENDS = ("aot_eager", pytest.param("inductor", marks=NEEDS_COMPILER))


def tensors(seqlen_q=5, seqlen_k=7, heads_k=4, transposed=False, dtype=torch.float32, batch=2):
    def make(heads, rows):
        if transposed:
            return torch.randn(batch, rows, heads, 8, dtype=dtype).transpose(1, 2)
        return torch.randn(batch, heads, rows, 8, dtype=dtype)

    return make(4, seqlen_q), make(heads_k, seqlen_k), make(heads_k, seqlen_k)


def opcheck_samples():
    mask = torch.rand(5, 7) < 0.7
    yield "plain", tensors(), {}
    yield "causal", tensors(), dict(is_causal=True, scale=0.3)
    yield "bool mask", tensors(), dict(attn_mask=mask)
    yield "float mask", tensors(), dict(attn_mask=torch.randn(2, 1, 5, 7))
    yield "grouped", tensors(heads_k=2), dict(enable_gqa=True)
    yield "transposed", tensors(transposed=True), dict(is_causal=True)
    yield "one query, transposed", tensors(seqlen_q=1, transposed=True), {}
    yield "bf16", tensors(dtype=torch.bfloat16), dict(attn_mask=mask)
    yield "f16, transposed, grouped", tensors(dtype=torch.float16, transposed=True, heads_k=1), dict(
        enable_gqa=True
    )
    yield "3-D", tuple(x[0] for x in tensors()), {}
    yield "2-D", tuple(x[0, 0] for x in tensors()), {}
    yield "5-D", tuple(x[None].expand(3, *x.shape) for x in tensors()), {}
    yield "ranks", (tensors()[0][0], *tensors()[1:]), {}
    yield "batch by stride 0", (tensors()[0], *(x[:1] for x in tensors()[1:])), {}
    yield "no keys", tensors(seqlen_k=0), {}
    yield "no batch", tensors(batch=0), {}


@pytest.mark.parametrize(
    "name, args, kwargs", list(opcheck_samples()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_opcheck(name, args, kwargs):
    passed = torch.library.opcheck(OPERATOR, args, kwargs)
    assert set(passed.values()) == {"SUCCESS"} and len(passed) == 4, passed


class Layer(torch.nn.Module):
    """Attention between things that a compiler fuses."""

    def forward(self, query, key, value, mask=None):
        causal = mask is None
        o = scaled_dot_product_attention(
            query * 0.5, key + 1, value, attn_mask=mask, is_causal=causal, enable_gqa=True
        )
        return torch.relu(o.transpose(1, 2).flatten(2)) * 2


def targets(graph):
    return [node.target for node in graph.nodes if node.op == "call_function"]


def assert_whole(graph):
    found = targets(graph)
    assert found.count(OPERATOR) == 1, found
    assert not any(
        word in str(target) for target in found for word in ("softmax", "bmm", "matmul", "_scaled_dot")
    ), found


@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize("masked", (False, True))
def test_graph_keeps_the_operator_whole(masked, transposed):
    args = (*tensors(heads_k=2, transposed=transposed), *([torch.rand(2, 1, 5, 7) < 0.7] if masked else []))
    backend = AotEagerAndRecordGraphs()
    with torch.no_grad():
        found = torch.compile(Layer(), backend=backend, fullgraph=True)(*args)
        assert torch.equal(found, Layer()(*args))
    (graph,) = backend.fw_graphs
    assert_whole(graph.graph)


@NEEDS_COMPILER
def test_inductor_code_calls_the_operator():
    from torch._inductor.utils import run_and_get_code

    args = tensors(heads_k=2, transposed=True)
    with torch.no_grad():
        found, (code, *_) = run_and_get_code(torch.compile(Layer(), fullgraph=True), *args)
        torch.testing.assert_close(found, Layer()(*args))
    assert code.count("torch.ops.flashc.scaled_dot_product_attention.default(") == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_compiled_gives_the_same(backend, dtype):
    args = tensors(dtype=dtype, transposed=True)
    compiled = torch.compile(scaled_dot_product_attention, backend=backend, fullgraph=True)
    for kwargs in ({}, dict(is_causal=True), dict(attn_mask=torch.rand(5, 7) < 0.7), dict(scale=0.25)):
        want = scaled_dot_product_attention(*args, **kwargs)
        found = compiled(*args, **kwargs)
        assert torch.equal(found, want) and found.stride() == want.stride()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transposed", (False, True))
def test_dynamic_shapes_compile_once(backend, transposed):
    compiled = torch.compile(Layer(), backend=backend, fullgraph=True, dynamic=True)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        # No two sizes of the first call are equal: dynamo would take them for one.
        for seqlen_q, seqlen_k, batch in ((5, 7, 3), (6, 9, 2), (33, 40, 2), (12, 8, 5)):
            args = tensors(seqlen_q, seqlen_k, 2, transposed, batch=batch)
            torch.testing.assert_close(compiled(*args), Layer()(*args))


@pytest.mark.parametrize("strict", (True, False))
@pytest.mark.parametrize("transposed", (False, True))
def test_export_with_dynamic_shapes(strict, transposed):
    batch, rows, keys = (torch.export.Dim(name, min=2, max=512) for name in ("batch", "rows", "keys"))
    kv = {0: batch, 2: keys}
    shapes = ({0: batch, 2: rows}, kv, kv, {0: batch, 2: rows, 3: keys})

    def args(batch, rows, keys):
        return (*tensors(rows, keys, 2, transposed, batch=batch), torch.rand(batch, 1, rows, keys) < 0.7)

    with torch.no_grad():
        program = torch.export.export(Layer(), args(2, 5, 7), dynamic_shapes=shapes, strict=strict)
        assert_whole(program.graph)
        for sizes in ((2, 5, 7), (3, 17, 4)):
            again = args(*sizes)
            assert torch.equal(program.module()(*again), Layer()(*again))


def test_meta_tensors_give_shape_type_and_strides():
    args = tensors(transposed=True, dtype=torch.bfloat16)
    real = scaled_dot_product_attention(*args)
    meta = scaled_dot_product_attention(*(x.to("meta") for x in args))
    assert (meta.shape, meta.dtype, meta.stride()) == (real.shape, real.dtype, real.stride())
