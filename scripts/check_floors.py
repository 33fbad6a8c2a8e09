#!/usr/bin/env python3
"""Checks the rules that keep the source tree in order: who may include whom, and who may do what.

    scripts/check_floors.py [SOURCE_ROOT]

Prints every breach as file:line: what and why; exit status 1 if there is one.
"""
import pathlib
import re
import sys

# From bottom to top; a file includes its own floor or a lower one. npy, cli and the Python module stand outside:
# they see the library through its public header alone.
FLOORS = (("common.",), ("cpu.", "numerics.", "params.", "tensor."), ("kernels/",), ("softmax/",), ("cache/",),
          ("attention/",))
OUTSIDE = {"npy/": ("npy/",), "cli/": ("npy/", "cli/"), "python/core/": ("python/core/",)}
PUBLIC_HEADER = "flashc.h"
CONFIG_HEADER = "config.h"  # made by meson, for the library alone

# (what, pattern in code without comments and strings, where it is allowed, why)
RULES = (
    ("#pragma omp", r"#\s*pragma\s+omp\b|\b_Pragma\b", ("attention/execute.c", "cli/peak"),
     "one OpenMP region, in one file"),
    ("a file is opened",
     r"\b(?:fopen(?:64)?|freopen|fdopen|fmemopen|open(?:64|at)?|creat|mko?stemps?|tmpfile|opendir|popen)\s*\(",
     ("npy/", "cli/", "cpu.c"), "only npy, cli and cpu.c touch files"),
    ("a library is loaded", r"\bdlm?open\s*\(", ("kernels/gemm_openblas.c", "cli/score_mod.c"),
     "only OpenBLAS is loaded, in one place, and by flashc-run what its user names"),
    ("something is printed", r"\b(?:v?printf|v?fprintf|v?dprintf|puts|fputs|putchar|putc|fputc|perror|psignal)\s*\(",
     ("cli/",), "only the command line tool prints"),
    ("the process is ended", r"\b(?:abort|exit|_exit|_Exit|quick_exit)\s*\(", ("cli/",),
     "a library reports errors, it does not abort"),
    ("a process-wide setting is changed",
     r"\b(?:openblas_set_num_threads|goto_set_num_threads|setlocale|setenv|putenv)\s*\(", (),
     "the host's global state is the host's"),
)
CBLAS_FILE = "kernels/gemm_openblas.c"

MAX_LINES = 400
# Files that may be longer, each with its reason.
LONGER = {}

TOKEN = re.compile(r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">\n]*)[">]', re.MULTILINE)


def blank(text):
    return "".join(c if c == "\n" else " " for c in text)


def strip(text, strings):
    """text without comments (and strings), every line where it was."""
    def replace(match):
        token = match.group()
        return blank(token) if token[0] == "/" or strings else token
    return TOKEN.sub(replace, text)


def floor_of(path):
    for number, prefixes in enumerate(FLOORS):
        if path.startswith(prefixes):
            return number
    return None


def include_breach(path, quote, name, src):
    """Why the file may not include this header, or None."""
    if name.split("/")[-1] in ("cblas.h", "f77blas.h", "openblas_config.h"):
        return None if path == CBLAS_FILE else f"{name} belongs to {CBLAS_FILE} alone"
    if name == PUBLIC_HEADER:
        return None
    outside = next((allowed for prefix, allowed in OUTSIDE.items() if path.startswith(prefix)), None)
    if name == CONFIG_HEADER:
        return f"{name} is the library's" if outside else None
    if not (src / name).is_file():
        return None if quote == "<" else f"\"{name}\" is no file under src/ (includes are relative to src/)"
    if quote == "<":
        return f"<{name}> is a private header: write it in quotes"
    if outside is not None:
        if name.startswith(outside):
            return None
        return f"\"{name}\" is private: only {PUBLIC_HEADER} and {outside} are seen here"
    mine, theirs = floor_of(path), floor_of(name)
    if theirs is None:
        return f"\"{name}\" is on no floor of the library"
    if mine is None:
        return "this file is on no floor: place it in FLOORS or OUTSIDE"
    return f"\"{name}\" is on a higher floor" if theirs > mine else None


def check(root):
    """Yields breaches as (path, line, message); root is the source root."""
    src = root / "src"
    for file in sorted(p for p in src.rglob("*") if p.suffix in (".c", ".h", ".inc")):
        path = file.relative_to(src).as_posix()
        text = file.read_text(encoding="utf-8")
        if floor_of(path) is None and not path.startswith(tuple(OUTSIDE)):
            yield path, 1, "this file is on no floor: place it in FLOORS or OUTSIDE"
            continue
        with_strings = strip(text, strings=False)
        for match in INCLUDE.finditer(with_strings):
            message = include_breach(path, *match.groups(), src)
            if message:
                yield path, text.count("\n", 0, match.start()) + 1, message
        code = strip(text, strings=True)
        for what, pattern, allowed, why in RULES:
            if not path.startswith(allowed):
                for match in re.finditer(pattern, code):
                    yield path, text.count("\n", 0, match.start()) + 1, f"{what} ({match.group().strip('( ')}): {why}"
        lines = text.count("\n")
        if lines > MAX_LINES and path not in LONGER:
            yield path, lines, (f"{lines} lines; {MAX_LINES} is the limit: split it, or list it in LONGER with the "
                                "reason")


def main():
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent)
    files = [p for p in (root / "src").rglob("*") if p.suffix in (".c", ".h", ".inc")]
    breaches = list(check(root))
    for path, line, message in breaches:
        print(f"src/{path}:{line}: {message}")
    lengths = sorted(((p.read_text(encoding="utf-8").count("\n"), p.relative_to(root)) for p in files), reverse=True)
    print("longest files: " + ", ".join(f"{path} {lines}" for lines, path in lengths[:5]))
    print(f"{len(files)} files, {len(breaches)} breaches")
    if not files:
        sys.exit(f"error: no source files under {root / 'src'}")
    sys.exit(1 if breaches else 0)


if __name__ == "__main__":
    main()
