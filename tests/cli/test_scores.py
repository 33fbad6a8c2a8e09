"""What flashc-run attention does to scores beside mask and bias: each option against the same said another way."""
import math

from support import CliTest, attention, main

SHAPE_Q, SHAPE_K = [2, 4, 9, 8], [2, 2, 13, 8]


class ScoresTest(CliTest):
    def setUp(self):
        super().setUp()
        self.q = self.write_normal('q.npy', SHAPE_Q)
        self.k = self.write_normal('k.npy', SHAPE_K)
        self.v = self.write_normal('v.npy', SHAPE_K)

    def run_attention(self, *args):
        self.ok('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', 'o.npy', '--lse', 'lse.npy', *args)
        return self.read('o.npy')[2], self.read('lse.npy')[2]

    def check(self, args, **kwargs):
        expected_o, expected_lse = attention(SHAPE_Q, self.q, SHAPE_K, self.k, SHAPE_K, self.v, **kwargs)
        o, lse = self.run_attention(*args)
        self.assert_close(o, expected_o, 1e-5)
        self.assert_close(lse, expected_lse, 1e-5)

    def test_window(self):
        self.check(('--window', '3,1', '--align', 'bottom-right'),
                   visible=lambda b, h, i, j: i + 4 - 3 <= j <= i + 4 + 1)
        self.check(('--window', '0,-1', '--align', '2'), visible=lambda b, h, i, j: j >= i + 2)
        at = list(range(5, 5 + SHAPE_Q[0]))
        self.write('at.npy', [SHAPE_Q[0]], at, '<i8')
        self.check(('--causal', '--offsets', 'at.npy'), visible=lambda b, h, i, j: j <= i + at[b])
        self.check(('--window', '4,-1', '--causal', '--align', 'top-left'), visible=lambda b, h, i, j: i - 4 <= j <= i)

    def test_softcap(self):
        self.run_attention()
        plain = self.read('lse.npy')[2]
        self.assertEqual(self.run_attention('--softcap', '0')[1], plain)
        _, capped = self.run_attention('--softcap', '1e4')
        self.assert_close(capped, plain, 1e-5)
        o, lse = self.run_attention('--softcap', '1e-6')  # all scores are nearly the same then
        self.assert_close(lse, [math.log(13)] * len(lse), 1e-4)
        mean = [sum(self.v[(n * 13 + j) * 8 + d] for j in range(13)) / 13 for n in range(4) for d in range(8)]
        self.assert_close(o[:8], mean[:8], 1e-4)

    def test_alibi(self):
        slopes = [0.5, 0.25, 0.125, -0.5]
        self.write('slopes.npy', [4], slopes)
        self.check(('--alibi', 'slopes.npy', '--align', 'bottom-right'),
                   bias=lambda b, h, i, j: -slopes[h] * abs(i + 4 - j))
        self.write('slopes2.npy', [2, 4], slopes + [2 * s for s in slopes], '<f8')
        self.check(('--alibi', 'slopes2.npy', '--align', 'top-left'),
                   bias=lambda b, h, i, j: -slopes[h] * (1 + b) * abs(i - j))

    def test_outputs(self):
        self.run_attention('--scores', 's.npy', '--scores-stage', 'weights', '--key-mass', 'm.npy',
                           '--row-max', 'r.npy', '--causal', '--align', 'bottom-right')
        (_, shape, weights), (_, mass_shape, mass) = self.read('s.npy'), self.read('m.npy')
        self.assertEqual((shape, mass_shape), ((2, 4, 9, 13), (2, 4, 13)))
        rows = [weights[13 * n:13 * n + 13] for n in range(72)]
        self.assert_close([sum(row) for row in rows], [1.0] * 72, 1e-5)
        self.assertEqual([row[i % 9 + 5:] for i, row in enumerate(rows)], [[0.0] * (8 - i % 9) for i in range(72)])
        sums = [sum(rows[9 * h + i][j] for i in range(9)) for h in range(8) for j in range(13)]
        self.assert_close(mass, sums, 1e-5)
        row_max = self.read('r.npy')[2]
        self.run_attention('--scores', 's.npy', '--scores-stage', 'masked', '--causal', '--align', 'bottom-right')
        masked = self.read('s.npy')[2]
        self.assertEqual(row_max, [max(masked[13 * n:13 * n + 13]) for n in range(72)])
        self.fails(2, ['--scores-stage expects'], 'attention', '--scores-stage', 'raw')

    def test_outputs_of_arrays_with_fewer_axes(self):
        """Without the batch's axis, and the heads': what belongs to the first batch element, and to its first head."""
        outputs = {'--scores': ('s.npy', [2, 4, 9, 13]), '--key-mass': ('m.npy', [2, 4, 13]),
                   '--row-max': ('r.npy', [2, 4, 9])}
        args = [word for option, (name, _) in outputs.items() for word in (option, name)]
        self.run_attention('--scores-stage', 'weights', *args)
        whole = {name: self.read(name)[2] for name, _ in outputs.values()}
        for left_out in (1, 2):
            for name, shape, values in (('q', SHAPE_Q, self.q), ('k', SHAPE_K, self.k), ('v', SHAPE_K, self.v)):
                self.write(f'{name}.npy', shape[left_out:], values[:math.prod(shape[left_out:])])
            self.run_attention('--scores-stage', 'weights', *args)
            for name, shape in outputs.values():
                _, found_shape, found = self.read(name)
                self.assertEqual(list(found_shape), shape[left_out:])
                self.assert_close(found, whole[name][:math.prod(shape[left_out:])], 1e-5)

    def test_sinks(self):
        sinks = [0.0, 2.5, -math.inf, -30.0]
        self.write('sinks.npy', [4], sinks)
        plain_o, plain_lse = self.run_attention()
        o, lse = self.run_attention('--sinks', 'sinks.npy')
        for row, (before, after) in enumerate(zip(plain_lse, lse)):
            sink = sinks[row // 9 % 4]
            total = math.exp(before) + math.exp(sink)
            self.assertAlmostEqual(after, math.log(total), delta=1e-5)
            expected = [x * math.exp(before) / total for x in plain_o[8 * row:8 * row + 8]]
            self.assert_close(o[8 * row:8 * row + 8], expected, 1e-5)

    def test_block_mask(self):
        bits = [1, 0, 1, 1, 1, 0, 0, 1, 1]  # 3 x 3 tiles of 4 queries x 5 keys
        self.write('blocks.npy', [3, 3], bits, '|b1')
        self.check(('--block-mask', 'blocks.npy', '--block-mask-tile', '4,5'),
                   visible=lambda b, h, i, j: bits[i // 4 * 3 + j // 5])
        of_heads = [(n * 7 // 3) % 2 for n in range(4 * 9)]
        self.write('blocks.npy', [1, 4, 3, 3], of_heads, '|u1')
        self.check(('--block-mask', 'blocks.npy', '--block-mask-tile', '4,5'),
                   visible=lambda b, h, i, j: of_heads[(h * 3 + i // 4) * 3 + j // 5])

    def test_errors(self):
        files = ('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', 'new.npy')
        self.write('three.npy', [3], [1.0, 2.0, 3.0])
        self.write('nan.npy', [4], [0.0, math.nan, 0.0, 0.0])
        self.write('blocks.npy', [3, 4], [1] * 12, '|b1')
        self.fails(2, ['--window', 'needs --align'], *files, '--window', '3,0')
        self.fails(2, ['--align or --offsets'], *files, '--causal', '--align', '3', '--offsets', 'three.npy')
        self.fails(1, ['three.npy', 'expected i32 or i64'], *files, '--causal', '--offsets', 'three.npy')
        self.write('at.npy', [SHAPE_Q[0] + 1], [1] * (SHAPE_Q[0] + 1), '<i8')
        self.fails(1, ['at.npy', 'one for each sequence'], *files, '--causal', '--offsets', 'at.npy')
        self.fails(2, ['--window', "'3'"], *files, '--window', '3', '--align', 'top-left')
        self.fails(2, ['--window', "'-2'"], *files, '--window', '-2,0', '--align', 'top-left')
        for n in (-1 << 63) - 1, 1 << 63:
            self.fails(2, ['--window expects a number from', f"'{n}'"], *files, '--window', f'0,{n}', '--align', 0)
        self.fails(2, ['--window', "'x'"], *files, '--window', '1,x', '--align', 'top-left')
        self.fails(2, ['--softcap', "'-1'"], *files, '--softcap', '-1')
        self.fails(2, ['--softcap', "'1e-60'"], *files, '--softcap', '1e-60')
        self.fails(1, ['flashc-run: softcap: expected 0 (none)'], *files, '--softcap', '1e-40')
        self.fails(1, ['flashc-run: kernel: expected one of', '"nope"'], *files, '--kernel', 'nope')
        self.fails(2, ['--alibi', 'needs --align'], *files, '--alibi', 'three.npy')
        self.fails(1, ['three.npy', '4 heads', '[3]'], *files, '--alibi', 'three.npy', '--align', 'top-left')
        self.write('first.npy', [1, 4], [1.0] * 4)
        self.fails(1, ['first.npy', 'each batch element', '[1, 4]'], *files, '--alibi', 'first.npy', '--align', '0')
        self.fails(1, ['three.npy', '4 heads', '[3]'], *files, '--sinks', 'three.npy')
        self.fails(1, ['sinks[1]', 'nan'], *files, '--sinks', 'nan.npy')
        self.write('each.npy', [SHAPE_Q[0], 4], [0.0] * (4 * SHAPE_Q[0]))
        self.fails(1, ['each.npy', '4 heads, found shape'], *files, '--sinks', 'each.npy')
        self.fails(2, ['--block-mask', 'together'], *files, '--block-mask', 'blocks.npy')
        self.fails(2, ['--block-mask-tile', "'0'"], *files, '--block-mask', 'blocks.npy', '--block-mask-tile', '0,4')
        for shape in ([3, 4], [1, 3], [3, 1]):  # tiles are not repeated, as heads are
            self.write('blocks.npy', shape, [1] * (shape[0] * shape[1]), '|b1')
            self.fails(1, ['blocks.npy', str(shape), '[2, 4, 3, 3]'], *files, '--block-mask', 'blocks.npy',
                       '--block-mask-tile', '4,5')

    def test_reports(self):
        self.write('sinks.npy', [4], [0.0] * 4)
        report = self.ok_json('explain', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--sinks', 'sinks.npy',
                              '--window', '2,0', '--align', 'bottom-right')
        self.assertEqual(report['sinks'], {'shape': [4], 'dtype': 'f32'})
        self.assertEqual(report['flops'], 2 * 16 * 2 * 4 * 9 * 3)
        run = self.ok_json('bench', '--heads', 2, '--seqlen-q', 64, '--window', '7,0', '--align', 'top-left',
                           '--softcap', 20, '--no-limits', '--repeats', 1, '--threads', 1)
        self.assertIn('/window:7,0/softcap:20', run['benchmarks'][0]['name'])


if __name__ == '__main__':
    main()
