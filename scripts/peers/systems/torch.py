"""PyTorch: torch.nn.functional.scaled_dot_product_attention, eager, in inference mode."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..cases import Case
from ..reference import Arrays
from . import Call, bshd

torch.set_grad_enabled(False)


def about() -> str:
    return f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"


def _tensor(x: np.ndarray) -> torch.Tensor:
    """The array as a tensor; numpy's bfloat16 is unknown to torch."""
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def variants(case: Case) -> list[str]:
    """Both layouts; where V is narrower than K, which its fused kernel refuses, V widened in the call too."""
    return ["bhsd", "bshd"] + (["bhsd, V padded"] if case.head_dim_v < case.head_dim else [])


def build(variant: str, case: Case, arrays: Arrays, copies: int) -> Call:
    torch.set_num_threads(case.threads)

    def lay(x: np.ndarray) -> torch.Tensor:
        return _tensor(bshd(x)).transpose(1, 2) if variant == "bshd" else _tensor(x.copy())

    q = lay(arrays.q)
    kv = [(lay(arrays.k), lay(arrays.v)) for _ in range(copies)]
    mask = None if arrays.bias is None else _tensor(arrays.bias).to(q.dtype)
    if case.window:  # it has no windows: a mask of both edges
        mask = torch.ones(case.seqlen_q, case.seqlen_k, dtype=torch.bool).tril().triu(1 - case.window)
    causal = case.causal and not case.window
    grouped = case.heads != case.heads_k
    padding = case.head_dim - case.head_dim_v if variant.endswith("padded") else 0
    result: list[torch.Tensor] = [q]

    @torch.inference_mode()
    def run(copy: int) -> None:
        k, v = kv[copy]
        if padding:
            v = F.pad(v, (0, padding))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
        result[0] = o[..., : case.head_dim_v] if padding else o

    return Call(run, lambda: result[0].float().numpy())
