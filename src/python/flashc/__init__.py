"""Exact attention forward for CPUs: softmax(scale * Q K^T + bias) V, the score matrix never stored.

    >>> import flashc, numpy as np
    >>> q, k, v = (np.random.rand(8, 512, 64).astype(np.float32) for _ in range(3))
    >>> o = flashc.attention(q, k, v, causal=True, align="top-left")

Arrays are NumPy arrays (bfloat16 through ml_dtypes), torch CPU tensors, or anything with DLPack or the buffer protocol;
whatever computes attention or fills caches reads and writes them where they lie, whatever their strides; softmax,
merges, conversion and checks want contiguous rows. Results are of the same kind as the first array.
`flashc.torch` has a drop-in for torch's scaled_dot_product_attention, `flashc.transformers` registers flashc with
Hugging Face transformers; neither is imported from here.

Wrong calls raise TypeError (an object or element type that does not fit) or ValueError (anything else), with a text
that names the argument, what was expected and what was found; memory that cannot be had raises MemoryError. Every
function may be called from any number of threads at once on different outputs, and releases the GIL while it computes.
The semantics and error bounds are those of flashc.h.
"""

from . import _core
from ._arrays import Comparison, compare, convert, is_softmax
from ._attention import attention
from ._caches import append_kv
from ._explain import Explanation, ItemWork, explain
from ._prefix import explain_shared_prefix, shared_prefix_attention
from ._softmax import SoftmaxState, merge_partials, merge_states, softmax, trace
from ._state import AttentionState
from ._system import Info, Kernel, info, kernels

__version__ = _core.version()

__all__ = [
    "AttentionState",
    "Comparison",
    "Explanation",
    "Info",
    "ItemWork",
    "Kernel",
    "SoftmaxState",
    "append_kv",
    "attention",
    "compare",
    "convert",
    "explain",
    "explain_shared_prefix",
    "info",
    "is_softmax",
    "kernels",
    "merge_partials",
    "merge_states",
    "shared_prefix_attention",
    "softmax",
    "trace",
]
