"""flashc-run on K and V of the types of caches: what files hold, scales, and what is refused."""
import struct
import unittest

from support import CliTest, attention, main

TOLERANCE = 1e-5
Q, K, V = [1, 4, 3, 32], [1, 2, 40, 32], [1, 2, 40, 64]


def e5m2(code):
    return struct.unpack('<e', bytes([0, code]))[0]


def e4m3(code):
    exponent, fraction = code >> 3 & 15, code & 7
    magnitude = (8 + fraction) * 2.0 ** (exponent - 10) if exponent else fraction * 2.0 ** -9
    return -magnitude if code & 128 else magnitude


class TypesTest(CliTest):
    def codes(self, shape, low, high):
        count = 1
        for n in shape:
            count *= n
        return [self.random.randint(low, high) for _ in range(count)]

    def check(self, k, v, *options):
        q = self.write_normal('q.npy', Q)
        expected = attention(Q, q, K, k, V, v)
        text = self.ok('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', 'o.npy', *options)
        self.assert_close(self.read('o.npy')[2], expected[0], TOLERANCE)
        return text

    def write_i8(self):
        values = []
        for name, shape in (('k', K), ('v', V)):
            codes = self.codes(shape, -127, 127)
            scales = [abs(x) / 64 for x in self.normal(shape[:-1])]
            self.write(f'{name}.npy', shape, codes, '|i1')
            self.write(f'{name}s.npy', shape[:-1], scales)
            width = shape[-1]
            stored = struct.unpack(f'{len(scales)}f', struct.pack(f'{len(scales)}f', *scales))
            values.append([c * stored[i // width] for i, c in enumerate(codes)])
        return values

    def test_i8(self):
        k, v = self.write_i8()
        text = self.check(k, v, '--k-scale', 'ks.npy', '--v-scale', 'vs.npy')
        for words in ['[1, 2, 40, 32] i8', 'K scale    [1, 2, 40] f32']:
            self.assertIn(words, text)
        self.check(k, v, '--cache-dtype', 'i8', '--k-scale', 'ks.npy', '--v-scale', 'vs.npy')

    def test_i8_with_a_scale_a_head(self):
        """As --help and the man page say: scales of size 1 repeat, whatever codes they are of."""
        codes = [self.codes(shape, -127, 127) for shape in (K, V)]
        for name, shape, values in zip('kv', (K, V), codes):
            self.write(f'{name}.npy', shape, values, '|i1')
        self.write('s.npy', [1, 2, 1], [0.0625, 0.03125])
        k, v = ([c * (0.0625, 0.03125)[i // (len(values) // 2)] for i, c in enumerate(values)] for values in codes)
        self.check(k, v, '--k-scale', 's.npy', '--v-scale', 's.npy')
        words = self.ok('attention', '--help').split('--k-scale FILE')[1].split('--v-scale')[0]
        self.assertIn("K's shape without the last axis, sizes of 1 repeat; needed with i8.", ' '.join(words.split()))

    def test_f8_with_a_scale_a_head(self):
        for name, decode, most in (('f8_e5m2', e5m2, 0x47), ('f8_e4m3', e4m3, 0x47)):
            values = []
            for array, shape in (('k', K), ('v', V)):
                codes = [c | 128 * self.random.randint(0, 1) for c in self.codes(shape, 0, most)]
                self.write(f'{array}.npy', shape, codes, '|u1')
                head = shape[2] * shape[3]
                values.append([decode(c) * (0.5, 2.0)[i // head % 2] for i, c in enumerate(codes)])
            self.write('s.npy', [1, 2, 1], [0.5, 2.0])
            self.check(*values, '--cache-dtype', name, '--k-scale', 's.npy', '--v-scale', 's.npy')

    def test_q8_0(self):
        values = []
        for array, shape in (('k', K), ('v', V)):
            blocks, decoded = [], []
            for _ in range(shape[1] * shape[2] * shape[3] // 32):
                scale = struct.pack('<e', abs(self.random.gauss(0, 1)) / 64)
                codes = self.codes([32], -127, 127)
                blocks += [*scale, *(c & 255 for c in codes)]
                decoded += [struct.unpack('<e', scale)[0] * c for c in codes]
            self.write(f'{array}.npy', [*shape[:-1], shape[-1] // 32 * 34], blocks, '|u1')
            values.append(decoded)
        self.assertIn('q8_0', self.check(*values, '--cache-dtype', 'q8_0'))

    def test_floats_of_another_type_than_q(self):
        k, v = self.write_normal('k.npy', K), self.write_normal('v.npy', V)
        q = self.write_normal('q.npy', Q)
        text = self.ok('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', 'o.npy', '--cache-dtype', 'f16')
        self.assertIn('[1, 2, 40, 32] f16', text)
        self.assert_close(self.read('o.npy')[2], attention(Q, q, K, k, V, v)[0], 5e-3)

    def test_refused(self):
        self.write_i8()
        self.write_normal('q.npy', Q)
        files = ['attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', 'o.npy']
        scales = ['--k-scale', 'ks.npy', '--v-scale', 'vs.npy']
        self.fails(1, ['k.npy', 'i8', '--k-scale FILE is missing'], *files, '--v-scale', 'vs.npy')
        self.fails(1, ['v.npy', 'i8', '--v-scale FILE is missing'], *files, '--k-scale', 'ks.npy')
        self.write_normal('f32.npy', K)
        self.fails(1, ['--k-scale: expected f32.npy of type i8', 'found f32'], 'attention', '-q', 'q.npy',
                   '-k', 'f32.npy', '-v', 'f32.npy', '-o', 'o.npy', '--k-scale', 'ks.npy')
        self.fails(1, ['k.npy', 'u8', 'f8_e4m3', 'i8'], *files, '--cache-dtype', 'f8_e4m3')
        self.fails(2, ['--cache-dtype', "'i4'"], *files, '--cache-dtype', 'i4')
        self.write('short.npy', [1, 2, 39], [1.0] * 78)
        self.fails(1, ['short.npy', '[1, 2, 39]', '[1, 2, 40]'], *files, '--k-scale', 'short.npy',
                   '--v-scale', 'vs.npy')
        self.write('ks.npy', [1, 2, 40], [1.0] * 50 + [-0.5] + [1.0] * 29)
        self.fails(1, ['k_scale[0][1][10]', 'found -0.5'], *files, *scales)
        self.write('k.npy', [1, 2, 40, 33], [0] * 2640, '|u1')
        self.fails(1, ['k.npy', 'f8_e4m3, f8_e5m2 or q8_0', '--cache-dtype'], *files)
        self.fails(1, ['k.npy', '34 bytes'], *files, '--cache-dtype', 'q8_0')

    def test_bench_and_explain(self):
        for name, row in (('i8', 64 + 4), ('q8_0', 68), ('f8_e5m2', 64)):
            shapes = ['--cache-dtype', name, '--heads', 2, '--seqlen-q', 1, '--seqlen-k', 64]
            self.assertIn(f'] {name}', self.ok('explain', *shapes))
            report = self.ok_json('bench', *shapes, '--no-limits', '--repeats', 1)
            entry = report['benchmarks'][0]
            self.assertIn(f'cache:{name}', entry['name'])
            seconds = entry['real_time'] * 1e-6
            self.assertAlmostEqual(entry['kv_gbytes_per_second'] * 1e9 * seconds / (2 * 2 * 64 * row), 1.0, 2)
        self.fails(2, ['q8_0', '32'], 'bench', '--cache-dtype', 'q8_0', '--head-dim', 40)


if __name__ == '__main__':
    main()
