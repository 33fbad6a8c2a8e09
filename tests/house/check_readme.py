#!/usr/bin/env python3
"""README.md agrees with the header and with --help: check_readme.py SOURCE_DIRECTORY FLASHC_RUN C_COMPILER...

The C program in README is the one in flashc.h; every command line of flashc-run in README names a command and
options that its --help has; every script that README names can be run; every link within README leads to a heading,
every other one to a file; no line of prose is longer than 120 characters. The examples of flashc-run ("$ flashc-run
...") run on the arrays of scripts/example_arrays.py and print what README says, but for numbers and names that depend
on the machine; why kernels were refused is something that the library can say. C that begins with the name of its file
is there, too, for "$ cc ..." to compile.
"""
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

# First words of the lines whose numbers and names of kernels depend on the machine, and what stands before numbers that
# depend on the C library.
OF_THE_MACHINE = {"kernel", "gemm", "tiles", "items", "threads", "workspace", "time", "speed", "refused"}
ROUNDING = "largest "
NUMBER = re.compile(r"\d+(?:\.\d+)*(?:e[-+]?\d+)?")
GEMM = re.compile(r"gemm (built-in|OpenBLAS # \w+ openmp)")

source = pathlib.Path(sys.argv[1])
# In a cross build meson names the emulator.
compiler = sys.argv[3:]
flashc_run = [*shlex.split(os.environ.get("MESON_EXE_WRAPPER", "")), os.path.abspath(sys.argv[2])]
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
    if not os.access(source / script, os.X_OK):
        problems.append(f"{script} is no program that can be run")

headings = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"(?m)^#+ (.*)$", re.sub(r"```.*?```", "", readme, flags=re.S))}
for link in re.findall(r"\]\(([^)]*)\)", readme):
    if link.startswith("#") and link[1:] not in headings:
        problems.append(f"no heading for the link {link}")
    elif not link.startswith(("#", "http")) and not (source / link).exists():
        problems.append(f"no file for the link {link}")
for line in readme.splitlines():
    if len(line) > 120 and not line.startswith(("|", "    ")): # tables, and output as it is printed
        problems.append(f"more than 120 characters: {line}")


def program_of(command):
    """flashc-run as it was built; cc with the header where it lies, and not where it would be installed."""
    program, *arguments = shlex.split(command.replace("$(pkg-config --cflags flashc)", f"-I{source / 'include'}"))
    return [*(compiler if program == "cc" else flashc_run), *arguments]


def masked(text):
    """Without blanks that align, and what depends on the machine."""
    return " ".join(NUMBER.sub("#", KERNELS.sub("KERNEL", text)).split())


def strings_of_library():
    """Those in its sources, masked; what a macro puts between two of them is a number."""
    one = r'"(?:[^"\\\n]|\\.)*"'
    for path in (source / "src").rglob("*.[ch]"):
        for chain in re.findall(rf"{one}(?:\s*(?:#\w+\s*)?{one})*", path.read_text(encoding="utf-8")):
            yield masked(re.sub(r'"\s*"', "", re.sub(r'"\s*#\w+\s*"', "1", chain))[1:-1])


def can_be_printed(line, printed):
    """A line of the machine's, here or on another one."""
    found = masked(line)
    if found.startswith("refused"):
        return found.startswith("refused KERNEL: ") and found.removeprefix("refused KERNEL: ") in reasons
    return found in printed or bool(GEMM.fullmatch(found))


def check_example(command, expected, folder):
    done = subprocess.run(program_of(command), cwd=folder, capture_output=True, text=True, check=False)
    printed = {line.rstrip() for line in (done.stdout + done.stderr).splitlines()} | {""}
    masked_lines = {masked(line) for line in printed}
    fails = any(line.startswith("flashc-run: ") for line in expected)
    if (done.returncode != 0) != fails:
        problems.append(f"exit status {done.returncode} of {command}: {done.stderr.strip()}")
    for line in expected:
        depends = ROUNDING in line or line.split()[:1] in [[word] for word in OF_THE_MACHINE]
        if line.strip() != "..." and not (can_be_printed(line, masked_lines) if depends else line.rstrip() in printed):
            problems.append(f"{command}: does not print: {line}")


table = (source / "src" / "kernels" / "kernel_table.c").read_text(encoding="utf-8") # of all architectures
names = re.findall(r'(?m)^    \{"(\w+)", "', table)
KERNELS = re.compile(rf"\b(?:{'|'.join(names)})\b")
reasons = set(strings_of_library())
examples = 0
with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.executable, source / "scripts" / "example_arrays.py", folder], check=True)
    for text, name in re.findall(r"```c\n(/\* (\w+\.c):.*?)```", readme, re.S):
        pathlib.Path(folder, name).write_text(text, encoding="utf-8")
    for block in re.findall(r"(?:^    .*\n)+", readme, re.M):
        lines = re.sub(r"\\\n *", "", block).splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith("    $ ")] + [len(lines)]
        for start, end in zip(starts, starts[1:]):
            command = lines[start].removeprefix("    $ ")
            if command.startswith(("flashc-run ", "cc ")):
                examples += 1
                check_example(command, [line.removeprefix("    ") for line in lines[start + 1:end]], folder)
if len(names) < 10:
    problems.append(f"only {len(names)} kernels found in the table: is this still its form?")
if examples < 10:
    problems.append(f"only {examples} examples of flashc-run found: is this still README's form?")

print(f"{commands} command lines of flashc-run checked, {examples} examples run")
for problem in problems:
    print("README.md:", problem)
sys.exit(bool(problems))
