"""flashc-run explain --probe. The verdict has a test of its own; here only a kernel that is far slower is judged."""
import json

import support

SHAPE = ('--heads', 2, '--seqlen-q', 200, '--head-dim', 32)
GENERIC = ('--kernel', 'f32_generic')


class ChoiceTest(support.CliTest):
    def kernels(self):
        return [k['name'] for k in self.ok_json('info')['kernels']]

    def probe(self, *args):
        """The explanation, and what stands on standard error: a warning, or nothing."""
        run = self.run_cli('explain', '--probe', '--json', *SHAPE, *args)
        self.assertEqual(run.returncode, 0, run.stderr.decode())
        result = json.loads(run.stdout)
        self.assertEqual(run.stderr != b'', any(rival['disagrees'] for rival in result['probe']))
        return result, run.stderr.decode()

    def test_plain_explain_times_nothing(self):
        self.assertNotIn('probe', self.ok_json('explain', *SHAPE))

    def test_rivals(self):
        result, _ = self.probe()
        self.assertEqual(result['kernel'], self.ok_json('explain', *SHAPE)['kernel'])
        names = [rival['kernel'] for rival in result['probe']]
        self.assertEqual(names, [name for name in self.kernels() if name in names])
        self.assertNotIn(result['kernel'], names)
        for rival in result['probe']:
            self.assertLessEqual(rival['low'], rival['speed'])
            self.assertLessEqual(rival['speed'], rival['high'])
            self.assertEqual(rival['disagrees'], rival['low'] > 1.03)

    def test_only_kernels_of_the_same_compute(self):
        for dtype in ('f32', 'bf16'):
            result, _ = self.probe('--dtype', dtype)
            for rival in result['probe']:
                same = self.ok_json('explain', '--dtype', dtype, '--kernel', rival['kernel'], *SHAPE)['compute']
                self.assertEqual(same, result['compute'])

    def test_a_slow_kernel_is_warned_of(self):
        best = self.ok_json('explain', *SHAPE)['kernel']
        if 'avx' not in best:
            self.skipTest('no vector instructions whose speed is known')
        if support.is_sanitized():
            self.skipTest('sanitizers slow kernels by their own factors: f32_avx2 may come after f32_generic')
        if support.is_emulated():
            self.skipTest('emulated kernels may come after f32_generic')
        result, warning = self.probe(*GENERIC)
        fastest = max((rival for rival in result['probe'] if rival['disagrees']), key=lambda rival: rival['speed'])
        self.assertRegex(warning, rf'^flashc-run: warning: {fastest["kernel"]} was [\d.]+ times as fast as f32_generic '
                                  rf'\(--kernel {fastest["kernel"]} ')
        run = self.run_cli('explain', '--probe', *GENERIC, *SHAPE)
        self.assertRegex(run.stderr.decode(), '^flashc-run: warning: ')
        text = run.stdout.decode()
        self.assertNotIn('no other kernel', text)
        self.assertRegex(text, rf'(?m)^probe      {best}: [\d.]+ times as fast \(middle half of \d+ rounds: '
                               r'[\d.]+ to [\d.]+\), against the choice$')

    def test_what_calls_have_besides(self):
        """What is timed is a plain call of one K/V head: nothing that belongs to the whole call gets in its way."""
        for name, heads, rows in (('q', 4, 20), ('k', 2, 40), ('v', 2, 40)):
            self.write_normal(f'{name}.npy', [2, heads, rows, 32])
            self.write_normal(f'p{name}.npy', [heads, 30, 32])
            self.write(f'{name}_codes.npy', [2, heads, rows, 32], [i % 99 for i in range(2 * heads * rows * 32)], '|i1')
        self.write_normal('pages.npy', [8, 2, 10, 32])
        self.write('scales.npy', [2, 2, 40], [0.01] * 160)
        self.write('mask.npy', [4, 20, 40], [1] * 3200, '|b1')
        self.write_normal('bias.npy', [4, 20, 40])
        self.write('blocks.npy', [3, 3], [1] * 9, '|b1')
        self.write('heads.npy', [4], [0.5] * 4)
        for name, numbers in (('table', [4, 1, 0, 7, 3, 2, 6, 5]), ('starts', [0, 13, 30]), ('lengths', [20, 7]),
                              ('padding', [3, 0])):
            shape = [2, 4] if name == 'table' else [len(numbers)]
            self.write(f'{name}.npy', shape, numbers, '<i4')
        plain = '-q q.npy -k k.npy -v v.npy'
        for call in (f'{plain} --mask mask.npy --bias bias.npy',
                     f'{plain} --block-mask blocks.npy --block-mask-tile 8,16 --sinks heads.npy',
                     f'{plain} --alibi heads.npy --window 5,0 --align bottom-right',
                     f'{plain} --seqlens-q lengths.npy --seqlens-k lengths.npy --leftpad-k padding.npy',
                     '-q pq.npy -k pk.npy -v pv.npy --cu-seqlens-q starts.npy --cu-seqlens-k starts.npy',
                     '-q q.npy -k pages.npy -v pages.npy --block-table table.npy --seqlens-k lengths.npy',
                     '-q q.npy -k pages.npy -v pages.npy --block-table table.npy --block-table-v table.npy',
                     '-q q.npy -k k_codes.npy -v v_codes.npy --k-scale scales.npy --v-scale scales.npy',
                     '--batch 3 --seqlen-q 20 --packed'):
            with self.subTest(call=call):
                run = self.run_cli('explain', '--probe', '--json', *call.split())
                self.assertEqual(run.returncode, 0, run.stderr.decode())
                self.assertIn('probe', json.loads(run.stdout))

    def test_errors(self):
        self.fails(1, ['--probe', 'computes nothing'], 'explain', '--probe', '--seqlen-k', 0)
        self.fails(2, ['--probe'], 'attention', '--probe')
        self.fails(2, ['--probe'], 'bench', '--probe')


if __name__ == '__main__':
    support.main()
