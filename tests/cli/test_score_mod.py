"""--score-mod: functions compiled here, against mask and bias that say the same; explain, chunks, bench, errors.

    test_score_mod.py FLASHC_RUN INCLUDE_DIRECTORY C_COMPILER...
"""
import math
import pathlib
import re
import subprocess
import sys

from support import CliTest, main

INCLUDE, *COMPILER = sys.argv[1:]
del sys.argv[1:]
README = pathlib.Path(__file__).resolve().parents[2] / 'README.md'
SHAPE_Q, SHAPE_K = [2, 4, 70, 8], [2, 2, 300, 8]
FILES = ('-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy')

# Every coordinate of a score has a part in it: batch, head, position of the query, and of the key.
COORDINATES = '''
#include <flashc.h>
static float number(int64_t batch, int64_t head, int64_t position, int64_t key) {
    return 0.5f * (float)batch + 0.25f * (float)head + 0.0078125f * (float)(position % 7) * (float)(key % 5);
}
void add(void *user_data, const flashc_score_block *b) {
    for (int64_t i = 0; i < b->n_queries; i++)
        for (int64_t j = 0; j < b->n_keys; j++)
            b->scores[i * b->query_stride + j * b->key_stride] +=
                (user_data ? 2 : 1) * number(b->batch, b->head, b->first_position + i, b->first_key + j);
}
'''
POSITION = 5  # --align of these tests


class ScoreModTest(CliTest):
    def setUp(self):
        super().setUp()
        self.write_normal('q.npy', SHAPE_Q)
        self.write_normal('k.npy', SHAPE_K)
        self.write_normal('v.npy', SHAPE_K)

    def compile(self, name, code):
        pathlib.Path(self.path(name + '.c')).write_text(code, encoding='utf-8')
        subprocess.run([*COMPILER, '-shared', '-fPIC', '-O2', '-Wall', '-Werror', '-I' + INCLUDE, name + '.c', '-o',
                        name + '.so'], cwd=self.folder, check=True)

    def results(self, *args):
        self.ok('attention', *FILES, '-o', 'o.npy', '--lse', 'lse.npy', '--quiet', *args)
        return self.read('o.npy')[2], self.read('lse.npy')[2]

    def check(self, found, expected):
        self.assert_close(found[0], expected[0], 2e-6)
        self.assert_close(found[1], expected[1], 4e-6)

    def write_bias(self, factor=1):
        """What COORDINATES add, as a file."""
        (batch, heads, queries, _), keys = SHAPE_Q, SHAPE_K[2]
        self.write('bias.npy', [batch, heads, queries, keys],
                   [factor * (0.5 * b + 0.25 * h + 0.0078125 * ((i + POSITION) % 7) * (j % 5))
                    for b in range(batch) for h in range(heads) for i in range(queries) for j in range(keys)])

    def test_coordinates(self):
        """In one call, on any number of threads, and in chunks, where a call has one batch element only."""
        self.compile('add', COORDINATES)
        mod = ('--score-mod', 'add.so:add', '--align', POSITION)
        for data, factor in (((), 1), (('--score-mod-data', ''), 2)):
            self.write_bias(factor)
            expected = self.results('--bias', 'bias.npy')
            self.check(self.results(*mod, *data), expected)
            self.check(self.results(*mod, *data, '--stream-kv', 77), expected)
            self.assertEqual(self.results(*mod, *data, '--threads', 3), self.results(*mod, *data, '--threads', 1))
            self.assertEqual(self.results(*mod, *data, '--stream-kv', 10000), self.results(*mod, *data))

    def test_scores_and_other_features(self):
        self.compile('add', COORDINATES)
        self.write_bias()
        self.write('sinks.npy', [4], [0.0, 1.0, 2.0, -1.0])
        common = ('--causal', '--align', POSITION, '--softcap', 20, '--sinks', 'sinks.npy', '--scores-stage', 'masked')
        expected = self.results(*common, '--bias', 'bias.npy', '--scores', 's.npy')
        for extra in ((), ('--stream-kv', 120)):
            self.check(self.results(*common, '--score-mod', './add.so:add', '--scores', 't.npy', *extra), expected)
            self.assert_close(self.read('t.npy')[2], self.read('s.npy')[2], 2e-6)

    def test_example_of_readme(self):
        """The document mask."""
        code, = re.findall(r'```c\n(/\* documents\.c:.*?)```', README.read_text(encoding='utf-8'), re.DOTALL)
        self.compile('documents', code)
        length, queries, keys = 64, SHAPE_Q[2], SHAPE_K[2]
        self.write('mask.npy', [queries, keys],
                   [int(i // length == j // length) for i in range(queries) for j in range(keys)], '|b1')
        expected = self.results('--mask', 'mask.npy')
        mod = ('--score-mod', self.path('documents.so'), '--score-mod-data', length)
        self.check(self.results(*mod), expected)
        self.check(self.results(*mod, '--stream-kv', 100), expected)
        self.check(self.results(*mod, '--kernel', 'f32_generic'), expected)

    def test_reports(self):
        """explain and a dry run say that there is one, and do not call it; so does the name of a benchmark."""
        self.compile('fault', '#include <flashc.h>\n#include <stdlib.h>\n'
                     'void flashc_score_mod(void *u, const flashc_score_block *b) { (void)u, (void)b, abort(); }\n')
        line = '\nscore mod  flashc_score_mod of ./fault.so\n'
        for command in (('explain', *FILES), ('attention', *FILES, '--dry-run'), ('explain', '--heads', '2'),
                        ('bench', '--dry-run')):
            self.assertIn(line, self.ok(*command, '--score-mod', 'fault.so'))
            self.assertNotIn('score mod', self.ok(*command))
        report = self.ok_json('explain', *FILES, '--score-mod', 'fault.so')
        self.assertEqual(report['score_mod'], {'library': './fault.so', 'symbol': 'flashc_score_mod'})
        self.compile('add', COORDINATES)
        mod = ('--score-mod', 'add.so:add')
        self.assertEqual(self.ok_json('attention', *FILES, '-o', 'o.npy', *mod)['score_mod']['symbol'], 'add')
        shapes = ('--heads', '1', '--seqlen-q', '16', '--repeats', '1', '--no-limits')
        self.assertRegex(self.ok('bench', *shapes, *mod), r'(?m)^attention/\S*/score_mod/\S+$')
        probed = self.run_cli('explain', *shapes[:4], '--threads', '1', '--probe', *mod) # it may warn
        self.assertRegex(probed.stdout.decode(), r'(?m)^probe ')

    def test_errors(self):
        call = ('attention', *FILES, '-o', 'x.npy')
        self.fails(1, ['--score-mod', 'expected a shared object', './no.so'], *call, '--score-mod', 'no.so')
        self.fails(1, ['--score-mod', './no.so'], 'explain', '--score-mod', 'no.so')
        self.fails(1, ['./q.npy'], *call, '--score-mod', 'q.npy')
        self.compile('add', COORDINATES)
        self.fails(1, ['expected the function flashc_score_mod in ./add.so'], *call, '--score-mod', 'add.so')
        self.fails(1, ['expected the function sub in ./add.so'], *call, '--score-mod', 'add.so:sub')
        for wrong in (':add', 'add.so:', ':', ''):
            self.fails(2, ['--score-mod expects LIBRARY or LIBRARY:SYMBOL', f"'{wrong}'"], *call, '--score-mod', wrong)
        self.fails(2, ['--score-mod-data needs --score-mod'], *call, '--score-mod-data', '3')
        self.fails(2, ['--prefix-k and --score-mod'], *call, '--prefix-k', 'k.npy', '--prefix-v', 'v.npy',
                   '--score-mod', 'add.so:add')

    def test_path_with_a_colon(self):
        self.compile('add', COORDINATES)
        folder = pathlib.Path(self.path('a:b'))
        folder.mkdir()
        pathlib.Path(self.path('add.so')).rename(folder / 'add.so')
        o, _ = self.results('--score-mod', 'a:b/add.so:add')
        self.assertTrue(all(math.isfinite(x) for x in o))
        self.fails(1, ['flashc_score_mod in a:b/add.so'], 'explain', '--score-mod', 'a:b/add.so')


if __name__ == '__main__':
    main()
