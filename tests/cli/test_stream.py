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
        self.ok('attention', '-q', q, '-k', k, '-v', v, '-o', 'o.npy', '--lse', 'lse.npy', '--layout', layout,
                '--quiet', *args)
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
        self.write('slopes.npy', [2, 4], [0.5, 0.25, 0.125, 0.0625, 0.01, 0.02, 0.03, -0.04])
        self.check('--causal', '--align', 'bottom-right', rows=(100,))
        self.check('--alibi', 'slopes.npy', '--align', 'bottom-right', rows=(100,))
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

    def write_packed(self, lengths_q, lengths_k, heads=2, dim=8):
        """q.npy [2 heads each, rows, dim], k.npy and v.npy [heads, rows, dim], with at_q.npy and at_k.npy."""
        for name, lengths in (('q', lengths_q), ('k', lengths_k)):
            self.write(f'at_{name}.npy', [len(lengths) + 1], [sum(lengths[:b]) for b in range(len(lengths) + 1)], '<i8')
        self.write_normal('q.npy', [2 * heads, sum(lengths_q), dim])
        for name in 'kv':
            self.write_normal(f'{name}.npy', [heads, sum(lengths_k), dim])

    def write_pages(self, page_size, lengths):
        """Pages of k.npy and v.npy in an order of their own, and some between them that no table names."""
        each = -(-max(lengths) // page_size)
        pages = self.random.sample(range(1, 2 * each * len(lengths)), each * len(lengths))
        needed = [-(-length // page_size) for length in lengths]
        table = [pages[b * each + i] if i < needed[b] else -1 for b in range(len(lengths)) for i in range(each)]
        self.write('table.npy', [len(lengths), each], table, '<i4')
        self.write('lengths.npy', [len(lengths)], lengths, '<i8')
        for name in 'kv':
            self.write_normal(f'{name}.npy', [2 * each * len(lengths), 2, page_size, 8])

    def test_packed(self):
        lengths_q, lengths_k = [9, 0, 20, 3], [700, 5, 0, 333]
        self.write_packed(lengths_q, lengths_k)
        shape = [4, sum(lengths_q), sum(lengths_k)]
        self.write('bias.npy', shape, self.normal(shape))
        self.write('mask.npy', shape[1:], [int(self.random.random() < 0.7) for _ in range(shape[1] * shape[2])], '|b1')
        packed = ('--cu-seqlens-q', 'at_q.npy', '--cu-seqlens-k', 'at_k.npy')
        self.check(*packed, rows=(1, 100, 10000))
        self.check(*packed, '--bias', 'bias.npy', '--mask', 'mask.npy', '--causal', '--align', 'bottom-right',
                   rows=(100,))
        self.check(*packed, '--window', '50,2', '--align', 200, rows=(100,))
        args = (*packed, '--bias', 'bias.npy', '--scores-stage', 'masked', '--scores')
        self.outputs(*args, 'scores.npy')
        self.outputs(*args, 'chunks.npy', '--stream-kv', 90)
        self.assert_close(self.read('chunks.npy')[2], self.read('scores.npy')[2], 2e-6)

    def test_packed_keys_alone(self):
        """Beside queries in a batch, and in the other layout."""
        lengths = [700, 5, 90]
        self.write_packed([1], lengths)
        self.write_normal('q.npy', [3, 4, 2, 8])
        self.check('--cu-seqlens-k', 'at_k.npy', rows=(64,))
        self.write_normal('q.npy', [3, 2, 4, 8])
        for name in 'kv':
            self.write_normal(f'{name}.npy', [sum(lengths), 2, 8])
        self.check('--cu-seqlens-k', 'at_k.npy', rows=(64,), layout='bshd')

    def test_pages(self):
        lengths = [700, 5, 0, 333]
        self.write_normal('q.npy', [4, 4, 5, 8])
        self.write('sinks.npy', [4], [0.0, 1.0, 2.0, -1.0])
        pages = ('--block-table', 'table.npy', '--seqlens-k', 'lengths.npy')
        for page_size in (16, 256, 1000):
            self.write_pages(page_size, lengths)
            self.check(*pages, rows=(1, 100))
            self.check(*pages, '--causal', '--align', 'bottom-right', '--sinks', 'sinks.npy', rows=(99,))
        _, shape, table = self.read('table.npy')
        self.write('table_v.npy', shape, [max(0, page - 1) for page in table], '<i4')
        self.check(*pages, '--block-table-v', 'table_v.npy', rows=(77,))
        self.write('at.npy', [4], [300, 3, 9, 100], '<i8')
        self.check(*pages, '--causal', '--offsets', 'at.npy', rows=(77,))

    def test_pages_in_bshd(self):
        self.write_normal('q.npy', [2, 5, 4, 8])
        self.write_pages(16, [300, 90])
        for name in 'kv':
            _, (pages, heads, rows, dim), _ = self.read(f'{name}.npy')
            self.write_normal(f'{name}.npy', [pages, rows, heads, dim])
        self.check('--block-table', 'table.npy', '--seqlens-k', 'lengths.npy', rows=(50,), layout='bshd')

    def test_pages_of_padding(self):
        """Padding in front has no pages."""
        self.write_normal('q.npy', [2, 4, 5, 8])
        self.write_pages(16, [300, 90])
        _, shape, table = self.read('table.npy')
        table[0:4] = [-1, 1 << 30, -5, 1 << 20]
        self.write('table.npy', shape, table, '<i4')
        self.write('padding.npy', [2], [70, 0], '<i8')
        self.check('--block-table', 'table.npy', '--seqlens-k', 'lengths.npy', '--leftpad-k', 'padding.npy', '--causal',
                   '--align', 'bottom-right', rows=(50,), same_bits=False)

    def test_codes_in_pages(self):
        """int8 with a scale a row, fp8 with one a head."""
        lengths = [300, 20]
        self.write_normal('q.npy', [2, 4, 2, 8])
        self.write_pages(16, lengths)
        for name in 'kv':
            shape = list(self.read(f'{name}.npy')[1])
            n = shape[0] * shape[1] * shape[2]
            self.write(f'{name}.npy', shape, [self.random.randrange(-127, 128) for _ in range(n * 8)], '|i1')
            self.write(f'{name}8.npy', shape, [self.random.randrange(0x20, 0x40) for _ in range(n * 8)], '|u1')
            self.write(f'{name}s.npy', shape[:3], [0.01 + 0.01 * self.random.random() for _ in range(n)])
            self.write(f'{name}h.npy', [1, 2, 1], [0.25, 0.5])
        args = ('--block-table', 'table.npy', '--seqlens-k', 'lengths.npy')
        self.check(*args, '--k-scale', 'ks.npy', '--v-scale', 'vs.npy', rows=(50,))
        self.check(*args, '--k-scale', 'kh.npy', '--v-scale', 'vh.npy', '--cache-dtype', 'f8_e4m3',
                   inputs=('q.npy', 'k8.npy', 'v8.npy'), rows=(50,))

    def test_block_mask(self):
        self.write_inputs()
        self.write('blocks.npy', [2, 1, 3, 11], [int(self.random.random() < 0.5) for _ in range(66)], '|b1')
        self.check('--block-mask', 'blocks.npy', '--block-mask-tile', '4,64', rows=(100,))

    def test_block_mask_of_packed(self):
        """Tiles of the longest sequence."""
        self.write_packed([9, 0, 20, 3], [700, 5, 0, 333])
        self.write('blocks.npy', [4, 1, 5, 11], [int(self.random.random() < 0.5) for _ in range(220)], '|b1')
        self.check('--cu-seqlens-q', 'at_q.npy', '--cu-seqlens-k', 'at_k.npy', '--block-mask', 'blocks.npy',
                   '--block-mask-tile', '4,64', rows=(100,))

    def test_scores_of_lengths(self):
        """Columns of no keys are -inf as in one call, of a sequence without chunks too."""
        self.write_inputs()
        for lengths in ([333, 699], [0, 700]):
            self.write('lengths.npy', [2], lengths, '<i8')
            self.outputs('--seqlens-k', 'lengths.npy', '--scores', 'scores.npy')
            self.outputs('--seqlens-k', 'lengths.npy', '--scores', 'chunks.npy', '--stream-kv', 300)
            self.assert_close(self.read('chunks.npy')[2], self.read('scores.npy')[2], 2e-6)

    def test_dry_run(self):
        """What one call would run, whose tiles say which chunks give its bits."""
        self.write_inputs()
        call = ('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--dry-run')
        self.assertEqual(self.ok(*call, '--stream-kv', 8), self.ok(*call))

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
        report = self.ok_json('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '--compare', 'o.npy',
                              '--stream-kv', '64')
        self.assertEqual(report['k']['shape'], SHAPE_K)

    def test_errors(self):
        self.write_inputs()
        call = ('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', 'o.npy')
        self.fails(2, ['--stream-kv', 'expects', "'0'"], *call, '--stream-kv', '0')
        self.fails(2, ['--stream-kv and --key-mass'], *call, '--stream-kv', '8', '--key-mass', 'x.npy')
        self.fails(2, ['--stream-kv and --scores-stage weights', 'all keys'], *call, '--stream-kv', '8',
                   '--scores', 'x.npy', '--scores-stage', 'weights')
        self.write_normal('k_pages.npy', [4, 2, 16, 8])
        self.write('table.npy', [2, 2], [0, 1, 2, 4], '<i4')
        self.fails(1, ['block_table', '[1][1]', 'found 4'], *call[:4], 'k_pages.npy', '-v', 'k_pages.npy', *call[7:],
                   '--stream-kv', '8', '--block-table', 'table.npy')
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
        # The same as a prefix, before no keys of its own.
        self.write('none.npy', [0, 64], [])
        self.ok(*call, 'chunks.npy', '-k', 'none.npy', '-v', 'none.npy', '--prefix-k', 'k.npy', '--prefix-v', 'v.npy',
                '--stream-kv', '16384', preexec_fn=limit)
        self.assert_close(self.read('chunks.npy')[2], self.read('whole.npy')[2], 2e-6)


if __name__ == '__main__':
    main()
