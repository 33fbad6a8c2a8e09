"""ONNX Runtime: each of its operators that computes the case, on bound buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from ..cases import Case
from ..reference import Arrays
from . import Call, added, bshd, with_sink_key

_TYPE = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_MICROSOFT = "com.microsoft"
# The newest that onnxruntime 1.32 promises to read.
_IR_VERSION, _OPSET = 10, 23


def about() -> str:
    return f"onnxruntime {ort.__version__}"


def variants(case: Case) -> list[str]:
    if case.page:
        return []
    found = ["Attention"]
    if case.heads == case.heads_k and not case.softcap:
        found.append("MultiHeadAttention")
    # GroupQueryAttention is always causal: all keys are seen only from the last position.
    masked = case.bias or case.alibi or case.lengths
    if not masked and (case.causal or case.seqlen_q == 1) and case.head_dim == case.head_dim_v:
        found.append("GroupQueryAttention")
    return found


def _value(x: np.ndarray) -> ort.OrtValue:
    """The array's own memory."""
    if x.dtype.name == "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(x.view(np.uint16), TensorProto.BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(x)


def _session(case: Case, node: Any, inputs: dict[str, Any], outputs: dict[str, Any]) -> ort.InferenceSession:
    """A model of one node; inputs and outputs: name -> (type, shape)."""

    def infos(values: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, *value) for name, value in values.items()]

    graph = helper.make_graph([node], "attention", infos(inputs), infos(outputs))
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    options = ort.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _flat(x: np.ndarray) -> np.ndarray:
    """[batch, heads, seqlen, dim] -> [batch, seqlen, heads * dim]."""
    packed = bshd(x)
    return packed.reshape(*packed.shape[:2], -1)


def _masked(case: Case, arrays: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, bool]:
    """K, V, what is added to the scores, and whether the operator is to be causal besides."""
    k, v = arrays.k, arrays.v
    causal = case.causal and not (case.window or case.sinks)  # windows as a mask
    mask = added(case, arrays, causal=not causal)
    if case.sinks:
        k, v, mask = with_sink_key(case, arrays, mask)
    return k, v, None if mask is None else mask.astype(arrays.q.dtype), causal


def _attention(case: Case, arrays: Arrays, copies: int) -> tuple[Any, list[dict[str, np.ndarray]], str]:
    k, v, mask, causal = _masked(case, arrays)
    fixed = {"Q": arrays.q} | ({} if mask is None else {"attn_mask": mask})
    names = ["Q", "K", "V"] + (["attn_mask"] if mask is not None else [])
    node = helper.make_node("Attention", names, ["o"], is_causal=int(causal), softcap=case.softcap)
    return node, [fixed | {"K": k.copy(), "V": v.copy()} for _ in range(copies)], "bhsd"


def _multi_head(case: Case, arrays: Arrays, copies: int) -> tuple[Any, list[dict[str, np.ndarray]], str]:
    k, v, mask, causal = _masked(case, arrays)
    fixed = {"Q": _flat(arrays.q)}
    names = ["Q", "K", "V"]
    if mask is not None:
        fixed["attention_bias"] = mask
        names += ["", "", "attention_bias"]
    node = helper.make_node(
        "MultiHeadAttention",
        names,
        ["o"],
        domain=_MICROSOFT,
        num_heads=case.heads,
        unidirectional=int(causal),
    )
    return node, [fixed | {"K": _flat(k), "V": _flat(v)} for _ in range(copies)], "flat"


def _group_query(case: Case, arrays: Arrays, copies: int) -> tuple[Any, list[dict[str, np.ndarray]], str]:
    """The keys before the first query's lie in the cache; the operator puts the new ones there, in place."""
    first_new = case.seqlen_k - case.seqlen_q
    fixed = {
        "Q": _flat(arrays.q),
        "K": _flat(arrays.k[:, :, first_new:]),
        "V": _flat(arrays.v[:, :, first_new:]),
        "seqlens_k": np.full(case.batch, case.seqlen_k - 1, np.int32),
        "total_sequence_length": np.array([case.seqlen_k], np.int32),
    }
    names = ["Q", "K", "V", "past_key", "past_value", "seqlens_k", "total_sequence_length"]
    if arrays.sinks is not None:
        fixed["head_sink"] = arrays.sinks
        names += ["", "", "", "", "head_sink"]
    node = helper.make_node(
        "GroupQueryAttention",
        names,
        ["o", "present_key", "present_value"],
        domain=_MICROSOFT,
        num_heads=case.heads,
        kv_num_heads=case.heads_k,
        softcap=case.softcap,
        local_window_size=case.window or -1,
    )
    return (
        node,
        [fixed | {"past_key": arrays.k.copy(), "past_value": arrays.v.copy()} for _ in range(copies)],
        "flat",
    )


_MAKERS = {"Attention": _attention, "MultiHeadAttention": _multi_head, "GroupQueryAttention": _group_query}


def build(variant: str, case: Case, arrays: Arrays, copies: int) -> Call:
    node, feeds, layout = _MAKERS[variant](case, arrays, copies)
    shape: tuple[int, ...] = (case.batch, case.heads, case.seqlen_q, case.head_dim_v)
    if layout == "flat":
        shape = (case.batch, case.seqlen_q, case.heads * case.head_dim_v)
    o = np.empty(shape, arrays.q.dtype)
    integers = {"seqlens_k": TensorProto.INT32, "total_sequence_length": TensorProto.INT32}
    inputs = {name: (integers.get(name, _TYPE[case.dtype]), x.shape) for name, x in feeds[0].items()}
    outputs = {"o": (_TYPE[case.dtype], shape)}
    for name in ("key", "value") if "past_key" in feeds[0] else ():
        outputs[f"present_{name}"] = inputs[f"past_{name}"]
    session = _session(case, node, {name: inputs[name] for name in node.input if name}, outputs)
    onnx_o = _value(o)
    bindings, kept = [], []
    for feed in feeds:
        binding = session.io_binding()
        values = {name: _value(x) for name, x in feed.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("o", onnx_o)
        for name in ("key", "value") if "past_key" in feed else ():
            binding.bind_ortvalue_output(f"present_{name}", values[f"past_{name}"])
        bindings.append(binding)
        kept.append((feed, values))

    def output() -> np.ndarray:
        if layout == "bhsd":
            return o
        return o.reshape(case.batch, case.seqlen_q, case.heads, case.head_dim_v).swapaxes(1, 2)

    def run(copy: int) -> None:
        session.run_with_iobinding(bindings[copy])

    run.kept = kept, onnx_o  # type: ignore[attr-defined]  # the bindings do not keep these alive
    return Call(run, output)
