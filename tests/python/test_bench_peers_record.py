"""scripts/bench_peers, the parts that need no other system: record, ranks, tables, curves, options.

A stand-in system, an executable that speaks the protocol of scripts/peers/worker.py, goes the whole way.
"""

from __future__ import annotations

import json
import pathlib
import stat
import subprocess
import sys
from typing import Any

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from peers import curves, document, options, table  # noqa: E402
from peers.cases import Case  # noqa: E402
from peers.hush import hush  # noqa: E402
from peers.measure import FAILED, Outcome, Settings, measure  # noqa: E402
from peers.reference import REDUCED, RIGHT, WRONG, Verdict  # noqa: E402

SEED = 3

CONTEXT: dict[str, Any] = {
    "date": "2026-01-02T03:04:05+00:00",
    "executable": "x",
    "num_cpus": 2,
    "mhz_per_cpu": 1000,
    "load_avg": [0.5, 0.5, 0.5],
    "caches": [{"type": "Unified", "level": 3, "size": 2**25, "num_sharing": 2}],
    "library_build_type": "release",
    "cpu_name": "A CPU",
    "cpu_model": "X 1 2 3",
    "system": "Linux",
    "rounds": 3,
    "seconds": 0.05,
    "seed": 0,
    "systems": {"flashc": "flashc 1", "torch": "torch 2", "jax": "jax: absent: no wheel"},
    "limits": [
        {
            "threads": 1,
            "fma_gflops": 100.0,
            "bf16_gflops": 200.0,
            "read_gbytes_per_second": 10.0,
            "fma_isa": "avx",
        }
    ],
}


def outcome(case: Case, system: str, times: list[float], status: str = RIGHT) -> Outcome:
    """times: GFLOP/s or GB/s of each round."""
    verdict = None if status == FAILED else Verdict(status, 1e-6, 2e-6, case.seqlen_q)
    rounds = [
        {"iterations": 4, "seconds": 4 * case.work / rate, "cpu_seconds": 4 * case.work / rate}
        for rate in times
    ]
    return Outcome(
        case, system, status, "no memory" if not times else "", system, "plain", verdict, 2**21, 3, rounds
    )


def record() -> dict[str, Any]:
    outcomes = []
    for case in (Case("f32", 64, n, groups=("table", "seqlen")) for n in (128, 256)):
        outcomes += [
            outcome(case, "flashc", [80.0, 90.0, 60.0]),
            outcome(case, "torch", [40.0, 50.0, 40.0]),
            outcome(case, "openvino", [95.0, 95.0, 95.0], REDUCED),
            outcome(case, "wild", [], WRONG),
            outcome(case, "big", [], FAILED),
        ]
    outcomes.append(
        outcome(Case("bf16", 64, 512, 1, cold=True, groups=("table",)), "flashc", [5.0, 5.0, 4.0])
    )
    return json.loads(json.dumps(document.make(CONTEXT, outcomes), allow_nan=False))


def test_the_record_has_google_benchmarks_layout() -> None:
    entries = record()["benchmarks"]
    mine = [entry for entry in entries if entry["run_name"] == "f32/full/d64/h8/L128/t1/flashc"]
    assert [entry["run_type"] for entry in mine] == ["iteration"] * 3 + ["aggregate"] * 3
    assert [entry.get("aggregate_name") for entry in mine[3:]] == ["mean", "median", "stddev"]
    for entry in entries:
        assert {"name", "run_name", "run_type", "repetitions", "threads", "family_index"} <= set(entry)
        if not entry.get("error_occurred"):
            assert {"iterations", "real_time", "cpu_time"} <= set(entry) and entry["time_unit"] == "us"
    median = mine[4]
    assert median["name"].endswith("_median") and median["gflops"] == pytest.approx(80.0)
    assert median["share_of_limit"] == pytest.approx(0.8) and median["peak_rss_growth_bytes"] == 2**21
    bad = next(entry for entry in entries if entry["run_name"].endswith("/big"))
    assert bad["error_occurred"] and bad["error_message"] == "no memory" and "real_time" not in bad


def test_rows_and_ranks() -> None:
    rows = document.rows(record())
    first = [row for row in rows if row.case.seqlen_k == 128]
    assert [row.system for row in first] == ["flashc", "torch", "openvino", "wild", "big"]
    assert first[0].rate == pytest.approx(80.0) and first[0].share == pytest.approx(0.8)
    assert first[0].spread == pytest.approx((1 / 60 - 1 / 90) * 80)
    # Neither the wrong one nor the one of less precision, which is faster, is what flashc is compared with.
    assert document.advantage(first) == (pytest.approx(2.0), "torch")
    assert document.advantage(first[1:]) is None and document.advantage(first[:1]) is None
    assert document.limit_of(Case("bf16", 64, 4), CONTEXT["limits"]) == (200.0, "bf16 peak")
    assert document.limit_of(Case("f16", 64, 4), CONTEXT["limits"]) == (100.0, "f32 FMA peak")
    assert document.limit_of(Case("f16", 64, 4, threads=2), CONTEXT["limits"])[0] is None


def test_tables() -> None:
    text, markdown = table.text(record()), table.markdown(record())
    for expected in (
        "A CPU",
        "2026-01-02",
        "torch 2",
        "jax: absent: no wheel",
        "100.0 GFLOP/s f32 FMA peak",
        "not ranked",
        "flashc / best peer (torch): 2.00",
        "2.0 MiB",
        "no memory",
        "3 copies of K and V",
        "50.0 %",
    ):
        assert expected in text
    assert "| f32/full/d64/h8/L128/t1 | 80.0 (80 %) | 40.0 | ~95.0 | wrong | – | 2.00 (torch) |" in markdown
    assert "| bf16/decode/d64/h8/L1x512/t1 | 5.00 (50 %) |" in markdown
    widths = {
        line.count("|") for line in markdown.split("GB/s of K and V")[0].splitlines() if line.startswith("|")
    }
    assert len(widths) == 1
    assert [table.rate_text(x) for x in (0.123, 9.96, 99.6, 1234.0)] == ["0.12", "10.0", "100", "1234"]
    assert [table.seconds_text(x) for x in (2.0, 0.0123, 4.5e-6)] == ["2 s", "12.3 ms", "4.5 us"]


def test_curves() -> None:
    (panel,) = curves.panels(record(), "seqlen")
    assert panel.lines["flashc"] == [(128, pytest.approx(80.0)), (256, pytest.approx(80.0))]
    assert set(panel.lines) == {"flashc", "torch", "openvino (reduced precision)"}
    assert (panel.unit, panel.limit, panel.title) == ("GFLOP/s", 100.0, "f32, full, 8 heads, d 64, 1 thread")
    assert curves.panels(record(), "cache") == []


STAND_IN = """#!{python}
import json, pathlib, sys
import numpy as np
folder = pathlib.Path(sys.argv[1])
case = json.loads((folder / "case.json").read_text())
log = open({log!r}, "a")
q, k, v = (np.fromfile(folder / f"{{n}}.bin", np.float32).reshape(-1, 16, 8).astype(float) for n in "qkv")
print("ok {{}}", flush=True)
for line in sys.stdin:
    command, _, argument = line.strip().partition(" ")
    print(command, argument, file=log, flush=True)
    if command == "about": print('ok {{"about": "stand-in 1"}}', flush=True)
    elif command == "list": print('ok {{"variants": {variants}}}', flush=True)
    elif command == "open":
        factor = {{"exact": 1.0, "broken": 1.1, "coarse": 1.003}}.get(argument)
        print("ok {{}}", flush=True)
    elif command == "run":
        if factor is None: sys.exit("out of luck")
        p = np.exp(q @ k.swapaxes(1, 2) * 8**-0.5)
        o = factor * (p @ v) / p.sum(-1, keepdims=True)
        o.astype(np.float32).tofile(folder / "o.bin"); print('ok {{"peak_bytes": 5}}', flush=True)
    elif command == "time": print('ok {{"seconds": ' + str(0.001 * int(argument)) + '}}', flush=True)
    else: break
"""


@pytest.mark.parametrize(
    ("variants", "status", "timed"),
    [
        (["exact"], RIGHT, True),
        (["broken"], WRONG, False),
        (["coarse"], REDUCED, True),
        (["crash"], FAILED, False),
        (["broken", "coarse", "exact"], RIGHT, True),
    ],
)
def test_a_stand_in_goes_the_whole_way(
    tmp_path: pathlib.Path, variants: list[str], status: str, timed: bool
) -> None:
    program, log = tmp_path / "stand_in", tmp_path / "log"
    program.write_text(STAND_IN.format(python=sys.executable, log=str(log), variants=json.dumps(variants)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    said: list[str] = []
    settings = Settings(
        3, 0.01, SEED, {"mine": str(program), "gone": str(tmp_path / "none")}, 2**20, said.append
    )
    case = Case("f32", 8, 16, heads=2, groups=("table",))
    found, gone = measure(case, ["mine", "gone"], settings)
    assert gone.status == FAILED and "cannot start" in gone.reason
    assert found.status == status, found.reason
    commands = log.read_text().split("\n")
    if timed:
        assert found.variant == variants[-1] and len(found.rounds) == 3 and found.peak_bytes == 5
        assert found.rounds[0]["seconds"] / found.rounds[0]["iterations"] == pytest.approx(0.001)
        assert found.rounds[0]["iterations"] >= 10 and found.about == "stand-in 1"
    else:
        assert found.rounds == [] and variants[-1] in found.reason
        assert not any(command.startswith("time") for command in commands)
    if status == FAILED:
        assert "out of luck" in found.reason
    # The record of it can be written and shown, times or none.
    text = table.text(document.make(CONTEXT, [found, gone]))
    assert "mine" in text and "cannot start" in text


def test_records_merge() -> None:
    old = record()
    case = Case("f32", 64, 128, groups=("table", "seqlen"))
    better = CONTEXT | {"limits": [CONTEXT["limits"][0] | {"fma_gflops": 120.0, "bf16_gflops": None}], "date": "later"}
    merged = document.merge(old, document.make(better, [outcome(case, "flashc", [10.0, 10.0, 10.0])]))
    assert [row.system for row in document.rows(merged) if row.case.seqlen_k == 128] == ["flashc"]
    assert len(document.rows(merged)) == len(document.rows(old)) - 4 and merged["context"]["date"] == "later"
    (limit,) = merged["context"]["limits"]
    assert (limit["fma_gflops"], limit["bf16_gflops"]) == (120.0, 200.0)
    families = {entry["run_name"]: entry["family_index"] for entry in merged["benchmarks"]}
    assert sorted(families.values()) == list(range(len(families)))
    with pytest.raises(ValueError, match="rounds was 3"):
        document.merge(old, document.make(CONTEXT | {"rounds": 5}, []))


def test_what_cannot_join_a_record_is_not_measured(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "bench_peers.json"
    file.write_text(json.dumps(record()))
    before = file.read_text()
    done = subprocess.run(
        [sys.executable, "-B", "-m", "peers", "--resume", "--again", "--quick", "--no-limits", "--out", str(tmp_path)],
        cwd=pathlib.Path(document.__file__).parents[1], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("bench_peers: error: --resume: cpu_name was ") and done.stderr.count("\n") == 1
    assert file.read_text() == before


class Ended(subprocess.Popen):
    """A process that has come to its end before anything is written to it."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.wait()


def test_a_command_holds_while_rounds_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    with hush(f"{sys.executable} -c 'import subprocess, sys; subprocess.run(sys.argv[1:])'"):
        pass
    with hush(""):
        pass
    monkeypatch.setattr(subprocess, "Popen", Ended)
    with pytest.raises(RuntimeError, match="did not start"), hush("true"):
        pass


def test_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert options.parse(["--cases", "a", "--cases", "b", "--rounds", "7"]).cases == ["a", "b"]
    for bad in (["--rounds", "0"], ["--executable", "x"], ["--seconds", "nan"]):
        with pytest.raises(SystemExit):
            options.parse(bad)
    assert "NAME=PATH" in capsys.readouterr().err
