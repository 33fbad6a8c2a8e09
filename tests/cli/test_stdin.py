"""Inputs '-' are read from standard input one after the other, in the order that the man page has."""
import pathlib
import re

from support import CliTest, main

PAGE = (pathlib.Path(__file__).resolve().parents[2] / 'src' / 'cli' / 'flashc-run.1.scd').read_text()
SENTENCE = re.search(r'in the order Q, K, V,(.*?)\.\s', PAGE, re.DOTALL)[1]
ORDER = ['-q', '-k', '-v', *re.findall(r'\*(--[a-z-]+)\*', SENTENCE)]
BATCH, HEADS, HEADS_K, QUERIES, KEYS, DIM = 2, 4, 2, 5, 8, 4


class StdinTest(CliTest):
    def check(self, files, *options):
        """files: {option: (shape, values, descr)}; by name and from standard input, O has the same bits."""
        arguments = []
        for i, (option, array) in enumerate(files.items()):
            self.write(f'{i}.npy', *array)
            arguments += [option, f'{i}.npy']
        self.ok('attention', *arguments, *options, '-o', 'o.npy', '--quiet')
        names = dict(zip(arguments[::2], arguments[1::2])) | {'--compare': 'o.npy'}
        stream = b''
        for option in ORDER:
            if option in names:
                with open(self.path(names[option]), 'rb') as file:
                    stream += file.read()
        dashes = [word for option in names for word in (option, '-')]
        self.ok('attention', *dashes, *options, '--rtol', '0', '--atol', '0', '--quiet', stdin=stream)
        return set(names)

    def floats(self, *shape):
        return list(shape), self.normal(shape), '<f4'

    def codes(self, *shape):
        return list(shape), [round(40 * x) % 100 for x in self.normal(shape)], '|i1'

    def test_order(self):
        def numbers(*values):
            return [len(values)], values, '<i8'

        def scales(*shape):
            return list(shape), [abs(x) for x in self.normal(shape)], '<f4'
        used = self.check({
            '-q': self.floats(BATCH, HEADS, QUERIES, DIM), '-k': self.codes(BATCH, HEADS_K, KEYS, DIM),
            '-v': self.codes(BATCH, HEADS_K, KEYS, DIM), '--seqlens-q': numbers(5, 4), '--seqlens-k': numbers(8, 6),
            '--leftpad-k': numbers(0, 1), '--offsets': numbers(3, 2), '--k-scale': scales(BATCH, HEADS_K, KEYS),
            '--v-scale': scales(BATCH, HEADS_K, KEYS), '--mask': ([KEYS], [1, 1, 0, 1, 1, 1, 0, 1], '|u1'),
            '--bias': self.floats(QUERIES, KEYS), '--alibi': self.floats(HEADS), '--sinks': self.floats(HEADS),
            '--block-mask': ([1, 2], [1, 1], '|u1')}, '--causal', '--block-mask-tile', '5,4')
        used |= self.check({
            '-q': self.floats(HEADS, QUERIES, DIM), '-k': self.floats(4, HEADS_K, 3, DIM),
            '-v': self.floats(4, HEADS_K, 3, DIM), '--cu-seqlens-q': numbers(0, 2, 5), '--seqlens-k': numbers(6, 4),
            '--block-table': ([2, 2], [0, 1, 2, 3], '<i4'), '--block-table-v': ([2, 2], [1, 0, 3, 2], '<i4')})
        used |= self.check({
            '-q': self.floats(HEADS, QUERIES, DIM), '-k': self.codes(HEADS_K, KEYS, DIM),
            '-v': self.codes(HEADS_K, KEYS, DIM),
            '--cu-seqlens-q': numbers(0, 2, 5), '--cu-seqlens-k': numbers(0, 3, 8),
            '--k-scale': scales(HEADS_K, KEYS), '--v-scale': scales(HEADS_K, KEYS),
            '--prefix-k': self.codes(HEADS_K, 3, DIM), '--prefix-v': self.codes(HEADS_K, 3, DIM),
            '--prefix-k-scale': scales(HEADS_K, 3), '--prefix-v-scale': scales(HEADS_K, 3)})
        self.assertEqual(sorted(used), sorted(ORDER))


if __name__ == '__main__':
    main()
