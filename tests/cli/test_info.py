"""flashc-run info: it agrees with itself, and with what the environment hides."""
import os
import pathlib
import re

from support import CliTest, main


class InfoTest(CliTest):
    def test_agrees_with_itself(self):
        result = self.ok_json('info')
        text = self.ok('info')
        self.assertEqual(self.ok('--version'), f'flashc-run {result["version"]}\n')
        self.assertRegex(text, rf'(?m)^version +{result["version"]}$')
        self.assertRegex(text, rf'(?m)^CPU features +{result["cpu_features"] or "none"}$')
        self.assertIn(result['blas'], text)
        self.assertRegex(text, rf'(?m)^OpenMP +{"yes" if result["openmp"] else "no"}$')
        self.assertRegex(text, rf'(?m)^default threads +{result["default_threads"]}$')
        self.assertGreaterEqual(result['default_threads'], 1)
        self.assertLessEqual(result['default_threads'], os.cpu_count())
        names = [kernel['name'] for kernel in result['kernels']]
        self.assertEqual(len(set(names)), len(names))
        self.assertTrue(result['kernels'][-1]['available'], 'the last row of the table always fits')
        for kernel in result['kernels']:
            self.assertTrue(kernel['description'])
            self.assertEqual(kernel['available'], kernel['unavailable'] is None)
            self.assertRegex(text, rf'(?m)^ +{kernel["name"]} ')
            if not kernel['available']:
                self.assertIn(kernel['unavailable'], text)
        lines = text.splitlines()
        columns = {line.index(kernel['description']) for kernel in result['kernels'] for line in lines
                   if line.startswith(f'  {kernel["name"]} ')}
        self.assertEqual(len(columns), 1, 'descriptions stand in one column')

    def test_hidden_features(self):
        """A feature that the environment hides is gone, and a kernel that needs it says so."""
        features = self.ok_json('info')['cpu_features'].split()
        if not features:
            self.skipTest('this CPU has no feature that could be hidden')
        result = self.ok_json('info', env={**os.environ, 'FLASHC_DISABLE_CPU_FEATURES': ','.join(features)})
        self.assertEqual(result['cpu_features'], '')
        self.assertFalse(all(kernel['available'] for kernel in result['kernels']))
        self.assertTrue(result['kernels'][-1]['available'])

    def test_errors(self):
        self.fails(2, ['word'], 'info', 'word')
        self.fails(2, ['--values'], 'info', '--values', '1')

    def test_features_that_there_are_not(self):
        """In the variable they have no effect; info shows them, and what attention runs on is warned of."""
        source = pathlib.Path(__file__).resolve().parents[2] / 'src'
        names = re.findall(r'\{FLASHC_CPU_\w+, "(\w+)"', (source / 'cpu.c').read_text())
        self.assertGreater(len(names), 5)
        page = ' '.join((source / 'cli' / 'flashc-run.1.scd').read_text().split())
        self.assertIn(f'shall not see: {", ".join(names[:-1])} and {names[-1]},', page)
        wrong = {**os.environ, 'FLASHC_DISABLE_CPU_FEATURES': f'AVX2,{names[0]}, bogus,avx512'}
        known = {**os.environ, 'FLASHC_DISABLE_CPU_FEATURES': ','.join(names)}
        expected = f'expected names of {", ".join(names)}, found AVX2 bogus avx512\n'
        self.assertIn(f'\nunknown features AVX2 bogus avx512 (in FLASHC_DISABLE_CPU_FEATURES, whose names are '
                      f'{", ".join(names)})\n', self.ok('info', env=wrong))
        self.assertEqual(self.ok_json('info', env=wrong)['unknown_cpu_features'], 'AVX2 bogus avx512')
        self.assertNotIn('unknown features', self.ok('info', env=known))
        self.assertEqual(self.ok_json('info', env=known)['unknown_cpu_features'], '')
        explain = ('explain', '--seqlen-q', 4)
        result = self.run_cli(*explain, env=wrong)
        self.assertEqual((result.returncode, result.stderr.decode()),
                         (0, f'flashc-run: warning: FLASHC_DISABLE_CPU_FEATURES: {expected}'))
        self.assertEqual(self.run_cli(*explain, '--quiet', env=wrong).stderr, b'')
        self.assertEqual(self.run_cli(*explain, env=known).stderr, b'')


if __name__ == '__main__':
    main()
