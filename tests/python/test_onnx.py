"""The node tests of the ONNX standard for the operator Attention, as the onnx package generates them.

Every case is run through flashc. Checked are Y, present_key,
present_value and qk_matmul_output, against two references of the onnx package:

  expected  the case's own outputs, computed by NumPy in the case's type, f16 and bf16 included
  exact     the package's reference implementation on the same inputs widened to float64, which
            leaves flashc the tolerance of its header and shows what the 16-bit ones would hide
"""
from collections import Counter
from typing import Any, NamedTuple
import warnings

import ml_dtypes
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
import pytest

import onnx_attention

U = 2.0**-24  # unit roundoff of f32, in which flashc computes

# Units in the last place, of the case's type and at the size of sum_j p_j |v_j|, by which `expected` may
# be off. Measured against `exact`: f32 2.7, f16 1.0, bf16 1.2 (NumPy rounds every step to the type).
EXPECTED_ULPS = 4

# Cases of the operator itself in onnx 1.23.2, by opset. Opsets 26 and 27 have the operator of opset 25.
CASES_AT_LEAST = {23: 69, 24: 13, 25: 11}
FULLY_MASKED_AT_LEAST = 7  # of them, those that have a query that sees no key
NEWEST_OPSET = 27

# Cases with a qk_matmul_output, none of which may be lost in silence.
QK_OUTPUTS: tuple[str, ...] = (
    "test_attention_4d_with_qk_matmul",
    "test_attention_4d_with_qk_matmul_bias",
    "test_attention_4d_with_qk_matmul_softcap",
    "test_attention_4d_with_qk_matmul_softmax",
    "test_attention_4d_with_past_and_present_qk_matmul_bias",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal",
    "test_attention_4d_with_past_and_present_qk_matmul",
    "test_attention_3d_with_past_and_present_qk_matmul",
    "test_attention_3d_with_past_and_present_qk_matmul_bias",
    "test_attention_3d_with_past_and_present_qk_matmul_softcap",
    "test_attention_3d_with_past_and_present_qk_matmul_softmax",
    "test_attention_23_fullymasked_qk_matmul_output_mode3_zero",
    "test_attention_24_fullymasked_qk_matmul_output_mode3_zero",
    "test_attention_24_qk_matmul_output_mode3_softmax_precision",
    "test_attention_local_window_gqa_rank4_mask",
)


class Case(NamedTuple):
    """One node test. Arrays by ONNX's names; absent optional ones are left out."""
    name: str
    opset: int
    node: onnx.NodeProto
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    @property
    def attributes(self) -> dict[str, Any]:
        return {a.name: onnx.helper.get_attribute_value(a) for a in self.node.attribute}


def by_formal_name(formal: tuple[str, ...], actual: list[str],
                   arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    """A node leaves out an optional argument by an empty name, a test case by not listing its array."""
    assert len(actual) <= len(formal), f"unknown arguments: {actual}"
    present = [f for f, a in zip(formal, actual) if a]
    assert len(present) == len(arrays)
    return dict(zip(present, arrays))


def generate() -> tuple[dict[str, Case], list[str]]:
    """The operator's cases by name, and the names of those that are no node Attention.

    Importing the module of one operator makes its cases. collect_testcases() would import those of all
    operators (5 s against 0.3 s) and finds the same ones. onnx seeds NumPy's global generator: put back.
    """
    state = np.random.get_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import onnx.backend.test.case.node.attention  # noqa: F401
    np.random.set_state(state)
    cases, others = {}, []
    for case in onnx.backend.test.case.node._NodeTestCases:
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].op_type != "Attention" or nodes[0].domain:
            others.append(case.name)
            continue
        (inputs, outputs), = case.data_sets
        cases[case.name] = Case(case.name, case.model.opset_import[0].version, nodes[0],
                                by_formal_name(onnx_attention.INPUTS, nodes[0].input, inputs),
                                by_formal_name(onnx_attention.OUTPUTS, nodes[0].output, outputs))
    return cases, others


CASES, OTHERS = generate()


def reference(case: Case, *, absolute_v: bool = False, output: str = "Y") -> np.ndarray:
    """An output of onnx's reference implementation in float64; with absolute_v sum_j p_j |v_j| in its place."""
    node = onnx.NodeProto()
    node.CopyFrom(case.node)
    kept = [a for a in node.attribute if a.name != "softmax_precision"]  # it would narrow the softmax
    del node.attribute[:]
    node.attribute.extend(kept)
    wanted = node.output[onnx_attention.OUTPUTS.index(output)]
    arrays = {}
    for name, actual in zip(onnx_attention.INPUTS, node.input):
        if actual:
            x = case.inputs[name]
            x = x if x.dtype in (np.bool_, np.int64) else x.astype(np.float64)
            arrays[actual] = abs(x) if absolute_v and name in ("V", "past_value") else x
    graph = onnx.helper.make_graph([node], case.name, [onnx.ValueInfoProto(name=n) for n in arrays],
                                   [onnx.ValueInfoProto(name=wanted)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", case.opset)])
    return ReferenceEvaluator(model).run([wanted], arrays)[0]


def largest_logit(case: Case) -> tuple[float, int]:
    """A of flashc.h, and the number of keys."""
    keys = case.outputs.get("present_key", case.inputs["K"])
    head_dim = case.inputs["Q"].shape[-1] // case.attributes.get("q_num_heads", 1)
    q, k = (np.abs(x.astype(np.float64)).max() for x in (case.inputs["Q"], keys))
    logit = abs(case.attributes.get("scale", head_dim**-0.5)) * head_dim * q * k + case.attributes.get("softcap", 0)
    bias = case.inputs.get("attn_mask", np.zeros(1, bool))
    if bias.dtype != bool:
        logit += np.abs(bias[np.isfinite(bias)].astype(np.float64)).max(initial=0)
    return logit, keys.shape[1 if keys.ndim == 3 else 2]


def flashc_bound(case: Case, exact: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The error that flashc.h states for finite data; weight is sum_j p_j |v_j|."""
    logit, n = largest_logit(case)  # and at most as many tiles as keys
    half_ulp = float(ml_dtypes.finfo(case.outputs["Y"].dtype).eps) / 2
    return U * (8 + 4 * logit + 2 * (n + n)) * weight + half_ulp * np.abs(exact)


def check_close(case: Case, what: str, y: np.ndarray, wanted: np.ndarray, tolerance: np.ndarray) -> None:
    """Fails with the case and its worst element if y is not within tolerance of wanted."""
    error = np.abs(y.astype(np.float64) - wanted.astype(np.float64))
    bad = ~(error <= tolerance)
    if bad.any():
        at = np.unravel_index(np.argmax(np.where(bad, error - tolerance, -1)), y.shape)
        shapes = {name: f"{x.dtype}{list(x.shape)}" for name, x in case.inputs.items()}
        pytest.fail(f"{case.name} (opset {case.opset}) {case.attributes} {shapes}: {bad.sum()} of {y.size} "
                    f"elements of Y are off from {what}, most at {tuple(map(int, at))}: {y[at]} "
                    f"for {wanted[at]}, tolerance {tolerance[at]:.3g}")


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    """Y within the stated error, present_key and present_value bit for bit."""
    case = CASES[name]
    outputs = onnx_attention.attention(case.inputs, case.attributes)
    for output in ("present_key", "present_value"):
        if output in case.outputs:
            assert outputs[output].dtype == case.outputs[output].dtype
            np.testing.assert_array_equal(outputs[output], case.outputs[output])
    y, expected = outputs["Y"], case.outputs["Y"]
    assert (y.dtype, y.shape) == (expected.dtype, expected.shape)
    exact, weight = reference(case), reference(case, absolute_v=True)
    bound = flashc_bound(case, exact, weight)
    check_close(case, "float64", y, exact, bound)
    ulps = EXPECTED_ULPS * float(ml_dtypes.finfo(expected.dtype).eps)
    check_close(case, "the expected output", y, expected, bound + ulps * weight)


def qk_bound(case: Case, exact: np.ndarray) -> np.ndarray:
    """The error of the scores: that of a logit, or, of weights, that of LSE besides; and half an ulp of the type."""
    logit, n = largest_logit(case)
    error = U * (4 * logit + 4)
    if case.attributes.get("qk_matmul_output_mode", 0) == 3:
        error = exact * (error + U * (16 * max(1, logit + np.log(n)) + 4 * n))
    return error + float(ml_dtypes.finfo(case.inputs["Q"].dtype).eps) / 2 * np.abs(exact)


@pytest.mark.parametrize("name", QK_OUTPUTS)
def test_qk_matmul_output(name: str) -> None:
    """The scores of each mode: hidden keys too before the mask, -inf after it, 0 as weights."""
    case = CASES[name]
    scores = onnx_attention.attention(case.inputs, case.attributes, with_scores=True)["qk_matmul_output"]
    expected = case.outputs["qk_matmul_output"]
    assert (scores.dtype, scores.shape) == (expected.dtype, expected.shape)
    exact = reference(case, output="qk_matmul_output")
    hidden = np.isneginf(exact)
    np.testing.assert_array_equal(np.isneginf(scores.astype(np.float64)), hidden)
    seen = np.where(hidden, 0, exact)
    scores = np.where(hidden, 0, scores)
    bound = qk_bound(case, seen)
    check_close(case, "float64", scores, seen, bound)
    ulps = EXPECTED_ULPS * float(ml_dtypes.finfo(expected.dtype).eps)
    logit, _ = largest_logit(case)
    check_close(case, "the expected output", scores, np.where(hidden, 0, expected), bound + ulps * max(1, logit))


def test_the_cases_were_generated() -> None:
    """At least those that onnx had when this was written: none may be lost in silence."""
    found = Counter(case.opset for case in CASES.values())
    for opset, at_least in CASES_AT_LEAST.items():
        assert found[opset] >= at_least, f"opset {opset}: {found[opset]} cases, once {at_least}"
    assert onnx.defs.get_schema("Attention", NEWEST_OPSET).since_version == max(CASES_AT_LEAST)


def test_only_expanded_functions_are_left_out() -> None:
    """What is not run is each case once more, as a graph of other operators instead of Attention."""
    assert sorted(OTHERS) == sorted(f"{name}_expanded" for name in CASES)


def test_the_tables_are_exact() -> None:
    """Every case can be mapped, and every qk_matmul_output is checked."""
    for case in CASES.values():
        assert not onnx_attention.missing_features(case.inputs, case.attributes), case.name
    with_scores = [case.name for case in CASES.values() if "qk_matmul_output" in case.outputs]
    assert sorted(QK_OUTPUTS) == sorted(with_scores)


def test_fully_masked_rows_run() -> None:
    """ONNX wants 0 for a query that sees no key, as flashc.h does: exactly, as the tolerance there is 0."""
    seen = []
    for case in CASES.values():
        hidden = reference(case, absolute_v=True) == 0
        if hidden.any():
            seen.append(case.name)
            y = onnx_attention.attention(case.inputs, case.attributes)["Y"]
            assert not y[hidden].any(), case.name
    assert len(seen) >= FULLY_MASKED_AT_LEAST, seen


def test_packed_heads_are_views() -> None:
    """3-D inputs reach flashc without a copy."""
    x = np.zeros((2, 3, 8), np.float32)
    assert np.shares_memory(onnx_attention.split_heads(x, 4), x)
