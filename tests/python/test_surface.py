"""The package's face: all of flashc.h is there, everything is documented and typed, importing it is light."""
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import flashc
from flashc import _core
from flashc._call import Features

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = (ROOT / "include" / "flashc.h").read_text(encoding="utf-8")
PACKAGE = pathlib.Path(flashc.__file__).parent

# Every function of flashc.h, and what it is in Python.
FUNCTIONS = {
    "flashc_status_string": "exceptions",
    "flashc_last_error": "exceptions",
    "flashc_version": "__version__",
    "flashc_dtype_size": "arrays have dtypes",
    "flashc_dtype_name": "arrays have dtypes",
    "flashc_tensor_bhsd": "arrays have strides",
    "flashc_tensor_bshd": "attention(layout=)",
    "flashc_attention_params_init": "attention's defaults",
    "flashc_attention_fwd": "attention",
    "flashc_attention_workspace_size": "explain",
    "flashc_explain": "explain",
    "flashc_explain_items": "explain",
    "flashc_append_params_init": "append_kv's defaults",
    "flashc_append": "append_kv",
    "flashc_attention_state_init": "AttentionState",
    "flashc_attention_state_clear": "AttentionState.clear",
    "flashc_attention_accumulate_workspace_size": "AttentionState allocates",
    "flashc_attention_accumulate": "AttentionState.accumulate",
    "flashc_attention_state_merge": "AttentionState.merge",
    "flashc_attention_finish": "AttentionState.finish",
    "flashc_shared_prefix_init": "a prefix is arrays",
    "flashc_attention_shared_prefix": "shared_prefix_attention",
    "flashc_explain_shared_prefix": "explain_shared_prefix",
    "flashc_kernel_count": "kernels",
    "flashc_kernel_get": "kernels",
    "flashc_system_get": "info",
    "flashc_softmax": "softmax",
    "flashc_softmax_state_init": "SoftmaxState",
    "flashc_softmax_state_update": "SoftmaxState.update",
    "flashc_softmax_state_merge": "SoftmaxState.merge",
    "flashc_softmax_state_finish": "SoftmaxState.finish",
    "flashc_merge_partials": "merge_partials",
    "flashc_softmax_trace": "trace",
    "flashc_convert": "convert",
    "flashc_compare": "compare",
    "flashc_is_softmax": "is_softmax",
}
NOT_A_NAME = {"exceptions", "arrays have dtypes", "arrays have strides", "attention(layout=)", "attention's defaults",
              "append_kv's defaults", "a prefix is arrays", "AttentionState allocates"}

# Every field of flashc_attention_params, and the argument of attention() that fills it.
FIELDS = {
    "struct_size": None,
    "batch": "q", "num_heads": "q", "num_heads_k": "k", "seqlen_q": "q", "seqlen_k": "k",
    "head_dim": "q", "head_dim_v": "v",
    "q": "q", "k": "k", "v": "v", "o": "out", "lse": "return_lse",
    "softmax_scale": "scale", "causal": "causal", "alignment": "align", "offsets": "align",
    "mask": "mask", "bias": "bias", "window_left": "window", "window_right": "window",
    "seqlens_q": "seqlens_q", "seqlens_k": "seqlens_k", "leftpad_k": "leftpad_k",
    "block_mask": "block_mask", "block_mask_m": "block_mask_tile", "block_mask_n": "block_mask_tile",
    "k_scale": "k_scale", "v_scale": "v_scale",
    "softcap": "softcap", "alibi_slopes": "alibi_slopes", "alibi_batch_stride": "alibi_slopes", "sinks": "sinks",
    "score_mod": "score_mod", "score_mod_user_data": "score_mod",
    "scores": "scores", "scores_stage": "scores_stage", "key_mass": "key_mass", "row_max": "row_max",
    "cu_seqlens_q": "cu_seqlens_q", "cu_seqlens_k": "cu_seqlens_k",
    "block_table": "block_table", "block_table_v": "block_table_v",
    "num_threads": "num_threads", "kernel": "kernel", "compute": "compute",
    "workspace": "workspace", "workspace_size": "workspace",
    "progress": "progress", "progress_user_data": "progress",
}
# Structs whose fields are those of a Python tuple.
TUPLES = {
    "flashc_explanation": (flashc.Explanation, {"struct_size"}),
    "flashc_item_work": (flashc.ItemWork, set()),
    "flashc_kernel": (flashc.Kernel, set()),
    "flashc_system_info": (flashc.Info, {"struct_size"}),
    "flashc_compare_report": (flashc.Comparison, set()),
}


def struct_fields(name: str) -> list[str]:
    text = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    body = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", text, re.DOTALL)
    assert body, name
    return [re.sub(r"\[.*|^\W*", "", declarator.split()[-1])
            for line in body[1].split(";") if line.strip() for declarator in line.split(",")]


def test_every_function_of_the_header_has_a_counterpart() -> None:
    text = re.sub(r"^[ \t]*#.*$", "", re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL), flags=re.MULTILINE)
    declared = re.findall(r"\bFLASHC_API\b[^;{]*?\b(\w+)\s*\(", text)
    assert len(declared) == len(re.findall(r"\bFLASHC_API\b", text)) == len(FUNCTIONS)
    assert set(declared) == set(FUNCTIONS)
    for counterpart in set(FUNCTIONS.values()) - NOT_A_NAME:
        value: Any = flashc
        for part in counterpart.split("."):
            value = getattr(value, part)
        assert callable(value) or counterpart == "__version__"


def test_every_parameter_has_an_argument() -> None:
    assert set(struct_fields("flashc_attention_params")) == set(FIELDS)
    arguments = set(inspect.signature(flashc.attention).parameters)
    assert {argument for argument in FIELDS.values() if argument} | {"layout", "out_dtype"} == arguments


@pytest.mark.parametrize("explain, call, more", [
    (flashc.explain, flashc.attention, {"return_items"}),
    (flashc.explain_shared_prefix, flashc.shared_prefix_attention, set()),
])
def test_explaining_takes_the_arguments_of_the_call(explain: Any, call: Any, more: set[str]) -> None:
    """In their order, with the same defaults and types."""
    explained = inspect.signature(explain).parameters.values()
    assert [x for x in explained if x.name not in more] == list(inspect.signature(call).parameters.values())
    assert more < {x.name for x in explained}


def test_features_are_in_the_extensions_order() -> None:
    code = ROOT / "src" / "python" / "core"
    names = re.search(r"feature_name\[N_FEATURES\] = \{(.*?)\};", (code / "call_features.c").read_text(), re.DOTALL)
    order = re.search(r"enum \{ (SOFTCAP, .*?), N_FEATURES \}", (code / "call.h").read_text(), re.DOTALL)
    assert names and order
    assert re.findall(r'"(\w+)"', names[1]) == list(Features._fields) == re.findall(r"\w+", order[1].lower())


@pytest.mark.parametrize("name", TUPLES)
def test_every_field_of_a_result_has_an_item(name: str) -> None:
    items, left_out = TUPLES[name]
    assert [field for field in struct_fields(name) if field not in left_out] == list(items._fields)


def test_trace_fields_are_the_headers() -> None:
    assert struct_fields("flashc_trace_step") == list(flashc.trace([1.0]).dtype.names or ())


def test_version() -> None:
    numbers = [re.search(rf"FLASHC_VERSION_{part} (\d+)", HEADER) for part in ("MAJOR", "MINOR", "PATCH")]
    assert flashc.__version__ == flashc.info().version == ".".join(m[1] for m in numbers if m)


def test_kernels_and_info_agree_with_explain() -> None:
    kernels = flashc.kernels()
    names = [kernel.name for kernel in kernels]
    assert len(set(names)) == len(names) and names[-1] == "f32_generic" and kernels[-1].unavailable is None
    assert all(kernel.description for kernel in kernels)
    q = np.zeros((4, 8), np.float32)
    plan = flashc.explain(q, q, q)
    assert list(plan.refused) == names[:names.index(plan.kernel)]
    assert plan.rows_per_item % plan.block_m == 0  # whole blocks
    for kernel in kernels:
        if kernel.unavailable is not None:
            assert kernel.unavailable in plan.refused.get(kernel.name, kernel.unavailable)
    info = flashc.info()
    assert 1 <= info.default_threads <= len(os.sched_getaffinity(0)) and isinstance(info.openmp, bool)
    assert info.blas == "none" or info.blas.startswith("OpenBLAS")
    assert "f32_generic" in plan.refused or plan.gemm == "built-in" or plan.gemm == info.blas


# ---- names, documentation, types --------------------------------------------------------------------------------

def test_all_names_exist_and_are_documented() -> None:
    public = {name for name, value in vars(flashc).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(flashc.__all__)
    for name in flashc.__all__:
        value = getattr(flashc, name)
        assert value.__doc__ and not value.__doc__.startswith(f"{name}("), name
        members = vars(value).items() if inspect.isclass(value) and not issubclass(value, tuple) else ()
        assert all(member.__doc__ for key, member in members if inspect.isfunction(member) and key[0] != "_"), name


def test_attention_documents_every_argument() -> None:
    text = flashc.attention.__doc__ or ""
    for argument in inspect.signature(flashc.attention).parameters:
        assert re.search(rf"^ +(\w+, )*{argument}(, \w+)*:$", text, re.MULTILINE), argument


def stubs() -> dict[str, int]:
    """The functions of the stub and their numbers of arguments."""
    text = (PACKAGE / "_core.pyi").read_text(encoding="utf-8")
    found = re.findall(r"^def (\w+)\((.*?)\) -> .*?: \.\.\.$", text, re.DOTALL | re.MULTILINE)
    return {name: len(re.findall(r"\b\w+:", arguments)) for name, arguments in found}


def test_stub_has_the_modules_functions() -> None:
    functions = {name for name, value in vars(_core).items() if inspect.isbuiltin(value)}
    assert len(functions) > 10 and set(stubs()) == functions


@pytest.mark.parametrize("name", stubs())
def test_stub_has_the_argument_counts(name: str) -> None:
    expected = stubs()[name]
    for count in {0, 1, 40, expected + 1, max(expected - 1, 0)} - {expected}:
        with pytest.raises(TypeError, match=f"^{name}: expected {expected} arguments, found {count}$"):
            getattr(_core, name)(*(None,) * count)
    with pytest.raises(TypeError):
        getattr(_core, name)(no_keyword=1)


@pytest.mark.parametrize("name", stubs())
def test_core_functions_refuse_anything_at_all(name: str) -> None:
    """Called past the Python code: an exception or a result, whatever comes."""
    count = stubs()[name]
    f = np.zeros((2, 3), np.float32)
    values: tuple[Any, ...] = (None, 0, -1, 1.5, "x", b"", (), (f,), [f], f, f[0], f[:, 0], f > 0, np.zeros(2),
                               bytearray(64), object(), np.float32(1))
    rng = np.random.default_rng(1)
    for _ in range(3000 if count else 1):
        arguments = [values[i] for i in rng.integers(len(values), size=count)]
        try:
            getattr(_core, name)(*arguments)
        except (TypeError, ValueError) as error:
            assert str(error), arguments


def test_core_fills_arrays_alone() -> None:
    """The types of outputs that are planned for are none: past the Python code they would be addresses."""
    q = np.zeros((2, 3), np.float32)
    rest = (None, None, None, False, None, False, 1, None, None, None, None)
    taken = (*(np.zeros(shape, np.float32) for shape in ((1, 2), (1, 2), (1, 2, 3))), 0, 0, 0, 2, None)
    for o, lse in (("f32", None), (q.copy(), "f32")):
        for call, last in ((_core.attention, (None, None)), (_core.attention_finish, (taken,))):
            with pytest.raises(TypeError, match="expected an array"):
                call(q, q, q, o, lse, *rest, *last)


def test_typed_package() -> None:
    assert (PACKAGE / "py.typed").exists() and (PACKAGE / "_core.pyi").exists()


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="NOT TESTED: mypy is not installed")
def test_mypy_strict(tmp_path: pathlib.Path) -> None:
    """The package itself, where NumPy is not installed too, and that a user's mistake is seen."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "--ignore-missing-imports"]
    modules = ["flashc", *(f"flashc.{path.stem}" for path in PACKAGE.glob("_[a-z]*.py"))]
    assert len(modules) > 4
    named = [word for module in modules for word in ("-m", module)]
    result = subprocess.run([*command, *named], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    alone = tmp_path / "alone"
    (alone / "flashc").mkdir(parents=True)
    for path in (*PACKAGE.glob("_*.py"), *PACKAGE.glob("_*.pyi")):
        shutil.copy(path, alone / "flashc")
    result = subprocess.run([*command, "--no-site-packages", *named], capture_output=True, text=True, cwd=alone)
    assert result.returncode == 0, result.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import flashc\nflashc.attention(1, 2, 3, causal='yes', layout=3)\nflashc.kernels().nothing\n")
    result = subprocess.run([*command, str(wrong)], capture_output=True, text=True)
    assert result.returncode == 1 and "Found 3 errors" in result.stdout, result.stdout


# ---- importing --------------------------------------------------------------------------------------------------

def test_import_is_light() -> None:
    """Neither NumPy nor any other package; the time is printed, not judged (pytest -rP shows it)."""
    code = ("import sys, time; start = time.perf_counter(); import flashc; took = time.perf_counter() - start; "
            "print(took, *{name.split('.')[0] for name in sys.modules})")
    result = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True,
                            env={"PYTHONPATH": str(PACKAGE.parent)})
    took, *modules = result.stdout.split()
    print(f"import flashc took {float(took) * 1e3:.1f} ms")
    assert set(modules) - set(sys.stdlib_module_names) - {"__main__"} == {"flashc"}


def test_only_the_init_function_is_exported() -> None:
    """Another copy of the library in the process must not meet this one."""
    module = importlib.import_module("flashc._core")
    result = subprocess.run(["nm", "-D", "--defined-only", str(module.__file__)], capture_output=True, text=True)
    if result.returncode:
        pytest.skip("NOT TESTED: nm is not installed")
    assert {line.split()[2] for line in result.stdout.splitlines()} == {"PyInit__core"}
    assert str(module.__file__).endswith(".abi3.so")
