"""Layers that go through in pieces: what they hold at once is many times what goes in and comes out.

Rows that have nothing to do with each other need not be there together. In pieces that a processor's caches and the
allocator's free lists can hold, a feed-forward is faster on CPUs too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CPU_BYTES = 32 * 2**20
"""A piece may hold this much at once on a CPU: a fifth faster than all at once from 64 MiB on, and slower below 8."""
GPU_BYTES = 512 * 2**20
"""And this much elsewhere, where small pieces leave most of the device idle."""
MOST_SEQUENCES = 65_535
"""Sequences times heads of one attention call: kernels lay them over an axis of CUDA's grid, which has no more."""


def piece_bytes(device_type: str) -> int:
    """What a piece may hold at once on such a device ("cpu", "cuda", ...)."""
    return CPU_BYTES if device_type == "cpu" else GPU_BYTES


def in_pieces(run: Callable[[Tensor], Tensor], x: Tensor, row_bytes: int, most_rows: int | None = None) -> Tensor:
    """`run(x)` for a `run` that treats each row of `x` `[rows, ...]` by itself and returns as many rows.

    row_bytes: what `run` holds at once for a row. most_rows: how many it can take, whatever they hold; None is any
    number. The pieces are of about one size. With gradients nothing is saved by pieces but `most_rows`.
    """
    rows = len(x)
    at_once = rows if torch.is_grad_enabled() else max(1, piece_bytes(x.device.type) // row_bytes)
    if most_rows is not None:
        at_once = min(at_once, most_rows)
    number = -(-rows // at_once)
    if number <= 1:
        return run(x)
    return torch.cat([run(piece) for piece in x.tensor_split(number)])
