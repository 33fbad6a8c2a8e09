"""flashc-run softmax and merge."""
import math

from support import CliTest, bf16_to_float, float_to_bf16, main, npy_bytes, parse_npy, transpose

# On random zero-mean data the error stays within 4 u (1 + A) max|v|, u = 2^-24; here A < 20 and max|v| < 5.
TOLERANCE = 4 * 2.0 ** -24 * 21 * 5


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

    def test_nan(self):
        """It makes its row NaN, and a difference of two arrays that hold it; it is printed without a sign."""
        for nan in (math.nan, -math.nan):
            self.write('x.npy', [2, 4], [1, nan, 3, 4, 1, 2, 3, 4])
            text = self.ok('softmax', '-x', 'x.npy', '--split', 2)
            self.assertNotIn('-nan', text)
            self.assertIn('nan nan nan nan\n0.0321 0.0871 0.2369 0.6439\n', text)
            self.assertIn('softmax of the whole row: nan\n', text)
            self.assertIn('from the merged: nan\n', text)
            self.assertNotIn('-nan', self.ok('softmax', '-x', 'x.npy'))
            result = self.ok_json('softmax', '-x', 'x.npy', '--split', 2)
            self.assertEqual((result['merged_max_abs_error'], result['naive_max_abs_error']), (None, None))

    def test_bf16_and_f64(self):
        self.write('x.npy', [2], [float_to_bf16(0.0)] * 2, '<V2')
        self.ok('softmax', '-x', 'x.npy', '-o', 'y.npy', '--dtype', 'bf16')
        self.assertEqual(self.read('y.npy'), ('<V2', (2,), [float_to_bf16(0.5)] * 2))
        self.write('x.npy', [2], [0.0, 0.0], '<f8')
        self.ok('softmax', '-x', 'x.npy', '-o', 'y.npy', '--dtype', 'f32')
        self.assertEqual(self.read('y.npy'), ('<f4', (2,), [0.5, 0.5]))

    def test_rows_of_no_elements(self):
        """They are no softmax, as flashc_is_softmax() has it; of no rows all are."""
        for shape, valid in (([0], False), ([3, 0], False), ([2, 3, 0], False), ([0, 3], True), ([0, 0], True)):
            self.write('x.npy', shape, [])
            self.assertIs(self.ok_json('softmax', '-x', 'x.npy')['valid_softmax'], valid, shape)

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
