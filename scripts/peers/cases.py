"""What is compared: shapes, types, and how much work and memory traffic each of them is."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Sequence

ITEM_SIZE = {"f32": 4, "f16": 2, "bf16": 2}
# Types of caches of codes: bytes of an element, and of what a row has besides (the scale of int8). q8_0: blocks of 32
# codes and an f16 scale.
CACHE_SIZE = {"i8": (1.0, 4), "q8_0": (34 / 32, 0)}
# The curves that are drawn: group -> the field on the horizontal axis.
CURVES = {"seqlen": "seqlen_k", "head_dim": "head_dim", "batch": "batch", "cache": "seqlen_k"}


@dataclasses.dataclass(frozen=True)
class Case:
    """q [batch, heads, seqlen_q, head_dim], k and v [batch, heads_k, seqlen_k, head_dim or head_dim_v].

    causal needs seqlen_q == seqlen_k, where all alignments are the same. bias is "" (none), "head"
    ([1, heads, seqlen_q, seqlen_k] f32) or "shared" (one for all heads). window: with causal, so many keys are seen,
    the query's own position included; 0 for all. cold: K and V come from memory, in
    copies that are used in turn; such a case is ranked by the bytes of K and V it reads, others by work.
    cache: K and V are codes of this type (CACHE_SIZE); who has none gets what they stand for, in f32. softcap: of the
    scores, 0 for none. alibi, sinks: a slope, a logit for each head. lengths: of each batch element, queries and keys
    alike; the arrays are padded, and rows of padding count nowhere. page: K and V lie in pages of so many rows, in no
    order; 0: they do not.
    """

    dtype: str
    head_dim: int
    seqlen_k: int
    seqlen_q: int = 0  # 0: as seqlen_k
    head_dim_v: int = 0  # 0: as head_dim
    batch: int = 1
    heads: int = 8
    heads_k: int = 0  # 0: as heads
    causal: bool = False
    window: int = 0
    bias: str = ""
    threads: int = 1
    cold: bool = False
    cache: str = ""
    softcap: float = 0.0
    alibi: bool = False
    sinks: bool = False
    lengths: tuple[int, ...] = ()
    page: int = 0
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, default in (
            ("seqlen_q", self.seqlen_k),
            ("head_dim_v", self.head_dim),
            ("heads_k", self.heads),
        ):
            if getattr(self, field) == 0:
                object.__setattr__(self, field, default)
        object.__setattr__(self, "groups", tuple(self.groups))
        object.__setattr__(self, "lengths", tuple(self.lengths))
        if self.lengths and (
            self.seqlen_q != self.seqlen_k or len(self.lengths) != self.batch or max(self.lengths) != self.seqlen_k
        ):
            raise ValueError(f"lengths {self.lengths} of {self.batch} x {self.seqlen_q} x {self.seqlen_k}")
        if self.page and self.seqlen_k % self.page:
            raise ValueError(f"{self.seqlen_k} keys in pages of {self.page}")
        if self.causal and self.seqlen_q != self.seqlen_k:
            raise ValueError(
                f"causal with {self.seqlen_q} queries and {self.seqlen_k} keys: alignments differ there"
            )
        if self.window and not self.causal:
            raise ValueError(f"a window of {self.window} keys without causal")
        if (
            self.heads % self.heads_k
            or self.dtype not in ITEM_SIZE
            or self.bias not in ("", "head", "shared")
            or self.cache not in ("", *CACHE_SIZE)
        ):
            raise ValueError(f"not a case: {self}")

    @property
    def kind(self) -> str:
        """full, causal, window, bias or decode, and what comes to it, as in decode+q8_0."""
        plain = "causal" if self.causal else "full"
        if self.cold:
            plain = "decode"
        elif self.bias:
            plain = "bias" if self.bias == "head" else "shared-bias"
        elif self.window:
            plain = f"window{self.window}"
        more = [self.cache, f"pages{self.page}" if self.page else ""]
        more += [name for name in ("softcap", "alibi", "sinks") if getattr(self, name)]
        more += ["packed"] if self.lengths else []
        return "+".join([plain, *filter(None, more)])

    @property
    def precision(self) -> str:
        """The type whose rounding a result may show: bf16 is finer than the codes of a cache."""
        return "bf16" if self.cache else self.dtype

    @property
    def name(self) -> str:
        """For example bf16/causal/d128/h32k8/L1024/t1; unique, and what patterns select by."""
        dim = f"d{self.head_dim}" + (f"v{self.head_dim_v}" if self.head_dim_v != self.head_dim else "")
        heads = f"h{self.heads}" + (f"k{self.heads_k}" if self.heads_k != self.heads else "")
        length = (
            f"L{self.seqlen_k}" if self.seqlen_q == self.seqlen_k else f"L{self.seqlen_q}x{self.seqlen_k}"
        )
        batch = [f"B{self.batch}"] if self.batch > 1 else []
        return "/".join([self.dtype, self.kind, dim, heads, *batch, length, f"t{self.threads}"])

    @property
    def flops(self) -> float:
        """Useful operations: 2 (head_dim + head_dim_v) for each (query, key) pair that is visible."""
        if self.lengths:
            pairs = sum(self._pairs(n, n) for n in self.lengths)
        else:
            pairs = self.batch * self._pairs(self.seqlen_q, self.seqlen_k)
        return 2.0 * (self.head_dim + self.head_dim_v) * pairs * self.heads

    def _pairs(self, queries: int, keys: int) -> int:
        pairs = queries * (queries + 1) // 2 if self.causal else queries * keys
        if self.window:  # without the triangle that is further back
            hidden = max(0, queries - self.window)
            pairs -= hidden * (hidden + 1) // 2
        return pairs

    @property
    def kv_bytes(self) -> int:
        """Bytes of K and V, each once, scales included."""
        size, more = CACHE_SIZE[self.cache] if self.cache else (ITEM_SIZE[self.dtype], 0)
        width = int((self.head_dim + self.head_dim_v) * size) + 2 * more
        return (sum(self.lengths) or self.batch * self.seqlen_k) * self.heads_k * width

    @property
    def unit(self) -> str:
        return "GB/s" if self.cold else "GFLOP/s"

    @property
    def work(self) -> float:
        """What the rate counts, in units of 1e9."""
        return (self.kv_bytes if self.cold else self.flops) * 1e-9

    def grouped(self) -> Case | None:
        """The same computation with the query heads of a group as rows of one head, where that is possible.

        q [batch, heads, seqlen_q, d] is then read, without a copy, as [batch, heads_k, group * seqlen_q, d].
        A careful caller does so with a system that reads K and V once for each query head.
        """
        if self.heads == self.heads_k or self.causal or self.bias or self.lengths or self.sinks:
            return None
        rows = self.heads // self.heads_k * self.seqlen_q
        return dataclasses.replace(self, heads=self.heads_k, seqlen_q=rows)


def _table() -> Iterable[Case]:
    """One row of the README's table each."""
    yield from (Case("f32", d, 2048, causal=c) for d in (32, 64, 80, 128, 256) for c in (False, True))
    yield from (Case("f32", 192, 2048, head_dim_v=128, causal=c) for c in (False, True))
    yield from (Case(t, d, 2048, causal=c) for t in ("bf16", "f16") for d in (64, 128) for c in (False, True))
    yield from (Case("f32", 64, 2048, bias=b) for b in ("head", "shared"))
    yield from (Case("f32", 64, 128, batch=16, heads=12, threads=t) for t in (1, 2))
    yield Case("f32", 64, 512, batch=16, heads=12)
    yield from (Case(t, 128, 1024, heads=32, heads_k=8, causal=True) for t in ("f32", "bf16"))
    yield Case("f32", 128, 8192, causal=True)
    yield Case("f32", 128, 8192, causal=True, window=1024)
    yield from (Case("f32", d, 2048, causal=c, threads=2) for d in (64, 128) for c in (False, True))
    yield Case("bf16", 128, 2048, threads=2)
    yield Case("f32", 128, 1024, heads=32, heads_k=8, causal=True, threads=2)
    decode = {"cold": True, "threads": 2, "heads": 32, "heads_k": 8}
    yield from (Case(t, 128, 16384, 1, **decode) for t in ("f32", "bf16", "f16"))
    yield from (Case("bf16", 128, 16384, n, **decode) for n in (4, 16))
    yield Case("f32", 128, 16384, 1, heads=8, heads_k=1, cold=True, threads=2)
    yield from (Case(t, 128, 2048, 1, batch=8, **decode) for t in ("f32", "bf16"))


def _features() -> Iterable[Case]:
    """One row of the README's table of features each."""
    decode = {"cold": True, "threads": 2, "heads_k": 8}
    for cache in CACHE_SIZE:
        yield from (Case("f32", 128, 16384, 1, heads=8 * group, cache=cache, **decode) for group in (1, 2, 4))
    for dtype in ("f32", "bf16"):
        yield from (Case(dtype, 128, 16384, 1, heads=32, page=page, **decode) for page in (16, 256))
    yield from (Case("f32", 128, 2048, causal=c, softcap=30.0) for c in (False, True))
    yield Case("f32", 128, 2048, causal=True, alibi=True)
    yield Case("f32", 128, 2048, causal=True, sinks=True)
    yield Case("f32", 64, 2048, causal=True, window=128, sinks=True, heads=8, heads_k=1)
    yield Case("f32", 64, 512, batch=16, heads=12, lengths=tuple(32 * n for n in range(1, 17)))
    yield Case("f32", 128, 1024, batch=4, heads=32, heads_k=8, causal=True, lengths=(1024, 700, 300, 100))


def _curves() -> Iterable[Case]:
    """The points of the plots; each group has two panels."""
    for dtype, causal in (("f32", True), ("bf16", True)):
        for seqlen in (256, 512, 1024, 2048, 4096):
            yield Case(dtype, 64, seqlen, causal=causal, groups=("seqlen",))
    for dtype, causal in (("f32", False), ("bf16", True)):
        for dim in (32, 64, 96, 128, 256):
            yield Case(dtype, dim, 1024, causal=causal, groups=("head_dim",))
    for threads in (1, 2):
        for batch in (1, 4, 16, 64):
            yield Case("f32", 64, 128, batch=batch, heads=12, threads=threads, groups=("batch",))
    for dtype in ("f32", "bf16"):
        for seqlen in (1024, 4096, 16384, 65536):
            yield Case(dtype, 128, seqlen, 1, heads=32, heads_k=8, threads=2, cold=True, groups=("cache",))


def _quick() -> Iterable[Case]:
    """Every kind of case and every curve, each in milliseconds: to see that all systems run and are right."""
    group = ("table",)
    for dtype in ITEM_SIZE:
        yield Case(dtype, 64, 128, heads=2, groups=("table", "seqlen"))
        yield Case(dtype, 64, 128, heads=2, causal=True, groups=group)
        yield Case(dtype, 64, 512, 1, heads=8, heads_k=2, cold=True, threads=2, groups=("table", "cache"))
        yield Case(dtype, 64, 128, heads=8, heads_k=2, causal=True, groups=group)
    yield Case("f32", 64, 256, heads=2, causal=True, window=96, groups=group)
    yield from (Case("f32", 64, 128, heads=2, bias=b, groups=group) for b in ("head", "shared"))
    yield from (Case("f32", 192, 128, heads=2, head_dim_v=128, causal=c, groups=group) for c in (False, True))
    yield from (Case("f32", 64, 64, batch=b, heads=2, threads=2, groups=("table", "batch")) for b in (2, 4))
    yield from (Case("f32", d, 64, heads=2, groups=("head_dim",)) for d in (40, 80))
    yield from _quick_features()
    yield Case("f32", 64, 256, heads=2, groups=("seqlen",))
    yield Case("f32", 64, 2048, 4, heads=8, heads_k=2, cold=True, threads=2, groups=("cache",))


def _quick_features() -> Iterable[Case]:
    group = ("features",)
    decode = {"cold": True, "threads": 2, "heads": 8, "heads_k": 2, "groups": group}
    yield from (Case("f32", 64, 512, 1, cache=cache, **decode) for cache in CACHE_SIZE)
    yield from (Case(dtype, 64, 512, 1, page=16, **decode) for dtype in ("f32", "bf16"))
    yield from (Case("f32", 64, 128, heads=2, causal=c, softcap=2.0, groups=group) for c in (False, True))
    yield Case("f32", 64, 128, heads=2, causal=True, alibi=True, groups=group)
    yield Case("f32", 64, 128, heads=2, causal=True, sinks=True, groups=group)
    yield Case("f32", 64, 256, heads=4, heads_k=2, causal=True, window=96, sinks=True, groups=group)
    yield Case("f32", 64, 96, batch=3, heads=2, lengths=(96, 32, 5), groups=group)
    yield Case("f32", 64, 96, batch=3, heads=4, heads_k=2, causal=True, lengths=(96, 32, 5), groups=group)


def all_cases(quick: bool = False) -> list[Case]:
    """Every case once, by order of first mention; one that is wanted twice has both groups."""
    if quick:
        wanted = list(_quick())
    else:
        wanted = [dataclasses.replace(case, groups=("table",)) for case in _table()]
        wanted += [dataclasses.replace(case, groups=("features",)) for case in _features()]
        wanted += _curves()
    merged: dict[str, Case] = {}
    for case in wanted:
        groups = merged[case.name].groups if case.name in merged else ()
        added = tuple(group for group in case.groups if group not in groups)
        merged[case.name] = dataclasses.replace(case, groups=groups + added)
    return list(merged.values())


def select(cases: Sequence[Case], patterns: Sequence[str], threads: int) -> list[Case]:
    """The cases whose name or a group of theirs matches a pattern (none: all), on at most so many threads."""

    def wanted(case: Case) -> bool:
        return not patterns or any(
            fnmatch.fnmatchcase(text, p) for p in patterns for text in (case.name, *case.groups)
        )

    return [case for case in cases if case.threads <= threads and wanted(case)]
