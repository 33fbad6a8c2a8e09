#!/usr/bin/env python3
"""`meson install` puts down all that others need: programs of theirs build and run against it.

    check_install.py BUILD_DIRECTORY HEADER LIBRARY LIBRARY_KIND(both|shared|static) CLI(true|false) CC...

Into a temporary directory. Then, through pkg-config alone: a C11 and a C++17 program, against the shared and
the static library; the program in flashc.h's leading comment and those in README; flashc-run and its man page.
LIBRARY is any that was built: meson names a cross build's emulator only to tests that take something built for the
machine emulated.
"""
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

CLIENT = pathlib.Path(__file__).resolve().parent / "client" / "client.c"
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
# In a cross build meson names the emulator.
WRAPPER = shlex.split(os.environ.get("MESON_EXE_WRAPPER", ""))
FAILURES = []
NOT_RUN = []


def expect(condition, message):
    print(("ok: " if condition else "FAILED: ") + message)
    if not condition:
        FAILURES.append(message)
    return condition


def run(command, **keywords):
    result = subprocess.run(command, capture_output=True, text=True, **keywords)
    if result.returncode:
        print(f"$ {shlex.join(map(str, command))}\nexit {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def meson_of(build):
    """The meson that made the build directory: another version could not read it."""
    ninja = (build / "build.ninja").read_text(encoding="utf-8")
    match = re.search(r"^ *command = (.*?) --internal regenerate", ninja, re.MULTILINE)
    return shlex.split(match.group(1)) if match else ["meson"]


class Installed:
    def __init__(self, prefix, kind):
        self.prefix, self.kind = prefix, kind
        self.libdir = next(prefix.rglob("libflashc.*")).parent
        self.env = dict(os.environ, PKG_CONFIG_PATH=str(self.libdir / "pkgconfig"), LD_LIBRARY_PATH=str(self.libdir))

    def flags(self, *options):
        result = run(["pkg-config", f"--define-variable=prefix={self.prefix}", *options, "flashc"], env=self.env)
        return shlex.split(result.stdout)

    def compile_and_run(self, compiler, source, out, extra=()):
        """stdout, or None."""
        static = ["--static"] if self.kind == "static" else []
        built = run([*compiler, *STRICT, *extra, *self.flags("--cflags"), "-o", out, source, "-x", "none",
                     *self.flags("--libs", *static)])
        result = run([*WRAPPER, out], env=self.env) if built.returncode == 0 else built
        if result.returncode:
            return None
        dynamic = run(["readelf", "-d", out]).stdout
        expect(("libflashc.so" in dynamic) == (self.kind == "shared"),
               f"{out.name} is linked with the {self.kind} library")
        return result.stdout


def header_program(header):
    """The program in the leading comment of flashc.h."""
    comment = header.read_text(encoding="utf-8").split("*/", 1)[0]
    lines = comment.split("The smallest program:", 1)[1].splitlines()
    return "\n".join(line.replace(" *", "", 1) for line in lines) + "\n"


def check_clients(installed, header, cc, work):
    kind = installed.kind
    # The host's C++ compilers make programs for the host only.
    names = () if WRAPPER else ("c++", "g++", "clang++", "clang++-14")
    cxx = next((name for name in names if shutil.which(name)), None)
    outputs = {}
    clients = [("C11", [*cc, "-std=c11", "-x", "c"])]
    if cxx:
        clients.append(("C++17", [cxx, "-std=c++17", "-x", "c++"]))
    else:
        NOT_RUN.append("C++17 program: no C++ compiler" + (" for the machine emulated" if WRAPPER else ""))
    for language, compiler in clients:
        out = work / f"client-{language}-{kind}"
        text = installed.compile_and_run(compiler, CLIENT, out)
        if expect(text is not None, f"{language} program, {kind} library: builds and runs"):
            outputs[language] = text
            expect(text.splitlines()[2] == "5.000000 1.386294", f"{language} program: the right numbers")

    source = work / "header_program.c"
    source.write_text(header_program(header), encoding="utf-8")
    text = installed.compile_and_run([*cc, "-std=c11"], source, work / f"header_program-{kind}", ["-x", "c"])
    if expect(text is not None, f"the program in flashc.h, {kind} library: builds and runs"):
        first = math.exp(8**-0.5)
        expect(abs(float(text) - first / (first + 5)) < 2e-6, "the program in flashc.h: the right number")
    check_readme_programs(installed, header, cc, work)
    return outputs


def check_readme_programs(installed, header, cc, work):
    """The C programs in README behind the first, which is flashc.h's, print what README says. (C without main is for
    flashc-run to load: check_readme.py.)"""
    readme = (header.parent.parent / "README.md").read_text(encoding="utf-8")
    programs = re.findall(r"```c\n(.*?)```\n\n((?:    [^\n]*\n)*)", readme, re.DOTALL)[1:]
    programs = [(program, output) for program, output in programs if "int main(" in program]
    expect(programs, "README has more C programs than the first")
    for number, (program, output) in enumerate(programs, 2):
        source = work / f"readme_{number}.c"
        source.write_text(program, encoding="utf-8")
        text = installed.compile_and_run([*cc, "-std=c11"], source, work / f"readme_{number}-{installed.kind}",
                                         ["-x", "c"])
        expect(text == re.sub(r"(?m)^    ", "", output), f"README's C program {number} builds and prints what it says")


def check_program(installed, version):
    """flashc-run and its man page. Returns the BLAS that flashc-run finds."""
    # Where it lies, without the loader being told of the library: no ldconfig has run.
    env = {name: value for name, value in installed.env.items() if name != "LD_LIBRARY_PATH"}
    result = run([*WRAPPER, installed.prefix / "bin" / "flashc-run", "--version"], env=env)
    expect(result.returncode == 0 and version in result.stdout, "flashc-run is installed and runs")
    page = installed.prefix / "share" / "man" / "man1" / "flashc-run.1"
    if shutil.which("scdoc"):
        expect(page.is_file() and b"flashc-run" in page.read_bytes(), "its man page is installed")
    else:
        NOT_RUN.append("man page: no scdoc")
    info = run([*WRAPPER, installed.prefix / "bin" / "flashc-run", "info", "--json"], env=installed.env)
    blas = json.loads(info.stdout)["blas"] if info.returncode == 0 else "flashc-run info fails"
    print(f"BLAS found by flashc-run: {blas}")
    return blas


def check_all(build, header, library_kind, with_cli, cc, work):
    root = work / "root"
    result = run([*meson_of(build), "install", "-C", build, "--destdir", root, "--no-rebuild"])
    prefix = next((p.parent.parent for p in root.rglob("include/flashc.h")), None)
    if not expect(result.returncode == 0 and prefix is not None, "meson install puts down flashc.h"):
        return
    expect([p.name for p in (prefix / "include").rglob("*.h")] == ["flashc.h"], "and no other header")
    kinds = ("shared", "static") if library_kind == "both" else (library_kind,)
    blas = set()
    for kind in kinds:
        installed = Installed(prefix, kind)
        version = installed.flags("--modversion")[0]
        if with_cli and kind == kinds[0]:
            blas.add(check_program(installed, version))
        if kind == "static":  # the linker would take the shared one
            for library in installed.libdir.glob("libflashc.so*"):
                library.unlink()
        for language, text in check_clients(installed, header, cc, work).items():
            expect(text.splitlines()[0] == version, f"{language} program: the library's version is flashc.pc's")
            print(f"BLAS found by the {kind} library: {text.splitlines()[1]}")
            blas.add(text.splitlines()[1])
    expect(len(blas) <= 1, "however it is linked, the library finds the same BLAS: " + ", ".join(sorted(blas)))


def main():
    build, header, _, library_kind, with_cli, *cc = sys.argv[1:]
    if not shutil.which("pkg-config"):
        print("not run: no pkg-config")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        check_all(pathlib.Path(build), pathlib.Path(header), library_kind, with_cli == "true", cc,
                  pathlib.Path(folder))
    for reason in NOT_RUN:
        print("not run: " + reason)
    sys.exit(1 if FAILURES else 77 if NOT_RUN else 0)


if __name__ == "__main__":
    main()
