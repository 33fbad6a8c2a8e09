"""torch's OpenMP and flashc's in one process: two threads each, from two Python threads, in both import
orders, and after fork.

Each case is a process of its own with a time limit, since what must not happen is a hang. Results are
compared bit for bit with earlier ones, without torch's help: its kernels would use the pool under test.

torch's libgomp.so.1 and the system's have one soname, so that the first to be loaded serves both.
"""
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="these tests need torch, which is not installed")

SECONDS = 120  # a case takes a few; only a hang takes this long
ORDERS = {"flashc first": "import flashc\nimport torch", "torch first": "import torch\nimport flashc"}

START = """
import os, signal, sys, threading, time
import flashc.torch
sdpa = flashc.torch.scaled_dot_product_attention
torch.set_num_threads(2)
torch.manual_seed(7)
a = torch.randn(384, 384)
q, k, v = torch.randn(3, 2, 4, 300, 64).unbind(0)

def product():
    return (a @ a).numpy().tobytes()

def ours():
    return flashc.attention(q, k, v, causal=True, align="top-left", num_threads=2).numpy().tobytes()

def operator():
    return sdpa(q, k, v, is_causal=True).numpy().tobytes()

want_product, want = product(), ours()
assert flashc.explain(q, k, v, num_threads=2).num_threads == 2, "nothing runs in parallel"
assert operator() == want
assert (torch.frombuffer(bytearray(want), dtype=torch.float32).view(q.shape)
        - torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)).abs().max() < 1e-5

def alternate(rounds):
    for _ in range(rounds):
        assert product() == want_product, "torch's product changed"
        assert ours() == want, "flashc.attention changed"
        assert operator() == want, "the operator changed"
"""

# The child gets a deadline of its own; the parent ends it by its id.
IN_CHILD = """
def in_child(work, seconds=60):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, f"the child ended with status {status}"
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")
"""

CASES = {
    "alternating": "alternate(200)",
    "two Python threads": """
failures = []

def run():
    try:
        torch.set_num_threads(2)
        alternate(100)
    except BaseException as error:
        failures.append(error)

threads = [threading.Thread(target=run) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
""",
    # A child of a process whose pool has run: torch's own parallel operations hang there (also without
    # flashc) unless torch.set_num_threads(1) comes first; flashc's calls run, on one thread.
    "fork": IN_CHILD + """
def flashc_only():
    for _ in range(50):
        assert ours() == want
        assert operator() == want

def both():
    flashc_only()
    torch.set_num_threads(1)
    alternate(20)

alternate(5)
in_child(flashc_only)
in_child(both)
alternate(5)  # and the parent goes on
in_child(lambda: in_child(flashc_only))
""",
    "fork while another thread computes": IN_CHILD + """
stop = threading.Event()

def busy():
    while not stop.is_set():
        alternate(1)

thread = threading.Thread(target=busy)
thread.start()

def flashc_only():
    for _ in range(10):
        assert ours() == want

for _ in range(20):
    in_child(flashc_only)
stop.set()
thread.join()
""",
    "torch's thread count is the operator's": """
def threads():
    return flashc.explain(q, k, v).num_threads

seen = []

def elsewhere():
    operator()  # torch has not computed in this thread before
    seen.append(threads())

torch.set_num_threads(1)
assert operator() == want and threads() == 1, threads()
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
assert seen == [1], seen
""",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES)
def test_one_process(case, order):
    code = ORDERS[order] + START + CASES[case] + "\nprint('done')\n"
    try:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as expired:
        pytest.fail(f"no end after {SECONDS} s: {expired.stderr}")
    assert result.returncode == 0 and result.stdout == "done\n", result.stderr
