#!/usr/bin/env python3
"""No -ffast-math of a user's CFLAGS reaches the library: the build overrules it, and its sources refuse it.

    check_arithmetic.py SOURCE_ROOT COMPILER...
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

RELAXED = "-ffast-math"


def refusals(root, compiler):
    """Complaints about flags with which the sources compile, or do not."""
    for flag, right in ((RELAXED, False), ("-ffinite-math-only", False), ("-O2", True)):
        command = [*compiler, "-std=c11", flag, "-I", root / "include", "-I", root / "src", "-fsyntax-only",
                   root / "src" / "softmax" / "trace.c"]
        result = subprocess.run(command, capture_output=True, text=True)
        if (result.returncode == 0) != right or (not right and "needs IEEE arithmetic" not in result.stderr):
            wanted = "taken" if right else "refused"
            yield f"src/softmax/trace.c with {flag}: expected it to be {wanted}\n{result.stderr}"


def overruled(root, meson):
    """Complaints about commands of a build with that flag in which it is not overruled."""
    with tempfile.TemporaryDirectory(prefix="flashc-arithmetic-") as build:
        result = subprocess.run([meson, "setup", build, root, f"-Dc_args={RELAXED}", "-Dtests=disabled"],
                                capture_output=True, text=True)
        if result.returncode:
            yield f"meson setup failed:\n{result.stdout}{result.stderr}"
            return
        commands = json.loads((pathlib.Path(build) / "compile_commands.json").read_text())
    for entry in commands:
        words = entry["command"].split()
        last = max(i for i, word in enumerate(words) if word in (RELAXED, "-fno-fast-math"))
        if RELAXED not in words or words[last] == RELAXED:
            yield f"{entry['file']}: expected -fno-fast-math behind the user's {RELAXED}, found {entry['command']}"


def main():
    root, compiler = pathlib.Path(sys.argv[1]), sys.argv[2:]
    meson = shutil.which("meson")
    found = list(refusals(root, compiler))
    if meson:
        found += overruled(root, meson)
    print("\n".join(found) if found else "refused and overruled")
    if found:
        sys.exit(1)
    if not meson:
        print("not run: what a build does with CFLAGS: no meson in the path")


if __name__ == "__main__":
    main()
