"""Keeps other work off the machine while something is timed, with a command of the user's."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator


@contextlib.contextmanager
def hush(command: str) -> Iterator[None]:
    """Runs 'command cat': what it sends back shows that it is ready; it ends when its standard input does."""
    if not command:
        yield
        return
    with subprocess.Popen([*shlex.split(command), "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          bufsize=0) as process:
        with contextlib.suppress(BrokenPipeError):  # it has ended: it sends nothing back either
            process.stdin.write(b"ready\n")
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"--hush: {command} cat did not start")
        yield
        process.stdin.close()
