#!/usr/bin/env python3
"""README.md agrees with the header and with --help: check_readme.py SOURCE_DIRECTORY FLASHC_RUN

The C program in README is the one in flashc.h; every command line of flashc-run in README names a command and
options that its --help has; every script that README names exists.
"""
import os
import pathlib
import re
import shlex
import subprocess
import sys

source = pathlib.Path(sys.argv[1])
# In a cross build meson names the emulator.
flashc_run = [*shlex.split(os.environ.get("MESON_EXE_WRAPPER", "")), sys.argv[2]]
readme = (source / "README.md").read_text(encoding="utf-8")
header = (source / "include" / "flashc.h").read_text(encoding="utf-8")
problems = []


def squeeze(code):
    return [line.strip() for line in code.strip().splitlines()]


def help_of(command):
    return subprocess.run([*flashc_run, command, "--help"], capture_output=True, text=True, check=False).stdout


program = re.search(r"```c\n(.*?)```", readme, re.S).group(1)
in_header = re.search(r"( \*     #include <flashc.h>.*? \*     }\n)", header, re.S).group(1)
if squeeze(program) != squeeze(in_header.replace(" *     ", "")):
    problems.append("the C program differs from the one in flashc.h")

lines = re.findall(r"flashc-run ([a-z]+)((?: [^`\n]*)?)", re.sub(r"/flashc-run", " flashc-run", readme))
commands = 0
for command, rest in lines:
    text = help_of(command)
    if not text.startswith("Usage: flashc-run " + command):
        continue # prose, not a command line
    commands += 1
    for option in re.findall(r"(?<= )--?[a-z][a-z-]*", rest):
        if not re.search(rf"(?m)^ *(-\w, )?{re.escape(option)}\b|^ *{re.escape(option)}, ", text):
            problems.append(f"flashc-run {command} has no option {option}")
if commands < 10:
    problems.append(f"only {commands} command lines of flashc-run found: is this still README's form?")
for script in set(re.findall(r"`?(scripts/[a-z0-9_]+(?:\.py)?|\.ci/run)", readme)):
    if not (source / script).exists():
        problems.append(f"{script} does not exist")

print(f"{commands} command lines of flashc-run checked")
for problem in problems:
    print("README.md:", problem)
sys.exit(bool(problems))
