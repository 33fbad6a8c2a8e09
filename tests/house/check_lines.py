#!/usr/bin/env python3
"""No line of code is longer than 120 characters: check_lines.py SOURCE_ROOT. (Of README, check_readme.py.)"""
import pathlib
import sys

LONGEST = 120
FOLDERS = ("include", "src", "tests", "scripts", ".ci")
SUFFIXES = {".c", ".h", ".py", ".pyi", ".build", ".scd", ".toml", ""}  # "": shell scripts

root = pathlib.Path(sys.argv[1])
files = [root / name for name in ("meson.build", "meson_options.txt", "pyproject.toml")]
files += [file for folder in FOLDERS for file in sorted((root / folder).rglob("*"))
          if file.suffix in SUFFIXES and file.is_file()]
problems = [f"{file.relative_to(root)}:{number}: {len(line)} characters, {LONGEST} are the limit"
            for file in files
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if len(line) > LONGEST]
print(*problems, f"{len(files)} files, {len(problems)} lines that are too long", sep="\n")
sys.exit(1 if problems or len(files) < 200 else 0)
