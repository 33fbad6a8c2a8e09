"""Attention states in files: --save-state, --resume-state, and keys in the middle."""
from states import BATCH, DIM, HEADS, HEADS_K, KERNEL, KEYS, PIECE, QKV, QUERIES, StatesTest
from support import main


class ResumedStatesTest(StatesTest):
    def test_bits_of_one_call(self):
        """Where parts end at pieces, and the first one is told of all keys."""
        expected = self.outputs(*QKV, *KERNEL)
        parts = self.cut(PIECE, 2 * PIECE)
        self.assertEqual(self.resume(parts, *KERNEL, '--total-keys', KEYS), expected)
        _, shape, _ = self.read('s.rows.npy')
        self.assertEqual(shape, (1, BATCH, HEADS, QUERIES, DIM + 2))  # two whole pieces are one partial result
        self.assertEqual(self.resume(parts, *KERNEL, '--total-keys', KEYS, '--threads', 3, rows=10000), expected)

    def test_parts_of_any_length(self):
        expected = self.outputs(*QKV)
        for ends in ((700,), (1,), (33, 1000, 1399), (1400,)):
            self.check(self.resume(self.cut(*ends), rows=100), expected)

    def test_more_keys_than_short_pieces_are_for(self):
        """There are at most 1,024 pieces: a state begun with short ones goes on in longer ones."""
        expected = self.outputs(*QKV)
        self.cut(700)
        self.save('s', 0)
        nodes = self.read('s.keys.npy')[2][1]
        self.write('s.keys.npy', [BATCH, 3], [700, nodes, 1] * BATCH, '<i8')
        found = self.outputs('-q', 'q.npy', '-k', 'k1.npy', '-v', 'v1.npy', '--stream-kv', 100, '--resume-state', 's',
                             '--save-state', 't')
        self.check(found, expected)
        self.assertEqual(self.read('t.keys.npy')[2][::3], [KEYS] * BATCH)

    def test_positions_masks_and_scores(self):
        """Positions are those among all keys; masks, bias and scores have the part's own columns."""
        self.write_normal('bias.npy', [QUERIES, KEYS])
        self.write('mask.npy', [KEYS], [int(self.random.random() < 0.7) for _ in range(KEYS)], '|b1')
        self.write('sinks.npy', [HEADS], [0.0, 1.0, 2.0, -1.0])
        self.write('slopes.npy', [HEADS], [0.5, 0.25, 0.125, 0.0625])
        parts = self.cut(600)
        for n, (begin, end) in enumerate(((0, 600), (600, KEYS))):
            self.columns('bias', f'bias{n}', [QUERIES, KEYS], begin, end, 1)
            self.columns('mask', f'mask{n}', [KEYS], begin, end, 0, '|b1')
        for args in (('--causal', '--align', 'bottom-right', '--sinks', 'sinks.npy', '--softcap', 20),
                     ('--causal', '--align', 605), ('--window', '40,3', '--align', 590),
                     ('--window', '-1,601', '--align', 'top-left'),
                     ('--alibi', 'slopes.npy', '--align', 'bottom-right')):
            expected = self.outputs(*QKV, *args, '--bias', 'bias.npy', '--mask', 'mask.npy', '--scores', 'all.npy',
                                    '--scores-stage', 'masked')
            found = self.resume(parts, *args, '--total-keys', KEYS, rows=256, of_part=lambda n: (
                '--bias', f'bias{n}.npy', '--mask', f'mask{n}.npy', '--scores', f'scores{n}.npy', '--scores-stage',
                'masked'))
            self.check(found, expected)
            for n, (begin, end) in enumerate(((0, 600), (600, KEYS))):
                self.columns('all', 'expected', [BATCH, HEADS, QUERIES, KEYS], begin, end, 3)
                self.assert_close(self.read(f'scores{n}.npy')[2], self.read('expected.npy')[2], 4e-6)

    def test_work_of_parts(self):
        """What causal hides is counted among all keys: the parts' work is that of one call."""
        args = ('--causal', '--align', 'bottom-right')
        whole = self.ok_json('attention', *QKV, *args, '-o', 'o.npy')['flops']
        self.cut(1395)
        args += ('--total-keys', KEYS, '--stream-kv', 500)
        first = self.ok_json('attention', '-q', 'q.npy', '-k', 'k0.npy', '-v', 'v0.npy', *args, '--save-state', 's')
        last = self.ok_json('attention', '-q', 'q.npy', '-k', 'k1.npy', '-v', 'v1.npy', *args, '--resume-state', 's',
                            '-o', 'o.npy')
        self.assertEqual(first['flops'] + last['flops'], whole)
        self.assertLess(last['flops'], 5 / KEYS * whole)

    def test_offsets(self):
        self.write('at.npy', [BATCH], [500, 1391], '<i8')
        args = ('--causal', '--offsets', 'at.npy')
        self.check(self.resume(self.cut(600), *args), self.outputs(*QKV, *args))

    def test_lengths(self):
        """Each batch element has a state of its own, which ends where its keys do: the first one the farthest, or the
        last, whose partial results are more then."""
        shape = [BATCH, HEADS_K, KEYS, DIM]
        for first, last in (((600, 50), (400, 600)), ((50, 600), (600, 400))):
            for name, lengths in (('all', [sum(n) for n in zip(first, last)]), ('n0', first), ('n1', last)):
                self.write(f'{name}.npy', [BATCH], lengths, '<i8')
            expected = self.outputs(*QKV, '--seqlens-k', 'all.npy', *KERNEL)
            for name, values in (('k', self.k), ('v', self.v)):
                behind = list(values)
                for b, n in enumerate(first):
                    for h in range(HEADS_K):
                        at = (b * HEADS_K + h) * KEYS * DIM
                        behind[at:at + (KEYS - n) * DIM] = values[at + n * DIM:at + KEYS * DIM]
                self.write(f'{name}0.npy', shape, values)
                self.write(f'{name}1.npy', shape, behind)
            found = self.resume(2, *KERNEL, rows=128, of_part=lambda n: ('--seqlens-k', f'n{n}.npy'))
            self.check(found, expected)
            self.assertEqual(self.read('s.rows.npy')[1][0], 2)  # a whole piece of 512 keys, and the keys behind it

    def test_packed(self):
        lengths_q, lengths_k, first = [9, 0, 20, 3], [700, 5, 0, 333], [300, 5, 0, 100]
        starts = lambda lengths: [sum(lengths[:b]) for b in range(len(lengths) + 1)]
        self.write('at_q.npy', [5], starts(lengths_q), '<i8')
        self.write('at_k.npy', [5], starts(lengths_k), '<i8')
        self.write_normal('q.npy', [HEADS, sum(lengths_q), DIM])
        for part, lengths in ((0, first), (1, [a - b for a, b in zip(lengths_k, first)])):
            self.write(f'at{part}.npy', [5], starts(lengths), '<i8')
        total = sum(lengths_k)
        for name in 'kv':
            values = self.write_normal(f'{name}.npy', [HEADS_K, total, DIM])
            for part in (0, 1):
                cut = []
                for h in range(HEADS_K):
                    for b, n in enumerate(lengths_k):
                        begin, end = ((0, first[b]), (first[b], n))[part]
                        at = h * total + starts(lengths_k)[b]
                        cut += values[(at + begin) * DIM:(at + end) * DIM]
                self.write(f'{name}{part}.npy', [HEADS_K, len(cut) // HEADS_K // DIM, DIM], cut)
        packed = ('--cu-seqlens-q', 'at_q.npy', '--cu-seqlens-k')
        expected = self.outputs(*QKV, *packed, 'at_k.npy')
        self.check(self.resume(2, rows=90, of_part=lambda n: (*packed, f'at{n}.npy')), expected)
        self.assertEqual(self.read('s.keys.npy')[1], (4, 3))

    def test_ranks_and_layouts(self):
        for axes in ('bshd', 'one', 'heads'):
            for name, rows, heads in (('q', QUERIES, HEADS), ('k0', 600, HEADS_K), ('k1', 800, HEADS_K),
                                      ('v0', 600, HEADS_K), ('v1', 800, HEADS_K)):
                self.write_normal(f'{name}.npy', {'bshd': [2, rows, heads, DIM], 'one': [rows, DIM],
                                                  'heads': [heads, rows, DIM]}[axes])
            args = ('--layout', 'bshd') if axes == 'bshd' else ()
            found = self.resume(2, *args, rows=200)
            parts = []
            for n in (0, 1):
                self.ok('attention', '-q', 'q.npy', '-k', f'k{n}.npy', '-v', f'v{n}.npy', '-o', f'o{n}.npy', '--lse',
                        f'l{n}.npy', '--quiet', *args)
                parts += [f'o{n}.npy', f'l{n}.npy']
            self.ok('merge', '-o', 'o.npy', '--lse', 'lse.npy', *args, *parts)
            self.check(found, (self.read('o.npy')[2], self.read('lse.npy')[2]))


if __name__ == '__main__':
    main()
