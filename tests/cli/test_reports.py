"""flashc-run trace and bench: what they report. Times are never judged, only what must hold of them."""
import math
import os
import unittest

import support

TIMES = ('real_time', 'cpu_time')
RATES = ('gflops', 'share_of_fma_peak', 'kv_gbytes_per_second', 'share_of_read_bandwidth')
AGGREGATES = ('mean', 'median', 'stddev', 'cv')
# Numbers are written so that they read back the same; what is left are a few roundings here.
ROUNDING = 1e-12


def trace_of(x):
    """The definitions of the trace's columns, in plain float64."""
    final = max(x)
    steps, online = [], 0.0
    for i, value in enumerate(x):
        row_max, before = max(x[:i + 1]), max(x[:i], default=-math.inf)
        correction = math.exp(before - row_max) if i else 0.0
        online = online * correction + math.exp(value - row_max)
        steps.append({'idx': i, 'x': value, 'row_max': row_max, 'correction': correction, 'denom_online': online,
                      'denom_standard': math.fsum(math.exp(v - final) for v in x[:i + 1]),
                      'scale': math.exp(final - row_max)})
    total = steps[-1]['denom_standard']
    for step in steps:
        step['p_standard'] = step['p_online'] = math.exp(step['x'] - final) / total
    return steps


class TraceTest(support.CliTest):
    def check(self, x, result):
        """result: the JSON object of the trace of x."""
        self.assertEqual(result['n'], len(x))
        self.assertTrue(result['pass'])
        self.assertEqual([check['pass'] for check in result['checks']], [True] * 3)
        for check in result['checks']:
            self.assertGreaterEqual(check['max_relative_difference'], 0)
            self.assertLessEqual(check['max_relative_difference'], check['tolerance'])
            self.assertLess(check['tolerance'], 1e-12)
            self.assertEqual(check['not_compared'], 0)
        for step, expected in zip(result['steps'], trace_of(x), strict=True):
            self.assertEqual(step.keys(), expected.keys())
            for key, value in expected.items():
                self.assertTrue(math.isclose(step[key], value, rel_tol=ROUNDING), (step['idx'], key, step[key], value))

    def test_json(self):
        random_values = [self.random.gauss(0, 3) for _ in range(300)]
        for x in ([3, 1, 4, 7, 2], [1, 3, 5], [1, 3, 2, 5], [-2.5], [0, 0, 0], [-1e3, -1e3], random_values):
            with self.subTest(n=len(x)):
                self.check(x, self.ok_json('trace', '--values', ','.join(map(repr, x))))

    def test_reference_example(self):
        """3,1,4,7,2: final d' * scale = 1.077319, as is d_N."""
        text = self.ok('trace', '--values', '3,1,4,7,2')
        self.assertIn('final d_N = 1.077319, final d\'_N * exp(m_N - m_N) = 1.077319\n', text)
        last_row = [line.split() for line in text.splitlines() if line.split()[:2] == ['4', '2']][0]
        self.assertEqual(last_row, ['4', '2', '7', '1.077319', '1.077319', '1', '1'])
        self.assertEqual([line[:6] for line in text.splitlines() if line[:4] in ('PASS', 'FAIL')], ['PASS  '] * 3)

    def test_probabilities_both_ways(self):
        result = self.ok_json('trace', '--values', '1,3,2,5')
        for way in ('p_standard', 'p_online'):
            self.assert_close([step[way] for step in result['steps']],
                              [0.0152194, 0.1124572, 0.0413707, 0.8309527], 5e-8)
            self.assertAlmostEqual(sum(step[way] for step in result['steps']), 1, delta=ROUNDING)

    def test_far_apart(self):
        """exp(m_N - m_0) is beyond double: said, not hidden, and no NaN."""
        text = self.ok('trace', '--values', '0,2000')
        self.assertIn('1 not compared', text)
        self.assertNotIn('nan', text)
        result = self.ok_json('trace', '--values', '0,2000')
        self.assertIsNone(result['steps'][0]['scale'])
        self.assertEqual(result['checks'][0]['not_compared'], 1)
        self.assertTrue(result['pass'])

    def test_files(self):
        x = [3.0, 1.0, 4.5, 7.25, -2.0]
        for descr in ('<f2', '<f4', '>f4', '<f8'):
            with self.subTest(descr=descr):
                self.write('x.npy', [5], x, descr)
                self.check(x, self.ok_json('trace', '-x', 'x.npy'))
        with open(self.path('x.npy'), 'rb') as file:
            self.check(x, self.ok_json('trace', '--input', '-', stdin=file.read()))

    def test_errors(self):
        self.write('matrix.npy', [2, 2], [1, 2, 3, 4])
        self.write('empty.npy', [0], [])
        self.write('int.npy', [2], [1, 2], '<i8')
        self.write('nan.npy', [2], [1, math.nan])
        self.fails(2, ['--values', 'neither'], 'trace')
        self.fails(2, ['--values', 'both'], 'trace', '--values', '1', '-x', 'matrix.npy')
        for values in ('', '1,', ',1', '1,,2', '1;2', 'nan', 'inf', '1e999', '0x10', '1, 2'):
            self.fails(2, ['--values', 'trace --help'], 'trace', '--values', values)
        self.fails(2, ['word'], 'trace', '--values', '1', 'word')
        self.fails(2, ['--nothing'], 'trace', '--nothing')
        self.fails(1, ['missing.npy'], 'trace', '-x', 'missing.npy')
        self.fails(1, ['matrix.npy', 'rank 1', 'rank 2'], 'trace', '-x', 'matrix.npy')
        self.fails(1, ['empty.npy', 'at least one'], 'trace', '-x', 'empty.npy')
        self.fails(1, ['int.npy', 'f64', 'i64'], 'trace', '-x', 'int.npy')
        self.fails(1, ['nan.npy', 'x[1]', 'nan'], 'trace', '-x', 'nan.npy')
        for name, words in (('matrix', 'rank 2'), ('nan', 'x[1]')):
            with open(self.path(name + '.npy'), 'rb') as file:
                self.fails(1, ['standard input: ', words], 'trace', '-x', '-', stdin=file.read())


class BenchTest(support.CliTest):
    """Small shapes, and the limits of the machine in one run only: they take seconds."""

    def check_context(self, context, limits_of):
        """limits_of: the numbers of threads for which the limits were measured."""
        self.assertRegex(context['date'], r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$')
        self.assertEqual(os.path.basename(context['executable']), os.path.basename(support.PROGRAM))
        self.assertGreaterEqual(context['num_cpus'], 1)
        self.assertGreaterEqual(context['mhz_per_cpu'], 0)
        self.assertIn(context['library_build_type'], ('release', 'debug'))
        self.assertEqual(f'flashc-run {context["library_version"]}\n', self.ok('--version'))
        for cache in context['caches']:
            self.assertEqual(set(cache), {'type', 'level', 'size', 'num_sharing'})
            self.assertGreater(cache['size'], 0)
            self.assertGreaterEqual(cache['num_sharing'], 1)
        self.assertEqual([limits['threads'] for limits in context['limits']], limits_of)
        for limits in context['limits']:
            self.assertGreater(limits['fma_gflops'], 0)
            if limits['avx2_gflops'] is not None:
                self.assertTrue(0 < limits['avx2_gflops'] <= limits['fma_gflops'])
            self.assertGreater(limits['read_gbytes_per_second'], 0)
            self.assertGreaterEqual(limits['read_buffer_bytes'], 1 << 24)

    def check_entry(self, entry, repeats, limits, flops, kv_bytes):
        self.assertEqual(entry['run_type'], 'iteration')
        self.assertEqual(entry['name'], entry['run_name'])
        self.assertEqual(entry['repetitions'], repeats)
        self.assertGreaterEqual(entry['iterations'], 1)
        self.assertEqual(entry['time_unit'], 'us')
        for key in TIMES + RATES:
            if limits or not key.startswith('share'):
                self.assertGreater(entry[key], 0, key)
        self.assertGreater(entry['workspace_bytes'], 0)
        if entry['peak_rss_growth_bytes'] is not None:
            self.assertGreaterEqual(entry['peak_rss_growth_bytes'], 0)
        seconds = 1e-6 * entry['real_time']
        self.assertAlmostEqual(entry['gflops'] * 1e9 * seconds / flops, 1, delta=ROUNDING)
        self.assertAlmostEqual(entry['kv_gbytes_per_second'] * 1e9 * seconds / kv_bytes, 1, delta=ROUNDING)
        if not limits:
            self.assertEqual((entry['share_of_fma_peak'], entry['share_of_read_bandwidth']), (None, None))
            return
        # By construction: the peak is at least what any repeat reached.
        self.assertLessEqual(entry['share_of_fma_peak'], 1)
        self.assertAlmostEqual(entry['share_of_fma_peak'] * limits['fma_gflops'] / entry['gflops'], 1, delta=ROUNDING)
        self.assertAlmostEqual(entry['share_of_read_bandwidth'] * limits['read_gbytes_per_second'] /
                               entry['kv_gbytes_per_second'], 1, delta=ROUNDING)

    def check_aggregates(self, entries, aggregates):
        self.assertEqual([entry['aggregate_name'] for entry in aggregates], list(AGGREGATES))
        n = len(entries)
        by_name = {entry['aggregate_name']: entry for entry in aggregates}
        for key in TIMES + RATES + ('workspace_bytes',):
            if entries[0][key] is None:
                self.assertEqual([entry[key] for entry in aggregates], [None] * len(AGGREGATES))
                continue
            values = sorted(entry[key] for entry in entries)
            mean = math.fsum(values) / n
            stddev = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
            expected = {'mean': mean, 'median': (values[(n - 1) // 2] + values[n // 2]) / 2, 'stddev': stddev,
                        'cv': stddev / mean}
            for name, value in expected.items():
                self.assertAlmostEqual(by_name[name][key], value, delta=1e-9 * mean + 1e-15, msg=(name, key))
        for entry in aggregates:
            self.assertEqual(entry['run_type'], 'aggregate')
            self.assertEqual(entry['name'], f'{entries[0]["run_name"]}_{entry["aggregate_name"]}')
            self.assertEqual(entry['iterations'], n)
            self.assertEqual(entry['aggregate_unit'], 'percentage' if entry['aggregate_name'] == 'cv' else 'time')

    def check_run(self, result, entries, repeats, threads, flops, kv_bytes):
        """Shares of limits: of those in the context, if there are any; otherwise null."""
        limits = next((limit for limit in result['context']['limits'] if limit['threads'] == threads), None)
        self.assertEqual(limits is None, result['context']['limits'] == [])
        iterations, aggregates = entries[:repeats], entries[repeats:]
        self.assertEqual([entry['repetition_index'] for entry in iterations], list(range(repeats)))
        for entry in entries:
            self.assertEqual(entry['threads'], threads)
            self.assertEqual(entry['run_name'], entries[0]['run_name'])
        for entry in iterations:
            self.check_entry(entry, repeats, limits, flops, kv_bytes)
        self.check_aggregates(iterations, aggregates)

    def test_causal_f16(self):
        """Top-left causal: query i sees keys 0 .. i; keys after the last query are not read."""
        batch, heads, heads_k, len_q, len_k, dim, dim_v, repeats = 2, 4, 2, 24, 40, 16, 8, 5
        shape = ['--batch', batch, '--heads', heads, '--heads-k', heads_k, '--seqlen-q', len_q, '--seqlen-k', len_k,
                 '--head-dim', dim, '--head-dim-v', dim_v, '--dtype', 'f16', '--causal', '--align', 'top-left']
        threads = self.ok_json('explain', *shape, '--threads', 2)['threads']
        result = self.ok_json('bench', *shape, '--threads', 2, '--repeats', repeats, '--no-limits')
        self.assertEqual(set(result), {'context', 'benchmarks'})
        self.check_context(result['context'], [])
        flops = 2 * (dim + dim_v) * batch * heads * len_q * (len_q + 1) // 2
        kv_bytes = 2 * (dim + dim_v) * batch * heads_k * len_q
        self.check_run(result, result['benchmarks'], repeats, threads, flops, kv_bytes)
        name = result['benchmarks'][0]['name']
        for part in ('f16', 'batch:2', 'heads:4', 'heads_k:2', 'seqlen_q:24', 'seqlen_k:40', 'head_dim:16',
                     'head_dim_v:8', 'causal:top-left', f'threads:{threads}'):
            self.assertIn(part, name.split('/'))

    def test_names_and_keys_that_count(self):
        """What a run is called after, and of its 50 keys those that its 3 queries see by position."""
        self.write('lengths.npy', [2], [50, 7], '<i4')
        self.write('padding.npy', [2], [4, 0], '<i4')
        self.write('queries.npy', [2], [3, 0], '<i4')
        for options, name, keys in (
                ('', [], 50),
                ('--causal --align bottom-right', ['causal:bottom-right'], 50),
                ('--causal --align 5', ['causal:5'], 8),
                ('--causal --align -1', ['causal:-1'], 2),
                ('--causal --align 60', ['causal:60'], 50),
                ('--window 4,2 --align 10', ['window:4,2'], 9),
                ('--window 4,-1 --align bottom-right', ['window:4,-1'], 7),
                ('--window -1,2 --align top-left', ['window:-1,2'], 5),
                ('--causal --window 4,2 --align 10', ['causal:10', 'window:4,2'], 7),
                ('--softcap 30 --layout bshd', ['softcap:30', 'bshd'], 50),
                ('--page-size 10', ['page_size:10'], 50),
                ('--packed', ['packed'], 50),
                ('--seqlens-k lengths.npy --leftpad-k padding.npy', [], 53),
                ('--seqlens-k lengths.npy --leftpad-k padding.npy --seqlens-q queries.npy', [], 46)):
            with self.subTest(options=options):
                batch = 2 if 'lengths' in options else 1
                result = self.ok_json('bench', '--batch', batch, '--heads', 4, '--heads-k', 2, '--seqlen-q', 3,
                                      '--seqlen-k', 50, '--head-dim', 8, '--repeats', 1, '--no-limits',
                                      *options.split())
                entry = result['benchmarks'][0]
                shape = ['attention', 'f32', f'batch:{batch}', 'heads:4', 'heads_k:2', 'seqlen_q:3', 'seqlen_k:50',
                         'head_dim:8', 'head_dim_v:8']
                self.assertEqual(entry['name'].split('/')[:-2], shape + name)
                found = entry['kv_gbytes_per_second'] * 1e9 * 1e-6 * entry['real_time']
                self.assertAlmostEqual(found / (2 * 2 * 8 * 4 * keys), 1, delta=ROUNDING)

    def test_limits(self):
        """Both limits for one thread and for the threads that ran; one run as JSON is enough for all their words."""
        shape = ['--heads', 4, '--seqlen-q', 64, '--threads', 2]
        threads = self.ok_json('explain', *shape)['threads']
        result = self.ok_json('bench', *shape, '--repeats', 3)
        self.check_context(result['context'], sorted({1, threads}))
        self.check_run(result, result['benchmarks'], 3, threads, 2 * 128 * 4 * 64 * 64, 4 * 128 * 4 * 64)

    def test_all_kernels_cold(self):
        result = self.run_cli('bench', '--kernel', 'all', '--cold', '--heads', 1, '--seqlen-q', 1, '--seqlen-k', 500,
                              '--threads', 1, '--repeats', 2, '--no-limits', '--json')
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        report = support.json.loads(result.stdout)
        self.check_context(report['context'], [])
        entries, each = report['benchmarks'], 2 + len(AGGREGATES)
        not_run = [line.split(':')[2] for line in result.stderr.decode().splitlines()]
        available = [kernel['name'] for kernel in self.ok_json('info')['kernels'] if kernel['available']]
        found = [entries[i]['name'].split('/')[-1] for i in range(0, len(entries), each)]
        self.assertLessEqual(set(found), set(available))
        self.assertEqual(found, [name for name in available if not any(name in line for line in not_run)])
        for i in range(0, len(entries), each):
            self.check_run(report, entries[i:i + each], 2, 1, 2 * 128 * 500, 4 * 128 * 500)
            self.assertEqual({entry['family_index'] for entry in entries[i:i + each]}, {i // each})

    def test_huge_pages(self):
        shape = ['--heads', 1, '--seqlen-q', 1, '--seqlen-k', 500, '--repeats', 2, '--no-limits']
        self.fails(2, ['--huge-pages needs --cold'], 'bench', '--huge-pages', *shape)
        run = self.run_cli('bench', '--cold', '--huge-pages', *shape)
        if run.returncode != 0:
            self.assertIn(b'no transparent huge pages', run.stderr)
            self.skipTest('this kernel has no transparent huge pages')
        self.assertIn(b'/cold/huge_pages/', run.stdout)

    def test_text_on_files(self):
        for name in ('q', 'k', 'v'):
            self.write_normal(name + '.npy', [2, 8, 4])
        self.write('mask.npy', [8, 8], [1] * 64, '|b1')
        text = self.ok('bench', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--mask', 'mask.npy', '--threads', 1,
                       '--repeats', 3, '--verbose', '--out-dtype', 'f16')
        for words in ('median', 'min', 'spread', '3 repeats', 'GFLOP/s', 'FMA peak', 'read bandwidth', 'workspace',
                      'seqlen_q:8', '/out:f16', '/mask', 'tiles'):
            self.assertIn(words, text)
        text = self.ok('bench', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--repeats', 1, '--no-limits')
        self.assertRegex(text, r'(?m)^  work       [\d.]+ GFLOP/s$')
        self.assertRegex(text, r'(?m)^  K and V    [\d.]+ GB/s$')

    def test_the_command_line_of_attention(self):
        """With another word in front it times the call: nothing is written or compared."""
        for name in ('q', 'k', 'v'):
            self.write_normal(name + '.npy', [2, 8, 4])
        call = ['-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', 'o.npy', '--lse', 'l.npy', '--compare', 'ref.npy',
                '--rtol', 1, '--atol', 1]
        quick = ['--no-limits', '--repeats', 1]
        before = sorted(os.listdir(self.folder))
        self.assertIn('GFLOP/s', self.ok('bench', *call, *quick))
        self.assertEqual(self.ok('bench', *call, *quick, '--quiet', '--verbose'), '')
        self.assertIn('benchmarks', self.ok_json('bench', *call, *quick, '--quiet'))
        plan = self.ok('explain', *call)
        self.assertEqual(self.ok('explain', *call, '--dry-run'), plan)
        self.assertEqual(self.ok('bench', *call, '--dry-run'), plan)
        self.assertEqual(self.ok('bench', *call, '--dry-run', '--kernel', 'all'), plan)
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_errors(self):
        self.fails(1, ['no_such_kernel'], 'bench', '--kernel', 'no_such_kernel', '--seqlen-q', 4)
        self.fails(2, ['3', '2'], 'bench', '--heads', 3, '--heads-k', 2)
        self.fails(1, ['decode_generic', 'found 100'], 'bench', '--kernel', 'decode_generic', '--seqlen-q', 100)
        self.fails(2, ['--align'], 'bench', '--causal')
        self.fails(2, ['--repeats'], 'bench', '--repeats', 0)
        self.fails(2, ['--seed'], 'bench', '--seed', -1)
        self.fails(2, ['--head-dim'], 'bench', '--head-dim', 0)
        self.fails(1, ['missing.npy'], 'bench', '--mask', 'missing.npy', '--seqlen-q', 4)
        self.fails(1, [], 'bench', '--seqlen-q', 1 << 40)


if __name__ == '__main__':
    support.main()
