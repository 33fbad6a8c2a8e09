"""Reads what NumPy writes and lets NumPy read what we write, through npy_cat.

Usage: test_npy_numpy.py PATH_TO_NPY_CAT. Exits 77 where NumPy cannot be imported.
"""
import io
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError as error:
    print(f"not run: {error}")
    sys.exit(77)

CAT = sys.argv[1]
DTYPES = ["f2", "f4", "f8", "b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
SHAPES = [(), (1,), (7,), (0,), (3, 5), (2, 3, 4), (4, 0, 2), (2, 3, 1, 5), (1,) * 31 + (2,)]
SEED = 20240607
failures = []


def check(ok, what):
    if not ok:
        failures.append(what)
        print("FAILED:", what)


def cat(folder, data):
    """What npy_cat makes of the file `data`: (exit status, stderr, bytes written or None)."""
    source, target = folder / "in.npy", folder / "out.npy"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    done = subprocess.run([CAT, source, target], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr, target.read_bytes() if target.exists() else None


def saved(array, version=None):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def round_trip(folder, array, version, what):
    status, stderr, written = cat(folder, saved(array, version))
    if status != 0:
        check(False, f"{what}: {stderr}")
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
    trips = 0
    for dtype in DTYPES:
        for i, shape in enumerate(SHAPES):
            for byte_order in "<>":
                for order in "CF":
                    full = np.dtype(byte_order + dtype)
                    size = int(np.prod(shape)) * full.itemsize
                    raw = rng.integers(0, 2 if dtype == "b1" else 256, size, dtype=np.uint8).tobytes()
                    array = np.asarray(np.frombuffer(raw, full).reshape(shape), order=order)
                    version = [None, (1, 0), (2, 0), (3, 0)][(i + trips) % 4]
                    round_trip(folder, array, version, f"{full.str} {shape} {order} {version}")
                    trips += 1

    # bf16 in files: two raw bytes. ml_dtypes writes <V2, np.void |V2.
    raw = np.frombuffer(rng.integers(0, 256, 24, dtype=np.uint8).tobytes(), "V2").reshape(3, 4)
    for order in "CF":
        data = saved(np.asarray(raw, order=order))
        for descr in (b"|V2", b"<V2"):
            status, stderr, written = cat(folder, data.replace(b"|V2", descr))
            check(status == 0 and b"'<V2'" in written and written.endswith(raw.tobytes()), f"{descr} {order}: {stderr}")
            check(status == 0 and np.load(io.BytesIO(written)).tobytes() == raw.tobytes(), f"{descr}: np.load")

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
    for array, wanted in refused:
        status, stderr, written = cat(folder, saved(array))
        check(status == 1 and written is None and wanted in stderr and "in.npy: " in stderr, f"{wanted}: {stderr!r}")
        check(stderr.count("\n") == 1, f"{wanted}: not one line: {stderr!r}")

    # We may be stricter than NumPy, never laxer: what we read from a damaged file NumPy reads alike.
    # (Beyond the preamble, with characters that a header may hold, and with room for a larger shape.)
    data = bytearray(saved(np.arange(6, dtype="<f4").reshape(2, 3)) + bytes(range(256)) * 4)
    characters = b"0123456789'\"(),:{} <>=|fiubTrueFalse\n\t-L"
    damages, read = 300, 0
    for _ in range(damages):
        damaged = bytearray(data)
        damaged[rng.integers(10, 75)] = characters[rng.integers(0, len(characters))]
        status, stderr, written = cat(folder, bytes(damaged))
        check(status in (0, 1), f"status {status} for {bytes(damaged)!r}")
        if status == 0:
            read += 1
            ours, numpys = np.load(io.BytesIO(written)), np.load(io.BytesIO(bytes(damaged)))
            check(ours.shape == numpys.shape and ours.tobytes() == numpys.astype(ours.dtype, order="C").tobytes(),
                  f"read otherwise than NumPy: {bytes(damaged)!r}")

    check(read > 0, "no damaged file was readable: the comparison did not happen")

print(f"{trips} round trips, {read} of {damages} damaged files read as NumPy reads them, seed {SEED}, NumPy {np.__version__}")
sys.exit(1 if failures else 0)
