"""JAX: jax.nn.dot_product_attention, compiled by XLA; and the same written out, which takes more shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..cases import Case
from ..reference import Arrays
from . import Call, bshd


def about() -> str:
    return f"jax {jax.__version__}"


def variants(case: Case) -> list[str]:
    return ["dot_product_attention"] + ([] if case.window else ["einsum"])


def build(variant: str, case: Case, arrays: Arrays, copies: int) -> Call:
    """dot_product_attention takes [batch, seqlen, heads, dim]; the einsum [batch, heads, seqlen, dim]."""
    fused = variant == "dot_product_attention"
    lay = bshd if fused else np.array

    def call(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> jax.Array:
        if fused:
            window = (case.window - 1, 0) if case.window else None
            return jax.nn.dot_product_attention(
                q, k, v, bias, is_causal=case.causal, local_window_size=window
            )
        return _einsum(case, q, k, v, bias)

    q = jax.device_put(lay(arrays.q))
    kv = [(jax.device_put(lay(arrays.k)), jax.device_put(lay(arrays.v))) for _ in range(copies)]
    bias = None if arrays.bias is None else jax.device_put(arrays.bias.astype(arrays.q.dtype))
    compiled = jax.jit(call).lower(q, *kv[0], bias).compile()
    result = [q]

    def run(copy: int) -> None:
        result[0] = compiled(q, *kv[copy], bias).block_until_ready()

    def output() -> np.ndarray:
        o = np.asarray(result[0]).astype(np.float32)
        return o.swapaxes(1, 2) if fused else o

    return Call(run, output)


def _einsum(case: Case, q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> jax.Array:
    group = case.heads // case.heads_k
    q = q.reshape(case.batch, case.heads_k, group, case.seqlen_q, case.head_dim)
    scores = jnp.einsum("bhgqd,bhkd->bhgqk", q, k, preferred_element_type=jnp.float32) * case.head_dim**-0.5
    if bias is not None:
        scores += bias.astype(jnp.float32).reshape(
            1, *(_split(bias.shape[1], case)), case.seqlen_q, case.seqlen_k
        )
    if case.causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    p = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    o = jnp.einsum("bhgqk,bhkd->bhgqd", p, v, preferred_element_type=jnp.float32)
    return o.reshape(case.batch, case.heads, case.seqlen_q, case.head_dim_v).astype(q.dtype)


def _split(heads: int, case: Case) -> tuple[int, int]:
    """The bias's heads as (heads_k, group); one for all stays one."""
    return (1, 1) if heads == 1 else (case.heads_k, case.heads // case.heads_k)
