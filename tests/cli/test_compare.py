"""flashc-run attention --compare, and explain."""
import json
import math
import os

from support import EMULATOR, CliTest, attention, count_of, float_to_bf16, main, npy_bytes, transpose


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
        # 0 is a tolerance that is given.
        for args, rtol, atol in ((('--rtol', 0), 0, 1e-6), (('--atol', 0), 1e-5, 0)):
            compare = json.loads(self.compare(*args, '--json').stdout)['compare']
            self.assertEqual((compare['rtol'], compare['atol']), (rtol, atol))
        quiet = self.compare('--quiet')
        self.assertEqual((quiet.returncode, quiet.stdout), (1, b''))
        self.assertIn(b'1 of 72', quiet.stderr)

    def test_default_tolerance(self):
        """Goes by the coarsest of Q, O and the reference, each of them alone."""
        inputs = ('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--compare', 'ref.npy')
        for dtype, out, reference in (('f16', 'f32', '<f4'), ('f32', 'f16', '<f4'), ('f32', 'f32', '<f2')):
            with self.subTest(q=dtype, o=out, reference=reference):
                self.write('ref.npy', [3, 4, 6], self.o, reference)
                compare = self.ok_json(*inputs, '--dtype', dtype, '--out-dtype', out)['compare']
                self.assertEqual((compare['rtol'], compare['atol']), (2e-3, 1e-3))

    def test_raw_reference(self):
        """Two raw bytes an element are of --dtype, as in inputs."""
        for name, shape in zip('qkv', self.SHAPES):
            self.write(f'{name}.npy', shape, [float_to_bf16(x) for x in self.normal(shape)], '<V2')
        inputs = ('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--dtype', 'bf16')
        self.ok(*inputs, '-o', 'ref.npy')
        self.assertEqual(self.read('ref.npy')[0], '<V2')
        self.ok(*inputs, '--compare', 'ref.npy', '--rtol', 0, '--atol', 0)
        self.assertEqual(self.ok_json(*inputs, '--compare', 'ref.npy')['compare']['rtol'], 1.6e-2)

    def test_axes_in_another_order(self):
        """As many elements, and as many axes, are not the same shape."""
        shape, values = transpose([3, 4, 6], self.o, [1, 0, 2])
        self.write('ref.npy', shape, values)
        self.fails(1, ['ref.npy has shape [4, 3, 6], O has shape [3, 4, 6]'], 'attention', '-q', 'q.npy', '-k', 'k.npy',
                   '-v', 'v.npy', '--compare', 'ref.npy')

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
        result = self.compare()
        self.assertEqual(result.returncode, 1)
        self.assertIn(b'found nan\n', result.stderr)

    def test_json(self):
        self.o[70] -= 1
        self.write('ref.npy', [3, 4, 6], self.o)
        result = self.compare('--json')
        self.assertEqual(result.returncode, 1)
        compare = json.loads(result.stdout)['compare']
        self.assertEqual((compare['equal'], compare['mismatches'], compare['worst_index']), (False, 1, [2, 3, 4]))
        self.assertEqual((compare['rtol'], compare['atol'], compare['file']), (1e-5, 1e-6, 'ref.npy'))
        self.assertAlmostEqual(compare['max_abs_error'], 1, delta=1e-5)


    def test_worst_is_by_the_tolerance(self):
        """A large difference that it allows is not the worst one."""
        allowed = next(i for i, x in enumerate(self.o) if x > 0)
        wrong = max(i for i, x in enumerate(self.o) if abs(x) > 0.01)
        values = list(self.o)
        values[allowed], values[wrong] = 100, 0
        self.write('ref.npy', [3, 4, 6], values)
        compare = json.loads(self.compare('--rtol', 1, '--atol', 0, '--json').stdout)['compare']
        index = lambda i: [i // 24, i // 6 % 4, i % 6]
        self.assertEqual((compare['mismatches'], compare['worst_index'], compare['max_abs_index']),
                         (1, index(wrong), index(allowed)))

    def test_json_of_any_name_and_number(self):
        """JSON is UTF-8, which names of files need not be; a number is read back as it was."""
        valid = ['plain', 'quote " and \\', 'two\nlines', 'tab\t and \x01\x1f\x7f', 'é', '\u0800\ud7ff\ue000\uffff',
                 '\U00010000\U0010ffff', '€uro', 'à']
        wrong = [b'\xff', b'\x80', b'\xc0\xaf', b'\xc1\xbf', b'\xc3', b'\xe0\x80\x80', b'\xe0\x9f\xbf', b'\xe2\x82',
                 b'\xed\xa0\x80', b'\xed\xbf\xbf', b'\xf0\x80\x80\x80', b'\xf0\x8f\xbf\xbf', b'\xf0\x9f\x98',
                 b'\xf4\x90\x80\x80', b'\xf5\x80\x80\x80']
        cases = [(name.encode(), name) for name in valid] + [(name, '\ufffd' * len(name)) for name in wrong]
        for raw, shown in cases:
            with self.subTest(name=raw):
                with open(os.path.join(os.fsencode(self.folder), raw), 'wb') as file:
                    file.write(npy_bytes([3, 4, 6], self.o))
                result = self.run_cli('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--compare',
                                      os.fsdecode(raw), '--rtol', 0.1 + 0.2, '--json')
                self.assertEqual(result.returncode, 0, result.stderr)
                compare = json.loads(result.stdout.decode())['compare']
                self.assertEqual((compare['file'], compare['rtol']), (shown, 0.1 + 0.2))


class ExplainTest(CliTest):
    def test_dry_run_is_explain(self):
        for name, shape in [('q', [2, 4, 9, 8]), ('k', [2, 2, 70, 8]), ('v', [2, 2, 70, 5])]:
            self.write_normal(f'{name}.npy', shape)
        self.write('mask.npy', [9, 70], [1] * 630, '|b1')
        args = ['-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--causal', '--align', 'bottom-right',
                '--mask', 'mask.npy', '--threads', '1']
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


if __name__ == '__main__':
    main()
