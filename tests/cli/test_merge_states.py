"""merge --states, and what the files of a state hold."""
import math

from states import BATCH, DIM, HEADS, HEADS_K, KERNEL, KEYS, QKV, QUERIES, StatesTest
from support import main, transpose


class MergedStatesTest(StatesTest):
    def test_merge(self):
        """Of keys that were seen apart, which may be causal: then the later ones are told where they begin."""
        self.cut(600, 1000)
        for features in ((), ('--causal', '--align', 'bottom-right'), ('--window', '300,-1', '--align', 800)):
            expected = self.outputs(*QKV, *features)
            args = (*features, '--total-keys', KEYS)
            self.save('a', 0, *args, '--first-key', 0)
            self.save('b', 1, *args, '--first-key', 600)
            self.save('c', 2, *args, '--first-key', 1000)
            text = self.ok('merge', '--states', 'a', 'c', 'b', '-o', 'm.npy', '--lse', 'ml.npy')
            self.assertEqual(text, f'merged     3 states\nO          [{BATCH}, {HEADS}, {QUERIES}, {DIM}] f32\n')
            self.check((self.read('m.npy')[2], self.read('ml.npy')[2]), expected)
            # Two of them merged are a state, from which the third part goes on, and it may be saved over.
            self.ok('merge', '--states', 'a', 'b', '--save-state', 'a', '--quiet')
            self.check(self.outputs('-q', 'q.npy', '-k', 'k2.npy', '-v', 'v2.npy', '--stream-kv', 90,
                                    '--resume-state', 'a', *args), expected)

    def test_merge_with_sinks(self):
        """What one call makes of them; the state that is saved has none, so that they come in later as well."""
        self.cut(600)
        for sinks in ([0.5, 3.0, -math.inf, 40.0], [-2.0] * HEADS):
            self.write('sinks.npy', [HEADS], sinks)
            self.save('a', 0)
            self.save('b', 1, '--first-key', 600)
            expected = self.outputs(*QKV, '--sinks', 'sinks.npy')
            self.ok('merge', '--states', 'a', 'b', '--sinks', 'sinks.npy', '-o', 'm.npy', '--lse', 'ml.npy',
                    '--save-state', 'c', '--quiet')
            self.check((self.read('m.npy')[2], self.read('ml.npy')[2]), expected)
            self.ok('merge', '--states', 'c', '--sinks', 'sinks.npy', '-o', 'm.npy', '--lse', 'ml.npy', '--quiet')
            self.check((self.read('m.npy')[2], self.read('ml.npy')[2]), expected)
            self.ok('merge', '--states', 'c', '-o', 'm.npy', '--lse', 'ml.npy', '--quiet')
            self.check((self.read('m.npy')[2], self.read('ml.npy')[2]), self.outputs(*QKV))
        bshd = ('--layout', 'bshd', '-o', 'm.npy', '--quiet')
        self.ok('merge', '--states', 'c', '--sinks', 'sinks.npy', *bshd)
        swapped = transpose([BATCH, HEADS, QUERIES, DIM], expected[0], [0, 2, 1, 3])
        self.assertEqual(self.read('m.npy')[1], tuple(swapped[0]))
        self.assert_close(self.read('m.npy')[2], swapped[1], 2e-6)

    def test_sinks_that_are_refused(self):
        self.cut(600)
        self.save('a', 0)
        merge = ('merge', '--states', 'a', '-o', 'm.npy', '--sinks')
        self.write('short.npy', [HEADS - 1], [0.0] * (HEADS - 1))
        self.fails(1, [f'short.npy: expected one number for each of {HEADS} heads, found shape [3]'], *merge,
                   'short.npy')
        self.write('nan.npy', [HEADS], [0.0, math.nan, 0.0, 0.0])
        self.fails(1, ['--sinks nan.npy: sinks[1]: expected a finite value, or -inf', 'nan'], *merge, 'nan.npy')
        self.fails(2, ['--sinks needs -o or --lse'], 'merge', '--states', 'a', '--save-state', 'b', '--sinks', 'n.npy')
        self.fails(2, ['--sinks needs --states'], 'merge', 'a', 'b', '-o', 'm.npy', '--sinks', 'n.npy')

    def test_merge_in_the_layout_bshd(self):
        """Of any rank: O is what attention writes in that layout."""
        self.cut(600)
        for shape, shape_k in (([BATCH, QUERIES, HEADS, DIM], [BATCH, KEYS, HEADS_K, DIM]),
                               ([QUERIES, HEADS, DIM], [KEYS, HEADS_K, DIM]), ([QUERIES, DIM], [KEYS, DIM])):
            self.write_normal('q.npy', shape)
            self.write_normal('k.npy', shape_k)
            self.write_normal('v.npy', shape_k)
            expected = self.outputs(*QKV, '--layout', 'bshd')
            self.ok('attention', *QKV, '--layout', 'bshd', '--stream-kv', 512, '--save-state', 's', '--quiet')
            self.ok('merge', '--states', 's', '-o', 'm.npy', '--lse', 'ml.npy', '--layout', 'bshd', '--quiet')
            self.assertEqual(self.read('m.npy')[1], tuple(shape))
            self.check((self.read('m.npy')[2], self.read('ml.npy')[2]), expected)

    def test_merge_with_a_state_of_no_keys(self):
        """It changes nothing, whichever comes first."""
        no_keys = ('-q', 'q.npy', '-k', 'none.npy', '-v', 'none.npy', '--stream-kv', 9)
        self.write('none.npy', [BATCH, HEADS_K, 0, DIM], [])
        self.ok('attention', *no_keys, '--save-state', 'none', '--quiet')
        self.ok('attention', *QKV, '--stream-kv', 512, '--save-state', 'all', '--quiet')
        expected = self.outputs(*QKV)
        for names in (('all', 'none'), ('none', 'all'), ('none', 'all', 'none')):
            self.ok('merge', '--states', *names, '-o', 'm.npy', '--lse', 'ml.npy', '--save-state', 'm', '--quiet')
            self.assertEqual(self.read('m.keys.npy')[2][:2], [KEYS, 1])
            self.check((self.read('m.npy')[2], self.read('ml.npy')[2]), expected)
            self.check(self.outputs(*no_keys, '--resume-state', 'm'), expected)

    def test_pieces_of_a_merged_state(self):
        """Keys that come later are cut as the first of the states says."""
        self.cut(600)
        self.save('a', 0, '--total-keys', KEYS, *KERNEL)
        self.save('b', 1, '--first-key', 600, *KERNEL)
        _, shape, keys = self.read('b.keys.npy')
        pieces = self.read('a.keys.npy')[2][2]
        self.assertGreater(pieces, 0)
        self.write('b.keys.npy', shape, [n if i % 3 < 2 else 2 * pieces for i, n in enumerate(keys)], '<i8')
        for names, expected in ((('a', 'b'), pieces), (('b', 'a'), 2 * pieces)):
            self.ok('merge', '--states', *names, '--save-state', 'm', '--quiet')
            self.assertEqual(self.read('m.keys.npy')[2], [KEYS, 1, expected] * BATCH)

    def test_merge_of_one(self):
        """What attention makes of the state, in both layouts and other types."""
        self.cut(1399)
        self.save('a', 0, '--total-keys', KEYS)
        expected = self.outputs('-q', 'q.npy', '-k', 'k0.npy', '-v', 'v0.npy')
        text = self.ok('merge', '--states', 'a', '-o', 'm.npy', '--lse', 'ml.npy')
        self.assertTrue(text.startswith('merged     1 state\n'), text)
        self.check((self.read('m.npy')[2], self.read('ml.npy')[2]), expected)
        report = self.ok_json('merge', '--states', 'a', '-o', 'm.npy', '--layout', 'bshd', '--out-dtype', 'f16')
        self.assertEqual(report, {'parts': 1, 'shape': [BATCH, QUERIES, HEADS, DIM], 'dtype': 'f16'})
        _, shape, values = self.read('m.npy')
        self.assertEqual(shape, (BATCH, QUERIES, HEADS, DIM))
        at = ((1 * QUERIES + 3) * HEADS + 2) * DIM
        self.assert_close(values[at:at + DIM], expected[0][((1 * HEADS + 2) * QUERIES + 3) * DIM:][:DIM], 1e-3)

    def test_what_files_hold(self):
        """acc / row_sum of a state of one partial result is O; of no keys, nothing."""
        self.ok('attention', *QKV, '--stream-kv', 300, '--save-state', 's', '-o', 'o.npy', '--quiet')
        descr, shape, keys = self.read('s.keys.npy')
        self.assertEqual((descr, shape, keys[0::3]), ('<i8', (BATCH, 3), [KEYS] * BATCH))
        nodes = keys[1]
        descr, shape, rows = self.read('s.rows.npy')
        self.assertEqual((descr, shape), ('<f4', (nodes, BATCH, HEADS, QUERIES, DIM + 2)))
        self.ok('merge', '--states', 's', '--save-state', 't', '-o', 'm.npy', '--quiet')
        self.assertEqual(self.read('t.keys.npy')[2][0:2], [KEYS, 1])
        _, shape, rows = self.read('t.rows.npy')
        self.assertEqual(shape, (1, BATCH, HEADS, QUERIES, DIM + 2))
        o = [rows[i + d] / rows[i + DIM + 1] for i in range(0, len(rows), DIM + 2) for d in range(DIM)]
        self.assert_close(o, self.read('o.npy')[2], 2e-6)
        for name in 'kv':
            self.write(f'{name}.npy', [BATCH, HEADS_K, 0, DIM], [])
        self.ok('attention', *QKV, '--stream-kv', 300, '--save-state', 'none', '--quiet')
        _, _, rows = self.read('none.rows.npy')
        self.assertEqual(rows, ([0.0] * DIM + [-math.inf, 0.0]) * (BATCH * HEADS * QUERIES))
        self.check(self.outputs(*QKV, '--stream-kv', 1, '--resume-state', 's'), (o, self.outputs(
            *QKV, '--stream-kv', 1, '--resume-state', 't')[1]))


if __name__ == '__main__':
    main()
