"""What this machine and this build have."""

from __future__ import annotations

from typing import NamedTuple

from . import _core


class Kernel(NamedTuple):
    """A kernel of the table."""

    name: str
    """for the argument kernel of attention()"""
    description: str
    """one line"""
    unavailable: str | None
    """None if this machine can run it, else the reason"""


def kernels() -> list[Kernel]:
    """The kernels, best first."""
    return [Kernel(*row) for row in _core.kernels()]


class Info(NamedTuple):
    """The library and the machine."""

    version: str
    """of the library inside this package"""
    cpu_features: list[str]
    """those that kernels ask for; FLASHC_DISABLE_CPU_FEATURES hides some"""
    blas: str
    """"OpenBLAS" with version, core and build; or "none" and why: then the built-in kernels do everything"""
    openmp: bool
    """built with OpenMP"""
    default_threads: int
    """what num_threads=0 means here"""


def info() -> Info:
    """What this machine and this build have."""
    version, cpu_features, blas, openmp, default_threads = _core.info()
    return Info(version, cpu_features.split(), blas, openmp, default_threads)
