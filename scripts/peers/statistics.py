"""Numbers of the rounds: order of turns, medians, spreads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def turns(systems: Sequence[Any], round_index: int) -> list[Any]:
    """The order of one round: each system once, the next one first in each round, the direction alternating.

    So none is always first, and none always runs after the same other one.
    """
    first = round_index % len(systems) if systems else 0
    order = [*systems[first:], *systems[:first]]
    return order[::-1] if round_index % 2 else order


def calls_for(seconds_per_call: float, least_seconds: float) -> int:
    """How many calls in a row last so long; in a row they are a little faster than the first ones were."""
    if seconds_per_call >= least_seconds:
        return 1
    return math.ceil(1.1 * least_seconds / max(seconds_per_call, 1e-8))


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def stddev(values: Sequence[float]) -> float:
    """Of a sample; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    middle = mean(values)
    return math.sqrt(math.fsum((x - middle) ** 2 for x in values) / (len(values) - 1))


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median."""
    return (max(values) - min(values)) / median(values)
