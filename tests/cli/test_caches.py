"""append, and attention on packed sequences and on pages: the same numbers as with padded arrays."""
import math

from support import CliTest, bf16_to_float, count_of, float_to_bf16, main, round_f32, transpose

HEADS, DIM = 2, 8
LENGTHS = [5, 0, 9, 3]
TOTAL = sum(LENGTHS)
STARTS = [sum(LENGTHS[:b]) for b in range(len(LENGTHS) + 1)]
EQUAL = ('--rtol', 0, '--atol', 0)


class CachesTest(CliTest):
    def setUp(self):
        super().setUp()
        self.write('lengths.npy', [4], LENGTHS, '<i4')
        self.write('starts.npy', [5], STARTS, '<i8')

    def padded(self, packed):
        """[H, total, D] as [B, H, longest, D], with 1e30 in between."""
        longest, out = max(LENGTHS), []
        for b, length in enumerate(LENGTHS):
            for h in range(HEADS):
                first = (h * TOTAL + STARTS[b]) * DIM
                out += packed[first:first + length * DIM] + [1e30] * ((longest - length) * DIM)
        return [len(LENGTHS), HEADS, longest, DIM], out

    def packed(self, shape, padded):
        out = []
        for h in range(HEADS):
            for b, length in enumerate(LENGTHS):
                first = (b * HEADS + h) * shape[2] * DIM
                out += padded[first:first + length * DIM]
        return out

    def make_padded(self):
        """q, k and v packed and padded, and o.npy, the attention of the padded ones; its values, packed."""
        for name in 'qkv':
            self.write(f'p{name}.npy', *self.padded(self.write_normal(f'{name}.npy', [HEADS, TOTAL, DIM])))
        self.ok('attention', '-q', 'pq.npy', '-k', 'pk.npy', '-v', 'pv.npy', '-o', 'o.npy', '--lse', 'lse.npy',
                '--causal', '--align', 'bottom-right', '--seqlens-q', 'lengths.npy', '--seqlens-k', 'lengths.npy')
        _, shape, o = self.read('o.npy')
        self.write('expected.npy', [HEADS, TOTAL, DIM], self.packed(shape, o))

    def test_packed(self):
        self.make_padded()
        args = ('--causal', '--align', 'bottom-right', '--cu-seqlens-q', 'starts.npy',
                '--compare', 'expected.npy', *EQUAL)
        self.ok('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--cu-seqlens-k', 'starts.npy', '--lse',
                'l.npy', *args)
        self.assertEqual(list(self.read('l.npy')[1]), [HEADS, TOTAL])
        self.ok('attention', '-q', 'q.npy', '-k', 'pk.npy', '-v', 'pv.npy', '--seqlens-k', 'lengths.npy', '--key-mass',
                'pm.npy', '--row-max', 'pr.npy', *args)
        self.ok('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--cu-seqlens-k', 'starts.npy', '--key-mass',
                'm.npy', '--row-max', 'r.npy', *args)
        self.assertEqual(self.read('r.npy')[1:], self.read('pr.npy')[1:])
        self.assertEqual(list(self.read('r.npy')[1]), [HEADS, TOTAL])
        _, shape, mass = self.read('m.npy')
        _, padded_shape, padded_mass = self.read('pm.npy')
        self.assertEqual((shape, padded_shape), ((HEADS, TOTAL), (len(LENGTHS), HEADS, max(LENGTHS))))
        rows = [padded_mass[i:i + max(LENGTHS)] for i in range(0, len(padded_mass), max(LENGTHS))]
        self.assertEqual(mass, [x for h in range(HEADS) for b, n in enumerate(LENGTHS)
                                for x in rows[b * HEADS + h][:n]])
        self.assertAlmostEqual(sum(padded_mass), HEADS * TOTAL, 4)
        for name in 'qkv':
            shape, values = transpose([HEADS, TOTAL, DIM], self.read(f'{name}.npy')[2], (1, 0, 2))
            self.write(f't{name}.npy', shape, values)
        self.ok('attention', '-q', 'tq.npy', '-k', 'tk.npy', '-v', 'tv.npy', '--cu-seqlens-q', 'starts.npy',
                '--cu-seqlens-k', 'starts.npy', '--causal', '--align', 'bottom-right', '--layout', 'bshd',
                '-o', 'to.npy')
        self.assertEqual(transpose([TOTAL, HEADS, DIM], self.read('to.npy')[2], (1, 0, 2))[1],
                         self.read('expected.npy')[2])

    def test_pages(self):
        """append fills pages of 4 rows from packed rows; attention over them."""
        self.make_padded()
        table = [[7, 2, -1], [-1, -1, -1], [0, 5, 3], [6, 99, 99]]
        self.write('table.npy', [4, 3], sum(table, []), '<i4')
        self.write('zeros.npy', [4], [0] * 4, '<i4')
        for name in 'kv':
            self.write(f'{name}_pages.npy', [8, HEADS, 4, DIM], [1e30] * (8 * HEADS * 4 * DIM))
        self.ok('append', '-k', 'k.npy', '-v', 'v.npy', '--cache-k', 'k_pages.npy', '--cache-v', 'v_pages.npy',
                '--output-k', 'nk.npy', '--output-v', 'nv.npy', '--positions', 'zeros.npy', '--cu-seqlens',
                'starts.npy', '--block-table', 'table.npy', '--quiet')
        self.ok('attention', '-q', 'q.npy', '-k', 'nk.npy', '-v', 'nv.npy', '--cu-seqlens-q', 'starts.npy',
                '--block-table', 'table.npy', '--seqlens-k', 'lengths.npy', '--causal', '--align', 'bottom-right',
                '--compare', 'expected.npy', *EQUAL)
        self.write('columns.npy', [4, 3], [line[i] for i in range(3) for line in table], '<i4', fortran=True)
        self.ok('attention', '-q', 'q.npy', '-k', 'nk.npy', '-v', 'nv.npy', '--cu-seqlens-q', 'starts.npy',
                '--block-table', 'columns.npy', '--seqlens-k', 'lengths.npy', '--causal', '--align', 'bottom-right',
                '--compare', 'expected.npy', *EQUAL)
        # A cache that is its own output.
        self.ok('append', '-k', 'k.npy', '--cache-k', 'k_pages.npy', '--output-k', 'k_pages.npy', '--positions',
                'zeros.npy', '--cu-seqlens', 'starts.npy', '--block-table', 'table.npy', '--quiet')
        self.assertEqual(self.read('k_pages.npy'), self.read('nk.npy'))
        self.write('table_v.npy', [4, 3], [1] * 12, '<i4')
        self.fails(1, ['block_table_v', '[0][1]', 'no other entry', 'found 1'], 'append', '-k', 'k.npy', '-v', 'v.npy',
                   '--cache-k', 'k_pages.npy', '--cache-v', 'v_pages.npy', '--output-k', 'x.npy', '--output-v', 'y.npy',
                   '--positions', 'zeros.npy', '--cu-seqlens', 'starts.npy', '--block-table', 'table.npy',
                   '--block-table-v', 'table_v.npy')
        self.fails(2, ['--cu-seqlens-k, not both', '--seqlens-k says'], 'attention', '-q', 'q.npy', '-k', 'nk.npy',
                   '-v', 'nv.npy', '-o', 'x.npy', '--cu-seqlens-q', 'starts.npy',
                   '--cu-seqlens-k', 'starts.npy', '--block-table', 'table.npy')
        self.write('short.npy', [3, 1], [0] * 3, '<i4')
        self.fails(1, ['short.npy has 3 rows: expected 4, one for each sequence'], 'attention', '-q', 'q.npy', '-k',
                   'nk.npy', '-v', 'nv.npy', '--cu-seqlens-q', 'starts.npy', '--seqlens-k', 'lengths.npy',
                   '--block-table', 'short.npy', '-o', 'x.npy')
        self.fails(1, ['block_table[0][2]', 'found -1'], 'attention', '-q', 'q.npy', '-k', 'nk.npy', '-v', 'nv.npy',
                   '-o', 'x.npy', '--cu-seqlens-q', 'starts.npy', '--block-table', 'table.npy')

    def test_pages_of_two_sizes(self):
        """K in 8 pages of 4 rows, V in 13 of 2, each with its table."""
        self.make_padded()
        for name, rows, table in (
                ('k', 4, [[7, 2, -1], [-1, -1, -1], [0, 5, 3], [6, 99, 99]]),
                ('v', 2, [[11, 3, 7, -1, -1], [-1] * 5, [0, 9, 2, 5, 12], [4, 1, -1, -1, -1]])):
            pages = max(n for line in table for n in line if n < 99) + 1
            self.write(f'table_{name}.npy', [4, len(table[0])], sum(table, []), '<i4')
            self.write(f'{name}_pages.npy', [pages, HEADS, rows, DIM], [1e30] * (pages * HEADS * rows * DIM))
        self.write('zeros.npy', [4], [0] * 4, '<i4')
        tables = ('--block-table', 'table_k.npy', '--block-table-v', 'table_v.npy')
        self.ok('append', '-k', 'k.npy', '-v', 'v.npy', '--cache-k', 'k_pages.npy', '--cache-v', 'v_pages.npy',
                '--output-k', 'nk.npy', '--output-v', 'nv.npy', '--positions', 'zeros.npy', '--cu-seqlens',
                'starts.npy', *tables)
        self.ok('attention', '-q', 'q.npy', '-k', 'nk.npy', '-v', 'nv.npy', '--cu-seqlens-q', 'starts.npy', *tables,
                '--seqlens-k', 'lengths.npy', '--causal', '--align', 'bottom-right', '--compare', 'expected.npy',
                *EQUAL)
        for pages, rows in ((8, 2), (9, 4)):
            self.write('v_pages.npy', [pages, HEADS, rows, DIM], [0] * (pages * HEADS * rows * DIM))
            self.fails(1, [f'k_pages.npy has 8 pages of 4 rows, v_pages.npy has {pages} of {rows}: one table is for'],
                       'append', '-k', 'k.npy', '-v', 'v.npy', '--cache-k', 'k_pages.npy', '--cache-v', 'v_pages.npy',
                       '--output-k', 'x.npy', '--output-v', 'y.npy', '--positions', 'zeros.npy', '--cu-seqlens',
                       'starts.npy', *tables[:2])

    def test_block_mask_of_packed_sequences(self):
        """It has tiles for the longest, whichever that is."""
        self.make_padded()
        self.write('blocks.npy', [3, 3], [1] * 9, '|b1')
        self.ok('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--cu-seqlens-q', 'starts.npy',
                '--cu-seqlens-k', 'starts.npy', '--causal', '--align', 'bottom-right', '--block-mask', 'blocks.npy',
                '--block-mask-tile', '4,4', '--compare', 'expected.npy')

    def test_rotation(self):
        """Half-split and interleaved, of K into a bf16 cache and of Q."""
        k = self.write_normal('k.npy', [1, HEADS, 3, DIM])
        angles = [[self.random.uniform(0, 6) for _ in range(2)] for _ in range(8)]
        self.write('cos.npy', [8, 2], [round_f32(math.cos(a)) for row in angles for a in row])
        self.write('sin.npy', [8, 2], [round_f32(math.sin(a)) for row in angles for a in row])
        self.write('at.npy', [1], [5], '<i8')
        self.write('cache.npy', [1, HEADS, 10, DIM], [0] * (HEADS * 10 * DIM), '<V2')
        for option, pairs in (([], [(0, 2), (1, 3)]), (['--interleaved'], [(0, 1), (2, 3)])):
            self.ok('append', '-k', 'k.npy', '--cache-k', 'cache.npy', '--output-k', 'new.npy', '--cache-dtype', 'bf16',
                    '-q', 'k.npy', '--output-q', 'q.npy', '--positions', 'at.npy', '--cos', 'cos.npy',
                    '--sin', 'sin.npy', *option)
            expected = list(k)
            for row in range(HEADS * 3):
                for d, (x, y) in enumerate(pairs):
                    c, s = (f(angles[5 + row % 3][d]) for f in (math.cos, math.sin))
                    a, b = k[row * DIM + x], k[row * DIM + y]
                    expected[row * DIM + x], expected[row * DIM + y] = a * c - b * s, b * c + a * s
            self.assert_close(self.read('q.npy')[2], expected, 1e-6)
            descr, shape, found = self.read('new.npy')
            self.assertEqual((descr, shape), ('<V2', (1, HEADS, 10, DIM)))
            for i, bits in enumerate(found):
                row, column = i // DIM % 10, i % DIM
                exact = expected[(i // DIM // 10 * 3 + row - 5) * DIM + column] if 5 <= row < 8 else 0.0
                self.assertLessEqual(abs(bf16_to_float(bits) - exact), 2 ** -8 * abs(exact) + 1e-9)
            self.assertEqual(float_to_bf16(expected[4]), found[5 * DIM + 4]) # goes through
            self.ok('append', '-q', 'k.npy', '--output-q', 'q16.npy', '--out-dtype', 'bf16', '--rotary-positions',
                    'at.npy', '--cos', 'cos.npy', '--sin', 'sin.npy', *option)
            descr, shape, found = self.read('q16.npy')
            self.assertEqual((descr, shape), ('<V2', (1, HEADS, 3, DIM)))
            self.assertEqual(found, [float_to_bf16(x) for x in self.read('q.npy')[2]])

    def test_errors(self):
        shape = [1, HEADS, 3, DIM]
        for name in ('k', 'cache'):
            self.write(f'{name}.npy', shape, [0.0] * count_of(shape))
        self.write('packed.npy', shape[1:], [0.0] * count_of(shape))
        self.write('at.npy', [1], [1], '<i8')
        self.write('two.npy', [2], [0, 0], '<i8')
        self.write('real.npy', [1], [0.0])
        self.write('table.npy', [1, 1], [0], '<i4')
        k = ('-k', 'k.npy', '--cache-k', 'cache.npy', '--output-k', 'new.npy')
        self.fails(2, ['nothing to do'], 'append')
        self.fails(2, ['--cache-k', 'missing'], 'append', '-k', 'k.npy')
        self.fails(2, ['flashc-run: -q and --output-q go'], 'append', '-q', 'k.npy', '--positions', 'at.npy')
        self.fails(2, ['--positions'], 'append', *k)
        self.fails(2, ['--out-dtype', '-q'], 'append', *k, '--positions', 'at.npy', '--out-dtype', 'f16')
        self.fails(2, ['--cos and --sin'], 'append', *k, '--positions', 'at.npy', '--cos', 'k.npy')
        # What would have no effect is no option of this call.
        self.fails(2, ['--block-table-v needs --block-table'], 'append', *k, '--positions', 'at.npy',
                   '--block-table-v', 'table.npy')
        self.fails(2, ['--interleaved needs --cos'], 'append', *k, '--positions', 'at.npy', '--interleaved')
        self.fails(2, ['--rotary-positions needs --cos'], 'append', *k, '--positions', 'at.npy',
                   '--rotary-positions', 'at.npy')
        self.fails(2, ['give --seqlens or --cu-seqlens, not both'], 'append', *k, '--positions', 'at.npy',
                   '--seqlens', 'at.npy', '--cu-seqlens', 'at.npy')
        self.fails(1, ['two.npy', '2 numbers', 'expected 1'], 'append', *k, '--positions', 'two.npy')
        self.fails(1, ['real.npy', 'i32 or i64', 'f32'], 'append', *k, '--positions', 'real.npy')
        self.fails(1, ['positions[0]', 'expected 0 to 0', 'found 1'], 'append', *k, '--positions', 'at.npy')
        self.write('four.npy', [1], [4], '<i8')
        self.write('starts.npy', [2], [0, 2], '<i8')
        at = ('--positions', 'four.npy')
        self.fails(1, ['--seqlens four.npy: seqlens_new[0]: expected 0 to seqlen_new = 3, found 4'], 'append', *k, *at,
                   '--seqlens', 'four.npy')
        self.fails(1, ['--cu-seqlens starts.npy: cu_seqlens_new[1]: expected seqlen_new = 3, found 2'], 'append',
                   '-k', 'packed.npy',
                   '--cache-k', 'cache.npy', '--output-k', 'new.npy', *at, '--cu-seqlens', 'starts.npy')
        self.write('empty.npy', [0], [], '<i8')
        none = ['empty.npy: expected a number for each sequence and one more, found none']
        self.fails(1, none, 'append', '-k', 'packed.npy', '--cache-k', 'cache.npy', '--output-k', 'new.npy', *at,
                   '--cu-seqlens', 'empty.npy')
        for option in ('--cu-seqlens-q', '--cu-seqlens-k'):
            self.fails(1, none, 'attention', '-q', 'packed.npy', '-k', 'packed.npy', '-v', 'packed.npy', '-o', 'o.npy',
                       option, 'empty.npy')
        self.fails(1, ['table.npy', 'rank 1', 'rank 2'], 'append', *k, '--positions', 'table.npy')
        for name, rows in (('cos', 5), ('sin', 16), ('short', 1)):
            self.write(f'{name}.npy', [rows, 2], [0.0] * 2 * rows)
        for sines, words in (('sin', 'sin.npy has 16 rows: expected 5'), ('short', 'short.npy has 1 row: expected 5')):
            self.fails(1, [words], 'append', *k, '--positions', 'at.npy', '--cos', 'cos.npy', '--sin', f'{sines}.npy')
        for option in ('--seqlens', '--rotary-positions'):
            for counts, text in (('two', '2 numbers'), ('empty', '0 numbers')):
                self.fails(1, [f'{counts}.npy has {text}: expected 1, one for each sequence'], 'append', *k,
                           '--positions', 'at.npy', '--cos', 'cos.npy', '--sin', 'cos.npy', option, f'{counts}.npy')
        self.fails(2, ['--packed or --page-size'], 'explain', '--packed', '--page-size', 16)
        self.fails(2, ['--seqlens-k or --page-size'], 'explain', '--seqlens-k', 'at.npy', '--page-size', 16)

    def test_shapes(self):
        for option in (['--packed'], ['--page-size', 16], ['--page-size', 7, '--layout', 'bshd']):
            shape = ['--batch', 3, '--heads', 2, '--seqlen-q', 5, '--seqlen-k', 50, *option]
            plan = self.ok_json('explain', *shape)
            self.assertEqual(plan['flops'], 2 * 128 * 3 * 2 * 5 * 50)
            result = self.ok_json('bench', *shape, '--no-limits', '--repeats', 1)
            self.assertIn(option[0][2:].replace('-', '_'), result['benchmarks'][0]['name'])

    def test_shapes_beyond_64_bits(self):
        many = ('explain', '--batch', 1 << 16, '--seqlen-q', 1, '--seqlen-k', 1 << 48)
        too_many = 'has more elements than a 64-bit number can count'
        self.fails(1, [f'k: the shape [8, {(1 << 63) - 1}, 64] {too_many}'], *many, '--packed')
        self.fails(1, [f'k: the shape [{(1 << 63) - 1}, 8, 1, 64] {too_many}'], *many, '--page-size', 1)
        for option in ('batch', 'heads', 'heads-k', 'seqlen-q', 'seqlen-k', 'head-dim', 'head-dim-v'):
            self.fails(2, [f'--{option} expects a number from', f'to {1 << 48}'], 'explain', f'--{option}',
                       (1 << 48) + 1)
        # Pages that are none may have any number of rows.
        self.write('q.npy', [1, 2, 1, 1], [1.0] * 2)
        self.write('k.npy', [0, 1, 1 << 60, 1], [])
        self.write('table.npy', [1, 8], [0] * 8, '<i4')
        self.fails(1, [f'seqlen_k: expected 0 to 2^48, found {(1 << 63) - 1}'], 'attention', '-q', 'q.npy', '-k',
                   'k.npy', '-v', 'k.npy', '--block-table', 'table.npy', '-o', 'o.npy')


if __name__ == '__main__':
    main()
