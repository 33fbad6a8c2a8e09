"""The man page of flashc-run holds what --help shows, command by command, and nothing else."""
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

from support import COMMAND

SOURCE = pathlib.Path(__file__).resolve().parents[2] / 'src' / 'cli' / 'flashc-run.1.scd'
# Every command has these; the page says so once.
COMMON = {'--help', '-h'}


def output(*args):
    return subprocess.run([*COMMAND, *args], stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()


def commands():
    block = output('--help').split('Commands:\n')[1].split('\n\n')[0]
    return [line.split()[0] for line in block.splitlines()]


def help_options(command):
    """{option: its argument or None}, short and long."""
    options = {}
    for match in re.finditer(r'^ {2,6}(?:(-\w), )?(--[a-z-]+)(?: (\S+))?(?:  |$)', output(command, '--help'), re.M):
        short, name, argument = match.groups()
        options[name] = argument
        if short:
            options[short] = argument
    return options


def groups_of_help(command):
    """[title, [long options]] in the order of --help, which is not among them."""
    groups = []
    for title, name in re.findall(r'^(?:(\S.*):|(?:  -\w, |      )--([a-z-]+)\b.*)$', output(command, '--help'), re.M):
        if title:
            groups.append((title, []))
        elif name != 'help':
            groups[-1][1].append(name)
    return [group for group in groups if group[1]]


def groups_of_page(text):
    """The same of a section, where paragraphs define the options."""
    groups = []
    for title, name in re.findall(r'^(?:## (.*)|(?:\*-\w\*, )?\*--([a-z-]+)\*(?: _\S+_)?\n\t.*)$', text, re.M):
        if title:
            groups.append((title, []))
        else:
            groups[-1][1].append(name)
    return groups


def without_effect(command):
    """The options that its help only mentions, short and long."""
    found = re.search(r'^Taken, but without effect here: (.*?)\n(?:\n|$)', output(command, '--help'), re.M | re.S)
    return set(found[1].replace('\n', ' ').split(', ')) if found else set()


def sections():
    """{header: text} of the page's top level."""
    parts = re.split(r'^# (.+)$', SOURCE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def definitions(text):
    """(option, its argument or None) of the paragraphs that explain options; their text is indented."""
    for names, argument in re.findall(r'^((?:\*--?[a-z-]+\*(?:, )?)+)(?: _(\S+)_)?\n\t', text, re.MULTILINE):
        for option in re.findall(r'\*([a-z-]+)\*', names):
            yield option, argument or None


class ManTest(unittest.TestCase):
    def setUp(self):
        self.sections = sections()
        self.commands = commands()
        self.assertGreaterEqual(len(self.commands), 7)

    def test_options(self):
        for command in self.commands:
            with self.subTest(command=command):
                shown = set(help_options(command)) | without_effect(command)
                self.assertLessEqual(COMMON, shown)
                self.assertGreater(len(shown), len(COMMON))
                found = set(re.findall(r'\*(--?[a-z][a-z-]*)\*', self.sections[command.upper()]))
                self.assertEqual(sorted(found - COMMON), sorted(shown - COMMON))

    def test_groups(self):
        """--help and the page have the options under the same titles, in the same order."""
        help_groups = {command: groups_of_help(command) for command in self.commands}
        page_groups = {command: groups_of_page('## Options\n' + self.sections[command.upper()])
                       for command in self.commands}
        for command in self.commands:
            with self.subTest(command=command):
                if command in ('explain', 'bench'): # whose pages define what attention has not
                    of_help = dict(help_groups[command])
                    for title, names in page_groups[command][1:]:
                        self.assertEqual(names, [name for name in of_help[title] if name in names])
                else:
                    self.assertEqual([group for group in page_groups[command] if group[1]], help_groups[command])
        titles = [title for title, _ in help_groups['attention']]
        self.assertEqual(len(set(titles)), 8)
        for command in ('explain', 'bench'):
            shared = [title for title, _ in help_groups[command] if title in titles]
            self.assertEqual(shared, [title for title in titles if title in shared])

    def test_options_without_effect_are_not_among_those_that_act(self):
        passed = {'-o', '--output', '--lse', '--compare', '--rtol', '--atol'}
        for command in self.commands:
            with self.subTest(command=command):
                expected = {'explain': passed | {'--dry-run', '--verbose'}, 'bench': passed}.get(command, set())
                self.assertEqual(without_effect(command), expected)
                self.assertEqual(expected & set(help_options(command)), set())

    def test_arguments(self):
        """A definition names the option's argument as --help does: *-q*, *--query* _FILE_."""
        checked = 0
        for command in self.commands:
            options = help_options(command)
            for option, argument in definitions(self.sections[command.upper()]):
                with self.subTest(command=command, option=option):
                    self.assertEqual(argument, options[option])
                    checked += 1
        self.assertGreater(checked, 40)

    def test_every_option_is_explained(self):
        """What a section only mentions has its paragraph in the section of another command."""
        defined = {option for command in self.commands
                   for option, _ in definitions(self.sections[command.upper()])}
        for command in self.commands:
            self.assertLessEqual(set(help_options(command)) - COMMON, defined)

    def test_tolerances(self):
        """The defaults of --rtol and --atol are those that --help states."""
        notes = ' '.join(output('attention', '--help').split('Defaults, ')[1].split())
        relative, absolute = {}, {}
        for dtype, rtol, atol in re.findall(r'(b?f\d\d) (\S+)(?: relative)? \+ ([\d.e-]+\d)', notes):
            relative[dtype], absolute[dtype] = rtol, atol
        self.assertEqual(set(relative), {'f32', 'f16', 'bf16'})
        for option, values in (('--rtol', relative), ('--atol', absolute)):
            text = self.sections['ATTENTION'].split(f'*{option}* ')[1].split('\n\n')[0]
            self.assertEqual({dtype: value for value, dtype in re.findall(r'(\S+) \((b?f\d\d)\)', text)}, values)

    def test_commands(self):
        for command in self.commands:
            self.assertIn(f'*flashc-run* *{command}*', self.sections['SYNOPSIS'])
        for option in COMMON:
            self.assertIn(f'*{option}*', self.sections['DESCRIPTION'])

    def test_environment_and_exit_codes(self):
        for name in ('FLASHC_DISABLE_CPU_FEATURES', 'FLASHC_OPENBLAS', 'OMP_NUM_THREADS', 'OPENBLAS_CORETYPE'):
            self.assertIn(name, self.sections['ENVIRONMENT'])
        self.assertEqual(re.findall(r'\*(\d+)\*', self.sections['EXIT STATUS']), ['0', '1', '2', '130', '143'])

    def test_builds_without_warnings(self):
        page = subprocess.run(['scdoc'], input=SOURCE.read_bytes(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=60, check=False)
        self.assertEqual((page.returncode, page.stderr), (0, b''))
        self.assertTrue(page.stdout.decode().count('\n.SH ') > len(self.commands))
        if not shutil.which('groff'):
            print('not run: groff, which would read the built page, is not installed', file=sys.stderr)
            return
        read = subprocess.run(['groff', '-man', '-ww', '-Tutf8', '-z'], input=page.stdout, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, check=False)
        self.assertEqual((read.returncode, read.stderr.decode()), (0, ''))


if __name__ == '__main__':
    if not shutil.which('scdoc'):
        print('not run: the man page needs scdoc, which is not installed')
        sys.exit(77)
    unittest.main()
