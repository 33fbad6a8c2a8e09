"""Scripts that measure for minutes before they draw look for matplotlib first."""
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize("script", ["plan_scaling.py", "measure_growth.py"])
def test_without_matplotlib(script: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n", encoding="utf-8")
    done = subprocess.run([sys.executable, SCRIPTS / script, "--output", tmp_path / "out"], capture_output=True,
                          text=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2 and "matplotlib is not installed" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
