"""flashc-run attention --stream-kv: K and V in chunks from disk, within a memory that does not hold them."""
import array
import os
import random
import resource
import unittest

from support import CliTest, main, npy_bytes

SHAPE_Q, SHAPE_K = [2, 4, 9, 8], [2, 2, 700, 8]


class StreamTest(CliTest):
    def outputs(self, *args, layout='bhsd', inputs=('q.npy', 'k.npy', 'v.npy')):
        q, k, v = inputs
        self.ok('attention', '-q', q, '-k', k, '-v', v, '-o', 'o.npy', '--lse', 'lse.npy', '--layout', layout, '--quiet',
                *args)
        return self.read('o.npy')[2], self.read('lse.npy')[2]

    def write_inputs(self, descr='<f4'):
        self.write_normal('q.npy', SHAPE_Q, descr)
        self.write_normal('k.npy', SHAPE_K, descr)
        self.write_normal('v.npy', SHAPE_K, descr)

    def check(self, *args, rows=(1, 333, 699, 700, 10000), same_bits=True, **kwargs):
        o, lse = self.outputs(*args, **kwargs)
        for n in rows:
            o_chunks, lse_chunks = self.outputs('--stream-kv', n, *args, **kwargs)
            self.assert_close(o_chunks, o, 2e-6)
            self.assert_close(lse_chunks, lse, 4e-6)
        if same_bits:
            self.assertEqual(self.outputs('--stream-kv', 512, '--threads', 3, *args, **kwargs), (o, lse))

    def test_chunks_of_any_length(self):
        self.write_inputs()
        self.check()

    def test_positions_masks_and_lengths(self):
        self.write_inputs()
        self.write('bias.npy', [9, 700], self.normal([9, 700]))
        self.write('mask.npy', [2, 1, 1, 700], [int(self.random.random() < 0.7) for _ in range(1400)], '|b1')
        self.write('lengths.npy', [2], [333, 699], '<i8')
        self.write('padding.npy', [2], [300, 0], '<i8')
        self.write('sinks.npy', [4], [0.0, 1.0, 2.0, -1.0])
        self.check('--causal', '--align', 'bottom-right', rows=(100,))
        self.check('--causal', '--align', 'bottom-right', '--seqlens-k', 'lengths.npy', '--sinks', 'sinks.npy',
                   '--bias', 'bias.npy', '--mask', 'mask.npy', rows=(100,))
        self.check('--window', '40,3', '--align', '500', '--softcap', '20', rows=(99,))
        self.check('--causal', '--align', 'bottom-right', '--seqlens-k', 'lengths.npy', '--leftpad-k', 'padding.npy',
                   '--mask', 'mask.npy', rows=(100, 320), same_bits=False)

    def test_layouts_ranks_and_types(self):
        shape = [2, 700, 2, 8]
        self.write_normal('q.npy', [2, 9, 4, 8])
        self.write_normal('k.npy', shape)
        self.write_normal('v.npy', shape)
        self.check(layout='bshd', rows=(64,))
        self.write_normal('q2.npy', [9, 8])
        self.write_normal('k2.npy', [700, 8])
        self.write_normal('v2.npy', [700, 8], '<f8')
        self.check('--dtype', 'f32', inputs=('q2.npy', 'k2.npy', 'v2.npy'), rows=(64,))
        self.write('k3.npy', [700, 8], self.normal([700, 8]), '>f4')
        self.check('--dtype', 'f16', inputs=('q2.npy', 'k3.npy', 'v2.npy'), rows=(512,))

    def test_codes_with_scales(self):
        shape = [2, 700, 64]
        self.write_normal('q.npy', [2, 3, 64])
        for name in 'kv':
            self.write(f'{name}.npy', shape, [self.random.randrange(-128, 128) for _ in range(2 * 700 * 64)], '|i1')
            self.write(f'{name}s.npy', shape[:2], [0.01 + 0.01 * self.random.random() for _ in range(1400)])
        self.check('--k-scale', 'ks.npy', '--v-scale', 'vs.npy', rows=(333,))

    def test_scores(self):
        self.write_inputs()
        for stage in ('scaled', 'masked'):
            args = ('--causal', '--align', 'bottom-right', '--scores-stage', stage)
            self.outputs(*args, '--scores', 'scores.npy')
            self.outputs(*args, '--scores', 'chunks.npy', '--stream-kv', 300)
            self.assertEqual(self.read('chunks.npy')[:2], ('<f4', (2, 4, 9, 700)))
            self.assert_close(self.read('chunks.npy')[2], self.read('scores.npy')[2], 2e-6)

    def test_reports(self):
        self.write_inputs()
        self.outputs()
        report = self.ok_json('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--compare', 'o.npy', '--stream-kv',
                              '64')
        self.assertEqual(report['k']['shape'], SHAPE_K)

    def test_errors(self):
        self.write_inputs()
        call = ('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', 'o.npy')
        self.fails(2, ['--stream-kv', 'expects', "'0'"], *call, '--stream-kv', '0')
        self.fails(2, ['--stream-kv and --dry-run'], *call, '--stream-kv', '8', '--dry-run')
        self.fails(2, ['--stream-kv and --key-mass'], *call, '--stream-kv', '8', '--key-mass', 'x.npy')
        self.fails(2, ['--stream-kv and --scores-stage weights', 'all keys'], *call, '--stream-kv', '8', '--scores', 'x.npy',
                   '--scores-stage', 'weights')
        self.fails(2, ['--stream-kv and --block-table'], *call, '--stream-kv', '8', '--block-table', 'x.npy')
        self.write('f.npy', SHAPE_K, self.normal(SHAPE_K), fortran=True)
        self.fails(1, ['f.npy', 'expects C order'], *call[:4], 'f.npy', *call[5:], '--stream-kv', '8')
        with open(self.path('k.npy'), 'rb') as file:
            data = file.read()
        with open(self.path('short.npy'), 'wb') as file:
            file.write(data[:-4])
        self.fails(1, ['short.npy'], *call[:4], 'short.npy', *call[5:], '--stream-kv', '8')
        self.fails(2, ['standard input'], *call[:4], '-', *call[5:], '--stream-kv', '8', stdin=data)

    def write_large(self, name, shape):
        """One MiB of normal numbers over and over."""
        rng = random.Random(name)
        block = array.array('f', (rng.gauss(0, 1) for _ in range(1 << 18))).tobytes()
        with open(self.path(name), 'wb') as file:
            file.write(npy_bytes(shape, []))
            for _ in range(shape[0] * shape[1] * 4 >> 20):
                file.write(block)

    def test_larger_than_memory(self):
        shape = [1 << 20, 64]  # 256 MiB each
        self.write_normal('q.npy', [3, 64])
        self.write_large('k.npy', shape)
        self.write_large('v.npy', shape)
        size = 100 << 20

        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        call = ('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--threads', '1', '--quiet', '-o')
        result = self.run_cli(*call, 'whole.npy', preexec_fn=limit)
        if b'no memory' not in result.stderr:
            raise unittest.SkipTest('the program does not start within the limit: ' + result.stderr.decode()[:80])
        self.ok(*call, 'whole.npy')
        self.ok(*call, 'chunks.npy', '--stream-kv', '16384', preexec_fn=limit)
        with open(self.path('whole.npy'), 'rb') as whole, open(self.path('chunks.npy'), 'rb') as chunks:
            self.assertEqual(whole.read(), chunks.read())
        self.assertLess(os.path.getsize(self.path('chunks.npy')), 4096)


if __name__ == '__main__':
    main()
