"""Windows as a modifier of a model, and what becomes of them for a clip at a noise level."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import T2VError
from .fuse import FUSES, Shared
from .plans import PLANS, Row, offset

PLACES = ("latents", "attention")
"""What is cut: "latents" denoises each window as a clip of its own and fuses what comes out, with memory for a few of
them; "attention" cuts only what attends over time, inside the network, with memory for the whole clip."""
KEPT = 64  # plans that are remembered; one that shifts has up to length - overlap of them for a clip


@dataclass(frozen=True, eq=False)
class Windows:
    """A plan for one clip at one noise level. It is shared, so nothing in it may be changed.

    frames: the frames of each window, 0 .. clip - 1, all of one length, in order of time; on a ring the last one is
        followed by frame 0.
    weights: `[windows, length]` fp32 on the CPU, above 0; over all windows those of each frame sum to 1.
    """

    frames: tuple[tuple[int, ...], ...]
    weights: Tensor

    @property
    def length(self) -> int:
        """Frames of a window."""
        return self.weights.shape[1]

    @cached_property
    def indices(self) -> Tensor:
        """`frames` as int64 `[windows, length]`, on the CPU."""
        return torch.tensor(self.frames, dtype=torch.int64)

    @property
    def work(self) -> float:
        """Frames of all windows over frames of the clip: how often each frame is denoised, on average."""
        return self.weights.numel() / (int(self.indices.max()) + 1)


@dataclass(frozen=True)
class ContextWindows:
    """A clip longer than `length` frames is denoised in windows of so many, whose results are averaged by weight.

    length: frames of a window, 1 and up. overlap: how many of them it shares with the next, 0 .. length - 1; the plan
    "batched" has none. stride: how many rows of windows the plans "uniform" and "looped" have: of every frame, of every
    2nd, of every 4th and so on, 1 and up; the others have one. plan, fuse, where: of `PLANS`, `FUSES` and `PLACES`.

    Raises T2VError, which names the number, for one out of range and for a name that is not known.
    """

    length: int = 16
    overlap: int = 4
    stride: int = 1
    plan: str = "static"
    fuse: str = "pyramid"
    where: str = "latents"

    def __post_init__(self) -> None:
        for name in ("length", "overlap", "stride"):
            if not isinstance(getattr(self, name), int):
                raise T2VError(f"{name} is {getattr(self, name)!r}; it is a whole number")
        if self.length < 1:
            raise T2VError(f"length is {self.length}; a window has at least 1 frame")
        if not 0 <= self.overlap < self.length:
            raise T2VError(
                f"overlap is {self.overlap}; windows of {self.length} frames share 0 to {self.length - 1} of them"
            )
        if self.stride < 1:
            raise T2VError(f"stride is {self.stride}; it is the number of rows of windows, 1 and up")
        for name, known in (("plan", PLANS), ("fuse", FUSES), ("where", PLACES)):
            if getattr(self, name) not in known:
                raise T2VError(f"unknown {name} {getattr(self, name)!r}; the known ones are {', '.join(known)}")

    def applies(self, frames: int) -> bool:
        """Whether a clip of so many frames is cut; one that is no longer than a window is denoised as without."""
        return frames > self.length

    def at(self, frames: int, left: float) -> Windows:
        """The windows of a clip of so many frames (1 and up) where so much noise is left (0..1, `noise_left`).

        It depends on nothing else, so a sampler may ask as often as it likes and a run cut in two equals the whole.
        Plans are kept, so asking again costs nothing.
        """
        if frames < 1:
            raise T2VError(f"the clip has {frames} frames; windows need at least 1")
        moved = offset(left, self.length - self.overlap) if PLANS[self.plan].shifts else 0
        return _windows(frames, self.length, self.overlap, self.stride, self.plan, self.fuse, moved)


@lru_cache(maxsize=KEPT)
def _windows(frames: int, length: int, overlap: int, stride: int, plan: str, fuse: str, moved: int) -> Windows:
    if frames <= length:
        return Windows((tuple(range(frames)),), torch.ones(1, frames))
    rows = PLANS[plan].rows(frames, length, overlap, stride, moved)
    indices = np.concatenate([_indices(row, frames, length) for row in rows])
    weights = np.concatenate([
        np.broadcast_to(FUSES[fuse](length, *_shared(row, frames, length)), (len(row.starts), length)) for row in rows
    ])  # fmt: skip
    total = np.bincount(indices.ravel(), weights.ravel(), minlength=frames)
    fused = torch.from_numpy(weights / total[indices]).to(torch.float32)
    return Windows(tuple(map(tuple, indices.tolist())), fused)


def _indices(row: Row, frames: int, length: int) -> Shared:
    """The frames of a row's windows, `[windows, length]`."""
    return (np.array(row.starts)[:, None] + row.step * np.arange(length)) % frames


def _shared(row: Row, frames: int, length: int) -> tuple[Shared, Shared]:
    """How many places of each window of a row lie where the one before it and the one after it are too."""
    starts = np.array(row.starts)
    gaps = np.diff(starts, append=starts[0] + frames)  # to the next, and from the last on a ring to the first
    shared = np.maximum(((length - 1) * row.step - gaps) // row.step + 1, 0)
    return np.roll(shared, 1), shared
