"""JAX: jax.nn.dot_product_attention, compiled by XLA; and the same written out, which takes more shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..cases import Case
from ..reference import Arrays
from . import Call, added, bshd, pages, with_sink_key


def about() -> str:
    return f"jax {jax.__version__}"


def variants(case: Case) -> list[str]:
    if case.softcap:
        return ["einsum"]
    return ["dot_product_attention"] + ([] if case.window or case.lengths or case.page else ["einsum"])


def build(variant: str, case: Case, arrays: Arrays, copies: int) -> Call:
    """dot_product_attention takes [batch, seqlen, heads, dim]; the einsum [batch, heads, seqlen, dim]."""
    fused = variant == "dot_product_attention"
    lay = bshd if fused else np.array
    array_k, array_v = arrays.k, arrays.v
    causal = case.causal and not case.sinks
    mask = arrays.bias if case.bias else added(case, arrays, causal=not causal) if case.alibi or case.sinks else None
    window = (case.window - 1, 0) if case.window and not case.sinks else None
    lengths = jnp.array(case.lengths, jnp.int32) if case.lengths else None
    table = None
    if case.sinks:
        array_k, array_v, mask = with_sink_key(case, arrays, mask)
    if case.page:
        (array_k, table), (array_v, _) = pages(case, array_k), pages(case, array_v)

    def call(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> jax.Array:
        if table is not None:  # from [batch, pages, page, heads, dim]
            k, v = (x[table].reshape(case.batch, case.seqlen_k, *x.shape[2:]) for x in (k, v))
        if fused:
            return jax.nn.dot_product_attention(
                q,
                k,
                v,
                bias,
                is_causal=causal,
                local_window_size=window,
                query_seq_lengths=lengths,
                key_value_seq_lengths=lengths,
            )
        return _einsum(case, causal, q, k, v, bias)

    q = jax.device_put(lay(arrays.q))
    kv = [(jax.device_put(lay(array_k)), jax.device_put(lay(array_v))) for _ in range(copies)]
    bias = None if mask is None else jax.device_put(mask.astype(arrays.q.dtype))
    compiled = jax.jit(call).lower(q, *kv[0], bias).compile()
    result = [q]

    def run(copy: int) -> None:
        result[0] = compiled(q, *kv[copy], bias).block_until_ready()

    def output() -> np.ndarray:
        o = np.asarray(result[0]).astype(np.float32)
        return o.swapaxes(1, 2) if fused else o

    return Call(run, output)


def _einsum(
    case: Case, causal: bool, q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None
) -> jax.Array:
    group = case.heads // case.heads_k
    q = q.reshape(case.batch, case.heads_k, group, case.seqlen_q, case.head_dim)
    scores = jnp.einsum("bhgqd,bhkd->bhgqk", q, k, preferred_element_type=jnp.float32) * case.head_dim**-0.5
    if case.softcap:
        scores = case.softcap * jnp.tanh(scores / case.softcap)
    if bias is not None:
        scores += bias.astype(jnp.float32).reshape(bias.shape[0], *(_split(bias.shape[1], case)), *bias.shape[2:])
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    p = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    o = jnp.einsum("bhgqk,bhkd->bhgqd", p, v, preferred_element_type=jnp.float32)
    return o.reshape(case.batch, case.heads, case.seqlen_q, case.head_dim_v).astype(q.dtype)


def _split(heads: int, case: Case) -> tuple[int, int]:
    """The bias's heads as (heads_k, group); one for all stays one."""
    return (1, 1) if heads == 1 else (case.heads_k, case.heads // case.heads_k)
