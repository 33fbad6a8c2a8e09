"""Every Python block of README.md prints what README says it prints."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

README = (pathlib.Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
# A block, then its output, indented by four.
BLOCKS = re.findall(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", README, re.DOTALL)


def test_the_blocks_were_found() -> None:
    assert len(BLOCKS) == README.count("```python") >= 3


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(number: int) -> None:
    program, output = BLOCKS[number]
    for package in ("torch", "transformers"):
        needed = re.search(rf"^(import|from) {package}\b", program, re.MULTILINE)
        if needed and importlib.util.find_spec(package) is None:
            pytest.skip(f"not run: README's block {number} needs {package}, which is not installed")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == re.sub(r"^    ", "", output, flags=re.MULTILINE)
