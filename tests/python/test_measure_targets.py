"""scripts/measure_targets.py and scripts/measure_growth.py, the parts that measure nothing."""

from __future__ import annotations

import itertools
import json
import pathlib
import sys
from typing import Any

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

import measure_growth  # noqa: E402
import measure_targets  # noqa: E402


class Stub(measure_targets.Runner):
    """Takes command lines down; all calls take as long as they have words."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def bench(self, command: str, limits: bool = False) -> dict[str, Any]:
        self.commands.append(command)
        shares = {"share_of_fma_peak": 0.5, "share_of_read_bandwidth": 0.6}
        found = {"real_time": 1e6 * len(command.split()), "gflops": 50.0, "limits": {"avx2_gflops": 200.0}}
        return found | shares if limits else found


def test_every_target_has_a_value() -> None:
    targets = [
        *measure_targets.speed_targets(),
        *measure_targets.decode_targets(),
        *measure_targets.feature_targets(),
    ]
    assert len({target.name for target in targets}) == len(targets)
    for target in targets:
        run = Stub()
        value = target.value(run)
        first, second = value if isinstance(value, tuple) else (value, None)
        assert first > 0 and run.commands and target.text(first)
        assert target.met(target.target, None) and (second is None) == (target.compute_bound is None)
    (avx2, *_) = (target for target in targets if target.name.startswith("f32_avx2"))
    assert avx2.value(Stub()) == 0.25


def test_verdicts() -> None:
    most = measure_targets.chunked("x", 4, "--seqlen-q 1 ")
    assert most.met(1.3, 0.1) and most.met(9.0, 0.75) and not most.met(1.31, 0.74)
    least = measure_targets.peak("x", 0.9, "")
    assert least.met(0.9, None) and not least.met(0.89, None)


def test_what_is_missed_by_little_is_not_printed_as_the_target(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    most, least = measure_targets.chunked("x", 4, "--seqlen-q 1 "), measure_targets.peak("y", 0.85, "")
    assert [most.text(value) for value in (1.3, 1.3004, 1.4)] == ["1.30", "1.3004", "1.40"]
    assert [least.text(value) for value in (0.85, 0.8499, 0.8)] == ["85.0 %", "84.99 %", "80.0 %"]
    measure_targets.print_table([most], {"x": {"values": [1.3004], "second": [0.74998]}}, tmp_path / "none")
    assert "| 1.3004 (74.998 % of peak) | missed" in capsys.readouterr().out


@pytest.mark.parametrize(("seqlen", "window"), [(7, 3), (8, 8), (20, 1)])
def test_the_share_of_a_window(seqlen: int, window: int) -> None:
    pairs = [(i, j) for i, j in itertools.product(range(seqlen), range(seqlen)) if j <= i]
    assert measure_targets.window_work(seqlen, window) == pytest.approx(
        sum(j > i - window for i, j in pairs) / len(pairs)
    )


def test_peers_against_their_targets(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    def entry(case: str, system: str, time: float, status: str = "right") -> dict[str, Any]:
        return {"case": case, "system": system, "real_time": time, "status": status, "aggregate_name": "median"}

    full, window, unranked = "f32/full/d64/h8/L2048/t1", "f32/window1024/d128/h8/L8192/t1", "f32/full/d64/h8/L9/t1"
    short = "f32/full/d64/h12/B16/L128/t2"
    record = {
        "context": {"date": "2026-11-30T19:47:56+00:00", "cpu_name": "A CPU", "systems": {"flashc": "flashc 9 (neon)"},
                    "cases": {**dict.fromkeys((full, window, short), {"groups": ["table"]}), unranked: {"groups": []}}},
        "benchmarks": [
            entry(full, "flashc", 1.0),
            entry(full, "torch", 1.2),
            entry(full, "jax", 1.1),
            entry(full, "openvino", 0.5, "reduced"),
            entry(window, "flashc", 1.0),
            entry(window, "torch", 4.0),
            entry(window, "onnxruntime", 2.0),
            entry(short, "flashc", 1.0),
            entry(short, "jax", 1.2996),
            entry(unranked, "flashc", 1.0),
            entry(unranked, "torch", 4.0),
        ],
    }
    file = tmp_path / "record.json"
    file.write_text(json.dumps(record))
    assert list(measure_targets.peer_rows(file)) == [
        (f"{full}, times jax", "1.05", "1.10", True),
        (f"{window}, times torch", "5.00", "4.00", False),
        (f"{short}, times jax", "1.30", "1.2996", False),
    ]
    measure_targets.print_table([], {}, file)
    assert f"recorded in {file}, on A CPU, 2026-11-30, flashc 9 (neon)" in capsys.readouterr().out


def test_growth_goes_on_and_keeps_the_best_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = {"threads": 1, "fma_gflops": 9.0, "bf16_gflops": None, "read_gbytes_per_second": 1.0}

    def bench(options: str) -> dict[str, Any]:
        entry = {"aggregate_name": "median", "real_time": 1.0, "gflops": 2.0, "kv_gbytes_per_second": 3.0}
        return {"context": {"limits": [dict(limit)]}, "benchmarks": [entry | {"name": options}]}

    monkeypatch.setattr(measure_growth, "bench", bench)
    record: dict[str, Any] = {"context": {"limits": [limit | {"read_gbytes_per_second": 4.0}]}, "benchmarks": []}
    saved: list[int] = []
    measure_growth.measure(record, -1.0, lambda found: saved.append(len(found["benchmarks"])))
    assert saved == []
    measure_growth.measure(record, 1e9, lambda found: saved.append(len(found["benchmarks"])))
    points = sum(len(lines) * len(measure_growth.POINTS[panel]) for panel, lines in measure_growth.CURVES.items())
    assert saved == list(range(1, points + 1)) == [e["family_index"] + 1 for e in record["benchmarks"]]
    assert record["context"]["limits"] == [limit | {"read_gbytes_per_second": 4.0}]
    measure_growth.measure(record, 1e9, lambda found: saved.append(0))
    assert len(saved) == points
    assert record["benchmarks"][8]["name"].endswith(" 65536") and "--repeats 3" in record["benchmarks"][8]["name"]
