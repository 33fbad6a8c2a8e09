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
        _, warning = self.probe(*GENERIC)
        self.assertRegex(warning, r'^flashc-run: warning: \w+ was [\d.]+ times as fast as f32_generic \(--kernel ')
        text = self.run_cli('explain', '--probe', *GENERIC, *SHAPE).stdout.decode()
        self.assertRegex(text, rf'(?m)^probe      {best}: [\d.]+ times as fast \(middle half of \d+ rounds: '
                               r'[\d.]+ to [\d.]+\), against the choice$')

    def test_errors(self):
        self.fails(1, ['--probe', 'computes nothing'], 'explain', '--probe', '--seqlen-k', 0)
        self.fails(2, ['--probe'], 'attention', '--probe')
        self.fails(2, ['--probe'], 'bench', '--probe')


if __name__ == '__main__':
    support.main()
