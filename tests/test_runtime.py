"""The native core as a citizen of a process: import, threads, signals, forks."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import optical_rs
import pytest
from optical_rs import InputError
from optical_rs.transport import solve_batch

LONG = {"reg": 1e-3, "max_iter": 100_000_000, "tol": 0}


def test_import_needs_numpy_alone_and_is_quick():
    code = (
        "import sys, time; t = time.perf_counter(); import numpy; n = time.perf_counter(); import optical_rs; "
        "print(time.perf_counter() - n, [m for m in ('torch', 'transformers', 'scipy') if m in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    # The quickest of three: what else the machine does must not fail a test.
    assert min(float(r.stdout.split()[0]) for r in runs) < 0.3
    assert runs[0].stdout.split(maxsplit=1)[1].strip() == "[]"


def test_build_info():
    info = optical_rs.build_info()
    assert info["version"] == optical_rs.__version__
    # No shell has been found to disagree with the portable one.
    assert info["simd"] == info["simd_supported"][-1]
    assert info["threads"] >= 1
    if info["profile"] == "release":
        code = "import warnings; warnings.simplefilter('error'); import optical_rs"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_process_settings():
    with pytest.raises(InputError, match="n: expected"):
        optical_rs.set_num_threads(-1)
    with pytest.raises(InputError, match="level: expected 'portable'"):
        optical_rs.set_simd_level("sse9")


def test_ctrl_c_stops_a_long_solve():
    cost = np.random.default_rng(0).random((4, 200, 200)).astype(np.float32)
    # Shells start jobs in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            solve_batch(cost, **LONG)
        assert time.monotonic() - began < 20
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_interpreter_runs_on_during_a_solve():
    cost = np.random.default_rng(1).random((2, 300, 300)).astype(np.float32)
    done = threading.Event()
    worker = threading.Thread(target=lambda: (solve_batch(cost, 0.05, max_iter=20_000, tol=0), done.set()))
    worker.start()
    turns = 0
    while not done.is_set():
        turns += 1
        time.sleep(0.001)
    worker.join()
    assert turns > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_can_solve(threads):
    cost = np.random.default_rng(2).random((16, 20, 20)).astype(np.float32)
    optical_rs.set_num_threads(threads)
    try:
        want = solve_batch(cost, 0.1).plan
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if (solve_batch(cost, 0.1).plan == want).all() else 2
            finally:
                os._exit(status)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            finished, status = os.waitpid(child, os.WNOHANG)
            if finished:
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        optical_rs.set_num_threads(0)


def test_a_data_loader_worker_can_solve():
    torch = pytest.importorskip("torch")
    cost = np.random.default_rng(3).random((4, 10, 10)).astype(np.float32)
    want = solve_batch(cost, 0.1).value

    class Values(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return float(solve_batch(cost[i : i + 1], 0.1).value[0])

    loader = torch.utils.data.DataLoader(Values(), batch_size=None, num_workers=2, timeout=60)
    assert list(loader) == want.tolist()


def test_the_stub_is_that_of_the_binary():
    pytest.importorskip("mypy.stubtest")
    command = [sys.executable, "-m", "mypy.stubtest", "optical_rs._core", "--ignore-missing-stub"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def threads_of_this_process() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc here")
def test_pools_do_not_pile_up():
    cost = np.zeros((4, 3, 3), np.float32)
    before = threads_of_this_process()
    try:
        for n in range(60):
            optical_rs.set_num_threads(1 + n % 3)
            solve_batch(cost, 0.1)
        racing = [threading.Thread(target=solve_batch, args=(cost, 0.1)) for _ in range(8)]
        for thread in racing:
            thread.start()
        for thread in racing:
            thread.join()
        deadline = time.monotonic() + 5
        # Threads of a pool that was replaced end by and by.
        while threads_of_this_process() > before + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threads_of_this_process() <= before + 3
    finally:
        optical_rs.set_num_threads(0)


@pytest.mark.parametrize(("given", "says"), [("3", "3"), ("0", "OPTICAL_RS_NUM_THREADS: expected a number")])
def test_the_environment_sets_the_threads(given, says):
    code = "import optical_rs; print(optical_rs.build_info()['threads'])"
    environment = {**os.environ, "OPTICAL_RS_NUM_THREADS": given}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert says in (found.stdout if given == "3" else found.stderr)


def test_free_threaded_python_is_declined():
    # Says nothing where there is a lock anyway; where there is none, the module asks for it.
    assert getattr(sys, "_is_gil_enabled", lambda: True)()
