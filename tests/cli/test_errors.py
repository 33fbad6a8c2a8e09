"""flashc-run: every kind of bad input gives one clear line, the right exit code, and no output file."""
import math
import os
import resource
import subprocess
import unittest

from support import COMMAND, CliTest, main, npy_bytes


class AttentionErrors(CliTest):
    def setUp(self):
        super().setUp()
        for name, shape in [('q', [8, 10, 4]), ('k', [4, 12, 4]), ('v', [4, 12, 6])]:
            self.write_normal(f'{name}.npy', shape)
        with open(self.path('q.npy'), 'rb') as file:
            self.q_bytes = file.read()

    def bad(self, code, words, *extra, q='q.npy', k='k.npy', v='v.npy', **kwargs):
        self.fails(code, words, 'attention', '-q', q, '-k', k, '-v', v, '-o', 'o.npy', '--lse', 'lse.npy', *extra,
                   **kwargs)

    def bad_bytes(self, words, data):
        with open(self.path('bad.npy'), 'wb') as file:
            file.write(data)
        self.bad(1, ['bad.npy', *words], q='bad.npy')
        self.bad(1, ['standard input', *words], q='-', stdin=data)

    def test_missing_files(self):
        self.bad(1, ['none.npy', 'No such file'], q='none.npy')
        self.bad(1, ["''", 'No such file'], q='')
        self.bad(1, ['none.npy', 'No such file'], v='none.npy')
        self.bad(1, ['none.npy', 'No such file'], '--mask', 'none.npy')
        self.bad(1, ['none.npy', 'No such file'], '--compare', 'none.npy')
        os.mkdir(self.path('folder'))
        self.bad(1, ['folder', 'directory'], k='folder')

    def test_truncated_and_malformed(self):
        q = self.q_bytes
        self.bad_bytes([], q[:-1])
        self.bad_bytes([], q[:100])
        self.bad_bytes([], b'')
        self.bad_bytes([], b'not a .npy file, but long enough to look for one in it' * 4)
        self.bad_bytes([], q[:6] + b'\x07' + q[7:])
        self.bad_bytes([], q.replace(b"'shape'", b"'shapf'"))
        self.bad_bytes([], q.replace(b'(8, 10', b'(8,-10'))
        self.bad_bytes([], q.replace(b"'<f4'", b"'|O8'"))

    def test_what_is_in_files(self):
        """The library finds it, the message names the option and the file that it is from."""
        for name, shape, values in (('long', [2], [3, 13]), ('cu', [3], [0, 4, 3]), ('far', [1, 2], [0, 9])):
            self.write(f'{name}.npy', shape, values, '<i8')
        for name, shape in (('q', [2, 8, 10, 4]), ('k', [2, 4, 12, 4]), ('pages', [3, 4, 6, 4])):
            self.write_normal(f'{name}4.npy', shape)
        four = {'q': 'q4.npy', 'k': 'k4.npy', 'v': 'k4.npy'}
        for option in ('seqlens-k', 'seqlens-q', 'leftpad-k'):
            field = option.replace('-', '_')
            self.bad(1, [f'flashc-run: --{option} long.npy: {field}[1]: expected ', 'found 13'],
                     f'--{option}', 'long.npy', **four)
        self.bad(1, ['flashc-run: --cu-seqlens-q cu.npy: cu_seqlens_q'], '--cu-seqlens-q', 'cu.npy',
                 '--cu-seqlens-k', 'cu.npy')
        self.write_normal('q1.npy', [1, 8, 10, 4])
        self.bad(1, ['flashc-run: --block-table far.npy: block_table[0][1]: ', 'found 9'], '--block-table', 'far.npy',
                 q='q1.npy', k='pages4.npy', v='pages4.npy')
        self.write('nan.npy', [8], [math.nan] * 8)
        self.bad(1, ['flashc-run: --sinks nan.npy: sinks[0]: '], '--sinks', 'nan.npy')
        self.bad(1, ['flashc-run: --alibi nan.npy: alibi_slopes[0]: '], '--alibi', 'nan.npy', '--align', 0)
        for name in 'kv':
            self.write(f'{name}8.npy', [4, 12, 4], [1] * 192, '|i1')
        self.write('scale.npy', [4, 1], [1, 1, -1, 1])
        self.write('one.npy', [1, 1], [1])
        for bad, good in ('kv', 'vk'):
            self.bad(1, [f'flashc-run: --{bad}-scale scale.npy: {bad}_scale[0][2]'], f'--{bad}-scale', 'scale.npy',
                     f'--{good}-scale', 'one.npy', k='k8.npy', v='v8.npy')

    def test_what_is_in_files_of_a_prefix(self):
        for name in 'kv':
            self.write(f'{name}8.npy', [4, 12, 4], [1] * 192, '|i1')
        self.write('one.npy', [1, 1], [1])
        self.write('scale.npy', [4, 1], [1, 1, -1, 1])
        self.bad(1, ['flashc-run: --prefix-v-scale scale.npy: prefix->v_scale['], '--k-scale', 'one.npy', '--v-scale',
                 'one.npy', '--prefix-k', 'k8.npy', '--prefix-v', 'v8.npy', '--prefix-k-scale', 'one.npy',
                 '--prefix-v-scale', 'scale.npy', k='k8.npy', v='v8.npy')

    def test_what_is_in_files_of_append(self):
        self.write_normal('cache.npy', [1, 4, 16, 4])
        self.write_normal('new.npy', [1, 4, 12, 4])
        self.write('at.npy', [1], [5], '<i8')
        self.write('long.npy', [1], [13], '<i8')
        args = ['append', '-k', 'new.npy', '--cache-k', 'cache.npy', '--output-k', 'o.npy', '--positions', 'at.npy']
        self.fails(1, ['flashc-run: --positions at.npy: positions[0]: expected 0 to 4'], *args)
        self.fails(1, ['flashc-run: --seqlens long.npy: seqlens_new[0]: expected 0 to'], *args, '--seqlens', 'long.npy')

    def test_impossibly_large(self):
        for shape in [(1 << 30, 1 << 20, 64), (1 << 62, 4, 4), (1 << 33, 1 << 33, 1)]:
            data = npy_bytes(shape, [])
            self.bad_bytes([], data + bytes(128))

    def test_types(self):
        shape = [8, 10, 4]
        self.write('bad.npy', shape, [0] * 320, '<f8')
        self.bad(1, ['bad.npy', 'f64', '--dtype'], q='bad.npy')
        for descr, name in [('<i4', 'i32'), ('<i8', 'i64'), ('|b1', 'bool')]:
            self.write('bad.npy', shape, [0] * 320, descr)
            self.bad(1, ['bad.npy', 'expected f32 or f16 (f64, or bf16', 'with --dtype', name], q='bad.npy')
            # No option that was given is recommended.
            self.bad(1, [f'bad.npy: expected f32, f16 or f64, found {name}\n'], '--dtype', 'f32', q='bad.npy')
            self.bad(1, [f'expected f32, f16, f64, or bf16 as two raw bytes, found {name}\n'], '--dtype', 'bf16',
                     q='bad.npy')
        for descr in ('<V2', '<u2'):
            self.write('bad.npy', shape, [0] * 320, descr)
            for args in ([], ['--dtype', 'f16']):
                self.bad(1, ['bad.npy', '--dtype bf16'], *args, q='bad.npy')
        self.write('bad.npy', [10, 12], [1] * 120)
        self.bad(1, ['bad.npy', 'bool', 'f32'], '--mask', 'bad.npy')
        self.write('bad.npy', [10, 12], [1] * 120, '|b1')
        self.bad(1, ['bad.npy', 'f32', 'bool'], '--bias', 'bad.npy')
        self.write('bad.npy', [10, 12], [1] * 120, '<f8')
        self.bad(1, ['bad.npy', 'expected f32 or f16, found f64', '--dtype'], '--bias', 'bad.npy')
        self.write('bad.npy', [10, 12], [1] * 120, '<V2')
        self.bad(1, ['bad.npy', '--dtype bf16'], '--dtype', 'f16', '--bias', 'bad.npy')

    def test_ranks(self):
        for rank, shape in [(0, []), (1, [320]), (5, [1, 1, 8, 10, 4])]:
            self.write('bad.npy', shape, [0.0] * (320 if shape else 1))
            self.bad(1, ['bad.npy', f'found rank {rank}', 'expected rank 2'], q='bad.npy')
        self.write('bad.npy', [1, 4, 12, 4], [0.0] * 192)
        self.bad(1, ['bad.npy', 'rank 4', 'q.npy', 'rank 3'], k='bad.npy')

    def bad_shape(self, words, shape, **kwargs):
        size = 1
        for n in shape:
            size *= n
        self.write('bad.npy', shape, [0.0] * size)
        self.bad(1, ['bad.npy', *words], **kwargs)

    def test_shapes_that_do_not_fit(self):
        self.bad_shape(['q.npy has 8 heads', 'bad.npy has 3', '8 is not a multiple of 3'], [3, 12, 4], k='bad.npy')
        self.bad_shape(['k.npy has 4 heads', 'bad.npy has 2'], [2, 12, 6], v='bad.npy')
        self.bad_shape(['k.npy has seqlen_k 12', 'bad.npy has 11'], [4, 11, 6], v='bad.npy')
        self.bad_shape(['q.npy has head_dim 4', 'bad.npy has 5'], [4, 12, 5], k='bad.npy')
        self.bad_shape(['bad.npy has head_dim 0'], [8, 10, 0], q='bad.npy')
        for name, shape in [('q4', [2, 8, 10, 4]), ('k4', [2, 4, 12, 4]), ('v4', [2, 4, 12, 6])]:
            self.write_normal(f'{name}.npy', shape)
        self.bad_shape(['batch 2', 'bad.npy has 1'], [1, 4, 12, 4], q='q4.npy', k='bad.npy', v='v4.npy')
        self.bad_shape(['batch 2', 'bad.npy has 3'], [3, 4, 12, 6], q='q4.npy', k='k4.npy', v='bad.npy')

    def test_mask_bias_and_reference_shapes(self):
        for shape in ([11], [10, 11], [3, 10, 12], [2, 1, 1, 12], [1, 1, 1, 10, 12]):
            size = 1
            for n in shape:
                size *= n
            self.write('bad.npy', shape, [1] * size, '|b1')
            self.bad(1, ['bad.npy', str(shape), 'broadcast', '[1, 8, 10, 12]'], '--mask', 'bad.npy')
            self.write('bad.npy', shape, [1] * size)
            self.bad(1, ['bad.npy', str(shape), 'broadcast', '[1, 8, 10, 12]'], '--bias', 'bad.npy')
        self.write('bad.npy', [10, 8, 6], [0.0] * 480)
        self.bad(1, ['bad.npy', '[10, 8, 6]', '[8, 10, 6]'], '--compare', 'bad.npy')

    def test_unknown_kernel(self):
        self.bad(1, ['kernel', 'fastest', 'f32_generic'], '--kernel', 'fastest')

    def test_outputs_that_cannot_be_written(self):
        args = ['attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy']
        self.fails(1, ['none/o.npy', 'No such file'], *args, '-o', 'none/o.npy', '--lse', 'lse.npy')
        self.fails(1, ['none/lse.npy', 'No such file'], *args, '-o', 'o.npy', '--lse', 'none/lse.npy')
        self.fails(1, [self.folder, 'directory'], *args, '-o', self.folder)
        self.fails(1, ['o.npy', 'twice'], *args, '-o', 'o.npy', '--lse', './o.npy')
        self.fails(1, ['/dev/full', 'No space'], *args, '-o', '/dev/full', '--lse', 'lse.npy')
        with open('/dev/full', 'wb') as full:
            for extra in (['-o', '-'], ['--lse', 'l.npy', '--json'], ['--lse', 'l.npy']):
                result = subprocess.run([*COMMAND, *args, *extra], cwd=self.folder, stdout=full,
                                        stderr=subprocess.PIPE, timeout=60, check=False)
                self.assertEqual(result.returncode, 1)
                self.assertIn(b'No space', result.stderr)

    def test_an_old_output_survives_an_error(self):
        with open(self.path('o.npy'), 'wb') as file:
            file.write(b'old')
        self.bad(1, ['kernel'], '--kernel', 'none')
        self.bad(1, ['lse.npy'], '--lse', 'none/lse.npy')
        with open(self.path('o.npy'), 'rb') as file:
            self.assertEqual(file.read(), b'old')

    def test_no_memory(self):
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        if self.run_cli('--version', preexec_fn=limit).returncode != 0:
            self.skipTest('the program does not start in 1 GiB of address space (a sanitizer?)')
        # O has 2^20 x 1024 elements: 4 GiB.
        self.write('q1.npy', [1 << 20, 1], [0.0] * (1 << 20))
        self.write('k1.npy', [1, 1], [0.0])
        self.write('v1.npy', [1, 1024], [0.0] * 1024)
        self.bad(1, ['O', 'no memory'], q='q1.npy', k='k1.npy', v='v1.npy', preexec_fn=limit)

    def test_file_size_limit(self):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))
        self.bad(1, ['o.npy', 'cannot write', 'File too large'], preexec_fn=limit)

    def test_no_thread(self):
        """libgomp ends the process where it gets no thread, in its own words: the outputs do not appear."""
        if not self.ok_json('info')['openmp']:
            self.skipTest('built without OpenMP')
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        if self.run_cli('--version', preexec_fn=limit).returncode != 0:
            self.skipTest('the program does not start in 1 GiB of address space (a sanitizer?)')
        before = sorted(os.listdir(self.folder))
        result = self.run_cli('attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy', '-o', 'o.npy', '--threads', 2,
                              preexec_fn=limit, env={**os.environ, 'OMP_STACKSIZE': '2G'})
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_a_reader_that_left(self):
        with subprocess.Popen([*COMMAND, 'attention', '-q', '-', '-k', 'k.npy', '-v', 'v.npy', '-o', '-'],
                              cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            process.stdout.close()
            process.stdin.write(self.q_bytes)
            process.stdin.close()
            message = process.stderr.read()
            self.assertEqual(process.wait(60), 1)
            self.assertIn(b'Broken pipe', message)


class UsageErrors(CliTest):
    QKV = ['attention', '-q', 'q.npy', '-k', 'k.npy', '-v', 'v.npy']

    def test_no_or_unknown_command(self):
        self.fails(2, ['command is missing', '--help'])
        self.fails(2, ["'attend'", '--help'], 'attend')
        self.fails(2, ["'attend'"], 'help', 'attend')
        self.fails(2, ["'--attention'"], '--attention')

    def test_missing_options(self):
        self.fails(2, ['-q', 'missing'], 'attention')
        self.fails(2, ['-k', 'missing'], 'attention', '-q', 'q.npy')
        self.fails(2, ['-v', 'missing'], 'attention', '-q', 'q.npy', '-k', 'k.npy')
        self.fails(2, ['-o', '--compare'], *self.QKV)
        self.fails(2, ['-x', 'missing'], 'softmax')
        self.fails(2, ['pairs', '0 files'], 'merge', '-o', 'o.npy')
        self.fails(2, ['pairs', '3 files'], 'merge', '-o', 'o.npy', 'a', 'b', 'c')
        self.fails(2, ['-o', '--lse'], 'merge', 'a', 'b')

    def test_wrong_options(self):
        for words, args in [
                (["'--colour'"], ['--colour']),
                (["'-Z'"], ['-Z']),
                (['unknown option', '0xc3'], ['-\u00e9']),
                (['--output', 'argument'], ['-o']),
                (['--causal', 'no argument', '--causal=1'], ['--causal=1']),
                (["'stray'"], ['stray']),
                (["'--batch'"], ['--batch', '2']),
                (['--causal', '--align'], ['-o', 'o.npy', '--causal']),
                (['--align', "'middle'"], ['--align', 'middle']),
                (['--align', "'1.5'"], ['--align', '1.5']),
                (['--align', "'99999999999999999999'"], ['--align', '99999999999999999999']),
                (['--layout', "'hbsd'"], ['--layout', 'hbsd']),
                (['--dtype', "'f64'"], ['--dtype', 'f64']),
                (['--out-dtype', "'float'"], ['--out-dtype', 'float']),
                (['--threads', "'two'"], ['--threads', 'two']),
                (['--threads', "'-1'"], ['--threads', '-1']),
                (['--threads', "''"], ['--threads', '']),
                (['--threads', "' 1'"], ['--threads', ' 1']),
                (['--threads', "'4294967297'"], ['--threads', '4294967297']),
                (['--scale', "'nan'"], ['--scale', 'nan']),
                (['--scale', "'0x1'"], ['--scale', '0x1']),
                (['--scale', "'1e39'"], ['--scale', '1e39']),
                (['--scale', "'1,5'"], ['--scale', '1,5']),
                (['--rtol', "'-1'"], ['--rtol', '-1']),
                (['--atol', "'inf'"], ['--atol', 'inf']),
                (['--rtol needs --compare'], ['-o', 'o.npy', '--rtol', '1']),
                (['--atol needs --compare'], ['-o', 'o.npy', '--atol', '1']),
                (['--scores-stage needs --scores'], ['-o', 'o.npy', '--scores-stage', 'weights']),
                (['give --seqlens-q or --cu-seqlens-q, not both'],
                 ['-o', 'o.npy', '--seqlens-q', 'n.npy', '--cu-seqlens-q', 'n.npy']),
                (['give --seqlens-k or --cu-seqlens-k, not both'],
                 ['-o', 'o.npy', '--seqlens-k', 'n.npy', '--cu-seqlens-k', 'n.npy']),
                (['give --block-table or --cu-seqlens-k, not both'],
                 ['-o', 'o.npy', '--block-table', 'n.npy', '--cu-seqlens-k', 'n.npy']),
                (['--block-table-v needs --block-table'], ['-o', 'o.npy', '--block-table-v', 'n.npy']),
                (['--json', "'-'"], ['-o', '-', '--json'])]:
            with self.subTest(args=args):
                self.fails(2, [*words, 'flashc-run attention --help'], *self.QKV, *args)
        self.fails(2, ['files', 'shapes', 'not both'], 'explain', *self.QKV[1:], '--heads', 3)
        self.fails(2, ['-k FILE is missing'], 'explain', '-q', 'q.npy')
        self.fails(2, ['--bandwidth needs --predict'], 'explain', '--bandwidth', 100)
        self.fails(2, ['--head-dim', "'0'"], 'explain', '--head-dim', 0)
        self.fails(2, ['--split', "'0'"], 'softmax', '-x', 'x.npy', '--split', 0)

    def test_explain(self):
        self.fails(2, ['--heads expects a multiple of --heads-k 2, found 3 (see'], 'explain', '--heads', 3,
                   '--heads-k', 2)
        self.fails(2, ['--heads expects a multiple of --heads-k 3, found 8, the default'], 'bench', '--heads-k', 3)
        self.fails(1, ['kernel', 'none'], 'explain', '--kernel', 'none')
        self.fails(1, ['q', 'shape'], 'explain', '--batch', 1 << 40, '--seqlen-q', 1 << 40)


class SoftmaxAndMergeErrors(CliTest):
    def test_softmax(self):
        self.write('x.npy', [2, 3], [0.0] * 6)
        self.fails(1, ['x.npy', '3 columns', '4 pieces'], 'softmax', '-x', 'x.npy', '-o', 'y.npy', '--split', 4)
        self.fails(1, ['none.npy', 'No such file'], 'softmax', '-x', 'none.npy', '-o', 'y.npy')
        self.fails(1, ['none/y.npy', 'No such file'], 'softmax', '-x', 'x.npy', '-o', 'none/y.npy')
        self.write('x.npy', [], [0.0])
        self.fails(1, ['x.npy', 'rank 1'], 'softmax', '-x', 'x.npy', '-o', 'y.npy')
        self.write('x.npy', [3], [0.0] * 3, '<f8')
        self.fails(1, ['x.npy', 'f64', '--dtype'], 'softmax', '-x', 'x.npy', '-o', 'y.npy')

    def test_merge(self):
        self.write('o.npy', [2, 3, 4], [0.0] * 24)
        self.write('o2.npy', [2, 3, 5], [0.0] * 30)
        self.write('l.npy', [2, 3], [0.0] * 6)
        self.write('l2.npy', [3, 2], [0.0] * 6)
        self.write('l16.npy', [2, 3], [0.0] * 6, '<f2')
        merge = ['merge', '-o', 'm.npy', '--lse', 'ml.npy', 'o.npy', 'l.npy']
        self.fails(1, ['o2.npy', '[2, 3, 5]', 'o.npy', '[2, 3, 4]'], *merge, 'o2.npy', 'l.npy')
        self.fails(1, ['l2.npy', '[3, 2]', '[2, 3]'], *merge, 'o.npy', 'l2.npy')
        self.fails(1, ['l.npy', '[2, 3]', '[3, 2]'], *merge, '--layout', 'bshd')
        self.fails(1, ['l16.npy', 'expected an LSE of type f32', 'f16'], *merge, 'o.npy', 'l16.npy')
        self.write('l64.npy', [2, 3], [0.0] * 6, '<f8')
        result = self.run_cli(*merge, 'o.npy', 'l64.npy')
        self.assertEqual(result.returncode, 1)
        self.assertIn(b'l64.npy: expected an LSE of type f32, found f64', result.stderr)
        self.assertNotIn(b'--dtype', result.stderr)  # it converts O only
        self.fails(1, ['none.npy', 'No such file'], *merge, 'o.npy', 'none.npy')
        self.write('flat.npy', [6], [0.0] * 6)
        self.fails(1, ['flat.npy', 'rank 2, 3 or 4', '[6]'], 'merge', '-o', 'm.npy', 'flat.npy', 'l.npy')


if __name__ == '__main__':
    main()
