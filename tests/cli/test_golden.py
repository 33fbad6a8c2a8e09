#!/usr/bin/env python3
"""flashc-run computes every golden case and the real model's attention, on every kernel this CPU has.

    test_golden.py FLASHC_RUN DATA_DIRECTORY

O is checked by --compare, with the case's tolerances (the model: with the default ones); LSE here.
"""
import ast
import json
import math
import os
import pathlib
import shlex
import struct
import subprocess
import sys
import tempfile

# The model's LSE: the bound u (16 max(1, |LSE|, A) + 2(n + T)) for |LSE|, A < 32 and n + T < 400.
MODEL_LSE_ATOL = 2.0**-24 * (16 * 32 + 2 * 400)


def read_f32(path):
    """Shape and values of a little-endian f32 file in C order."""
    data = path.read_bytes()
    if data[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError(f"{path}: not version 1.0 of .npy")
    end = 10 + struct.unpack_from("<H", data, 8)[0]
    header = ast.literal_eval(data[10:end].decode("latin-1"))
    if header["descr"] != "<f4" or header["fortran_order"]:
        raise ValueError(f"{path}: {header}")
    count = math.prod(header["shape"])
    return header["shape"], struct.unpack(f"<{count}f", data[end:end + 4 * count])


def lse_difference(found, expected, atol):
    """What is wrong with an LSE file, or None."""
    (shape, a), (expected_shape, b) = read_f32(found), read_f32(expected)
    if shape != expected_shape:
        return f"LSE has shape {shape}, expected {expected_shape}"
    for index, (x, y) in enumerate(zip(a, b)):
        if not (x == y or abs(x - y) <= atol):
            return f"LSE[{index}] is {x}, expected {y} within {atol}"
    return None


class Runner:
    def __init__(self, program, work):
        # In a cross build meson names the emulator.
        self.command = [*shlex.split(os.environ.get("MESON_EXE_WRAPPER", "")), program]
        self.work = work
        self.runs = self.refusals = 0
        self.failures = []

    def run(self, *arguments):
        return subprocess.run([*self.command, *map(str, arguments)], capture_output=True, text=True, timeout=100)

    def fail(self, arguments, message):
        self.failures.append(message)
        print(f"FAILED: {shlex.join(['flashc-run', *map(str, arguments)])}\n{message}")

    def attention(self, folder, inputs, options, lse_atol, must_run):
        """One case, one kernel. A kernel may refuse what it cannot take, by its plan and by its name."""
        out, lse = self.work / "o.npy", self.work / "lse.npy"
        for path in (out, lse):
            path.unlink(missing_ok=True)
        arguments = ["attention"]
        for tensor in inputs:
            arguments += [f"-{tensor}" if len(tensor) == 1 else f"--{tensor}", folder / (tensor + ".npy")]
        arguments += ["--compute", "f32", *options, "-o", out, "--lse", lse, "--compare", folder / "o.npy"]
        result = self.run(*arguments)
        if result.returncode == 1 and not must_run:
            plan = self.run(*arguments, "--dry-run")
            if plan.returncode == 1 and options[-1] in plan.stderr:
                self.refusals += 1
                return
        self.runs += 1
        if result.returncode:
            self.fail(arguments, f"exit {result.returncode}\n{result.stdout}{result.stderr}")
            return
        wrong = lse_difference(lse, folder / "lse.npy", lse_atol)
        if wrong or not out.is_file():
            self.fail(arguments, wrong or "no output file")


def main():
    program, data = sys.argv[1], pathlib.Path(sys.argv[2])
    cases = json.loads((data / "golden" / "cases.json").read_text(encoding="utf-8"))["cases"]
    model = data / "minilm"
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(program, pathlib.Path(folder))
        kernels = json.loads(runner.run("info", "--json").stdout)["kernels"]
        available = [kernel["name"] for kernel in kernels if kernel["available"]]
        for kernel in kernels:
            if not kernel["available"]:
                print(f"not run: {kernel['name']}: {kernel['unavailable']}")
        # None: the library's own choice. The last kernel of the table takes everything.
        for name in (None, *available):
            must_run = name is None or name == available[-1]
            chosen = [] if name is None else ["--kernel", name]
            for case in cases:
                tolerances = [f"--rtol={case['rtol']}", f"--atol={case['atol']}"]
                runner.attention(data / "golden" / case["name"], case["inputs"],
                                 [*case["options"], *tolerances, *chosen], case["lse_atol"], must_run)
            runner.attention(model, "qkv", chosen, MODEL_LSE_ATOL, must_run)
            runner.attention(model / "padded", ("q", "k", "v", "mask"), chosen, MODEL_LSE_ATOL, must_run)

        # --compare must be able to say no: V has O's shape and other numbers.
        wrong = ["attention", "-q", model / "q.npy", "-k", model / "k.npy", "-v", model / "v.npy",
                 "--compare", model / "v.npy"]
        result = runner.run(*wrong)
        if result.returncode != 1:
            runner.fail(wrong, f"exit {result.returncode} where 1 was expected\n{result.stdout}{result.stderr}")
    print(f"{len(cases) + 2} cases, kernels {', '.join(available)}: {runner.runs} runs, {runner.refusals} refusals, "
          f"{len(runner.failures)} failures")
    sys.exit(1 if runner.failures or not available else 0)


if __name__ == "__main__":
    main()
