#!/usr/bin/env python3
"""Runs a test with OpenBLAS's AVX-512 code, also on CPUs that this OpenBLAS does not recognise and would give
its SSE3 code: on_small_matrix_path.py TEST. Exit status 77 on a CPU without AVX-512."""
import os
import sys

with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
    if not any(line.startswith("flags") and "avx512f" in line.split() for line in cpuinfo):
        print("not run: this CPU has no avx512f, and OpenBLAS's SkylakeX code needs it")
        sys.exit(77)
os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"
os.environ["FLASHC_TEST_KERNELS"] = "openblas"  # the others compute what they compute without this
os.execv(sys.argv[1], sys.argv[1:])
