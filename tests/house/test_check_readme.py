"""check_readme.py finds wrong words in the lines of README.md whose numbers depend on the machine:
test_check_readme.py SOURCE_DIRECTORY FLASHC_RUN C_COMPILER..."""
import pathlib
import subprocess
import sys
import tempfile

CHECK = pathlib.Path(__file__).with_name("check_readme.py")
source, arguments = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
# What stands there, and what must not be taken for it.
CHANGES = [("decode_avx512: at most 16 query rows per K/V head", "decode_avx512: at most 99 bananas"),
           ("refused    bf16_avx512: ", "refused    bf16_avx1024: "),
           ("88 of up to 192 query rows", "88 of up to 192 query columns"),
           ("358912 bytes", "358912 bits"),
           ("OpenBLAS 0.3.21 Cooperlake openmp", "OpenBLAS 0.3.21 Cooperlake threads"),
           ("largest error 2.38419e-07 at", "largest mistake 2.38419e-07 at")]

text = (source / "README.md").read_text(encoding="utf-8")
for right, wrong in CHANGES:
    assert right in text, f"README.md has no '{right}' any more"
    head, example = text.split("### attention and merge")
    text = head + "### attention and merge" + example.replace(right, wrong)
with tempfile.TemporaryDirectory() as folder:
    for entry in source.iterdir():
        if entry.name != "README.md":
            pathlib.Path(folder, entry.name).symlink_to(entry)
    pathlib.Path(folder, "README.md").write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, CHECK, folder, *arguments], capture_output=True, text=True, check=False)
assert done.returncode == 1, done.stdout + done.stderr
problems = [line for line in done.stdout.splitlines() if "does not print" in line]
for _, wrong in CHANGES:
    assert any(wrong in line for line in problems), f"not found: {wrong}\n{done.stdout}"
assert len(problems) == len(CHANGES), done.stdout
