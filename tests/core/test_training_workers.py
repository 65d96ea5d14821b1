"""The processes of the training: they have one thread, none outlives the one that asked for it, and all end well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from t2v_core.errors import T2VError
from t2v_core.training import latents
from t2v_core.training.workers import worker_pool

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, signal
from t2v_core.training.workers import worker_pool

if __name__ == "__main__":
    with worker_pool(2) as pool:
        print(len(list(pool.map(abs, range(4)))), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""
SLOW_THREADS = """
import os, sys
import torch
import torch.distributed
from t2v_core.training.workers import process_group

def average(number, rendezvous):
    with process_group(number, 2, rendezvous):
        for thread in map(int, os.listdir("/proc/self/task")):
            if thread != os.getpid():  # one of gloo's: it shall wait for whatever else would run
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        torch.distributed.all_reduce(torch.ones(1000))

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
for pair in range(5):
    processes = []
    for number in range(2):
        process = os.fork()
        if not process:
            average(number, f"{sys.argv[1]}/{pair}")
            sys.exit()
        processes.append(process)
    for process in processes:
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def test_a_worker_has_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # what it would have by itself
    with worker_pool(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        assert pool.submit(os.getpid).result() != os.getpid()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    # Workers have the same standard output: it is open, and waited for, until the last of them has ended.
    ended = subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": str(ROOT)},
                           stdout=subprocess.PIPE, timeout=60)  # fmt: skip
    assert ended.returncode == -signal.SIGKILL and ended.stdout.strip() == b"4"


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the system has no idle threads")
def test_a_process_that_leaves_its_group_ends_well_however_slow_its_threads(tmp_path):
    """Of processes that end without leaving it about four in ten abort here."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW_THREADS, encoding="utf-8")
    ended = subprocess.run([sys.executable, script, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)},
                           capture_output=True, text=True, timeout=120)  # fmt: skip
    assert ended.stdout.split() == ["0"] * 10, ended.stderr


@pytest.mark.parametrize("workers", [0, -1])
def test_less_than_one_worker_is_refused(workers, tmp_path):
    with pytest.raises(T2VError, match=f"^{workers} workers cannot work; 1 is the least$"):
        latents.cache(tmp_path / "autoencoder.pt", 1.0, tmp_path, workers=workers)
    assert not list(tmp_path.iterdir())
