"""The default tolerances of compare: by type, and the same numbers wherever they are written."""
import pathlib
import re

import numpy as np
import pytest

import flashc
from oracle import BFLOAT16

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": BFLOAT16}
DEFAULTS = {"f32": (1e-5, 1e-6), "f16": (2e-3, 1e-3), "bf16": (1.6e-2, 8e-3)}


@pytest.mark.parametrize("type_b", DTYPES)
@pytest.mark.parametrize("type_a", DTYPES)
def test_default_tolerances_go_by_the_coarser_type(type_a: str, type_b: str) -> None:
    coarser = max(type_a, type_b, key=list(DTYPES).index)
    rtol, atol = DEFAULTS[coarser]
    rng = np.random.default_rng(4)
    b = (rng.standard_normal(4000) * rng.choice([1, 1e-3, 30], 4000)).astype(DTYPES[type_b])
    a = (b.astype(np.float64) + (rtol * abs(b.astype(np.float64)) + atol) * rng.uniform(-1.2, 1.2, 4000)).astype(
        DTYPES[type_a])
    found, expected = flashc.compare(a, b), flashc.compare(a, b, rtol=rtol, atol=atol)
    assert found == expected and 0 < found.mismatches < 2000
    assert flashc.compare(a, b, rtol=rtol).mismatches == flashc.compare(a, b, atol=atol).mismatches == found.mismatches


def test_default_tolerances_are_written_down_alike() -> None:
    code = (ROOT / "src" / "cli" / "compare.c").read_text(encoding="utf-8")
    rows = re.findall(r"\{FLASHC_(\w+), ([\d.e-]+), ([\d.e-]+)\}", code)
    assert {name.lower(): (float(rtol), float(atol)) for name, rtol, atol in rows} == DEFAULTS
    for text in ((ROOT / "README.md").read_text(encoding="utf-8"), flashc.compare.__doc__ or ""):
        found = re.findall(r"\b(f32|f16|bf16|float32|float16|bfloat16)\s+([\d.]+e-\d)\s+and\s+([\d.]+e-\d)", text)
        assert {name.replace("loat", ""): (float(rtol), float(atol)) for name, rtol, atol in found} == DEFAULTS, found
