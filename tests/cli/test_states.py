"""Attention states in files: --save-state, --resume-state, keys in the middle, and merge --states."""
import math
import os

from support import CliTest, main, transpose

BATCH, HEADS, HEADS_K, QUERIES, KEYS, DIM = 2, 4, 2, 9, 1400, 8
QKV = ('-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy')
# Tiles and pieces begin at multiples of these in every kernel here; what ends there has the bits of one call.
KERNEL, PIECE = ('--kernel', 'f32_generic'), 512


class StatesTest(CliTest):
    def setUp(self):
        super().setUp()
        self.write_normal('q.npy', [BATCH, HEADS, QUERIES, DIM])
        self.k = self.write_normal('k.npy', [BATCH, HEADS_K, KEYS, DIM])
        self.v = self.write_normal('v.npy', [BATCH, HEADS_K, KEYS, DIM])

    def columns(self, name, part, shape, begin, end, axis, descr='<f4'):
        """part.npy: those of name.npy along an axis."""
        values = self.read(f'{name}.npy')[2]
        inner = math.prod(shape[axis + 1:])
        outer = math.prod(shape[:axis])
        cut = []
        for o in range(outer):
            cut += values[(o * shape[axis] + begin) * inner:(o * shape[axis] + end) * inner]
        self.write(f'{part}.npy', [*shape[:axis], end - begin, *shape[axis + 1:]], cut, descr)

    def cut(self, *ends):
        """k0.npy, v0.npy, k1.npy, ...: the keys up to each of these, and those that remain."""
        edges = [0, *ends, KEYS]
        for n, (begin, end) in enumerate(zip(edges, edges[1:])):
            for name in 'kv':
                self.columns(name, f'{name}{n}', [BATCH, HEADS_K, KEYS, DIM], begin, end, 2)
        return len(ends) + 1

    def outputs(self, *args):
        self.ok('attention', *args, '-o', 'o.npy', '--lse', 'lse.npy', '--quiet')
        return self.read('o.npy')[2], self.read('lse.npy')[2]

    def resume(self, parts, *args, rows=PIECE, of_part=lambda n: ()):
        """The result of the last part."""
        for n in range(parts):
            call = ('-q', 'q.npy', '-k', f'k{n}.npy', '-v', f'v{n}.npy', '--stream-kv', rows, *args, *of_part(n),
                    *(('--resume-state', 's') if n else ()))
            if n + 1 < parts:
                self.ok('attention', *call, '--save-state', 's', '--quiet')
        return self.outputs(*call)

    def check(self, found, expected):
        self.assert_close(found[0], expected[0], 2e-6)
        self.assert_close(found[1], expected[1], 4e-6)

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
        """Each batch element has a state of its own, which ends where its keys do."""
        self.write('all.npy', [BATCH], [1000, 650], '<i8')
        self.write('n0.npy', [BATCH], [600, 50], '<i8')
        self.write('n1.npy', [BATCH], [400, 600], '<i8')
        expected = self.outputs(*QKV, '--seqlens-k', 'all.npy')
        shape = [BATCH, HEADS_K, KEYS, DIM]
        for name, values in (('k', self.k), ('v', self.v)):
            behind = list(values)
            for b, n in enumerate((600, 50)):
                for h in range(HEADS_K):
                    at = (b * HEADS_K + h) * KEYS * DIM
                    behind[at:at + (KEYS - n) * DIM] = values[at + n * DIM:at + KEYS * DIM]
            self.write(f'{name}0.npy', shape, values)
            self.write(f'{name}1.npy', shape, behind)
        self.check(self.resume(2, rows=128, of_part=lambda n: ('--seqlens-k', f'n{n}.npy')), expected)

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

    def save(self, name, part, *args):
        self.ok('attention', '-q', 'q.npy', '-k', f'k{part}.npy', '-v', f'v{part}.npy', '--stream-kv', 256,
                '--save-state', name, '--quiet', *args)

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

    def test_arguments(self):
        call = ('attention', *QKV, '-o', 'x.npy')
        for option, value in (('--save-state', 's'), ('--resume-state', 's'), ('--first-key', 5), ('--first-key', 0),
                              ('--total-keys', 5)):
            self.fails(2, [f'{option} needs --stream-kv'], *call, option, value)
            stream = (*call, option, value, '--stream-kv', 64)
            if option != '--total-keys':
                self.fails(2, [f'{option} and --align bottom-right need --total-keys'], *stream, '--align',
                           'bottom-right')
            self.fails(2, [f'{option} and --leftpad-k do not go together'], *stream, '--leftpad-k', 'no.npy')
            self.fails(2, [f'{option} and --block-mask do not go together'], *stream, '--block-mask', 'no.npy',
                       '--block-mask-tile', '8,8')
            self.fails(2, [f'{option} and --prefix-k do not go together'], *stream, '--prefix-k', 'k.npy', '--prefix-v',
                       'v.npy')
        for first in (0, 3):
            self.fails(2, ['--resume-state and --first-key do not go together'], *call, '--stream-kv', 9,
                       '--resume-state', 's', '--first-key', first)
        for option in ('--save-state', '--resume-state'):
            for name in ('-', ''):
                self.fails(2, [f"{option} expects what the names of two files begin with, found '{name}'"], *call,
                           '--stream-kv', 9, option, name)
        self.fails(1, ['--total-keys 1399: expected at least the 1400 keys of sequence 0', 'k.npy'], *call,
                   '--stream-kv', 9, '--total-keys', 1399)
        self.fails(2, ['--first-key', "'-1'"], *call, '--stream-kv', 9, '--first-key', -1)
        self.fails(2, ['--save-state needs --states'], 'merge', 'a', 'b', '--save-state', 's')
        self.fails(2, ['names of states, found none'], 'merge', '--states', '-o', 'x.npy')
        self.fails(2, ['--states and --dtype'], 'merge', '--states', '--dtype', 'f32', 'a', '-o', 'x.npy')
        self.fails(2, ['at least one of -o, --save-state and --lse'], 'merge', '--states', 'a')

    def test_states_that_do_not_fit(self):
        self.cut(600)
        self.save('s', 0)
        call = ('attention', '-q', 'q.npy', '-k', 'k1.npy', '-v', 'v1.npy', '-o', 'x.npy', '--stream-kv', 64,
                '--resume-state')
        self.fails(1, ['no.rows.npy'], *call, 'no')
        self.fails(1, ['no.rows.npy'], 'merge', '--states', 's', 'no', '-o', 'x.npy')
        _, shape, rows = self.read('s.rows.npy')
        _, _, keys = self.read('s.keys.npy')
        self.write_normal('q2.npy', [BATCH, HEADS, QUERIES + 1, DIM])
        self.fails(1, ['s.rows.npy has shape', f'expected [{shape[0]}, 2, 4, 10, 10] for the queries of q2.npy'],
                   *call[:2], 'q2.npy', *call[3:], 's')

        order = [*range(len(shape))][::-1]
        self.write('t.rows.npy', shape, transpose(shape, rows, order)[1], fortran=True)
        self.write('t.keys.npy', [BATCH, 3], keys, '<i8')
        self.fails(1, ['t.rows.npy: expected C order, found Fortran order'], *call, 't')

        def write(name, rows_shape=shape, rows_values=rows, descr='<f4', keys_values=keys, keys_descr='<i8'):
            self.write(f'{name}.rows.npy', rows_shape, rows_values, descr)
            self.write(f'{name}.keys.npy', [len(keys_values) // 3, 3], keys_values, keys_descr)
        write('t', descr='<i4', rows_values=[0] * len(rows))
        self.fails(1, ['t.rows.npy: expected the f32 of a state, found i32'], *call, 't')
        write('t', keys_descr='<i4')
        self.fails(1, ['t.keys.npy: expected the i64 of a state, found i32'], *call, 't')
        write('t', rows_shape=[len(rows)])
        self.fails(1, ['t.rows.npy: expected the shape [1 to 48, (batch, heads,) queries, head_dim_v + 2]'], *call, 't')
        write('t', keys_values=keys[:3])
        self.fails(1, ['t.keys.npy has 1 rows: expected 2, one for each sequence of q.npy'], *call, 't')
        self.fails(1, ['t.keys.npy has 1 rows: expected 2, one for each sequence of s'], 'merge', '--states', 's', 't',
                   '-o', 'x.npy')
        for column, value, words in ((0, -1, 'next_key from 0 to'), (1, shape[0] + 1, f'n_nodes from 0 to {shape[0]}'),
                                     (2, -5, 'piece_n from 0 to')):
            wrong = list(keys)
            wrong[3 + column] = value
            write('t', keys_values=wrong)
            self.fails(1, ['t.keys.npy: expected ' + words, f'found {value} at [1, {column}]'], *call, 't')
        # More partial results than the keys can have left.
        write('t', rows_shape=[3 * shape[0], *shape[1:]], rows_values=rows * 3, keys_values=[5, 3, PIECE] * BATCH)
        self.fails(1, ['n_nodes: expected 0 to 1', 'found 3'], *call, 't')

    def test_nothing_is_left_after_an_error(self):
        """The file of K ends too early: neither results nor a state, and the one before stays as it was."""
        self.cut(600)
        self.save('s', 0)
        before = self.read('s.rows.npy'), self.read('s.keys.npy')
        with open(self.path('k1.npy'), 'rb+') as file:
            file.truncate(os.path.getsize(self.path('k1.npy')) - 4)
        self.fails(1, ['k1.npy'], 'attention', '-q', 'q.npy', '-k', 'k1.npy', '-v', 'v1.npy', '-o', 'x.npy',
                   '--stream-kv', 100, '--resume-state', 's', '--save-state', 's')
        self.fails(1, ['folder/x.npy'], 'attention', *QKV, '--stream-kv', 100, '-o', 'folder/x.npy', '--save-state',
                   's')
        self.assertEqual((self.read('s.rows.npy'), self.read('s.keys.npy')), before)


if __name__ == '__main__':
    main()
