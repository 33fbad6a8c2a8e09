"""flashc-run: help, and what attention computes, writes and prints."""
import math
import os
import subprocess

from support import (COMMAND, CliTest, attention, bf16_to_float, count_of,
                     float_to_bf16, main, npy_bytes, transpose)

# On random zero-mean data the error stays within 4 u (1 + A) max|v|, u = 2^-24; here A < 20 and max|v| < 5.
TOLERANCE = 4 * 2.0 ** -24 * 21 * 5
LSE_TOLERANCE = TOLERANCE
COMMANDS = ['attention', 'explain', 'bench', 'append', 'softmax', 'merge', 'trace', 'info']


class HelpTest(CliTest):
    def test_help(self):
        self.assertIn('flashc-run COMMAND', self.ok('--help'))
        for words in (('help',), ('-h',), ('help', '--help'), ('help', '-h')):
            self.assertEqual(self.ok(*words), self.ok('--help'))
        for command in COMMANDS:
            text = self.ok(command, '--help')
            self.assertIn(f'Usage: flashc-run {command}', text)
            self.assertIn('--help', text)
            self.assertEqual(text, self.ok('help', command))
            self.assertIn(command, self.ok('--help'))
            for line in text.splitlines():
                self.assertLessEqual(len(line), 80, line)

    def test_version(self):
        self.assertRegex(self.ok('--version'), r'^flashc-run \d+\.\d+\.\d+\n$')


class AttentionTest(CliTest):
    SHAPES = ([2, 4, 9, 8], [2, 2, 70, 8], [2, 2, 70, 5])

    def write_qkv(self, shapes=SHAPES, descr='<f4'):
        self.arrays = [self.write_normal(f'{name}.npy', shape, descr) for name, shape in zip('qkv', shapes)]

    def qkv(self, *args, **kwargs):
        return self.ok('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', *args, **kwargs)

    def reference(self, shapes=SHAPES, **kwargs):
        q, k, v = self.arrays
        return attention(shapes[0], q, shapes[1], k, shapes[2], v, **kwargs)

    def check(self, expected, tolerance=TOLERANCE, shape=(2, 4, 9, 5)):
        descr, found_shape, o = self.read('o.npy')
        self.assertEqual((descr, found_shape), ('<f4', tuple(shape)))
        self.assert_close(o, expected[0], tolerance)
        descr, found_shape, lse = self.read('lse.npy')
        self.assertEqual((descr, found_shape), ('<f4', tuple(shape[:-1])))
        self.assert_close(lse, expected[1], LSE_TOLERANCE)

    def test_plain(self):
        self.write_qkv()
        text = self.qkv('-o', 'o.npy', '--lse', 'lse.npy')
        self.check(self.reference())
        for word in ['[2, 4, 9, 8] f32', '[2, 2, 70, 5] f32', 'kernel', 'gemm', 'threads', ' ms', 'GFLOP/s',
                     'workspace']:
            self.assertIn(word, text)
        self.assertEqual(sorted(os.listdir(self.folder)), ['k.npy', 'lse.npy', 'o.npy', 'q.npy', 'v.npy'])

    def test_scale_threads_kernel(self):
        self.write_qkv()
        text = self.qkv('-o', 'o.npy', '--lse', 'lse.npy', '--scale', '-0.75', '--threads', '1', '--kernel',
                        'f32_generic', '--verbose')
        self.check(self.reference(scale=-0.75))
        self.assertIn('f32_generic', text)
        self.assertIn('items', text)
        self.assertRegex(text, r'threads +1\n')

    def test_causal_alignments(self):
        self.write_qkv()
        for align, offset in [('top-left', 0), ('bottom-right', 61), ('5', 5), ('-4', -4)]:
            with self.subTest(align=align):
                self.qkv('-o', 'o.npy', '--lse', 'lse.npy', '--causal', '--align', align)
                self.check(self.reference(visible=lambda b, h, i, j, offset=offset: j <= i + offset))

    def test_ranks(self):
        for rank in (2, 3):
            with self.subTest(rank=rank):
                shapes = [[1] * (4 - rank) + s[-rank:] for s in self.SHAPES]
                self.arrays = [self.write_normal(f'{n}.npy', s[-rank:]) for n, s in zip('qkv', shapes)]
                self.qkv('-o', 'o.npy', '--lse', 'lse.npy')
                self.check(self.reference(shapes), shape=[*shapes[0][-rank:-1], 5])

    def test_layout_bshd(self):
        for rank in (3, 4):
            with self.subTest(rank=rank):
                shapes = [[1] * (4 - rank) + s[-rank:] for s in self.SHAPES]
                self.arrays = [self.normal(s) for s in shapes]
                for name, shape, values in zip('qkv', shapes, self.arrays):
                    swapped, moved = transpose(shape, values, [0, 2, 1, 3])
                    self.write(f'{name}.npy', swapped[-rank:], moved)
                self.qkv('-o', 'o.npy', '--lse', 'lse.npy', '--layout', 'bshd')
                o, lse = self.reference(shapes)
                _, shape, found = self.read('o.npy')
                self.assertEqual(shape, (2, 9, 4, 5)[-rank:])
                self.assert_close(found, transpose([shapes[0][0], 4, 9, 5], o, [0, 2, 1, 3])[1], TOLERANCE)
                _, shape, found = self.read('lse.npy')
                self.assertEqual(shape, (2, 4, 9)[1 - rank:])
                self.assert_close(found, lse, LSE_TOLERANCE)

    def test_fortran_order_and_big_endian(self):
        self.write_qkv()
        for name, shape, values in zip('qkv', self.SHAPES, self.arrays):
            reverse = [3, 2, 1, 0]
            self.write(f'{name}.npy', shape, transpose(shape, values, reverse)[1],
                       '>f4' if name == 'k' else '<f4', fortran=True)
        self.qkv('-o', 'o.npy', '--lse', 'lse.npy')
        self.check(self.reference())

    def test_mask_broadcast(self):
        self.write_qkv()
        for shape in ([70], [9, 1], [9, 70], [4, 1, 70], [2, 1, 1, 70], [2, 4, 9, 70], [1, 1, 1, 1]):
            for descr in ('|b1', '|u1', '|i1'):
                with self.subTest(shape=shape, descr=descr):
                    values = [self.random.randrange(2) * (1 if descr == '|b1' else 77) for _ in range(count_of(shape))]
                    self.write('mask.npy', shape, values, descr)
                    self.qkv('-o', 'o.npy', '--lse', 'lse.npy', '--mask', 'mask.npy')
                    at = broadcast(shape, values)
                    self.check(self.reference(visible=lambda *index: at(*index) != 0))

    def test_bias_broadcast(self):
        self.write_qkv()
        for shape, descr in [([70], '<f4'), ([4, 9, 1], '<f4'), ([2, 1, 9, 70], '<f2'), ([], '<f4'), ([9, 70], '<f8')]:
            with self.subTest(shape=shape, descr=descr):
                values = [self.random.randrange(-64, 64) / 16 for _ in range(count_of(shape))]
                self.write('bias.npy', shape, values, descr)
                self.qkv('-o', 'o.npy', '--lse', 'lse.npy', '--bias', 'bias.npy',
                         *(['--dtype', 'f32'] if descr == '<f8' else []))
                self.check(self.reference(bias=broadcast(shape, values)))

    def test_dtype_converts(self):
        self.write_qkv()
        for name, shape, values in zip('qkv', self.SHAPES, self.arrays):
            self.write(f'{name}.npy', shape, values, '<f8')
        self.qkv('-o', 'o.npy', '--lse', 'lse.npy', '--dtype', 'f32')
        self.check(self.reference())

    def test_bf16_files(self):
        self.write_qkv()
        bits = [[float_to_bf16(x) for x in values] for values in self.arrays]
        for name, shape, values, descr in zip('qkv', self.SHAPES, bits, ['<V2', '|V2', '<u2']):
            self.write(f'{name}.npy', shape, values, descr)
        self.arrays = [[bf16_to_float(b) for b in values] for values in bits]
        self.qkv('-o', 'o.npy', '--lse', 'lse.npy', '--dtype', 'bf16', '--out-dtype', 'f32')
        expected = self.reference()
        # bf16 kernels may round P: 2^-8 sum p |v| (design bound); |v| < 5.
        self.check(expected, tolerance=5 * 2.0 ** -8)
        self.qkv('-o', 'o.npy', '--dtype', 'bf16')
        descr, _, o = self.read('o.npy')
        self.assertEqual(descr, '<V2')
        self.assert_close([bf16_to_float(b) for b in o], expected[0], 5 * (2.0 ** -8 + 2.0 ** -9))

    def test_f16_files_and_out_dtype(self):
        shapes = [[1, 1, 4, 4], [1, 1, 6, 4], [1, 1, 6, 4]]
        self.arrays = []
        for name, shape in zip('qkv', shapes):
            values = [self.random.randrange(-16, 16) / 8 for _ in range(count_of(shape))]
            self.write(f'{name}.npy', shape, values, '<f2')
            self.arrays.append(values)
        expected = self.reference(shapes)[0]
        for out_dtype, descr, tolerance in [(None, '<f2', 2.0 ** -10), ('f32', '<f4', TOLERANCE)]:
            self.qkv('-o', 'o.npy', *(['--out-dtype', out_dtype] if out_dtype else []))
            found_descr, _, o = self.read('o.npy')
            self.assertEqual(found_descr, descr)
            self.assert_close(o, expected, tolerance)

    def test_f64_is_rounded_once(self):
        """Just above the middle of two neighbours: by way of f32 it would be the middle, and round down."""
        tiny, big = 2.0 ** -30, 1e300
        for dtype, ulp in (('f16', 2.0 ** -10), ('bf16', 2.0 ** -7), ('f32', 2.0 ** -23)):
            v = [1 + ulp / 2 + tiny, -1 - ulp / 2 - tiny, 1 + 3 * ulp / 2 - tiny, 1 + ulp / 2, 1 + ulp, big, -big,
                 1e-300]
            for name, shape, values in (('q', [1, 1], [1.0]), ('k', [1, 1], [1.0]), ('v', [1, len(v)], v)):
                self.write(f'{name}.npy', shape, values, '<f8')
            self.qkv('-o', 'o.npy', '--dtype', dtype, '--out-dtype', 'f32')
            infinity = math.inf
            self.assertEqual(self.read('o.npy')[2][:7], [1 + ulp, -1 - ulp, 1 + ulp, 1, 1 + ulp, infinity, -infinity])
            self.assertEqual(abs(self.read('o.npy')[2][7]), 0)

    def test_stdin_and_stdout(self):
        self.write_qkv()
        self.qkv('-o', 'o.npy', '--lse', 'lse.npy')
        with open(self.path('q.npy'), 'rb') as q, open(self.path('o.npy'), 'rb') as o:
            q, o = q.read(), o.read()
        args = ['attention', '-q', '-', '-k', 'k.npy', '-v', 'v.npy', '-o', '-']
        result = self.run_cli(*args, stdin=q)
        self.assertEqual((result.returncode, result.stdout), (0, o))
        self.assertIn(b'GFLOP/s', result.stderr)
        self.assertEqual(self.run_cli(*args, '--quiet', stdin=q).stderr, b'')
        # The same by another name; a plain file that standard output was redirected to; a device is neither.
        args[-1] = '/dev/stdout'
        result = self.run_cli(*args, stdin=q)
        self.assertEqual((result.returncode, result.stdout), (0, o))
        self.assertIn(b'GFLOP/s', result.stderr)
        self.fails(2, ['--json'], *args, '--json', stdin=q)
        with open(self.path('redirected.npy'), 'wb') as file:
            result = subprocess.run([*COMMAND, *args], cwd=self.folder, input=q, stdout=file,
                                    stderr=subprocess.PIPE, timeout=60, check=True)
        self.assertIn(b'GFLOP/s', result.stderr)
        self.assertEqual(self.read('redirected.npy'), self.read('o.npy'))
        args[-1] = '/dev/null'
        result = subprocess.run([*COMMAND, *args], cwd=self.folder, input=q, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, timeout=60, check=True)
        self.assertEqual(result.stderr, b'')
        everything = b''.join(npy_bytes(s, a) for s, a in zip(self.SHAPES, self.arrays)) + o
        result = self.run_cli('attention', '-q', '-', '-k', '-', '-v', '-', '-o', '-', '--compare', '-', '--quiet',
                              stdin=everything)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, o, b''))

    def test_output_in_place_of_an_input(self):
        self.write_qkv()
        for chunks in ([], ['--stream-kv', 1]):
            self.qkv('-o', 'o.npy', *chunks)
            for name in 'qv':
                kept = self.read(f'{name}.npy')
                self.qkv('-o', f'{name}.npy', *chunks)
                self.assertEqual(self.read(f'{name}.npy'), self.read('o.npy'))
                self.write(f'{name}.npy', kept[1], kept[2])

    def test_names_that_start_with_a_dash(self):
        self.write_qkv()
        os.rename(self.path('q.npy'), self.path('-q.npy'))
        self.ok('attention', '-q', '-q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', '-o.npy', '--lse=--lse')
        self.ok('merge', '-o', 'merged.npy', '--', '-o.npy', '--lse')
        self.assertEqual(self.read('merged.npy'), self.read('-o.npy'))

    def test_json(self):
        self.write_qkv()
        result = self.ok_json('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', 'o.npy')
        self.assertEqual(result['q'], {'shape': [2, 4, 9, 8], 'dtype': 'f32'})
        self.assertEqual(result['o'], {'shape': [2, 4, 9, 5], 'dtype': 'f32'})
        self.assertEqual(result['flops'], 2 * (8 + 5) * 2 * 4 * 9 * 70)
        self.assertAlmostEqual(result['gflops'], result['flops'] / result['milliseconds'] / 1e6, delta=1e-6)
        for key in ('kernel', 'gemm', 'threads', 'items', 'workspace_bytes'):
            self.assertIn(key, result)

    def test_quiet(self):
        self.write_qkv()
        self.assertEqual(self.qkv('-o', 'o.npy', '--quiet'), '')

    def test_output_replaces_an_input(self):
        self.write_qkv()
        expected = self.reference()
        self.qkv('-o', 'q.npy')
        self.assert_close(self.read('q.npy')[2], expected[0], TOLERANCE)

    def test_no_keys_and_no_queries(self):
        self.write('q.npy', [3, 4], [1.0] * 12)
        self.write('k.npy', [0, 4], [])
        self.write('v.npy', [0, 2], [])
        self.qkv('-o', 'o.npy', '--lse', 'lse.npy')
        self.assertEqual(self.read('o.npy'), ('<f4', (3, 2), [0.0] * 6))
        self.assertEqual(self.read('lse.npy'), ('<f4', (3,), [-math.inf] * 3))
        self.write('q.npy', [0, 4], [])
        self.qkv('-o', 'o.npy')
        self.assertEqual(self.read('o.npy'), ('<f4', (0, 2), []))


def broadcast(shape, values):
    """Element of the array at an index (b, h, i, j), by NumPy's rules."""
    def at(*index):
        flat = 0
        for size, i in zip(shape, index[4 - len(shape):]):
            flat = flat * size + (i if size > 1 else 0)
        return values[flat]
    return at


if __name__ == '__main__':
    main()
