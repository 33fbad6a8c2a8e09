"""flashc-run attention --prefix-k --prefix-v: the result of each sequence with the prefix in front of its own keys."""
import json
import re

from support import CliTest, main, npy_bytes, transpose

BATCH, HEADS, HEADS_K, QUERIES, PREFIX, OWN, DIM = 3, 4, 2, 5, 70, 30, 8
FILES = ('-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--prefix-k', 'pk.npy', '--prefix-v', 'pv.npy')


def behind(shape, prefix, own):
    """[B,H,L,D]: prefix [H,P,D] in front of own [B,H,L,D]."""
    batch, heads, rows, dim = shape
    out = []
    for b in range(batch):
        for h in range(heads):
            out += prefix[h * PREFIX * dim:(h + 1) * PREFIX * dim]
            out += own[(b * heads + h) * rows * dim:(b * heads + h + 1) * rows * dim]
    return [batch, heads, PREFIX + rows, dim], out


class PrefixTest(CliTest):
    def setUp(self):
        super().setUp()
        self.write_normal('q.npy', [BATCH, HEADS, QUERIES, DIM])
        for name in 'kv':
            own = [BATCH, HEADS_K, OWN, DIM]
            prefix = self.write_normal(f'p{name}.npy', [HEADS_K, PREFIX, DIM])
            self.write(f'whole_{name}.npy', *behind(own, prefix, self.write_normal(f'{name}.npy', own)))
        self.write('sinks.npy', [HEADS], [0.5, -1.0, 0.0, 2.0])

    def expect(self, *args):
        """whole.npy and whole_lse.npy: one call on all keys."""
        self.ok('attention', '-q', 'q.npy', '-k', 'whole_k.npy', '-v', 'whole_v.npy', '-o', 'whole.npy', '--lse',
                'whole_lse.npy', '--quiet', *args)

    def check_o(self, expected, *args, axes=None):
        """O, and in chunks from disk: the same bits where no chunk ends within a tile. axes: of O those of expected."""
        found = []
        for chunks in ((), ('--stream-kv', 10000), ('--stream-kv', 1), ('--stream-kv', 27)):
            self.ok('attention', *args, '-o', 'o.npy', '--lse', 'lse.npy', '--quiet', *chunks)
            _, shape, o = self.read('o.npy')
            found.append((o, self.read('lse.npy')[2]))
            self.assert_close(transpose(list(shape), o, axes)[1] if axes else o, expected, 2e-6)
        self.assertEqual(found[1], found[0])
        self.assert_close(found[3][1], found[0][1], 4e-6)

    def check(self, *args):
        self.check_o(self.read('whole.npy')[2], *FILES, *args)
        self.assert_close(self.read('lse.npy')[2], self.read('whole_lse.npy')[2], 4e-6)

    def test_each_sequence_behind_the_prefix(self):
        self.expect()
        self.check()
        self.expect('--causal', '--align', 'bottom-right', '--sinks', 'sinks.npy', '--softcap', 3)
        self.check('--causal', '--align', 'bottom-right', '--sinks', 'sinks.npy', '--softcap', 3)
        self.expect('--causal', '--align', PREFIX + 2)
        self.check('--causal', '--align', 2)

    def test_lengths(self):
        self.write('own.npy', [BATCH], [OWN, 0, 7], '<i8')
        self.write('all.npy', [BATCH], [PREFIX + OWN, PREFIX, PREFIX + 7], '<i8')
        self.expect('--seqlens-k', 'all.npy')
        self.check('--seqlens-k', 'own.npy')

    def test_bshd(self):
        self.expect('--causal', '--align', 'bottom-right')
        for name in ('q', 'k', 'v'):
            _, shape, values = self.read(f'{name}.npy')
            self.write(f'{name}.npy', *transpose(list(shape), values, (0, 2, 1, 3)))
        for name in ('pk', 'pv'):
            _, shape, values = self.read(f'{name}.npy')
            self.write(f'{name}.npy', *transpose(list(shape), values, (1, 0, 2)))
        self.check_o(self.read('whole.npy')[2], *FILES, '--layout', 'bshd', '--causal', '--align', 'bottom-right',
                     axes=(0, 2, 1, 3))

    def test_one_query(self):
        """Decode: queries of any strides."""
        self.write_normal('q.npy', [BATCH, HEADS, 1, DIM])
        self.expect('--causal', '--align', 'bottom-right')
        self.check('--causal', '--align', 'bottom-right')

    def test_many_pieces(self):
        """A prefix and own keys that are cut into pieces: the same bits in chunks that end where these do."""
        for name, shape in (('q', [2, 4, 3, 8]), ('k', [2, 2, 1100, 8]), ('v', [2, 2, 1100, 8]), ('pk', [2, 1500, 8]),
                            ('pv', [2, 1500, 8])):
            self.write_normal(f'{name}.npy', shape)
        args = (*FILES, '--kernel', 'f32_generic', '--lse', 'lse.npy', '--quiet', '--causal', '--align', 1000)
        self.ok('attention', *args, '-o', 'o.npy')
        expected = self.read('o.npy')[2], self.read('lse.npy')[2]
        self.ok('attention', *args, '-o', 'o.npy', '--stream-kv', 5000, '--threads', 3)
        self.assertEqual((self.read('o.npy')[2], self.read('lse.npy')[2]), expected)
        self.ok('attention', *args, '-o', 'o.npy', '--stream-kv', 333)
        self.assert_close(self.read('o.npy')[2], expected[0], 2e-6)

    def test_packed_and_pages(self):
        """Packed queries [H,B*L,D] and keys, and own keys in pages of 10 rows."""
        self.expect('--causal', '--align', 'bottom-right')
        expected = transpose([BATCH, HEADS, QUERIES, DIM], self.read('whole.npy')[2], (1, 0, 2, 3))[1]
        packed = {}
        for name, heads, rows in (('q', HEADS, QUERIES), ('k', HEADS_K, OWN), ('v', HEADS_K, OWN)):
            packed[name] = transpose([BATCH, heads, rows, DIM], self.read(f'{name}.npy')[2], (1, 0, 2, 3))[1]
            pages = transpose([BATCH, heads, rows // 10 if rows == OWN else 1, rows if rows != OWN else 10, DIM],
                              self.read(f'{name}.npy')[2], (0, 2, 1, 3, 4))
            self.write(f'{name}.npy', [heads, BATCH * rows, DIM], packed[name])
            self.write(f'{name}_pages.npy', [pages[0][0] * pages[0][1], *pages[0][2:]], pages[1])
        self.write('at_q.npy', [BATCH + 1], [QUERIES * b for b in range(BATCH + 1)], '<i8')
        self.write('at_k.npy', [BATCH + 1], [OWN * b for b in range(BATCH + 1)], '<i8')
        self.write('table.npy', [BATCH, 3], list(range(9)), '<i4')
        args = ('--cu-seqlens-q', 'at_q.npy', '--causal', '--align', 'bottom-right')
        self.check_o(expected, *FILES, '--cu-seqlens-k', 'at_k.npy', *args)
        self.check_o(expected, '-q', 'q.npy', '-k', 'k_pages.npy', '-v', 'v_pages.npy', *FILES[6:], '--block-table',
                     'table.npy', *args)

    def test_codes(self):
        """int8 keys and values with a scale a row, the same for prefix and own ones: those of the f32 numbers."""
        for name in 'kv':
            shape, own, codes = [BATCH, HEADS_K, OWN, DIM], {}, {}
            for file, rows in ((f'p{name}', HEADS_K * PREFIX), (name, BATCH * HEADS_K * OWN)):
                codes[file] = [self.random.randrange(-127, 128) for _ in range(rows * DIM)]
                scales = [self.random.randrange(1, 9) / 256 for _ in range(rows)]
                own[file] = [c * scales[i // DIM] for i, c in enumerate(codes[file])]
                at = [HEADS_K, PREFIX] if rows == HEADS_K * PREFIX else shape[:3]
                self.write(f'{file}.npy', [*at, DIM], codes[file], '|i1')
                self.write(f'{file}_scale.npy', at, scales)
            self.write(f'whole_{name}.npy', *behind(shape, own[f'p{name}'], own[name]))
        self.expect()
        self.check('--k-scale', 'k_scale.npy', '--v-scale', 'v_scale.npy', '--prefix-k-scale', 'pk_scale.npy',
                   '--prefix-v-scale', 'pv_scale.npy')
        self.fails(1, ['pk.npy', 'i8', '--prefix-k-scale FILE is missing'], 'attention', *FILES, '-o', 'x.npy',
                   '--k-scale', 'k_scale.npy', '--v-scale', 'v_scale.npy')

    def test_8_bit_floats(self):
        """Bytes, of prefix and own keys, that --cache-dtype names."""
        for name in 'kv':
            own = [BATCH, HEADS_K, OWN, DIM]
            codes = {file: [self.random.randrange(0x80) & 0x77 for _ in range(rows * DIM)]
                     for file, rows in ((f'p{name}', HEADS_K * PREFIX), (name, BATCH * HEADS_K * OWN))}
            self.write(f'p{name}.npy', [HEADS_K, PREFIX, DIM], codes[f'p{name}'], '|u1')
            self.write(f'{name}.npy', own, codes[name], '|u1')
            self.write(f'whole_{name}.npy', *behind(own, codes[f'p{name}'], codes[name]), '|u1')
        args = ('--cache-dtype', 'f8_e4m3', '--scale', 0.001)
        self.expect(*args)
        for file, tolerance in (('o', 1e-3), ('lse', 4e-6)):  # values are of order 100
            self.ok('attention', *FILES, *args, '-o', 'o.npy', '--lse', 'lse.npy', '--quiet')
            whole = self.read('whole.npy' if file == 'o' else 'whole_lse.npy')[2]
            self.assert_close(self.read(f'{file}.npy')[2], whole, tolerance)

    def test_reports(self):
        text = self.ok('attention', *FILES, '-o', 'o.npy', '--threads', 1)
        self.assertRegex(text, r'(?m)^K prefix   \[2, 70, 8\] f32$')
        self.assertRegex(text, r'(?m)^prefix     \w+$')
        report = self.ok_json('attention', *FILES, '-o', 'o.npy')
        self.assertEqual(report['prefix_v'], {'shape': [HEADS_K, PREFIX, DIM], 'dtype': 'f32'})
        self.assertEqual(report['on_prefix']['flops'], 2 * 2 * DIM * HEADS * BATCH * QUERIES * PREFIX)
        flops = 2 * 2 * DIM * HEADS * BATCH * QUERIES * (PREFIX + OWN)
        self.assertAlmostEqual(report['gflops'], 1e-6 * flops / report['milliseconds'], delta=0.01 * report['gflops'])

    def test_explain(self):
        """Both plans, the same from a dry run and --verbose; of the prefix the header alone is read."""
        text = self.ok('explain', *FILES, '--causal', '--align', 'bottom-right')
        self.assertEqual(text, self.ok('attention', *FILES, '--causal', '--align', 'bottom-right', '--dry-run'))
        self.assertEqual(len(re.findall(r'(?m)^kernel     \w+$', text)), 2)
        self.assertRegex(text, r'(?ms)^on the own keys:\nkernel .*^on the prefix:\nkernel ')
        self.assertNotRegex(self.ok('explain', *FILES[:6]), r'(?m)^on the')
        verbose = self.ok('attention', *FILES, '--causal', '--align', 'bottom-right', '-o', 'o.npy', '--verbose')
        self.assertIn(text[text.index('kernel'):], verbose)
        report = self.ok_json('explain', *FILES, '--threads', 1)
        self.assertEqual(report['flops'], 2 * 2 * DIM * HEADS * BATCH * QUERIES * OWN)
        self.assertEqual(report['on_prefix']['flops'], 2 * 2 * DIM * HEADS * BATCH * QUERIES * PREFIX)
        flops = re.findall(r'(?m)^flops +(\S+)$', self.ok('explain', *FILES, '--threads', 1))
        self.assertEqual(flops, [f'{part["flops"]:g}' for part in (report, report['on_prefix'])])
        rows = 1 << 28  # 16 GiB that are not there
        with open(self.path('long.npy'), 'wb') as file:
            header = npy_bytes([HEADS_K, rows, DIM], [])
            file.write(header)
            file.truncate(len(header) + 4 * HEADS_K * rows * DIM)
        report = self.ok_json('explain', *FILES[:6], '--prefix-k', 'long.npy', '--prefix-v', 'long.npy')
        self.assertEqual(report['on_prefix']['flops'], 2 * 2 * DIM * HEADS * BATCH * QUERIES * rows)
        self.fails(1, ['no.npy'], 'explain', *FILES[:6], '--prefix-k', 'no.npy', '--prefix-v', 'pv.npy')

    def test_probe_and_predict(self):
        """Of each part, behind its own plan; a part without work has neither."""
        result = self.run_cli('explain', *FILES, '--threads', 2, '--predict', '--probe')  # the probe may warn
        own, prefix = result.stdout.decode().split('on the own keys:\n')[1].split('on the prefix:\n')
        for part in (own, prefix):
            self.assertRegex(part, r'(?ms)\Akernel .*^probe  .*^measured  .*^predicted .*^predicted ')
        self.write('none.npy', [BATCH, HEADS_K, 0, DIM], [])
        report = json.loads(self.run_cli('explain', '-q', 'q.npy', '-k', 'none.npy', '-v', 'none.npy', *FILES[6:],
                                         '--probe', '--json').stdout)
        self.assertNotIn('probe', report)
        self.assertGreaterEqual(len(report['on_prefix']['probe']), 0)
        self.write('empty.npy', [HEADS_K, 0, DIM], [])
        empty = ('--prefix-k', 'empty.npy', '--prefix-v', 'empty.npy')
        report = json.loads(self.run_cli('explain', *FILES[:6], *empty, '--threads', 1, '--probe', '--predict',
                                         '--json').stdout)
        for word in ('probe', 'predictions'):
            self.assertIn(word, report)
            self.assertNotIn(word, report['on_prefix'])
        self.fails(1, ['computes nothing'], 'explain', '-q', 'q.npy', '-k', 'none.npy', '-v', 'none.npy', *empty,
                   '--probe')

    def test_options_that_contradict(self):
        """Refused before any file is opened."""
        files = ('-q', 'no.npy', '-k', 'no.npy', '-v', 'no.npy', '-o', 'x.npy')
        prefix = ('--prefix-k', 'no.npy', '--prefix-v', 'no.npy')
        for option, value in (('--seqlens-q', 'no.npy'), ('--leftpad-k', 'no.npy'), ('--mask', 'no.npy'),
                              ('--bias', 'no.npy'), ('--scores', 'no.npy'), ('--key-mass', 'no.npy')):
            self.fails(2, [f'--prefix-k and {option} do not go together'], 'attention', *files, *prefix, option, value)
        self.fails(2, ['--prefix-k and --window'], 'attention', *files, *prefix, '--window', '3,0',
                   '--align', 'top-left')
        self.fails(2, ['--prefix-k and --alibi'], 'attention', *files, *prefix, '--alibi', 'no.npy', '--align', '0')
        self.fails(2, ['--prefix-k and --block-mask'], 'attention', *files, *prefix, '--block-mask', 'no.npy',
                   '--block-mask-tile', '8,8')
        self.fails(2, ['--prefix-k needs --prefix-v'], 'attention', *files, '--prefix-k', 'no.npy')
        self.fails(2, ['--prefix-v needs --prefix-k'], 'attention', *files, '--prefix-v', 'no.npy')
        self.fails(2, ['--stream-kv expects files', 'standard input'], 'attention', *files, '--prefix-k', '-',
                   '--prefix-v', 'no.npy', '--stream-kv', 5)
        self.fails(2, ['--prefix-v-scale needs --prefix-k'], 'attention', *files, '--prefix-v-scale', 'no.npy')

    def test_shapes_that_do_not_fit(self):
        self.write_normal('heads.npy', [HEADS_K + 1, PREFIX, DIM])
        self.write_normal('columns.npy', [HEADS_K, PREFIX, DIM + 1])
        self.write_normal('rows.npy', [HEADS_K, PREFIX + 1, DIM])
        for name, words in (('heads.npy', ['heads.npy: expected 2 heads, as K has, found 3']),
                            ('columns.npy', ['columns.npy: expected 8 columns, as K has, found 9']),
                            ('k.npy', ['k.npy: expected rank 3 [H,L,D]', 'found rank 4 [3, 2, 30, 8]'])):
            self.fails(1, words, 'attention', *FILES[:6], '-o', 'x.npy', '--prefix-k', name, '--prefix-v', 'pv.npy')
        self.fails(1, ['rows.npy: expected 70 rows, as the prefix of K has, found 71'], 'attention', *FILES[:6], '-o',
                   'x.npy', '--prefix-k', 'pk.npy', '--prefix-v', 'rows.npy')
        for name, words in (('columns.npy', '8 columns, as V has, found 9'),
                            ('heads.npy', '2 heads, as V has, found 3')):
            self.fails(1, [f'{name}: expected {words}'], 'attention', *FILES[:6], '-o', 'x.npy', '--prefix-k', 'pk.npy',
                       '--prefix-v', name)


if __name__ == '__main__':
    main()
