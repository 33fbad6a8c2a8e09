"""Reads what NumPy writes and lets NumPy read what we write, through npy_cat.

Usage: test_numpy.py PATH_TO_NPY_CAT. Exits 77 where NumPy cannot be imported.
"""
import io
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError as error:
    print(f"not run: {error}")
    sys.exit(77)

# In a cross build meson names the emulator.
CAT = [*shlex.split(os.environ.get("MESON_EXE_WRAPPER", "")), sys.argv[1]]
DTYPES = ["f2", "f4", "f8", "b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
SHAPES = [(), (1,), (7,), (0,), (3, 5), (2, 3, 4), (4, 0, 2), (2, 3, 1, 5), (1,) * 31 + (2,)]
SEED = 20240607
failures = []


def check(ok, what):
    if not ok:
        failures.append(what)
        print("FAILED:", what)


def cat(folder, files):
    """What npy_cat makes of each of the files (bytes): the bytes it wrote or None, and its line on stderr."""
    pairs = []
    for number, data in enumerate(files):
        source, target = folder / f"in{number}.npy", folder / f"out{number}.npy"
        source.write_bytes(data)
        target.unlink(missing_ok=True)
        pairs += [source, target]
    done = subprocess.run([*CAT, *pairs], capture_output=True, text=True, timeout=100)
    written = [target.read_bytes() if target.exists() else None for target in pairs[1::2]]
    complaints = done.stderr.splitlines()
    check(done.returncode == (1 if complaints else 0), f"npy_cat: exit status {done.returncode}: {done.stderr!r}")
    results = []
    for number, data in enumerate(written):
        own = [line for line in complaints if line.startswith(f"{pairs[2 * number]}: ")]
        check(len(own) == (data is None), f"in{number}.npy: {len(own)} lines, written: {data is not None}")
        results.append((data, " ".join(own)))
    check(len(complaints) == written.count(None), f"lines that name no file: {done.stderr!r}")
    return results


def saved(array, version=None):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def compare(array, written, complaint, what):
    """What NumPy loads from the written bytes is the array, in C order and little-endian."""
    if written is None:
        check(False, f"{what}: {complaint}")
        return
    back = np.load(io.BytesIO(written))
    little = array.astype(array.dtype.newbyteorder("<"), order="C")
    check(back.dtype == little.dtype and back.shape == array.shape, f"{what}: came back as {back.dtype} {back.shape}")
    check(back.tobytes() == little.tobytes(), f"{what}: other bytes")
    check(back.flags.c_contiguous, f"{what}: not C order")
    offset = len(written) - little.nbytes
    check(offset % 64 == 0 and written[:8] == b"\x93NUMPY\x01\x00", f"{what}: data at {offset}")


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    rng = np.random.default_rng(SEED)
    trips = []
    for dtype in DTYPES:
        for i, shape in enumerate(SHAPES):
            for byte_order in "<>":
                for order in "CF":
                    full = np.dtype(byte_order + dtype)
                    size = int(np.prod(shape)) * full.itemsize
                    raw = rng.integers(0, 2 if dtype == "b1" else 256, size, dtype=np.uint8).tobytes()
                    array = np.asarray(np.frombuffer(raw, full).reshape(shape), order=order)
                    version = [None, (1, 0), (2, 0), (3, 0)][(i + len(trips)) % 4]
                    trips.append((array, version, f"{full.str} {shape} {order} {version}"))
    results = cat(folder, [saved(array, version) for array, version, _ in trips])
    for (array, _, what), (written, complaint) in zip(trips, results):
        compare(array, written, complaint, what)

    # bf16 in files: two raw bytes. ml_dtypes writes <V2, np.void |V2.
    raw = np.frombuffer(rng.integers(0, 256, 24, dtype=np.uint8).tobytes(), "V2").reshape(3, 4)
    files = [saved(np.asarray(raw, order=order)).replace(b"|V2", descr) for order in "CF" for descr in (b"|V2", b"<V2")]
    for written, complaint in cat(folder, files):
        check(written is not None and b"'<V2'" in written, f"bf16: {complaint}")
        check(written is not None and np.load(io.BytesIO(written)).tobytes() == raw.tobytes(), "bf16: other bytes")

    # What must be refused, by name, leaving no file.
    refused = [
        (np.array([{}, None], dtype=object), "pickled Python objects"),
        (np.zeros(3, dtype=[("a", "<f4"), ("b", "<i2")]), "structured"),
        (np.array(["text"]), "Unicode text"),
        (np.array([b"text"]), "byte strings"),
        (np.zeros(3, np.complex64), "complex numbers"),
        (np.zeros(3, "M8[ns]"), "dates"),
        (np.zeros(3, np.longdouble), "unknown"),
    ]
    for (_, wanted), (written, complaint) in zip(refused, cat(folder, [saved(array) for array, _ in refused])):
        check(written is None and wanted in complaint, f"{wanted}: {complaint!r}")

    # We may be stricter than NumPy, never laxer: what we read from a damaged file NumPy reads alike.
    # (Beyond the preamble, with characters that a header may hold, and with room for a larger shape.)
    data = bytearray(saved(np.arange(6, dtype="<f4").reshape(2, 3)) + bytes(range(256)) * 4)
    characters = b"0123456789'\"(),:{} <>=|fiubTrueFalse\n\t-L"
    damages = []
    for _ in range(1000):
        damages.append(bytearray(data))
        damages[-1][rng.integers(10, 75)] = characters[rng.integers(0, len(characters))]
    read = 0
    for damaged, (written, _) in zip(damages, cat(folder, damages)):
        if written is not None:
            read += 1
            ours, numpys = np.load(io.BytesIO(written)), np.load(io.BytesIO(damaged))
            check(ours.shape == numpys.shape and ours.tobytes() == numpys.astype(ours.dtype, order="C").tobytes(),
                  f"read otherwise than NumPy: {bytes(damaged)!r}")
    check(read > 0, "no damaged file was readable: the comparison did not happen")

print(f"{len(trips)} round trips, {read} of {len(damages)} damaged files readable and read as NumPy reads them,",
      f"seed {SEED}, NumPy {np.__version__}")
sys.exit(1 if failures else 0)
