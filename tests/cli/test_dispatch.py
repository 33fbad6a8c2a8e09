#!/usr/bin/env python3
"""Which kernel runs, on every path that this CPU can take.

    test_dispatch.py FLASHC_RUN DATA_DIRECTORY

CPU features are switched off one by one and all together, kernels are forced by name, the OpenBLAS builds that
must be refused are put in place of the right one, and memory is made scarce. Exit status 77 with
the reason if some part could not run here and nothing failed.
"""
import json
import os
import pathlib
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import unittest

# In a cross build meson names the emulator.
RUN = [*shlex.split(os.environ.get("MESON_EXE_WRAPPER", "")), sys.argv[1]]
DATA = pathlib.Path(sys.argv[2]) / "minilm"
FEATURES = "FLASHC_DISABLE_CPU_FEATURES"
NOT_RUN = []


def run(*arguments, env=None, limit_s=60, **options):
    return subprocess.run([*RUN, *arguments], capture_output=True, text=True, timeout=limit_s,
                          env={**os.environ, **(env or {})}, check=False, **options)


def as_json(*arguments, env=None):
    done = run(*arguments, "--json", env=env)
    if done.returncode != 0:
        raise AssertionError(f"{arguments}: {done.stderr}")
    return json.loads(done.stdout)


def compare_with_the_model(*arguments, env=None, **options):
    return run("attention", "-q", str(DATA / "q.npy"), "-k", str(DATA / "k.npy"), "-v", str(DATA / "v.npy"),
               "--compare", str(DATA / "o.npy"), *arguments, env=env, **options)


def kernels(env=None):
    return {k["name"]: k for k in as_json("info", env=env)["kernels"]}


class Dispatch(unittest.TestCase):
    def setUp(self):
        self.features = as_json("info")["cpu_features"].split()

    def test_each_feature_off(self):
        for off in [[f] for f in self.features] + [self.features]:
            env = {FEATURES: ",".join(off)}
            with self.subTest(off=off):
                info = as_json("info", env=env)
                self.assertEqual(info["cpu_features"].split(), [f for f in self.features if f not in off])
                explain = as_json("explain", "--seqlen-q", "64", env=env)
                listed = kernels(env)
                self.assertTrue(listed[explain["kernel"]]["available"])
                for name, reason in (line.split(": ", 1) for line in explain["refused"].splitlines()):
                    if (listed[name]["unavailable"] or "").startswith("the CPU has no"): # no other shape would do
                        self.assertEqual(reason, listed[name]["unavailable"], name)
                done = compare_with_the_model(env=env)
                self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
                for name, kernel in listed.items():
                    if kernel["available"]:
                        continue
                    done = compare_with_the_model("--kernel", name, env=env)
                    self.assertEqual(done.returncode, 1)
                    self.assertIn(name, done.stderr)
                    self.assertIn(kernel["unavailable"], done.stderr)

    def test_all_off_leaves_portable_c(self):
        explain = as_json("explain", "--seqlen-q", "64", env={FEATURES: ",".join(self.features)})
        self.assertEqual(explain["kernel"], "f32_generic")

    def test_avx512_off_leaves_avx2(self):
        if "avx512f" not in self.features or "avx2" not in self.features:
            NOT_RUN.append("test_avx512_off_leaves_avx2: this CPU has no avx512f or no avx2")
            return
        explain = as_json("explain", "--seqlen-q", "64", env={FEATURES: "avx512f"})
        self.assertTrue(explain["kernel"].startswith("f32_avx2"), explain["kernel"])

    def test_each_kernel_by_name(self):
        for name, kernel in kernels().items():
            with self.subTest(kernel=name):
                if not kernel["available"]:
                    NOT_RUN.append(f"{name}: {kernel['unavailable']}")
                    continue
                few = name.startswith("decode_")
                rows = "4" if few else "64"
                self.assertEqual(as_json("explain", "--seqlen-q", rows, "--kernel", name)["kernel"], name)
                done = compare_with_the_model("--kernel", name)
                if few:
                    self.assertEqual(done.returncode, 1)
                    self.assertRegex(done.stderr, r"takes at most \d+ query rows per K/V head")
                    self.assertIn("found 331", done.stderr)
                elif as_json("explain", "--kernel", name)["compute"] == "bf16":
                    self.assertIn("NOT EQUAL", done.stdout)
                    done = compare_with_the_model("--kernel", name, "--atol", "0.02")
                    self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
                else:
                    self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

    def test_few_rows_run_on_a_decode_kernel(self):
        """Rows are queries times the heads of a group; explain says why a decode kernel was not taken."""
        shape = ["--heads", "8", "--heads-k", "2", "--seqlen-k", "3000"]
        few = as_json("explain", *shape, "--seqlen-q", "1")
        many = as_json("explain", *shape, "--seqlen-q", "5")
        self.assertTrue(few["kernel"].startswith("decode_"), few["kernel"])
        self.assertTrue(many["kernel"].startswith("f32_"), many["kernel"])
        self.assertRegex(many["refused"], r"(?m)^decode_\w+: at most \d+ query rows per K/V head$")
        self.assertGreater(few["piece_n"], 0)
        text = run("explain", *shape, "--seqlen-q", "1").stdout
        self.assertIn(f"pieces     of {few['piece_n']} keys, merged in a fixed tree", text)

    def test_tiles_take_over_from_decode_in_f32(self):
        """Where they are faster, though decode's kernels would take some rows more."""
        if not kernels().get("decode_avx512", {}).get("available"):
            NOT_RUN.append(f"{self.id()}: needs avx512f")
            self.skipTest(NOT_RUN[-1])
        shape = ["--heads-k", "1", "--seqlen-q", "1", "--heads"]
        self.assertEqual(as_json("explain", *shape, "10")["kernel"], "decode_avx512")
        taken = as_json("explain", *shape, "11")
        self.assertEqual(taken["kernel"], "f32_avx512")
        self.assertRegex(taken["refused"], r"(?m)^decode_avx512: with more than 10 query rows per K/V head, f32 is")
        self.assertEqual(as_json("explain", *shape, "16", "--dtype", "f16")["kernel"], "decode_avx512")

    def test_tiles_take_over_from_decode_of_avx2(self):
        """After as many rows as decode is faster for, by the type of K and V."""
        env = {FEATURES: "avx512f"}
        if not kernels(env).get("decode_avx2", {}).get("available"):
            NOT_RUN.append(f"{self.id()}: needs avx2")
            self.skipTest(NOT_RUN[-1])
        for most, dtype, name in ((10, "f32", "f32"), (12, "f16", "tiles"), (12, "bf16", "tiles"), (12, "i8", "tiles"),
                                  (8, "f8_e4m3", "f8_e4m3"), (12, "f8_e5m2", "tiles"), (12, "q8_0", "tiles")):
            with self.subTest(dtype=dtype):
                shape = ["--heads-k", "1", "--seqlen-q", "1", "--cache-dtype", dtype, "--heads"]
                self.assertEqual(as_json("explain", *shape, str(most), env=env)["kernel"], "decode_avx2")
                taken = as_json("explain", *shape, str(most + 1), env=env)
                self.assertEqual(taken["kernel"], "f32_avx2")
                self.assertIn(f"decode_avx2: with more than {most} query rows per K/V head, {name} ", taken["refused"])

    def test_products_of_bf16_in_decode_where_they_are_faster(self):
        """Not for few rows, which memory keeps waiting, nor for as many as tiles take less time for, nor where rows
        would have to be copied."""
        if not kernels().get("decode_bf16_avx512", {}).get("available"):
            NOT_RUN.append(f"{self.id()}: needs avx512bf16")
            self.skipTest(NOT_RUN[-1])
        of_f32 = 3 if is_zen3_or_4() else 4
        for group, head_dim, kernel in ((of_f32, 64, "decode_avx512"), (of_f32 + 1, 64, "decode_bf16_avx512"),
                                        (12, 64, "decode_bf16_avx512"), (13, 64, "bf16_avx512"),
                                        (5, 48, "decode_avx512")):
            with self.subTest(group=group, head_dim=head_dim):
                shape = ["--heads", str(group), "--heads-k", "1", "--seqlen-q", "1", "--head-dim", str(head_dim)]
                explain = as_json("explain", *shape, "--seqlen-k", "300", "--dtype", "bf16")
                self.assertEqual(explain["kernel"], kernel)
                self.assertEqual(explain["compute"], "bf16" if "bf16" in kernel else "f32")


def has_openblas():
    return as_json("info")["blas"].startswith("OpenBLAS")


def is_zen3_or_4():
    """AMD's family 25."""
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "AuthenticAMD" in text and bool(re.search(r"^cpu family\s*: 25$", text, re.MULTILINE))


def is_zen4():
    """Of these the one that has AVX-512."""
    return is_zen3_or_4() and "avx512f" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")


class OpenBLAS(unittest.TestCase):
    def setUp(self):
        self.blas = as_json("info")["blas"]
        if not has_openblas():
            NOT_RUN.append(f"{self.id()}: without OpenBLAS: {self.blas}")
            self.skipTest(NOT_RUN[-1])

    def library(self, build):
        """Debian's path of a build of OpenBLAS; None, with a note, where it is not installed."""
        found = next(pathlib.Path("/usr/lib").glob(f"*/openblas-{build}/libopenblas.so.0"), None)
        if not found:
            NOT_RUN.append(f"OpenBLAS {build} build: libopenblas0-{build} is not installed")
        return found

    def expect_refused(self, reason, env):
        """Every OpenBLAS row is unavailable for this reason, and the others do the work."""
        explain = as_json("explain", "--seqlen-q", "2048", env=env)
        self.assertNotIn("openblas", explain["kernel"])
        refused = run("explain", "--seqlen-q", "2048", env=env).stdout
        self.assertRegex(refused, "the built-in tiles were faster|needs avx512f|" + reason)
        if is_zen4() and "avx512f" in as_json("info")["cpu_features"].split():
            self.assertRegex(refused, reason)
        usual = kernels()
        rows = {n: k for n, k in kernels(env).items() if n.endswith("_openblas")}
        self.assertGreater(len(rows), 0)
        for name, kernel in rows.items():
            why = reason if usual[name]["available"] else re.escape(usual[name]["unavailable"])  # the CPU comes first
            self.assertFalse(kernel["available"])
            self.assertRegex(kernel["unavailable"], why)
            forced = compare_with_the_model("--kernel", name, env=env)
            self.assertEqual(forced.returncode, 1)
            self.assertRegex(forced.stderr, why)
        done = compare_with_the_model(env=env)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

    def test_the_openmp_build_is_loaded(self):
        """Also where the system's default is another build, or the loader is sent to one: its path is absolute."""
        pthread = self.library("pthread")
        for env in [{}] + ([{"LD_LIBRARY_PATH": str(pthread.parent)}] if pthread else []):
            self.assertTrue(as_json("info", env=env)["blas"].endswith("openmp"), self.blas)

    def test_unsafe_builds_are_refused_with_the_reason(self):
        for build in ("pthread", "serial"):
            library = self.library(build)
            if library:
                env = {"FLASHC_OPENBLAS": str(library)}
                with self.subTest(build=build):
                    self.assertIn(build, as_json("info", env=env)["blas"])
                    self.expect_refused(f"this OpenBLAS is the {build} build", env)

    def test_what_cannot_be_loaded_says_why(self):
        with open("/proc/self/maps", encoding="utf-8") as maps:
            libm = next((line.split()[-1] for line in maps if "/libm.so" in line or "/libm-" in line), None)
        cases = {"/nowhere/libopenblas.so.0": "No such file", __file__: "ELF", "libopenblas.so.0": "a path with a /"}
        if libm:
            cases[libm] = "undefined symbol: "
        else:
            NOT_RUN.append("a library without OpenBLAS's functions: this Python has loaded no libm")
        for path, reason in cases.items():
            with self.subTest(path=path):
                env = {"FLASHC_OPENBLAS": path}
                blas = as_json("info", env=env)["blas"]
                self.assertTrue(blas.startswith("none: "), blas)
                self.assertIn(path.rsplit("/", 1)[-1], blas)
                self.assertIn(reason, blas)
                self.expect_refused(reason, env)
        self.assertEqual(as_json("info", env={"FLASHC_OPENBLAS": ""})["blas"], self.blas)

    def test_the_programs_own_openblas(self):
        """The right one is taken; with another one, whose functions ours would find in place of its own, ours is not
        even loaded."""
        for build, expected in (("openmp", self.blas), ("pthread", "none: .*another OpenBLAS")):
            library = self.library(build)
            if not library:
                continue
            env = {"LD_PRELOAD": str(library)}
            if "ASan runtime does not come first" in run("info", env=env).stderr:
                NOT_RUN.append("a preloaded OpenBLAS: AddressSanitizer must be loaded first")
                return
            with self.subTest(build=build):
                self.assertRegex(as_json("info", env=env)["blas"], expected)
                if build == "pthread":
                    self.expect_refused("another OpenBLAS", env)

    def test_altered_builds_are_refused(self):
        """The OpenMP build with another runtime, as where a package brings libgomp under a name of its own: OpenBLAS
        would not see our parallel region; and with the name of the builds that take 64-bit sizes."""
        openmp = self.library("openmp")
        gomp = openmp and next(openmp.parent.parent.glob("libgomp.so.1"), None)
        if not gomp:
            NOT_RUN.append("altered builds: no libgomp.so.1 beside libopenblas0-openmp")
            return
        for old, new, reason in ((b"libgomp.so.1", b"libgomq.so.1", "another OpenMP runtime"),
                                 (b"USE_OPENMP ", b"USE64BITINT", "integers of another size")):
            with self.subTest(reason=reason), tempfile.TemporaryDirectory() as folder:
                for source, name in ((gomp, "libgomq.so.1"), (openmp, "libopenblas.so.0")):
                    (pathlib.Path(folder) / name).write_bytes(source.read_bytes().replace(old, new))
                env = {"LD_LIBRARY_PATH": folder, "FLASHC_OPENBLAS": f"{folder}/libopenblas.so.0"}
                self.expect_refused(reason, env)

    def test_avx512_code_is_refused_where_the_cpu_has_none(self):
        """OpenBLAS takes the name of a core from the environment unseen, and would end in SIGILL. Where the CPU has
        AVX-512, disabling it in flashc takes nothing from OpenBLAS."""
        flags = set(re.findall(r"\bavx512f\b", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")))
        for core in ("SkylakeX", "Cooperlake", "SapphireRapids"):
            env = {"OPENBLAS_CORETYPE": core, FEATURES: "avx512f"}
            with self.subTest(core=core):
                blas = as_json("info", env=env)["blas"]
                if core not in blas:  # a build without it, or one that asked this CPU
                    if core == "SkylakeX":
                        NOT_RUN.append(f"AVX-512 code of OpenBLAS: it takes {blas} for {core}")
                elif not flags:
                    self.expect_refused(f"its {core} code .*, and the CPU has no avx512f", env)
                else:
                    done = compare_with_the_model("--kernel", "f32_avx2_openblas", env=env)
                    self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

    def test_small_matrix_path(self):
        """It is preferred where it was measured to be the best, and otherwise refused with the measurement."""
        if "avx512f" not in as_json("info")["cpu_features"].split():
            NOT_RUN.append("test_small_matrix_path: this CPU has no avx512f")
            return
        env = {"OPENBLAS_CORETYPE": "SkylakeX"}
        zen4 = is_zen4()
        plain = ["--seqlen-q", "2048", "--head-dim", "64"]
        explain = as_json("explain", *plain, env=env)
        self.assertEqual(explain["kernel"], "f32_avx512_openblas" if zen4 else "f32_avx512")
        if not zen4:
            self.assertIn("the built-in tiles were faster on every CPU measured but Zen 4",
                          run("explain", *plain, env=env).stdout)
        else:
            for other, reason in ((["--causal", "--align", "top-left"], "with causal, window, mask or bias"),
                                  (["--window", "9,-1", "--align", "0"], "with causal, window, mask or bias"),
                                  (["--head-dim", "80"], "head_dim beyond 64"), (["--head-dim", "72"], "beyond 64"),
                                  (["--head-dim", "40"], "no multiple of 16"),
                                  (["--seqlen-q", "2047"], "fewer than 2048")):
                with self.subTest(other=other):
                    self.assertEqual(as_json("explain", *plain, *other, env=env)["kernel"], "f32_avx512")
                    self.assertIn(reason, run("explain", *plain, *other, env=env).stdout)
        forced = as_json("explain", "--seqlen-q", "64", "--kernel", "f32_avx512_openblas", env=env)
        self.assertIn("SkylakeX", forced["gemm"])
        done = compare_with_the_model("--kernel", "f32_avx512_openblas", env=env)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

    def test_scarce_memory_never_hangs(self):
        """OpenBLAS 0.3.21 loops for ever without memory, while it is loaded and in its packed path: it must not be
        loaded then, and the default choice must not take that path."""
        def limited(megabytes, call, *arguments, env=None):
            size = megabytes << 20
            return call(*arguments, env=env, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)))

        if "AddressSanitizer" in limited(1024, run, "info").stderr:
            NOT_RUN.append("scarce memory: AddressSanitizer needs more address space than any such limit leaves")
            self.skipTest(NOT_RUN[-1])
        # The least MiB that the program itself needs, without OpenBLAS.
        least = next(m for m in range(1, 256) if limited(m, run, "--version").returncode == 0)
        self.assertLess(least, 64)
        for core in ("Prescott", "SkylakeX"):
            env = {"OPENBLAS_CORETYPE": core}
            outcomes = set()
            for megabytes in range(least, least + 48, 2):
                done = limited(megabytes, compare_with_the_model, "--threads", "1", env=env)
                outcomes.add(done.returncode)
                if done.returncode != 0:
                    self.assertIn("memory", done.stderr + done.stdout)
            self.assertEqual(outcomes, {0, 1}, "limits did not reach from too little to enough")
        found = set()
        for megabytes in range(least + 8, 4096, 72):
            done = limited(megabytes, run, "info", "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            found.add(json.loads(done.stdout)["blas"])
        refused = {blas for blas in found if blas != self.blas}
        self.assertGreater(len(refused), 0)
        for blas in refused:
            self.assertRegex(blas, "^none: OpenBLAS could not be loaded: too little address space")


if __name__ == "__main__":
    result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=2).result
    for line in NOT_RUN:
        print("not run:", line)
    sys.exit(1 if not result.wasSuccessful() else 77 if NOT_RUN else 0)
