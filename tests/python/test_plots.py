"""Scripts that measure say which package they miss, and before they measure for minutes."""
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"


def run_without(package: str, folder: pathlib.Path, *command: Any) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n", encoding="utf-8")
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(folder)})


@pytest.mark.parametrize("script", ["plan_scaling.py", "measure_growth.py"])
def test_without_matplotlib(script: str, tmp_path: pathlib.Path) -> None:
    done = run_without("matplotlib", tmp_path, SCRIPTS / script, "--output", tmp_path / "out")
    assert done.returncode == 2 and "matplotlib is not installed" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", ["measure_call_cost.py", "measure_thread_pools.py"])
def test_without_torch(script: str, tmp_path: pathlib.Path) -> None:
    done = run_without("torch", tmp_path, SCRIPTS / script)
    assert done.returncode in (1, 2) and "error: torch is not installed here" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
