"""Arrays that several tests lend to flashc."""
from typing import Any


def frozen(a: Any) -> Any:
    a = a.copy()
    a.flags.writeable = False
    return a


class Dlpack:
    """A producer that has nothing but DLPack, of NumPy's making."""

    def __init__(self, a: Any) -> None:
        self.a = a

    def __dlpack__(self, **options: Any) -> Any:
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.a.__dlpack_device__()
