"""What the tests of attention states in files share: arrays, parts of their keys, and calls that save and resume."""
import math

from support import CliTest

BATCH, HEADS, HEADS_K, QUERIES, KEYS, DIM = 2, 4, 2, 9, 1400, 8
QKV = ('-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy')
# Tiles and pieces begin at multiples of these in every kernel here; what ends there has the bits of one call.
KERNEL, PIECE = ('--kernel', 'f32_generic'), 512


class StatesTest(CliTest):
    def setUp(self):
        super().setUp()
        self.write_normal('q.npy', [BATCH, HEADS, QUERIES, DIM])
        self.k = self.write_normal('k.npy', [BATCH, HEADS_K, KEYS, DIM])
        self.v = self.write_normal('v.npy', [BATCH, HEADS_K, KEYS, DIM])

    def columns(self, name, part, shape, begin, end, axis, descr='<f4'):
        """part.npy: those of name.npy along an axis."""
        values = self.read(f'{name}.npy')[2]
        inner = math.prod(shape[axis + 1:])
        outer = math.prod(shape[:axis])
        cut = []
        for o in range(outer):
            cut += values[(o * shape[axis] + begin) * inner:(o * shape[axis] + end) * inner]
        self.write(f'{part}.npy', [*shape[:axis], end - begin, *shape[axis + 1:]], cut, descr)

    def cut(self, *ends):
        """k0.npy, v0.npy, k1.npy, ...: the keys up to each of these, and those that remain."""
        edges = [0, *ends, KEYS]
        for n, (begin, end) in enumerate(zip(edges, edges[1:])):
            for name in 'kv':
                self.columns(name, f'{name}{n}', [BATCH, HEADS_K, KEYS, DIM], begin, end, 2)
        return len(ends) + 1

    def outputs(self, *args):
        self.ok('attention', *args, '-o', 'o.npy', '--lse', 'lse.npy', '--quiet')
        return self.read('o.npy')[2], self.read('lse.npy')[2]

    def resume(self, parts, *args, rows=PIECE, of_part=lambda n: ()):
        """The result of the last part."""
        for n in range(parts):
            call = ('-q', 'q.npy', '-k', f'k{n}.npy', '-v', f'v{n}.npy', '--stream-kv', rows, *args, *of_part(n),
                    *(('--resume-state', 's') if n else ()))
            if n + 1 < parts:
                self.ok('attention', *call, '--save-state', 's', '--quiet')
        return self.outputs(*call)

    def check(self, found, expected):
        self.assert_close(found[0], expected[0], 2e-6)
        self.assert_close(found[1], expected[1], 4e-6)

    def save(self, name, part, *args):
        self.ok('attention', '-q', 'q.npy', '-k', f'k{part}.npy', '-v', f'v{part}.npy', '--stream-kv', 256,
                '--save-state', name, '--quiet', *args)
