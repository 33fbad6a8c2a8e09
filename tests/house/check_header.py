#!/usr/bin/env python3
"""flashc.h compiles alone, in every C and C++ that it promises, without a warning, under each compiler here.

    check_header.py INCLUDE_DIRECTORY
"""
import shutil
import subprocess
import sys

COMPILERS = {"c": ("gcc", "clang", "clang-14"), "c++": ("g++", "clang++", "clang++-14")}
STANDARDS = {"c": ("c99", "c11", "c17"), "c++": ("c++11", "c++17", "c++20")}
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wundef", "-Werror")
# Included first and twice, and its macros and inline parts used.
PROGRAM = """
#include <flashc.h>
#include <flashc.h>
float flashc_use(flashc_attention_params *params);
float flashc_use(flashc_attention_params *params)
{
    flashc_attention_params_init(params, sizeof *params);
    params->softmax_scale = FLASHC_SCALE_DEFAULT;
    return params->softmax_scale + (float)FLASHC_VERSION_MAJOR;
}
"""


def compile_with(compiler, language, standard, include, source):
    command = [compiler, "-x", language, f"-std={standard}", *WARNINGS, "-I", include, "-fsyntax-only", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True)


def main():
    include = sys.argv[1]
    failures, absent = 0, []
    for language, compilers in COMPILERS.items():
        present = [compiler for compiler in compilers if shutil.which(compiler)]
        if not present:
            absent.append(language)
        for compiler in present:
            for standard in STANDARDS[language]:
                result = compile_with(compiler, language, standard, include, PROGRAM)
                print(f"{compiler} -std={standard}: {'ok' if result.returncode == 0 else 'FAILED'}")
                if result.returncode:
                    failures += 1
                    print(result.stderr)
            # The flags must be able to fail: a declaration that shadows is refused.
            broken = PROGRAM + """
int flashc_x(int y);
int flashc_x(int y) { int z = y; { int z = 1; (void)z; } return z; }
"""
            if compile_with(compiler, language, STANDARDS[language][0], include, broken).returncode == 0:
                failures += 1
                print(f"{compiler}: warnings are not errors here; this check checks nothing")
    if failures:
        sys.exit(1)
    if absent:
        print(f"not run: no compiler for {' and '.join(absent)}")
        sys.exit(77)


if __name__ == "__main__":
    main()
