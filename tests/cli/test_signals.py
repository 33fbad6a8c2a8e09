"""flashc-run: signals end it within half a second and leave no file; the progress bar is for terminals."""
import os
import pty
import signal
import subprocess
import sys
import time
import unittest

from support import COMMAND, PATIENCE, CliTest, main, npy_bytes

ANSWER_WITHIN = 0.5  # seconds
# One head of these sizes takes minutes on the generic kernel with one thread.
LONG = [1 << 16, 128]


def default_signals():
    """Shells start background jobs with some signals ignored, and programs inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)


class SignalTest(CliTest):
    def setUp(self):
        super().setUp()
        header = npy_bytes(LONG, [])
        with open(self.path('x.npy'), 'wb') as file:
            file.write(header + bytes(4 * LONG[0] * LONG[1]))
        self.files = sorted(os.listdir(self.folder))
        self.long_call = [*COMMAND, 'attention', '-q', 'x.npy', '-k', 'x.npy', '-v', 'x.npy', '--kernel', 'f32_generic']

    def start(self, args, **kwargs):
        process = subprocess.Popen(args, cwd=self.folder, **{'preexec_fn': default_signals, **kwargs})
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def end(self, process, number):
        self.assertIsNone(process.poll(), 'ended by itself')
        start = time.monotonic()
        process.send_signal(number)
        code = process.wait(30)
        seconds = time.monotonic() - start
        self.assertEqual(code, 128 + number)
        self.assertLess(seconds, ANSWER_WITHIN)
        self.assertEqual(sorted(os.listdir(self.folder)), self.files)

    def wait_for_temporary(self):
        """Until the outputs are reserved, that is, the computation is about to start."""
        for _ in range(600):
            if sorted(os.listdir(self.folder)) != self.files:
                time.sleep(0.2)
                return
            time.sleep(0.05)
        self.fail('no temporary file appeared')

    def test_computing(self):
        for threads in ('1', '2'):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU):
                with self.subTest(threads=threads, number=number):
                    process = self.start([*self.long_call, '-o', 'o.npy', '--lse', 'l.npy', '--threads', threads])
                    self.wait_for_temporary()
                    self.end(process, number)

    def test_reading(self):
        process = self.start([*COMMAND, 'attention', '-q', '-', '-k', 'x.npy', '-v', 'x.npy', '-o', 'o.npy'],
                             stdin=subprocess.PIPE)
        process.stdin.write(npy_bytes(LONG, []) + bytes(1000))
        process.stdin.flush()
        time.sleep(0.3)
        self.end(process, signal.SIGINT)
        process.stdin.close()

    def test_writing(self):
        # More than a pipe holds, and nobody reads.
        process = self.start([*COMMAND, 'softmax', '-x', 'x.npy', '-o', '-'], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
        process.stdout.read(1)
        time.sleep(0.2)
        self.end(process, signal.SIGINT)
        process.stdout.close()

    def test_writing_to_a_pipe_beside_a_file(self):
        """Two outputs appear together, but a pipe that nobody empties must not hold the signals up."""
        self.write('l.npy', [LONG[0]], [0.0] * LONG[0])
        os.mkfifo(self.path('pipe'))
        self.files = sorted(os.listdir(self.folder))
        reader = os.open(self.path('pipe'), os.O_RDONLY | os.O_NONBLOCK)
        process = self.start([*COMMAND, 'merge', '-o', 'pipe', '--lse', 'merged.npy', 'x.npy', 'l.npy'])
        for _ in range(600):
            try:
                if os.read(reader, 1):
                    break
            except BlockingIOError:
                pass
            time.sleep(0.05)
        time.sleep(0.2)
        self.end(process, signal.SIGINT)
        os.close(reader)

    def test_ignored_signal_stays_ignored(self):
        ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
        process = self.start([*self.long_call, '-o', 'o.npy'], preexec_fn=ignore)
        self.wait_for_temporary()
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        self.end(process, signal.SIGTERM)

    def test_no_progress_bar_without_a_terminal(self):
        process = self.start([*self.long_call, '-o', 'o.npy', '--threads', '1'], stderr=subprocess.PIPE)
        self.wait_for_temporary()
        time.sleep(2)
        self.end(process, signal.SIGINT)
        self.assertEqual(process.stderr.read(), b'')
        process.stderr.close()

    def bar_on_terminal(self, *args):
        """What stands on a terminal once there is a number, and the seconds from the start to the first byte."""
        try:
            control, terminal = pty.openpty()
        except OSError as error:
            self.skipTest(f'no pseudo-terminal can be opened: {error}')
        began = time.monotonic()
        process = self.start([*self.long_call, '-o', 'o.npy', *args], stderr=terminal)
        os.close(terminal)
        os.set_blocking(control, False)
        self.wait_for_temporary()
        start, first, text = time.monotonic(), None, b''
        while time.monotonic() - start < PATIENCE and b'%' not in text:
            time.sleep(0.05)
            try:
                text += os.read(control, 4096)
                first = first or time.monotonic() - began
            except BlockingIOError:
                if '--quiet' in args and time.monotonic() - start > 3:
                    break
        self.end(process, signal.SIGINT)
        try:
            text += os.read(control, 4096)
        except OSError:
            pass
        os.close(control)
        return text, first

    def test_no_arrays_on_a_terminal(self):
        try:
            control, terminal = pty.openpty()
        except OSError as error:
            self.skipTest(f'no pseudo-terminal can be opened: {error}')
        self.write('row.npy', [1, 4], [0.0] * 4)
        result = subprocess.run([*COMMAND, 'softmax', '-x', 'row.npy', '-o', '-'], cwd=self.folder, stdout=terminal,
                                stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b'standard output: is a terminal', result.stderr)
        os.close(terminal)
        os.close(control)

    def test_progress_bar_on_a_terminal(self):
        text, first = self.bar_on_terminal()
        self.assertRegex(text, rb'\r\[#*\.+\] +\d+ %')
        self.assertGreaterEqual(first, 1)  # of computing alone
        self.assertTrue(text.endswith(b'\n'), text)
        self.assertEqual(self.bar_on_terminal('--quiet')[0], b'')


if __name__ == '__main__':
    main()
