"""append into caches of codes: what the files hold afterwards, the rest of the cache as it was, and what is refused."""
import struct
import unittest

from support import CliTest, main, transpose

BATCH, HEADS, NEW, ROWS, AT = 2, 2, 3, 10, 4
WIDTHS = {'k': 32, 'v': 64}
SPOILED = 37  # of rows that nothing is written to


def f8(name, code):
    if name == 'f8_e5m2':
        return struct.unpack('<e', bytes([0, code]))[0]
    exponent, fraction = code >> 3 & 15, code & 7
    magnitude = (8 + fraction) * 2.0 ** (exponent - 10) if exponent else fraction * 2.0 ** -9
    return -magnitude if code & 128 else magnitude


class AppendCodesTest(CliTest):
    def setUp(self):
        super().setUp()
        self.write('at.npy', [BATCH], [AT] * BATCH, '<i8')
        self.new = {name: self.write_normal(f'{name}.npy', [BATCH, HEADS, NEW, width])
                    for name, width in WIDTHS.items()}

    def write_caches(self, descr, items_of_row):
        for name, width in WIDTHS.items():
            items = items_of_row(width)
            self.write(f'c{name}.npy', [BATCH, HEADS, ROWS, items], [SPOILED] * (BATCH * HEADS * ROWS * items), descr)

    def arguments(self, *options):
        return ('append', '-k', 'k.npy', '-v', 'v.npy', '--cache-k', 'ck.npy', '--cache-v', 'cv.npy', '--output-k',
                'nk.npy', '--output-v', 'nv.npy', '--positions', 'at.npy', *options)

    def check(self, name, descr, items, decode, limit):
        """decode(items of a row, its number): its elements. limit: of the error, from the row's largest element."""
        width = WIDTHS[name]
        found_descr, shape, values = self.read(f'n{name}.npy')
        self.assertEqual((found_descr, list(shape)), (descr, [BATCH, HEADS, ROWS, items]))
        for row in range(BATCH * HEADS * ROWS):
            head, at = divmod(row, ROWS)
            found = values[row * items:(row + 1) * items]
            if not AT <= at < AT + NEW:
                self.assertEqual(found, [SPOILED] * items)
                continue
            first = (head * NEW + at - AT) * width
            expected = self.new[name][first:first + width]
            self.assert_close(decode(found, row), expected, limit(max(map(abs, expected))))

    def test_i8(self):
        self.write_caches('|i1', lambda width: width)
        options = []
        for name in WIDTHS:
            self.write(f's{name}.npy', [BATCH, HEADS, ROWS], [0.25] * (BATCH * HEADS * ROWS))
            options += [f'--{name}-scale', f's{name}.npy', f'--output-{name}-scale', f't{name}.npy']
        self.ok(*self.arguments(*options))
        scales = {name: self.read(f't{name}.npy')[2] for name in WIDTHS}
        for name, width in WIDTHS.items():
            self.assertEqual([row for row, scale in enumerate(scales[name]) if scale != 0.25],
                             [row for row in range(BATCH * HEADS * ROWS) if AT <= row % ROWS < AT + NEW])
            self.check(name, '|i1', width, lambda codes, row: [c * scales[name][row] for c in codes],
                       lambda largest: 0.501 / 127 * largest)
        self.ok('attention', '-q', 'k.npy', '-k', 'nk.npy', '-v', 'nv.npy', '-o', 'o.npy', '--k-scale', 'tk.npy',
                '--v-scale', 'tv.npy')
        # The other layout: the same codes and scales.
        for file, axes in (('k', 4), ('v', 4), ('ck', 4), ('cv', 4), ('sk', 3), ('sv', 3)):
            descr, shape, values = self.read(f'{file}.npy')
            self.write(f'{file}.npy', *transpose(shape, values, (0, 2, 1, 3)[:axes]), descr)
        kept = {file: self.read(f'{file}.npy') for file in ('nk', 'nv', 'tk', 'tv')}
        self.ok(*self.arguments(*options, '--layout', 'bshd'))
        for file, (_, shape, values) in kept.items():
            _, found_shape, found = self.read(f'{file}.npy')
            self.assertEqual(transpose(found_shape, found, (0, 2, 1, 3)[:len(found_shape)])[1], values)

    def test_q8_0(self):
        self.write_caches('|u1', lambda width: width // 32 * 34)
        self.ok(*self.arguments('--cache-dtype', 'q8_0'))

        def decode(data, _):
            out = []
            for first in range(0, len(data), 34):
                scale, *codes = struct.unpack('<e32b', bytes(data[first:first + 34]))
                out += [scale * c for c in codes]
            return out
        for name, width in WIDTHS.items():
            self.check(name, '|u1', width // 32 * 34, decode, lambda largest: (0.501 / 127 + 2 ** -11) * largest)

    def test_f8(self):
        for dtype, bits in (('f8_e4m3', 4), ('f8_e5m2', 3)):
            self.write_caches('|u1', lambda width: width)
            self.write('scale.npy', [1, HEADS, 1], [0.5, 2.0])
            self.ok(*self.arguments('--cache-dtype', dtype, '--k-scale', 'scale.npy'))
            for name, width in WIDTHS.items():
                self.check(name, '|u1', width,
                           lambda codes, row: [f8(dtype, c) * ((0.5, 2.0)[row // ROWS % 2] if name == 'k' else 1.0)
                                               for c in codes],
                           lambda largest: max(2.0 ** -bits * largest, 2.0 ** -9))

    def test_pages(self):
        """Packed rows of two sequences into pages of 4 rows; attention over them."""
        total, page = BATCH * NEW, 4
        for name, width in WIDTHS.items():
            self.write_normal(f'{name}.npy', [HEADS, total, width])
            self.write(f'c{name}.npy', [5, HEADS, page, width], [0] * (5 * HEADS * page * width), '|i1')
            self.write(f's{name}.npy', [5, HEADS, page], [0.0] * (5 * HEADS * page))
        self.write('table.npy', [BATCH, 2], [3, 0, 4, 1], '<i4')
        self.write('at.npy', [BATCH], [3, 0], '<i8')
        self.write('starts.npy', [BATCH + 1], [0, NEW, total], '<i8')
        scales = [option for name in WIDTHS
                  for option in (f'--{name}-scale', f's{name}.npy', f'--output-{name}-scale', f't{name}.npy')]
        self.ok(*self.arguments(*scales, '--block-table', 'table.npy', '--cu-seqlens', 'starts.npy'))
        found = self.read('tk.npy')[2]
        written = {(3, 3), (0, 0), (0, 1), (4, 0), (4, 1), (4, 2)}
        for i, scale in enumerate(found):
            self.assertEqual(scale > 0, (i // page // HEADS, i % page) in written)
        self.write('lengths.npy', [BATCH], [6, 3], '<i8')
        self.ok('attention', '-q', 'k.npy', '-k', 'nk.npy', '-v', 'nv.npy', '-o', 'o.npy', '--k-scale', 'tk.npy',
                '--v-scale', 'tv.npy', '--block-table', 'table.npy', '--cu-seqlens-q', 'starts.npy', '--seqlens-k',
                'lengths.npy')

    def test_refused(self):
        self.write_caches('|i1', lambda width: width)
        self.write('s.npy', [BATCH, HEADS, ROWS], [0.25] * (BATCH * HEADS * ROWS))
        both = ('--k-scale', 's.npy', '--output-k-scale', 't.npy')
        self.fails(2, ['cv.npy', 'i8', '--v-scale', '--output-v-scale'], *self.arguments(*both))
        self.fails(2, ['ck.npy', 'i8', '--output-k-scale'], *self.arguments('--k-scale', 's.npy'))
        self.fails(1, ['ck.npy', 'u8', 'q8_0', 'i8'], *self.arguments('--cache-dtype', 'q8_0'))
        self.write('one.npy', [1, HEADS, ROWS], [0.25] * (HEADS * ROWS))
        self.fails(1, ['k_cache_scale', 'stride'], *self.arguments(
            '--k-scale', 'one.npy', '--output-k-scale', 't.npy', '--v-scale', 's.npy', '--output-v-scale', 'u.npy'))
        self.fails(2, ['--v-scale with --cache-v'], 'append', '-k', 'k.npy', '--cache-k', 'ck.npy',
                   '--output-k', 'nk.npy', '--positions', 'at.npy', '--v-scale', 's.npy')
        self.write_caches('|u1', lambda width: width)
        self.fails(2, ['--output-k-scale', 'i8 alone'], *self.arguments('--cache-dtype', 'f8_e5m2', *both))
        self.write('s.npy', [1, HEADS, 1], [0.5, 0.0])
        self.fails(1, ['k_cache_scale[0][1][4]', 'above 0', 'found 0'],
                   *self.arguments('--cache-dtype', 'f8_e5m2', '--k-scale', 's.npy'))
        self.write_caches('|u1', lambda width: width // 32 * 34)
        self.fails(1, ['ck.npy', 'columns', '34'], *self.arguments('--cache-dtype', 'f8_e4m3'))
        self.write('cv.npy', [BATCH, HEADS, ROWS - 1, 68], [0] * (BATCH * HEADS * (ROWS - 1) * 68), '|u1')
        self.fails(1, ['cv.npy', '9 rows', 'expected 10'], *self.arguments('--cache-dtype', 'q8_0'))


if __name__ == '__main__':
    main()
