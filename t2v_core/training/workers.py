"""Processes of one thread each: pools that end with the one that they work for, and groups that learn together."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import torch
import torch.distributed

from ..errors import T2VError


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many processes; what it has not begun when the block is left is not done.

    Raises T2VError for less than one.
    """
    if workers < 1:
        raise T2VError(f"{workers} workers cannot work; 1 is the least")
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def process_group(number: int, workers: int, rendezvous: str) -> Iterator[None]:
    """Inside, this process is number `number` of `workers` that exchange tensors, with one thread each.

    rendezvous: a path where no file is yet, the same for all of them.

    The group is left at the end of the block, not of the process: a thread of gloo's that still has a tensor to let go
    then finds no interpreter and aborts. After an error it is not: the thread may be waiting for another process.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=number, world_size=workers)
    yield
    torch.distributed.destroy_process_group()


def _start() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot tell its workers, which would wait for work, and hold their memory, for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # so it is in every process that another started
    parent.join()
    os._exit(1)
