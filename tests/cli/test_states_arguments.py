"""States in files: what does not go together, files that are no states, and what an error leaves."""
import os

from states import BATCH, DIM, HEADS, PIECE, QKV, QUERIES, StatesTest
from support import main, transpose


class StatesArgumentsTest(StatesTest):
    def test_arguments(self):
        call = ('attention', *QKV, '-o', 'x.npy')
        for option, value in (('--save-state', 's'), ('--resume-state', 's'), ('--first-key', 5), ('--first-key', 0),
                              ('--total-keys', 5)):
            self.fails(2, [f'{option} needs --stream-kv'], *call, option, value)
            stream = (*call, option, value, '--stream-kv', 64)
            if option != '--total-keys':
                self.fails(2, [f'{option} and --align bottom-right need --total-keys'], *stream, '--align',
                           'bottom-right')
            self.fails(2, [f'{option} and --leftpad-k do not go together'], *stream, '--leftpad-k', 'no.npy')
            self.fails(2, [f'{option} and --block-mask do not go together'], *stream, '--block-mask', 'no.npy',
                       '--block-mask-tile', '8,8')
            self.fails(2, [f'{option} and --prefix-k do not go together'], *stream, '--prefix-k', 'k.npy', '--prefix-v',
                       'v.npy')
        for first in (0, 3):
            self.fails(2, ['--resume-state and --first-key do not go together'], *call, '--stream-kv', 9,
                       '--resume-state', 's', '--first-key', first)
        for option in ('--save-state', '--resume-state'):
            for name in ('-', ''):
                self.fails(2, [f"{option} expects what the names of two files begin with, found '{name}'"], *call,
                           '--stream-kv', 9, option, name)
        self.fails(1, ['--total-keys 1399: expected at least the 1400 keys of sequence 0', 'k.npy'], *call,
                   '--stream-kv', 9, '--total-keys', 1399)
        self.fails(2, ['--first-key', "'-1'"], *call, '--stream-kv', 9, '--first-key', -1)
        self.fails(2, ['--save-state needs --states'], 'merge', 'a', 'b', '--save-state', 's')
        self.fails(2, ['names of states, found none'], 'merge', '--states', '-o', 'x.npy')
        self.fails(2, ['--states and --dtype'], 'merge', '--states', '--dtype', 'f32', 'a', '-o', 'x.npy')
        self.fails(2, ['at least one of -o, --save-state and --lse'], 'merge', '--states', 'a')

    def test_states_that_do_not_fit(self):
        self.cut(600)
        self.save('s', 0)
        call = ('attention', '-q', 'q.npy', '-k', 'k1.npy', '-v', 'v1.npy', '-o', 'x.npy', '--stream-kv', 64,
                '--resume-state')
        self.fails(1, ['no.rows.npy'], *call, 'no')
        self.fails(1, ['no.rows.npy'], 'merge', '--states', 's', 'no', '-o', 'x.npy')
        _, shape, rows = self.read('s.rows.npy')
        _, _, keys = self.read('s.keys.npy')
        self.write_normal('q2.npy', [BATCH, HEADS, QUERIES + 1, DIM])
        self.fails(1, ['s.rows.npy has shape', f'expected [{shape[0]}, 2, 4, 10, 10] for the queries of q2.npy'],
                   *call[:2], 'q2.npy', *call[3:], 's')

        order = [*range(len(shape))][::-1]
        self.write('t.rows.npy', shape, transpose(shape, rows, order)[1], fortran=True)
        self.write('t.keys.npy', [BATCH, 3], keys, '<i8')
        self.fails(1, ['t.rows.npy: expected C order, found Fortran order'], *call, 't')

        def write(name, rows_shape=shape, rows_values=rows, descr='<f4', keys_values=keys, keys_descr='<i8'):
            self.write(f'{name}.rows.npy', rows_shape, rows_values, descr)
            self.write(f'{name}.keys.npy', [len(keys_values) // 3, 3], keys_values, keys_descr)
        write('t', descr='<i4', rows_values=[0] * len(rows))
        self.fails(1, ['t.rows.npy: expected the f32 of a state, found i32'], *call, 't')
        write('t', keys_descr='<i4')
        self.fails(1, ['t.keys.npy: expected the i64 of a state, found i32'], *call, 't')
        write('t', rows_shape=[len(rows)])
        no_state = ['t.rows.npy: expected the shape [1 to 48, (batch, heads,) queries, head_dim_v + 2]']
        self.fails(1, no_state, *call, 't')
        for columns in (0, 1):  # row_max and row_sum alone are two
            write('t', rows_shape=[1, QUERIES, columns], rows_values=[0.0] * (QUERIES * columns))
            self.fails(1, [*no_state, f'found [1, {QUERIES}, {columns}]'], 'merge', '--states', 't', '-o', 'x.npy')
            self.fails(1, [*no_state, f'found [1, {QUERIES}, {columns}]'], *call, 't')
        write('t', keys_values=keys[:3])
        self.fails(1, ['t.keys.npy has 1 rows: expected 2, one for each sequence of q.npy'], *call, 't')
        self.fails(1, ['t.keys.npy has 1 rows: expected 2, one for each sequence of s'], 'merge', '--states', 's', 't',
                   '-o', 'x.npy')
        for column, value, words in ((0, -1, 'next_key from 0 to'), (1, shape[0] + 1, f'n_nodes from 0 to {shape[0]}'),
                                     (2, -5, 'piece_n from 0 to')):
            wrong = list(keys)
            wrong[3 + column] = value
            write('t', keys_values=wrong)
            self.fails(1, ['t.keys.npy: expected ' + words, f'found {value} at [1, {column}]'], *call, 't')
        # More partial results than the keys can have left.
        write('t', rows_shape=[3 * shape[0], *shape[1:]], rows_values=rows * 3, keys_values=[5, 3, PIECE] * BATCH)
        self.fails(1, ['n_nodes: expected 0 to 1', 'found 3'], *call, 't')

    def test_nothing_is_left_after_an_error(self):
        """The file of K ends too early: neither results nor a state, and the one before stays as it was."""
        self.cut(600)
        self.save('s', 0)
        before = self.read('s.rows.npy'), self.read('s.keys.npy')
        with open(self.path('k1.npy'), 'rb+') as file:
            file.truncate(os.path.getsize(self.path('k1.npy')) - 4)
        self.fails(1, ['k1.npy'], 'attention', '-q', 'q.npy', '-k', 'k1.npy', '-v', 'v1.npy', '-o', 'x.npy',
                   '--stream-kv', 100, '--resume-state', 's', '--save-state', 's')
        self.fails(1, ['folder/x.npy'], 'attention', *QKV, '--stream-kv', 100, '-o', 'folder/x.npy', '--save-state',
                   's')
        self.assertEqual((self.read('s.rows.npy'), self.read('s.keys.npy')), before)


if __name__ == '__main__':
    main()
