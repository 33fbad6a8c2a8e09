"""What flashc.torch refuses: each error names the argument, what was expected and what was found."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="these tests need torch, which is not installed")

from flashc.torch import scaled_dot_product_attention


def inputs():
    return dict(query=torch.randn(2, 4, 5, 8), key=torch.randn(2, 4, 7, 8), value=torch.randn(2, 4, 7, 8))


REFUSED = {
    "dropout": (
        dict(dropout_p=0.1),
        ValueError,
        "dropout_p: flashc is forward only.*expected 0.0, found 0.1",
    ),
    "negative dropout": (dict(dropout_p=-1.0), ValueError, "dropout_p: .*found -1.0"),
    "mask and causal": (
        dict(attn_mask=torch.ones(5, 7, dtype=torch.bool), is_causal=True),
        ValueError,
        "attn_mask, is_causal: expected at most one of them, found both",
    ),
    "float64": (
        dict(query=torch.randn(2, 4, 5, 8).double()),
        TypeError,
        "query: expected float32.*found torch.float64",
    ),
    "int key": (dict(key=torch.ones(2, 4, 7, 8, dtype=torch.int32)), TypeError, "key: .*found torch.int32"),
    "two types": (
        dict(value=torch.randn(2, 4, 7, 8).half()),
        TypeError,
        "value: expected query's type, torch.float32, found torch.float16",
    ),
    "int mask": (
        dict(attn_mask=torch.ones(5, 7, dtype=torch.int64)),
        TypeError,
        "attn_mask: expected bool, float32 or query's type, torch.float32, found torch.int64",
    ),
    "half mask": (dict(attn_mask=torch.ones(5, 7).half()), TypeError, "attn_mask: .*found torch.float16"),
    "device": (
        dict(key=torch.randn(2, 4, 7, 8, device="meta")),
        ValueError,
        "key: expected a tensor on query's device, cpu, found one on meta",
    ),
    "mask's device": (
        dict(attn_mask=torch.randn(5, 7, device="meta")),
        ValueError,
        "attn_mask: expected a tensor on query's device, cpu, found one on meta",
    ),
    "sparse": (
        dict(query=torch.randn(5, 8).to_sparse()),
        ValueError,
        "query: .*expected a dense CPU tensor.*sparse_coo",
    ),
    "one dimension": (
        dict(query=torch.randn(8)),
        ValueError,
        r"query: expected at least 2 dimensions, found shape \[8\]",
    ),
    "head_dim": (
        dict(key=torch.randn(2, 4, 7, 9)),
        ValueError,
        "key: expected query's last dimension, 8, found 9",
    ),
    "no head_dim": (
        dict(query=torch.randn(2, 4, 5, 0), key=torch.randn(2, 4, 7, 0)),
        ValueError,
        "head_dim: expected 1 to .*, found 0",
    ),
    "rows of value": (
        dict(value=torch.randn(2, 4, 6, 8)),
        ValueError,
        "value: expected one row per key, 7, found 6",
    ),
    "batch": (
        dict(key=torch.randn(3, 4, 7, 8), value=torch.randn(3, 4, 7, 8)),
        ValueError,
        r"query, key, value: expected leading dimensions that broadcast, found query \[2, 4, 5, 8\], key \[3",
    ),
    "heads": (
        dict(key=torch.randn(2, 2, 7, 8), value=torch.randn(2, 2, 7, 8)),
        ValueError,
        "query, key, value: .*enable_gqa=False",
    ),
    "grouped heads": (
        dict(key=torch.randn(2, 3, 7, 8), value=torch.randn(2, 3, 7, 8), enable_gqa=True),
        ValueError,
        "enable_gqa: expected .*a divisor of query's 4; found 3 and 3",
    ),
    "heads of value": (
        dict(key=torch.randn(2, 2, 7, 8), enable_gqa=True),
        ValueError,
        "enable_gqa: .*found 2 and 4",
    ),
    "grouped matrix": (
        dict(query=torch.randn(5, 8), key=torch.randn(7, 8), value=torch.randn(7, 8), enable_gqa=True),
        ValueError,
        "enable_gqa: expected query, key and value of at least 3 dimensions",
    ),
    "mask's shape": (
        dict(attn_mask=torch.randn(5, 6)),
        ValueError,
        r"attn_mask: expected a shape that broadcasts to \[2, 4, 5, 7\], found \[5, 6\]",
    ),
    "mask enlarges": (
        dict(attn_mask=torch.randn(3, 2, 4, 5, 7)),
        ValueError,
        "attn_mask: expected a shape that broadcasts",
    ),
    "scale": (dict(scale=float("-inf")), ValueError, "scale: expected a finite number or None, found -inf"),
    "scale nan": (dict(scale=float("nan")), ValueError, "scale: .*found nan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    change, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        scaled_dot_product_attention(**(inputs() | change))


@pytest.mark.parametrize("name", ("query", "key", "value", "attn_mask"))
def test_gradients(name):
    arguments = inputs() | dict(attn_mask=torch.randn(5, 7))
    arguments[name].requires_grad_()
    message = f"{name}: flashc is forward only; expected a tensor that needs no gradient"
    with pytest.raises(RuntimeError, match=message):
        scaled_dot_product_attention(**arguments)
    with pytest.raises(RuntimeError, match=message):  # the operator by itself
        torch.ops.flashc.scaled_dot_product_attention(**arguments)
    with pytest.raises(Exception, match=message):
        torch.compile(scaled_dot_product_attention, backend="aot_eager")(**arguments)
    with torch.no_grad():
        assert not scaled_dot_product_attention(**arguments).requires_grad
    with torch.inference_mode():
        scaled_dot_product_attention(**arguments)


@pytest.mark.parametrize("transform", ("grad", "vjp", "jvp"))
def test_functional_gradients(transform):
    def loss(query):
        return scaled_dot_product_attention(query, inputs()["key"], inputs()["value"]).sum()

    query = inputs()["query"]
    calls = dict(
        grad=lambda: torch.func.grad(loss)(query),
        vjp=lambda: torch.func.vjp(loss, query),
        jvp=lambda: torch.func.jvp(loss, (query,), (query,)),
    )
    with pytest.raises(RuntimeError, match="query: flashc is forward only"):
        calls[transform]()


def test_compiled_operator_does_not_lose_gradients():
    operator = torch.compile(
        lambda q, k: torch.ops.flashc.scaled_dot_product_attention(q * 2, k, k), backend="aot_eager"
    )
    with pytest.raises(Exception, match="query: flashc is forward only"):
        operator(torch.randn(2, 5, 8, requires_grad=True), torch.randn(2, 7, 8))


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("package", ("torch", "transformers"))
def test_missing_package_is_named(package):
    result = run(f"import sys; sys.modules[{package!r}] = None\nimport flashc\nimport flashc.{package}")
    assert result.returncode == 1 and f"ImportError: flashc.{package} needs " in result.stderr, result.stderr


def test_import_brings_no_framework():
    result = run(
        "import sys, flashc\nprint([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    assert result.stdout == "[]\n", result.stderr
    result = run("import sys, flashc.torch\nprint('transformers' in sys.modules)")
    assert result.stdout == "False\n", result.stderr
