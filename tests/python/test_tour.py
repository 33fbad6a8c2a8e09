"""scripts/online_softmax_tour.py says what it claims."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

TOUR = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "online_softmax_tour.py"


def run(*arguments: object) -> list[str]:
    done = subprocess.run([sys.executable, TOUR, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def value(lines: list[str], title: str) -> str:
    return next(line for line in lines if line.startswith(title))[35:].strip()


def test_the_numbers_of_the_reference_example() -> None:
    lines = run()
    assert value(lines, "softmax of 1..6 in f16") == "0.0043 0.0116 0.0316 0.0858 0.2332 0.6338"
    assert value(lines, "each half by itself") == "0.0900 0.2448 0.6650 0.0900 0.2448 0.6650"
    assert [line[35:] for line in lines if line.startswith("  is a softmax")] == ["True", "False"]
    assert value(lines, "softmax by pieces") == "0.0043 0.0116 0.0316 0.0858 0.2332 0.6338"
    assert value(lines, "  equals the whole") == "True"
    assert value(lines, "online d_i = d_i exp(m_N - m_i)") == "True"
    assert value(lines, "at the last step") == "1.0773 1.0773"
    assert value(lines, "300 + 700 keys equal 1000 keys") == "True"
    assert value(lines, "61000 in bf16") == "60928"
    assert value(lines, "sum of 10000 ones, bf16 accumulator").endswith("256")
    assert value(lines, "attention over them, bf16 in and out").endswith("1.0000")


def test_the_picture(tmp_path: pathlib.Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("not run: matplotlib is not installed")
    picture = tmp_path / "tour.png"
    assert run("--picture", picture)[-1] == f"picture: {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG")
