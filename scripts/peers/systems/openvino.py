"""OpenVINO: a compiled model of the one operator ScaledDotProductAttention, on its own tensors."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13

from ..cases import Case
from ..reference import Arrays
from . import Call, added, with_sink_key

_TYPE = {"f32": ov.Type.f32, "f16": ov.Type.f16, "bf16": ov.Type.bf16}
# 16-bit arrays that the model itself converts to f32 and back, for CPUs where it is slow on them otherwise.
_CONVERTED = "f32, converted"


def about() -> str:
    return f"openvino {ov.__version__.split('-')[0]}"


def variants(case: Case) -> list[str]:
    """The precisions it may compute in, and 16-bit arrays converted first; f32 arrays in f32 only."""
    if case.page:
        return []
    return ["f32"] if case.dtype == "f32" else [case.dtype, "f32", _CONVERTED]


def _tensor(x: np.ndarray) -> ov.Tensor:
    """A tensor of OpenVINO's own with the array's content."""
    if x.dtype.name == "bfloat16":
        tensor = ov.Tensor(ov.Type.bf16, ov.Shape(x.shape))
        tensor.data.view(np.uint16)[...] = x.view(np.uint16)
        return tensor
    return ov.Tensor(np.array(x), shared_memory=True)


def build(variant: str, case: Case, arrays: Arrays, copies: int) -> Call:
    array_k, array_v = arrays.k, arrays.v
    causal = case.causal and not (case.window or case.sinks or case.lengths or case.alibi)
    mask_array = added(case, arrays, causal=not causal)
    if case.sinks:
        array_k, array_v, mask_array = with_sink_key(case, arrays, mask_array)
    named = [opset13.parameter(list(x.shape), _TYPE[case.dtype]) for x in (arrays.q, array_k, array_v)]
    extra = [] if mask_array is None else [mask_array.astype(arrays.q.dtype)]
    named += [opset13.parameter(list(x.shape), _TYPE[case.dtype]) for x in extra]
    q, k, v, *mask = [opset13.convert(x, "f32") for x in named] if variant == _CONVERTED else named
    if case.heads != case.heads_k:
        k, v = (_repeated(x, case) for x in (k, v))
    if case.softcap:
        node = _softcapped(case, q, k, v, causal)
    else:
        node = opset13.scaled_dot_product_attention(q, k, v, *mask, causal=causal)
    if variant == _CONVERTED:
        node = opset13.convert(node, case.dtype)
    config = {
        "INFERENCE_NUM_THREADS": case.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32" if variant == _CONVERTED else variant,
    }
    compiled = ov.Core().compile_model(ov.Model([node], named, "attention"), "CPU", config)
    shared = [_tensor(x) for x in extra]
    tensor_q = _tensor(arrays.q)
    requests, kept = [], []
    for _ in range(copies):
        tensors = [tensor_q, _tensor(array_k), _tensor(array_v), *shared]
        request = compiled.create_infer_request()
        for index, tensor in enumerate(tensors):
            request.set_input_tensor(index, tensor)
        requests.append(request)
        kept.append(tensors)
    last = [requests[0]]

    def run(copy: int) -> None:
        last[0] = requests[copy]
        requests[copy].infer(share_inputs=True, share_outputs=True)

    def output() -> np.ndarray:
        data = last[0].get_output_tensor(0).data
        if case.dtype == "bf16" and data.dtype.itemsize == 2:
            return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return data

    run.kept = kept  # type: ignore[attr-defined]  # the requests do not keep the arrays alive
    return Call(run, output)


def _softcapped(case: Case, q: ov.Node, k: ov.Node, v: ov.Node, causal: bool) -> ov.Node:
    """The operator has no softcap: written out."""
    scores = opset13.multiply(opset13.matmul(q, k, False, True), np.float32(case.head_dim**-0.5 / case.softcap))
    scores = opset13.multiply(opset13.tanh(scores), np.float32(case.softcap))
    if causal:
        hidden = np.triu(np.full((case.seqlen_q, case.seqlen_k), -np.inf, np.float32), 1)
        scores = opset13.add(scores, opset13.constant(hidden))
    return opset13.matmul(opset13.softmax(scores, -1), v, False, False)


def _repeated(x: ov.Node, case: Case) -> ov.Output:
    """[batch, heads_k, ...] -> [batch, heads, ...], each head as often as its group has query heads."""
    group = case.heads // case.heads_k
    shape = list(x.shape)
    wide = opset13.broadcast(
        opset13.unsqueeze(x, opset13.constant(2)), opset13.constant([*shape[:2], group, *shape[2:]])
    )
    return opset13.reshape(wide, opset13.constant([shape[0], case.heads, *shape[2:]]), False)
