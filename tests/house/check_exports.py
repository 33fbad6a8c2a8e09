#!/usr/bin/env python3
"""The shared library exports the functions of flashc.h and nothing else; the static one defines flashc_* only.

    check_exports.py HEADER STATIC_LIBRARY [SHARED_LIBRARY]
"""
import re
import subprocess
import sys


def declared(header):
    """Names of the functions that the header declares FLASHC_API."""
    text = re.sub(r"/\*.*?\*/", "", open(header, encoding="utf-8").read(), flags=re.DOTALL)
    text = re.sub(r"^[ \t]*#.*$", "", text, flags=re.MULTILINE)
    names = re.findall(r"\bFLASHC_API\b[^;{]*?\b(\w+)\s*\(", text)
    if len(names) != len(re.findall(r"\bFLASHC_API\b", text)):
        sys.exit(f"error: {header}: not every FLASHC_API is a function")
    return set(names)


def defined(library, *options):
    output = subprocess.run(["nm", "-g", "--defined-only", "-P", *options, library], check=True, capture_output=True,
                            text=True).stdout
    return {line.split()[0].split("@")[0] for line in output.splitlines() if len(line.split()) > 1}


def main():
    header, static, *shared = sys.argv[1:]
    public = declared(header)
    problems = []
    for library in shared:
        exported = defined(library, "-D")
        problems += [f"{library} exports {name}, which flashc.h does not declare" for name in exported - public]
        problems += [f"{library} does not export {name}" for name in public - exported]
    in_archive = defined(static)
    problems += [f"{static} defines {name}: non-static names begin with flashc_" for name in in_archive
                 if not name.startswith("flashc_")]
    problems += [f"{static} does not define {name}" for name in public - in_archive]
    for problem in sorted(problems):
        print(problem)
    print(f"{len(public)} functions in flashc.h, {len(problems)} problems; "
          f"checked: {', '.join([static, *shared])}")
    sys.exit(1 if problems or not public else 0)


if __name__ == "__main__":
    main()
