"""flashc-run: what each command computes, writes and prints."""
import json
import math
import os
import subprocess
import unittest

from support import (COMMAND, EMULATOR, CliTest, attention, bf16_to_float, count_of, float_to_bf16, main,
                     npy_bytes, parse_npy, transpose)

# On random zero-mean data the error stays within 4 u (1 + A) max|v|, u = 2^-24; here A < 20 and max|v| < 5.
TOLERANCE = 4 * 2.0 ** -24 * 21 * 5
LSE_TOLERANCE = TOLERANCE
COMMANDS = ['attention', 'explain', 'bench', 'append', 'softmax', 'merge', 'trace', 'info']


class HelpTest(CliTest):
    def test_help(self):
        self.assertIn('flashc-run COMMAND', self.ok('--help'))
        self.assertEqual(self.ok('help'), self.ok('--help'))
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
        for word in ['[2, 4, 9, 8] f32', '[2, 2, 70, 5] f32', 'kernel', 'gemm', 'threads', ' ms', 'GFLOP/s', 'workspace']:
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
        for shape, descr in [([70], '<f4'), ([4, 9, 1], '<f4'), ([2, 1, 9, 70], '<f2'), ([], '<f4')]:
            with self.subTest(shape=shape, descr=descr):
                values = [self.random.randrange(-64, 64) / 16 for _ in range(count_of(shape))]
                self.write('bias.npy', shape, values, descr)
                self.qkv('-o', 'o.npy', '--lse', 'lse.npy', '--bias', 'bias.npy')
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


class CompareTest(CliTest):
    SHAPES = ([3, 4, 8], [3, 20, 8], [3, 20, 6])

    def setUp(self):
        super().setUp()
        arrays = [self.write_normal(f'{n}.npy', s) for n, s in zip('qkv', self.SHAPES)]
        q, k, v = ([1, *s] for s in self.SHAPES)
        self.o = attention(q, arrays[0], k, arrays[1], v, arrays[2])[0]

    def compare(self, *args):
        return self.run_cli('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--compare', 'ref.npy', *args)

    def test_equal(self):
        for descr in ('<f4', '<f8', '<f2'):
            for fortran in (False, True):
                with self.subTest(descr=descr, fortran=fortran):
                    values = transpose([3, 4, 6], self.o, [2, 1, 0])[1] if fortran else self.o
                    self.write('ref.npy', [3, 4, 6], values, descr, fortran)
                    result = self.compare()
                    self.assertEqual((result.returncode, result.stderr), (0, b''))
                    self.assertIn(b'equal, 0 of 72', result.stdout)
                    self.assertNotIn('o.npy', os.listdir(self.folder))

    def test_different(self):
        self.o[1 * 24 + 2 * 6 + 3] += 0.5
        self.write('ref.npy', [3, 4, 6], self.o)
        result = self.compare('-o', 'o.npy')
        self.assertEqual(result.returncode, 1)
        for word in (b'ref.npy', b'1 of 72', b'[1, 2, 3]'):
            self.assertIn(word, result.stderr)
        self.assertRegex(result.stdout, rb'largest error 0\.(5|49999)\d* at \[1, 2, 3\]')
        self.assertIn('o.npy', os.listdir(self.folder))
        self.assertEqual(self.compare('--rtol', '0', '--atol', '0.51').returncode, 0)
        self.assertEqual(self.compare('--rtol', '0', '--atol', '0.49').returncode, 1)
        quiet = self.compare('--quiet')
        self.assertEqual((quiet.returncode, quiet.stdout), (1, b''))
        self.assertIn(b'1 of 72', quiet.stderr)

    def test_default_tolerance_is_that_of_f32(self):
        self.write('ref.npy', [3, 4, 6], [x + 4e-6 + 2e-5 * abs(x) for x in self.o])
        self.assertEqual(self.compare().returncode, 1)

    def test_nan_must_match(self):
        self.write('ref.npy', [3, 4, 6], [math.nan, *self.o[1:]])
        self.assertEqual(self.compare().returncode, 1)
        _, _, values = self.read('v.npy')
        values[0] = math.nan
        self.write('v.npy', self.SHAPES[2], values)
        column = [math.nan if i < 24 and i % 6 == 0 else x for i, x in enumerate(self.o)]
        self.write('ref.npy', [3, 4, 6], column)
        self.assertEqual(self.compare().returncode, 0)
        self.write('ref.npy', [3, 4, 6], self.o)
        self.assertEqual(self.compare().returncode, 1)

    def test_json(self):
        self.o[70] -= 1
        self.write('ref.npy', [3, 4, 6], self.o)
        result = self.compare('--json')
        self.assertEqual(result.returncode, 1)
        compare = json.loads(result.stdout)['compare']
        self.assertEqual((compare['equal'], compare['mismatches'], compare['worst_index']), (False, 1, [2, 3, 4]))
        self.assertEqual((compare['rtol'], compare['atol'], compare['file']), (1e-5, 1e-6, 'ref.npy'))
        self.assertAlmostEqual(compare['max_abs_error'], 1, delta=1e-5)


class ExplainTest(CliTest):
    def test_dry_run_is_explain(self):
        for name, shape in [('q', [2, 4, 9, 8]), ('k', [2, 2, 70, 8]), ('v', [2, 2, 70, 5])]:
            self.write_normal(f'{name}.npy', shape)
        self.write('mask.npy', [9, 70], [1] * 630, '|b1')
        args = ['-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--causal', '--align', 'bottom-right', '--mask', 'mask.npy',
                '--threads', '1']
        for json_args in ([], ['--json']):
            text = self.ok('explain', *args, *json_args)
            self.assertEqual(self.ok('attention', *args, *json_args, '--dry-run', '-o', 'o.npy'), text)
            self.assertIn('kernel', text)
        self.assertNotIn('o.npy', os.listdir(self.folder))

    def test_same_plan_from_files_and_shapes(self):
        for name, shape in [('q', [2, 4, 9, 8]), ('k', [2, 2, 70, 8]), ('v', [2, 2, 70, 5])]:
            self.write_normal(f'{name}.npy', shape)
        files = self.ok('explain', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy')
        self.assertEqual(files, self.ok('explain', '--batch', 2, '--heads', 4, '--heads-k', 2, '--seqlen-q', 9,
                                        '--seqlen-k', 70, '--head-dim', 8, '--head-dim-v', 5))

    def test_only_the_header_is_read(self):
        # A sparse file of a terabyte: reading it would take for ever.
        if EMULATOR:
            self.skipTest('QEMU keeps a record of every page that is mapped: a terabyte takes more memory than is here')
        shape = (1, 8, 1 << 29, 64)
        header = npy_bytes(shape, [])
        with open(self.path('big.npy'), 'wb') as file:
            file.write(header)
            try:
                file.truncate(len(header) + 4 * count_of(shape))
            except OSError as error:
                self.skipTest(f'no sparse file of a terabyte here: {error}')
        plan = self.ok_json('explain', '-q', 'big.npy', '-k', 'big.npy', '-v', 'big.npy')
        self.assertEqual(plan['flops'], 2 * (64 + 64) * 8 * float(1 << 29) ** 2)

    def test_shapes(self):
        plan = self.ok_json('explain', '--heads', 3, '--seqlen-q', 100, '--head-dim', 33, '--dtype', 'f16', '--layout',
                            'bshd', '--causal', '--align', 'top-left')
        self.assertEqual(plan['q'], {'shape': [1, 100, 3, 33], 'dtype': 'f16'})
        self.assertEqual(plan['flops'], 2 * (33 + 33) * 3 * 100 * 101 / 2)


    def test_quiet(self):
        """Whether it would run, by the exit code alone."""
        for name in ('q', 'k', 'v'):
            self.write_normal(f'{name}.npy', [3, 8])
        files = ['-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy']
        self.assertEqual(self.ok('explain', '--quiet'), '')
        self.assertEqual(self.ok('attention', *files, '--dry-run', '--quiet'), '')
        self.assertIn('kernel', self.ok_json('explain', '--quiet'))
        self.fails(1, ['none'], 'explain', '--quiet', '--kernel', 'none')


class SoftmaxTest(CliTest):
    # The example that started the project, computed in f16.
    WHOLE = ['0.0043', '0.0116', '0.0316', '0.0858', '0.2332', '0.6338']
    HALF = ['0.0900', '0.2448', '0.6650']

    def softmax(self, values):
        weights = [math.exp(x - max(values)) for x in values]
        return [w / sum(weights) for w in weights]

    def test_example(self):
        self.write('x.npy', [6], [1, 2, 3, 4, 5, 6], '<f2')
        text = self.ok('softmax', '-x', 'x.npy', '--split', 2)
        self.assertIn(' '.join(self.WHOLE), text)
        self.assertIn(' '.join(self.HALF + self.HALF), text)
        self.assertIn('a valid softmax', text)
        self.assertIn('not a softmax', text)

    def test_rows_and_splits(self):
        x = self.write_normal('x.npy', [3, 2, 37])
        expected = [p for i in range(0, len(x), 37) for p in self.softmax(x[i:i + 37])]
        self.ok('softmax', '-x', 'x.npy', '-o', 'y.npy')
        self.assertEqual(self.read('y.npy')[1], (3, 2, 37))
        self.assert_close(self.read('y.npy')[2], expected, 1e-6)
        for split in (1, 2, 5, 37):
            with self.subTest(split=split):
                result = self.ok_json('softmax', '-x', 'x.npy', '-o', 'y.npy', '--split', split)
                self.assert_close(self.read('y.npy')[2], expected, 1e-6)
                self.assertLessEqual(result['merged_max_abs_error'], 1e-6)
                self.assertTrue(result['valid_softmax'])
                # In pieces of one element the naive result is all ones; in one piece it is right.
                self.assertEqual(result['naive_valid_softmax'], split == 1)
                if split == 37:
                    self.assertAlmostEqual(result['naive_max_abs_error'], 1 - min(expected), delta=1e-6)

    def test_hidden_elements(self):
        self.write('x.npy', [2, 3], [-math.inf, 0, -math.inf, -math.inf, -math.inf, -math.inf])
        for args in ([], ['--split', 3]):
            self.ok('softmax', '-x', 'x.npy', '-o', 'y.npy', *args)
            self.assertEqual(self.read('y.npy')[2], [0, 1, 0, 0, 0, 0])

    def test_bf16_and_f64(self):
        self.write('x.npy', [2], [float_to_bf16(0.0)] * 2, '<V2')
        self.ok('softmax', '-x', 'x.npy', '-o', 'y.npy', '--dtype', 'bf16')
        self.assertEqual(self.read('y.npy'), ('<V2', (2,), [float_to_bf16(0.5)] * 2))
        self.write('x.npy', [2], [0.0, 0.0], '<f8')
        self.ok('softmax', '-x', 'x.npy', '-o', 'y.npy', '--dtype', 'f32')
        self.assertEqual(self.read('y.npy'), ('<f4', (2,), [0.5, 0.5]))

    def test_values_are_printed_up_to_a_size(self):
        self.write_normal('x.npy', [16, 16])
        text = self.ok('softmax', '-x', 'x.npy')
        self.assertEqual(len([line for line in text.splitlines() if line[:2] in ('0.', '1.')]), 16)
        self.write_normal('x.npy', [257])
        self.assertIn('values     not printed, more than 256: -o FILE', self.ok('softmax', '-x', 'x.npy'))
        self.assertNotIn('not printed', self.ok('softmax', '-x', 'x.npy', '-o', 'y.npy'))

    def test_pipe(self):
        result = self.run_cli('softmax', '-x', '-', '-o', '-', '--quiet', stdin=npy_bytes([2], [3.0, 3.0]))
        self.assertEqual((result.returncode, result.stderr), (0, b''))
        self.assertEqual(parse_npy(result.stdout), ('<f4', (2,), [0.5, 0.5]))


class MergeTest(CliTest):
    def parts(self, layout):
        """Attention over 3 slices of the keys, and over all of them."""
        q, k, v = [2, 3, 4, 8], [2, 3, 30, 8], [2, 3, 30, 5]
        order = [0, 2, 1, 3] if layout == 'bshd' else [0, 1, 2, 3]
        arrays = [self.normal(s) for s in (q, k, v)]
        keys = [(0, 30), (0, 7), (7, 8), (8, 30)]
        for n, (first, last) in enumerate(keys):
            for name, shape, values in zip('qkv', (q, k, v), arrays):
                rows = shape[2] * shape[3]
                part, size = values, list(shape)
                if name != 'q':
                    part = [x for i, x in enumerate(values) if first <= i % rows // shape[3] < last]
                    size[2] = last - first
                self.write(f'{name}.npy', *transpose(size, part, order))
            self.ok('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', f'o{n}.npy', '--lse', f'l{n}.npy',
                    '--layout', layout)
        return [name for n in (1, 2, 3) for name in (f'o{n}.npy', f'l{n}.npy')]

    def test_merge(self):
        for layout in ('bhsd', 'bshd'):
            with self.subTest(layout=layout):
                files = self.parts(layout)
                text = self.ok('merge', '-o', 'o.npy', '--lse', 'l.npy', '--layout', layout, *files)
                self.assertIn('3 parts', text)
                for name in ('o', 'l'):
                    self.assertEqual(self.read(f'{name}.npy')[1], self.read(f'{name}0.npy')[1])
                    self.assert_close(self.read(f'{name}.npy')[2], self.read(f'{name}0.npy')[2], TOLERANCE)

    def test_types(self):
        files = self.parts('bhsd')
        result = self.ok_json('merge', '-o', 'o.npy', '--out-dtype', 'bf16', *files)
        self.assertEqual((result['parts'], result['dtype']), (3, 'bf16'))
        self.assertEqual(self.read('o.npy')[0], '<V2')
        self.assert_close([bf16_to_float(b) for b in self.read('o.npy')[2]], self.read('o0.npy')[2], 5 * 2.0 ** -9)

    def test_identity(self):
        self.write('o1.npy', [2, 2], [math.nan] * 4)
        self.write('l1.npy', [2], [-math.inf] * 2)
        self.write('o2.npy', [2, 2], [1, 2, 3, 4])
        self.write('l2.npy', [2], [0.5, -math.inf])
        self.ok('merge', '-o', 'o.npy', '--lse', 'l.npy', 'o1.npy', 'l1.npy', 'o2.npy', 'l2.npy')
        self.assertEqual(self.read('o.npy')[2], [1, 2, 0, 0])
        self.assertEqual(self.read('l.npy')[2], [0.5, -math.inf])


if __name__ == '__main__':
    main()
