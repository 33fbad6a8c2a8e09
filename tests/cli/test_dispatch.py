#!/usr/bin/env python3
"""Which kernel runs, on every path that this CPU can take.

    test_dispatch.py FLASHC_RUN DATA_DIRECTORY

CPU features are switched off one by one and all together, kernels are forced by name, the OpenBLAS builds that
must be refused are loaded in place of the right one, and memory is made scarce. Exit status 77 with
the reason if some part could not run here and nothing failed.
"""
import json
import os
import pathlib
import resource
import subprocess
import sys
import unittest

RUN = sys.argv[1]
DATA = pathlib.Path(sys.argv[2]) / "minilm"
FEATURES = "FLASHC_DISABLE_CPU_FEATURES"
NOT_RUN = []


def run(*arguments, env=None, limit_s=60, **options):
    return subprocess.run([RUN, *arguments], capture_output=True, text=True, timeout=limit_s,
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
                self.assertEqual(as_json("explain", "--seqlen-q", "64", "--kernel", name)["kernel"], name)
                done = compare_with_the_model("--kernel", name)
                self.assertEqual(done.returncode, 0, done.stderr + done.stdout)


class OpenBLAS(unittest.TestCase):
    def setUp(self):
        self.blas = as_json("info")["blas"]
        if not self.blas.startswith("OpenBLAS"):
            NOT_RUN.append(f"{self.id()}: built without OpenBLAS")
            self.skipTest("built without OpenBLAS")

    def test_the_openmp_build_is_loaded(self):
        """Also where the system's default is another build: the run path names the right one."""
        self.assertTrue(self.blas.endswith("openmp"), self.blas)

    def test_unsafe_builds_are_refused_with_the_reason(self):
        for build in ("pthread", "serial"):
            directory = next(pathlib.Path("/usr/lib").glob(f"*/openblas-{build}"), None)
            if not directory:
                NOT_RUN.append(f"OpenBLAS {build} build: libopenblas0-{build} is not installed")
                continue
            env = {"LD_LIBRARY_PATH": str(directory)}
            with self.subTest(build=build):
                self.assertIn(build, as_json("info", env=env)["blas"])
                explain = run("explain", "--seqlen-q", "64", env=env).stdout
                self.assertRegex(explain, rf"_openblas: this OpenBLAS is the {build} build")
                self.assertNotIn("openblas", as_json("explain", "--seqlen-q", "64", env=env)["kernel"])
                for name, kernel in kernels(env).items():
                    if name.endswith("_openblas"):
                        self.assertFalse(kernel["available"])
                self.assertEqual(compare_with_the_model(env=env).returncode, 0)

    def test_small_matrix_path(self):
        """It is preferred where it was measured to be the best, and otherwise refused with the measurement."""
        if "avx512f" not in as_json("info")["cpu_features"].split():
            NOT_RUN.append("test_small_matrix_path: this CPU has no avx512f")
            return
        env = {"OPENBLAS_CORETYPE": "SkylakeX"}
        intel = "GenuineIntel" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        explain = as_json("explain", "--seqlen-q", "64", "--head-dim", "64", env=env)
        self.assertEqual(explain["kernel"], "f32_avx512" if intel else "f32_avx512_openblas")
        if intel:
            self.assertIn("on Intel CPUs the built-in tiles are faster",
                          run("explain", "--seqlen-q", "64", env=env).stdout)
        forced = as_json("explain", "--seqlen-q", "64", "--kernel", "f32_avx512_openblas", env=env)
        self.assertIn("SkylakeX", forced["gemm"])
        done = compare_with_the_model("--kernel", "f32_avx512_openblas", env=env)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

    def test_scarce_memory_never_hangs(self):
        """OpenBLAS 0.3.21's packed path loops for ever without memory; the default choice must not take it."""
        def limited(megabytes, env, call, *arguments):
            size = megabytes << 20
            return call(*arguments, env=env, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)))

        if "AddressSanitizer" in limited(1024, None, run, "info").stderr:
            NOT_RUN.append("scarce memory: AddressSanitizer needs more address space than any such limit leaves")
            self.skipTest(NOT_RUN[-1])
        # Below about 300 MiB of address space OpenBLAS loops while it is loaded, before main(): find that limit.
        low, high = 32, 1024
        while high - low > 4:
            middle = (low + high) // 2
            try:
                loads = limited(middle, None, lambda *a, **k: run(*a, limit_s=2, **k), "info").returncode == 0
            except subprocess.TimeoutExpired:
                loads = False
            low, high = (low, middle) if loads else (middle, high)
        for core in ("Prescott", "SkylakeX"):
            outcomes = set()
            for megabytes in range(high, high + 48, 2):
                done = limited(megabytes, {"OPENBLAS_CORETYPE": core}, compare_with_the_model, "--threads", "1")
                outcomes.add(done.returncode)
                if done.returncode != 0:
                    self.assertIn("memory", done.stderr + done.stdout)
            self.assertEqual(outcomes, {0, 1}, "limits did not reach from too little to enough")


if __name__ == "__main__":
    result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=2).result
    for line in NOT_RUN:
        print("not run:", line)
    sys.exit(1 if not result.wasSuccessful() else 77 if NOT_RUN else 0)
