#!/usr/bin/env python3
"""What a call costs beside its arithmetic, in microseconds: the C library, flashc.attention on NumPy arrays and torch
tensors, flashc's torch operator and what it is made of, and torch's own.

    .venv-all/bin/python scripts/measure_call_cost.py [--repeats 200] [--threads 1]

The problem is one query over one key with one element each, so that next to nothing is computed. A figure is
the smallest of the repeats' means: everything else on the machine only adds. "empty operator" does what every
operator must, make its result, registered in each of the ways that torch.library has; the difference between
them is the registration's. The C call is timed by build/src/flashc-run.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import timeit

try:
    import torch
    from torch.library import Library, custom_op

    import flashc
    import flashc.torch
except ModuleNotFoundError as error:
    sys.exit(f"measure_call_cost.py: error: {error.name} is not installed here: take .venv-all/bin/python "
             "(scripts/test --all makes it)")

SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0.0, "
    "bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor"
)
CALLS = 500  # per repeat: about 5 ms, long against the clock and short against other work on the machine


def empty(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
    return torch.empty_like(query)


def redispatch(*args, **kwargs):
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.flashc_measure.redispatch.default(*args, **kwargs)


def empty_operators(library):
    for name in ("define", "redispatch"):
        library.define(name + SCHEMA)
        library.impl(name, empty, "CPU")
    library.impl("redispatch", redispatch, "Autograd")
    custom_op("flashc_measure::custom_op", empty, mutates_args=(), schema=SCHEMA)
    operators = torch.ops.flashc_measure
    return {
        "empty operator, Library.define and impl": operators.define.default,
        "empty operator, the same with an Autograd kernel that redispatches": operators.redispatch.default,
        "empty operator, custom_op": operators.custom_op.default,
    }


def c_call(threads):
    """Seconds of flashc_attention_fwd() on the same problem; None if flashc-run has not been built."""
    program = pathlib.Path(__file__).resolve().parents[1] / "build/src/flashc-run"
    if not program.exists():
        return None
    command = [program, "bench", "--heads", "1", "--seqlen-q", "1", "--head-dim", "1", "--threads", str(threads),
               "--no-limits", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    runs = [run for run in json.loads(done.stdout)["benchmarks"] if run.get("run_type") == "iteration"]
    return min(run["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3}[run["time_unit"]] for run in runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = Library("flashc_measure", "DEF")
    x = torch.ones(1, 1, 1, 1)
    arrays = [x.numpy()] * 3
    attention = {
        "flashc.torch.scaled_dot_product_attention": flashc.torch.scaled_dot_product_attention,
        "torch.ops.flashc.scaled_dot_product_attention": torch.ops.flashc.scaled_dot_product_attention,
        "torch.nn.functional.scaled_dot_product_attention": torch.nn.functional.scaled_dot_product_attention,
    }
    calls = {
        "torch.empty_like": lambda: torch.empty_like(x),
        **{
            name: (lambda f: lambda: f(x, x, x))(operator)
            for name, operator in empty_operators(library).items()
        },
        "flashc.attention, NumPy arrays": lambda: flashc.attention(*arrays),
        "flashc.attention, torch tensors": lambda: flashc.attention(x, x, x),
        **{name: (lambda f: lambda: f(x, x, x))(function) for name, function in attention.items()},
    }
    with torch.no_grad():
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(options.repeats):  # in turns, so that a busy moment does not hit one of them alone
            for name, call in calls.items():
                best[name] = min(best[name], timeit.timeit(call, number=CALLS) / CALLS)
    seconds = c_call(options.threads)
    print("   ? us" if seconds is None else f"{seconds * 1e6:6.1f} us", " flashc_attention_fwd in C (flashc-run bench)")
    for name, seconds in best.items():
        print(f"{seconds * 1e6:6.1f} us  {name}")


if __name__ == "__main__":
    main()
