#!/usr/bin/env python3
"""A walk through the online softmax with flashc's own functions: why attention can take its keys piece by piece.

    scripts/online_softmax_tour.py [--picture FILE]     needs flashc and NumPy; the picture matplotlib

Read it from top to bottom beside its output. The method is that of Milakov and Gimelshein, "Online normalizer
calculation for softmax" (2018), and of FlashAttention (Dao et al., 2022), which applies it to tiles of attention.
"""

import argparse

import numpy as np

import flashc


def show(title: str, *values: object) -> None:
    print(f"{title:34}", *(f"{v:.4f}" if isinstance(v, float | np.floating) else v for v in values))


def split_softmax() -> None:
    """1. The softmax of a row in two halves is not two softmaxes."""
    x = np.array([1, 2, 3, 4, 5, 6], np.float16)
    whole = flashc.softmax(x)
    show("softmax of 1..6 in f16", *whole)
    show("  is a softmax", flashc.is_softmax(whole))

    halves = np.concatenate([flashc.softmax(x[:3]), flashc.softmax(x[3:])])
    show("each half by itself", *halves)
    show("  is a softmax", flashc.is_softmax(halves))  # it sums to 2

    # What the halves lost is how they compare. Two numbers per piece keep it: the largest score, and the sum of
    # exp(score - largest). States of that kind merge.
    merged = flashc.SoftmaxState(rows=1)
    for piece in (x[:3], x[3:]):
        state = flashc.SoftmaxState(rows=1)
        state.update(piece[np.newaxis].astype(np.float32))
        show(f"state of {piece.astype(int)}", "max", state.row_max[0], "sum", state.row_sum[0])
        merged.merge(state)
    show("both states merged", "max", merged.row_max[0], "sum", merged.row_sum[0])
    by_pieces = (np.exp(x.astype(np.float32) - merged.row_max[0]) / merged.row_sum[0]).astype(np.float16)
    show("softmax by pieces", *by_pieces)
    show("  equals the whole", flashc.compare(by_pieces, whole, rtol=2**-10, atol=0).equal)  # one ulp of f16


def denominators(x: list[float]) -> np.ndarray:
    """2. The denominator with the running max, and the factor that puts it right."""
    steps = flashc.trace(x)
    print(f"{'x_i':>6}{'max m_i':>9}{'standard d_i':>14}{'online d_i':>12}{'exp(m_N - m_i)':>16}"
          f"{'exp(m_i-1 - m_i)':>18}")
    for s in steps:
        print(f"{s['x']:6g}{s['row_max']:9g}{s['denom_standard']:14.6f}{s['denom_online']:12.6f}"
              f"{s['scale']:16.6f}{s['correction']:18.6f}")
    # d_i needs the final max, known only at the end; the online one needs what was seen so far. They are tied:
    predicted = steps["denom_standard"] * steps["scale"]
    show("online d_i = d_i exp(m_N - m_i)", np.allclose(steps["denom_online"], predicted, rtol=1e-14))
    # At the last step the factor is 1 and they agree. Where the max rises, the old sum was multiplied by a
    # correction below 1; where it does not, the correction is exactly 1, and there is nothing to rescale.
    show("at the last step", steps["denom_standard"][-1], steps["denom_online"][-1])
    show("probabilities agree", np.allclose(steps["p_standard"], steps["p_online"], rtol=1e-14))
    return steps


def attention_in_two_pieces() -> None:
    """3. The same with values attached is attention: partial outputs merge by their log-sum-exp."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, n, 64), dtype=np.float32) for n in (5, 1000, 1000))
    whole = flashc.attention(q, k, v)
    parts = [flashc.attention(q, k[:, keys], v[:, keys], return_lse=True) for keys in (slice(0, 300), slice(300, None))]
    o, _ = flashc.merge_partials([o for o, _ in parts], [lse for _, lse in parts])
    found = flashc.compare(o, whole)
    show("300 + 700 keys equal 1000 keys", found.equal)
    show("  largest difference", f"{found.max_abs_error:.1e}")


def bf16_rounding() -> None:
    """4. Why sums are kept in f32 whatever the type of the inputs."""
    x = np.array([61000], np.float32)
    show("61000 in bf16", int(flashc.convert(flashc.convert(x, "bfloat16"), "float32")[0]))
    # Ten thousand equal keys, each of weight 1e-4: a bf16 accumulator would stop growing at 256 of them.
    n = 10_000
    total = np.float32(0)
    for _ in range(n):
        total = flashc.convert(flashc.convert(np.array([total + 1], np.float32), "bfloat16"), "float32")[0]
    show(f"sum of {n} ones, bf16 accumulator", int(total))
    ones = flashc.convert(np.ones((n, 8), np.float32), "bfloat16")
    o = flashc.attention(ones[:1], ones, ones)
    show("attention over them, bf16 in and out", float(o[0, 0]))


def draw(steps: np.ndarray, path: str) -> None:
    """Running max, both denominators and the scale factors over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    i = np.arange(len(steps))
    figure, (scores, sums, factors) = pyplot.subplots(3, 1, sharex=True, figsize=(7, 7.5), layout="constrained")
    scores.plot(i, steps["x"], "o", color="C7", label="score $x_i$")
    scores.step(i, steps["row_max"], where="post", color="C0", label="running max $m_i$")
    scores.set_ylabel("score")
    sums.plot(i, steps["denom_standard"], "s--", color="C1", label="standard $d_i$ (with the final max)")
    sums.plot(i, steps["denom_online"], "o-", color="C0", label="online $d'_i$ (with the running max)")
    sums.set_ylabel("denominator")
    factors.plot(i, steps["scale"], "o-", color="C2", label=r"$\exp(m_N - m_i) = d'_i / d_i$")
    factors.plot(i[1:], steps["correction"][1:], "v:", color="C3",
                 label=r"$\exp(m_{i-1} - m_i)$, correction of the old sum")
    factors.set_ylabel("factor")
    factors.set_yscale("log")
    factors.set_xlabel("step $i$")
    factors.set_xticks(i)
    for axes in (scores, sums, factors):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle("Online softmax of " + ", ".join(f"{x:g}" for x in steps["x"]))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", metavar="FILE", help="draw the steps of part 2 (.png, .svg, .pdf)")
    picture = parser.parse_args().picture

    print("1. A softmax in two halves")
    split_softmax()
    print("\n2. Denominators with the running max")
    steps = denominators([3, 1, 4, 7, 2])
    print("\n3. Attention over keys in two pieces")
    attention_in_two_pieces()
    print("\n4. Rounding")
    bf16_rounding()
    if picture:
        draw(steps, picture)
        print("\npicture:", picture)


if __name__ == "__main__":
    main()
