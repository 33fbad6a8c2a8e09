#!/usr/bin/env python3
"""Writes the arrays that README's examples of flashc-run read: example_arrays.py FOLDER

Standard library only, so that the examples run as soon as flashc-run is built. The numbers are the same every time.
"""
import array
import math
import pathlib
import random
import sys

TYPES = {"<f4": "f", "<i4": "i"}
PAGE_SIZE, PAGES = 16, 8
SEED = 0


def write(folder, name, shape, values, descr="<f4"):
    """An .npy file of format version 1, its header padded to a multiple of 64 bytes."""
    header = repr({"descr": descr, "fortran_order": False, "shape": tuple(shape)}).encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    data = array.array(TYPES[descr], values)
    if sys.byteorder == "big":
        data.byteswap()
    path = folder / f"{name}.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data.tobytes())


def normal(rng, shape):
    return [rng.gauss(0, 1) for _ in range(math.prod(shape))]


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)

    # 8 query heads on 2 K/V heads; the keys also in two parts, the first 256 and the others.
    heads_k, keys, dim, first_keys = 2, 600, 64, 256
    write(folder, "q", (8, 512, dim), normal(rng, (8, 512, dim)))
    for name in ("k", "v"):
        values = normal(rng, (heads_k, keys, dim))
        write(folder, name, (heads_k, keys, dim), values)
        for part, begin, end in ((1, 0, first_keys), (2, first_keys, keys)):
            rows = [x for head in range(heads_k)
                    for x in values[(head * keys + begin) * dim:(head * keys + end) * dim]]
            write(folder, f"{name}{part}", (heads_k, end - begin, dim), rows)

    # A decode step: one new token for each of three sequences, whose caches are pages.
    lengths = [40, 7, 20]
    write(folder, "step_q", (3, 8, 1, dim), normal(rng, (3, 8, 1, dim)))
    for name in ("k", "v"):
        write(folder, f"step_{name}", (3, heads_k, 1, dim), normal(rng, (3, heads_k, 1, dim)))
        pages = (PAGES, heads_k, PAGE_SIZE, dim)
        write(folder, f"cache_{name}", pages, normal(rng, pages))
    write(folder, "table", (3, 3), [5, 0, 2, 7, -1, -1, 1, 3, -1], "<i4")  # -1: not needed
    write(folder, "positions", (3,), [length - 1 for length in lengths], "<i4")
    write(folder, "lengths", (3,), lengths, "<i4")
    angles = [position * 10000 ** (-2 * pair / dim) for position in range(max(lengths)) for pair in range(dim // 2)]
    write(folder, "cos", (max(lengths), dim // 2), [math.cos(angle) for angle in angles])
    write(folder, "sin", (max(lengths), dim // 2), [math.sin(angle) for angle in angles])

    # A prompt that three sequences share, and each one's own keys and queries.
    write(folder, "own_q", (3, 8, 9, dim), normal(rng, (3, 8, 9, dim)))
    for name in ("k", "v"):
        write(folder, f"own_{name}", (3, heads_k, 9, dim), normal(rng, (3, heads_k, 9, dim)))
        write(folder, f"prompt_{name}", (heads_k, 1000, dim), normal(rng, (heads_k, 1000, dim)))

    # The row of numbers that began it.
    write(folder, "one_to_six", (6,), [1, 2, 3, 4, 5, 6])


if __name__ == "__main__":
    main()
