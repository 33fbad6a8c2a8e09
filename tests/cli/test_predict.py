"""flashc-run explain --predict. Times are never judged, only what must hold of them; the simulation has a test of its
own."""
import math
import os

import support

COSTS = ('call', 'item', 'row', 'piece_row', 'key', 'score', 'edge_tile', 'team')
PARTS = ('start', 'computing', 'waiting', 'idle')
LIMITS = ('arithmetic', 'memory', 'starting the threads', 'the longest item', 'too few items')
ROUNDING = 1e-9


class PredictTest(support.CliTest):
    def check(self, threads, *args, predict=()):
        """Of a prediction up to so many threads; returns it."""
        result = self.ok_json('explain', '--predict', *args, *predict)
        for name in COSTS:
            self.assertGreaterEqual(result['costs'][name], 0)
        self.assertGreater(sum(result['costs'][name] for name in COSTS[:-1]), 0)
        self.assertEqual(result['costs']['disturbed'], result['costs']['team'] > 2e-4)
        self.assertGreaterEqual(result['costs']['samples'], 3)
        self.assertGreater(result['memory']['gbytes_per_second'], 0)
        self.assertEqual(result['memory']['cache_bytes'] % 1024, 0)
        expected = [2**i for i in range(10) if 2**i < threads] + [threads]
        self.assertEqual([p['threads'] for p in result['predictions']], expected)
        for p in result['predictions']:
            self.assertLessEqual(p['team'], min(p['threads'], p['items']))
            start = result['costs']['call'] + result['costs']['team'] * math.log2(p['team'])
            self.assertTrue(math.isclose(p['start'], start, rel_tol=ROUNDING))
            self.assertTrue(math.isclose(p['seconds'], sum(p[part] for part in PARTS), rel_tol=ROUNDING))
            self.assertTrue(math.isclose(p['balance'], (p['computing'] + p['waiting']) / p['seconds'],
                                         rel_tol=ROUNDING))
            self.assertLessEqual(p['balance'], 1 + ROUNDING)
            self.assertLessEqual(p['longest_item'], p['seconds'])
            self.assertIn(p['limited_by'], LIMITS)
            self.assertEqual(p['items'], self.ok_json('explain', *args, '--threads', p['threads'])['items'])
        one, most = result['predictions'][0], result['predictions'][-1]
        self.assertEqual(one['team'], 1)
        self.assertLess(one['idle'], ROUNDING * one['seconds'])
        self.assertGreater(most['seconds'] * most['team'], 0.99 * one['computing'])
        return result

    def test_prefill(self):
        result = self.check(12, '--heads', 4, '--seqlen-q', 200, '--head-dim', 32, '--causal', '--align', 'top-left',
                            '--threads', 12)
        memory = result['memory']
        self.assertEqual(memory['gbytes_per_second_taken'], memory['gbytes_per_second'])

    def test_decode(self):
        result = self.check(128, '--heads', 8, '--heads-k', 2, '--seqlen-q', 1, '--seqlen-k', 5000, '--dtype', 'bf16',
                            predict=('--bandwidth', 123.5))
        self.assertAlmostEqual(result['memory']['gbytes_per_second_taken'], 123.5)
        team = result['predictions'][-1]['team']
        if self.ok_json('info')['openmp']:
            self.assertGreater(team, 2)
        else:
            self.assertEqual(team, 1)

    def test_mixed_batch(self):
        self.write('queries.npy', [3], [64, 1, 0], '<i4')
        self.write('keys.npy', [3], [64, 500, 99], '<i4')
        result = self.check(4, '--batch', 3, '--heads', 4, '--heads-k', 2, '--seqlen-q', 64, '--seqlen-k', 500,
                            '--head-dim', 32, '--seqlens-q', 'queries.npy', '--seqlens-k', 'keys.npy', '--causal',
                            '--align', 'bottom-right', '--threads', 4)
        self.assertEqual(result['flops'], 2 * 64 * 4 * (64 * 65 // 2 + 500))

    def test_pages(self):
        self.check(2, '--heads', 2, '--seqlen-q', 1, '--seqlen-k', 900, '--page-size', 16, '--threads', 2)

    def test_with_one_thread(self):
        """Nothing is known of a second thread then, which costs nothing more."""
        result = self.ok_json('explain', '--predict', '--heads', 2, '--seqlen-q', 64, '--threads', 4,
                              env={**os.environ, 'OMP_NUM_THREADS': '1'})
        self.assertEqual((result['memory']['threads'], result['costs']['team']), (1, 0))
        self.assertEqual([p['start'] for p in result['predictions']], [result['costs']['call']] * 3)

    def test_text_on_files(self):
        for name in ('q', 'k', 'v'):
            self.write_normal(name + '.npy', [2, 9, 4])
        text = self.ok('explain', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--predict', '--threads', 3,
                       '--bandwidth', 50)
        self.assertRegex(text, r'(?m)^measured   .*; within [\d.]+ % of \d+ timed calls$')
        self.assertRegex(text, r'(?m)^memory     [\d.]+ GB/s with (1 thread|(?!1 )\d+ threads); ')
        self.assertRegex(text, r'(?m)^           taken to be 50.0 GB/s for all threads together$')
        for threads in ('1 thread, ', '2 threads,', '3 threads,'):
            self.assertRegex(text, rf'(?m)^predicted  +[\d.]+ ms with +{threads} balance +\d+ %, limited by [a-z ]+$')

    def test_errors(self):
        for shape in (['--seqlen-q', 0], ['--seqlen-k', 0], ['--batch', 0]):
            self.fails(1, ['--predict', 'computes nothing'], 'explain', '--predict', *shape)
        self.write('keys.npy', [1], [5], '<i4')
        self.fails(2, ['--seqlens-k', '--page-size'], 'explain', '--page-size', 8, '--seqlens-k', 'keys.npy')
        for option in ('--cu-seqlens-q', '--block-table'):
            self.fails(2, ['--packed', '--page-size'], 'explain', option, 'keys.npy')
        for value in ('0', '-1', 'nan', 'fast'):
            self.fails(2, ['--bandwidth', value], 'explain', '--predict', '--bandwidth', value)
        self.fails(2, ['--predict'], 'attention', '--predict')
        self.fails(2, ['--predict'], 'bench', '--predict')


if __name__ == '__main__':
    support.main()
