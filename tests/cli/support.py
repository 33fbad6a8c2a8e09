"""What the tests of flashc-run share: .npy files, a reference in plain float64, running the program.

Standard library only, and nothing of flashc: the files and the numbers are made independently.
"""
import ast
import json
import math
import os
import random
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import unittest

# The first argument of every test here; in a cross build behind the emulator that meson names.
PROGRAM = os.path.abspath(sys.argv.pop(1))
EMULATOR = shlex.split(os.environ.get('MESON_EXE_WRAPPER', ''))
COMMAND = [*EMULATOR, PROGRAM]
# Seconds after which a call hangs. An emulated vector instruction takes some ten native ones.
PATIENCE = 120 * (10 if EMULATOR else 1)
# In a sanitizer build an allocation that is too large must fail as it does elsewhere, not end the process; the
# sanitizer's own line about it is not part of the message.
os.environ['ASAN_OPTIONS'] = os.environ.get('ASAN_OPTIONS', '') + ':allocator_may_return_null=1'
SANITIZER_LINE = re.compile(r'^==\d+==WARNING: AddressSanitizer failed to allocate .*\n', re.MULTILINE)
FORMATS = {'<f4': 'f', '<f2': 'e', '<f8': 'd', '|b1': 'B', '|u1': 'B', '|i1': 'b', '<i4': 'i', '<i8': 'q',
           '<u2': 'H', '<V2': 'H', '|V2': 'H', '>f4': '>f'}


def is_sanitized():
    """Whether the program checks its own memory accesses: its speed says nothing then."""
    with open(PROGRAM, 'rb') as file:
        return b'__asan_init' in file.read()


def is_emulated():
    """Whether kernels run in other instructions than their own (scripts/test_avx512): they are slow then."""
    return 'FLASHC_TEST_EMULATED' in os.environ


def count_of(shape):
    return math.prod(shape)


def npy_bytes(shape, values, descr='<f4', fortran=False):
    header = repr({'descr': descr, 'fortran_order': fortran, 'shape': tuple(shape)}).encode()
    header += b' ' * (-(10 + len(header) + 1) % 64) + b'\n'
    code = FORMATS[descr]
    order = '>' if code[0] == '>' else '<'
    data = struct.pack(f'{order}{len(values)}{code[-1]}', *values)
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header + data


def parse_npy(data):
    """(descr, shape, values in C order); bf16 stays as 16-bit integers."""
    assert data[:8] == b'\x93NUMPY\x01\x00', data[:16]
    length, = struct.unpack_from('<H', data, 8)
    assert (10 + length) % 64 == 0 and data[9 + length:10 + length] == b'\n'
    header = ast.literal_eval(data[10:10 + length].decode())
    assert not header['fortran_order']
    n = count_of(header['shape'])
    values = struct.unpack_from(f'<{n}{FORMATS[header["descr"]][-1]}', data, 10 + length)
    return header['descr'], header['shape'], list(values)


def bf16_to_float(bits):
    return struct.unpack('<f', struct.pack('<I', bits << 16))[0]


def float_to_bf16(x):
    """Round to nearest even; finite x."""
    bits, = struct.unpack('<I', struct.pack('<f', x))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def round_f32(x):
    return struct.unpack('<f', struct.pack('<f', x))[0]


def transpose(shape, values, axes):
    """The array with its axes in another order, as (shape, values)."""
    strides = [count_of(shape[i + 1:]) for i in range(len(shape))]
    new_shape = [shape[a] for a in axes]
    out = []
    index = [0] * len(shape)
    for _ in range(count_of(shape)):
        out.append(values[sum(i * strides[a] for i, a in zip(index, axes))])
        for axis in reversed(range(len(shape))):
            index[axis] += 1
            if index[axis] < new_shape[axis]:
                break
            index[axis] = 0
    return new_shape, out


def attention(shape_q, q, shape_k, k, shape_v, v, scale=None, visible=None, bias=None):
    """O and LSE of arrays [B,H,L,D], by the definition. visible, bias: functions of (b, h, i, j)."""
    batch, heads, len_q, dim = shape_q
    heads_k, len_k, dim_v = shape_k[1], shape_k[2], shape_v[3]
    scale = 1 / math.sqrt(dim) if scale is None else scale
    out, lse = [], []
    for b in range(batch):
        for h in range(heads):
            g = b * heads_k + h // (heads // heads_k)
            for i in range(len_q):
                row = ((b * heads + h) * len_q + i) * dim
                scores = {}
                for j in range(len_k):
                    if visible is None or visible(b, h, i, j):
                        key = (g * len_k + j) * dim
                        s = scale * sum(q[row + d] * k[key + d] for d in range(dim))
                        scores[j] = s + (bias(b, h, i, j) if bias else 0)
                top = max(scores.values(), default=-math.inf)
                weights = {j: math.exp(s - top) for j, s in scores.items()}
                total = sum(weights.values())
                for d in range(dim_v):
                    acc = sum(w * v[(g * len_k + j) * dim_v + d] for j, w in weights.items())
                    out.append(acc / total if total else 0.0)
                lse.append(top + math.log(total) if total else -math.inf)
    return out, lse


class CliTest(unittest.TestCase):
    """Runs in an empty folder of its own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.random = random.Random(self.id())

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, shape, values, descr='<f4', fortran=False):
        with open(self.path(name), 'wb') as file:
            file.write(npy_bytes(shape, values, descr, fortran))

    def read(self, name):
        with open(self.path(name), 'rb') as file:
            return parse_npy(file.read())

    def normal(self, shape):
        """Normal random numbers, already rounded to f32."""
        return [round_f32(self.random.gauss(0, 1)) for _ in range(count_of(shape))]

    def write_normal(self, name, shape, descr='<f4'):
        values = self.normal(shape)
        self.write(name, shape, values, descr)
        return values

    def run_cli(self, *args, stdin=None, **kwargs):
        return subprocess.run([*COMMAND, *map(str, args)], cwd=self.folder, input=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=PATIENCE, check=False, **kwargs)

    def ok(self, *args, **kwargs):
        """Runs and expects success; the text on standard output."""
        result = self.run_cli(*args, **kwargs)
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        self.assertEqual(result.stderr, b'')
        return result.stdout.decode()

    def ok_json(self, *args, **kwargs):
        def refuse(word):
            raise ValueError(word + ' is not JSON')
        return json.loads(self.ok(*args, '--json', **kwargs), parse_constant=refuse)

    def fails(self, code, words, *args, **kwargs):
        """Runs and expects this exit code, one line on stderr with these words, and no new file."""
        before = sorted(os.listdir(self.folder))
        result = self.run_cli(*args, **kwargs)
        message = SANITIZER_LINE.sub('', result.stderr.decode())
        self.assertEqual(result.returncode, code, message)
        self.assertTrue(message.startswith('flashc-run: '), message)
        self.assertEqual(message.count('\n'), 1, message)
        for word in words:
            self.assertIn(word, message)
        self.assertEqual(sorted(os.listdir(self.folder)), before)
        self.assertEqual(result.stdout, b'')

    def assert_close(self, found, expected, tolerance):
        self.assertEqual(len(found), len(expected))
        for i, (a, b) in enumerate(zip(found, expected)):
            if a != b and not abs(a - b) <= tolerance:
                self.fail(f'element {i}: found {a}, expected {b} (tolerance {tolerance})')


def main():
    """Runs a file's tests. Status 77 (meson: SKIP), with the reasons, if some could not run and none failed."""
    result = unittest.main(exit=False).result
    for test, reason in result.skipped:
        print(f'not run: {test.id()}: {reason}')
    sys.exit(1 if not result.wasSuccessful() else 77 if result.skipped else 0)
