"""The package as users get it: an sdist, a wheel built from it, `pip install .`; each in a clean environment with NumPy
only."""

import os
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
FIRST_CALL = """
import sys, time
start = time.perf_counter()
import flashc
print(f"import flashc: {time.perf_counter() - start:.4f} s")
assert not {"numpy", "torch", "transformers", "ml_dtypes"} & set(sys.modules), "flashc imported more than itself"
import numpy as np
q, k, v = (np.random.default_rng(i).standard_normal((2, 3, 40, 16)) for i in range(3))
s = q @ k.swapaxes(-1, -2) / 4
p = np.exp(s - s.max(-1, keepdims=True))
expected = p / p.sum(-1, keepdims=True) @ v
o = flashc.attention(*(a.astype(np.float32) for a in (q, k, v)))
assert np.abs(o - expected).max() < 1e-5
assert "site-packages" in flashc.__file__, flashc.__file__
print(flashc.info())
"""


def run(*command: object, **options: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Made of what is committed; without git (an unpacked sdist is tested) there is nothing to make it of."""
    if not (ROOT / ".git").exists():
        pytest.skip("not run: an sdist is made from a git checkout, and this tree is none")
    target = tmp_path_factory.mktemp("sdist")
    tools = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run(sys.executable, "-c", f"import mesonpy; mesonpy.build_sdist({str(target)!r})", cwd=ROOT,
        env={**os.environ, "PATH": tools})
    return next(target.glob("flashc-*.tar.gz"))


@pytest.fixture
def clean(tmp_path: pathlib.Path) -> pathlib.Path:
    """The python of a new environment that has NumPy and nothing else."""
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    done = subprocess.run([python, "-m", "pip", "install", "-q", "numpy"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"not run: NumPy cannot be installed from PyPI here: {done.stderr.strip().splitlines()[-1]}")
    return python


def first_call(python: pathlib.Path, tmp_path: pathlib.Path, **env: str) -> str:
    return run(python, "-c", FIRST_CALL, cwd=tmp_path, env={**os.environ, **env})


def test_sdist_has_the_sources_and_nothing_built(sdist: pathlib.Path) -> None:
    with tarfile.open(sdist) as archive:
        names = [name.split("/", 1)[-1] for name in archive.getnames()]
    for needed in ("PKG-INFO", "pyproject.toml", "meson.build", "include/flashc.h", "src/python/flashc/__init__.py",
                   "LICENSE"):
        assert needed in names
    assert not [name for name in names if name.endswith((".so", ".o", ".a", ".pyc"))]


def test_sdist_installs(sdist: pathlib.Path, clean: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(clean, "-m", "pip", "install", "-q", sdist)
    print(first_call(clean, tmp_path))


def test_pip_install_of_the_tree(clean: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(clean, "-m", "pip", "install", "-q", ROOT)
    print(first_call(clean, tmp_path))


def test_wheel_carries_everything() -> None:
    """The wheel the tests run on: one extension module for every CPython from 3.11, the types, no shared library."""
    wheel = next((ROOT / "build" / "wheel").glob("flashc-*.whl"))
    assert "-cp311-abi3-linux" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info" not in name}
    sources = {f"flashc/{path.name}" for path in (ROOT / "src/python/flashc").iterdir() if path.is_file()}
    assert names == sources | {"flashc/_core.abi3.so"}
