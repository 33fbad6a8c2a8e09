#!/usr/bin/env python3
"""scripts/check_floors.py sees each kind of breach, and lets the legal neighbour of each pass."""
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
sys.dont_write_bytecode = True
import check_floors

HEADERS = ("common.h", "numerics.h", "kernels/kernel.h", "softmax/state.h", "attention/plan.h", "npy/npy.h",
           "cli/cli.h")
# (file, its text, a part of the expected message or None)
CASES = (
    ("kernels/a.c",
     '#include "kernels/kernel.h"\n#include "numerics.h"\n#include <flashc.h>\n#include <stdio.h>\n', None),
    ("kernels/a.c", '#include "attention/plan.h"\n', "higher floor"),
    ("common.c", '  #  include "numerics.h"\n', "higher floor"),
    ("attention/a.c", '#include "npy/npy.h"\n', "no floor"),
    ("attention/a.c", '#include "plan.h"\n', "relative to src/"),
    ("attention/a.c", '/* #include "npy/npy.h" */\n', None),
    ("attention/a.c", "#include <softmax/state.h>\n", "in quotes"),
    ("npy/a.c", '#include "npy/npy.h"\n#include <flashc.h>\n', None),
    ("npy/a.c", '#include "common.h"\n', "is private"),
    ("npy/a.c", '#include "cli/cli.h"\n', "is private"),
    ("cli/a.c", '#include "npy/npy.h"\n#include "cli/cli.h"\n', None),
    ("cli/a.c", '#include "numerics.h"\n', "is private"),
    ("kernels/a.c", '#include "config.h"\n', None),
    ("cli/a.c", '#include "config.h"\n', "the library's"),
    ("other/a.c", "int x;\n", "no floor"),
    ("kernels/gemm_openblas.c", "#include <cblas.h>\n", None),
    ("kernels/gemm_openblas.c", 'void *f(void) { return dlopen("a", 2); }\n', None),
    ("cpu.c", 'void *f(void) { return dlopen("a", 2); }\n', "a library is loaded"),
    ("kernels/a.c", "#include <cblas.h>\n", "gemm_openblas.c alone"),
    ("kernels/a.c", '#include "openblas/cblas.h"\n', "gemm_openblas.c alone"),
    ("attention/execute.c", "#pragma omp parallel\n", None),
    ("cli/peak.c", "#pragma omp parallel\n", None),
    ("attention/item.c", "# pragma  omp simd\n", "OpenMP"),
    ("attention/item.c", '_Pragma("omp parallel")\n', "OpenMP"),
    ("cpu.c", 'void f(void) { fopen("x", "r"); }\n', None),
    ("attention/item.c", 'void f(void) { fopen ("x", "r"); }\n', "touch files"),
    ("attention/item.c", 'void f(void) { open("x", 0); }\n', "touch files"),
    ("attention/item.c", 'void f(void) { reopen(1); } /* open(x) */\n', None),
    ("cli/a.c", "void f(void) { puts(x); exit(1); }\n", None),
    ("npy/a.c", "void f(void) { puts(x); }\n", "prints"),
    ("softmax/a.c", 'void f(void) { snprintf(a, 3, "printf(x)"); }\n', None),
    ("softmax/a.c", "void f(void) { fprintf(stderr, x); }\n", "prints"),
    ("softmax/a.c", "void f(void) { abort(); }\n", "abort"),
    ("cli/a.c", "void f(void) { openblas_set_num_threads(1); }\n", "global state"),
    ("softmax/a.c", "int x;\n" * check_floors.MAX_LINES, None),
    ("softmax/a.c", "int x;\n" * (check_floors.MAX_LINES + 1), "split it"),
)


def breaches(name, text):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for path in HEADERS:
            (root / "src" / path).parent.mkdir(parents=True, exist_ok=True)
            (root / "src" / path).write_text("\n")
        (root / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "src" / name).write_text(text)
        return [message for path, _, message in check_floors.check(root)]


def main():
    failures = 0
    for name, text, expected in CASES:
        found = breaches(name, text)
        good = not found if expected is None else len(found) == 1 and expected in found[0]
        if not good:
            failures += 1
            print(f"{name}: {text.splitlines()[0]!r}: expected {expected!r}, found {found}")
    print(f"{len(CASES)} cases, {failures} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
