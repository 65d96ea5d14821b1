"""One weight's change as two thin matrices: W + strength * scale * up @ down (Hu et al., arXiv 2106.09685, eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CheckpointError
from .read import LoraPair


@dataclass(frozen=True)
class LowRank:
    """A change of a weight of any shape: scale * up @ down, its numbers in the order in which the weight has them.

    up `[m, r]`, down `[r, n]`, with m * n the count of the weight's elements; scale is alpha / rank.
    """

    up: Tensor = field(repr=False)
    down: Tensor = field(repr=False)
    scale: float

    def delta(self, like: Tensor, strength: float = 1.0) -> Tensor:
        """The change in the shape and on the device of the weight `like`, in float32, or float64 where that is its."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        up, down = (factor.to(like.device, dtype) for factor in (self.up, self.down))
        return (up @ down).mul_(strength * self.scale).reshape(like.shape)


def low_rank(pair: LoraPair, shape: Sequence[int]) -> LowRank:
    """A file's pair as the change of our weight of this shape.

    Files store some weights with more axes of size 1 than we do (a temporal convolution is `[out, in, 3, 1, 1]` there),
    which change no number's place. Raises CheckpointError, naming the key, where the two do not fit.
    """
    up, down = (_unpacked if pair.packed else _plain)(pair, _without_ones(shape))
    return LowRank(up, down, pair.scale)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape `[out, in, ...]` without the axes of size 1 at its end."""
    shape = tuple(shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _plain(pair: LoraPair, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """up `[out, r]` after down `[r, in, ...]` with the weight's own kernel."""
    up, down = pair.up, pair.down if pair.middle is None else _with_middle(pair)
    fits = (
        up.ndim >= 2
        and down.ndim >= 2
        and _without_ones(up.shape) == (shape[0], down.shape[0])
        and _without_ones((shape[0], *down.shape[1:])) == shape
    )
    if not fits:
        raise _misfit(pair, shape)
    return up.flatten(1), down.flatten(1)


def _with_middle(pair: LoraPair) -> Tensor:
    """LoCon's three factors as two: a kernel between the ranks, `[r, r, ...]`, after a down `[r, in]` without one."""
    down, middle = pair.down.flatten(1), pair.middle
    if middle.ndim < 2 or middle.shape[1] != down.shape[0]:
        raise CheckpointError(
            f"{pair.key}: {list(pair.down.shape)} does not fit the factor beside it, {list(middle.shape)}"
        )
    return torch.einsum("o i ..., i c -> o c ...", middle.float(), down.float())


def _unpacked(pair: LoraPair, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """stable_lora: the kernel's k is in the matrices' sides, B `[out * k, r]` and A `[r, in * k]`, and B @ A is viewed
    as `[out, in, k, k]`. A kernel over frames alone is the mean of such a view over its last axis but one that counts,
    which is the mean of A over neighbouring columns. An embedding is (B @ A) transposed."""
    up, down = (factor.flatten(1) if factor.ndim > 2 else factor for factor in (pair.up, pair.down))
    if up.ndim != 2 or down.ndim != 2:
        raise _misfit(pair, shape)
    if pair.name.endswith("embedding"):
        up, down = down.T, up.T
    kernel = shape[2] if len(shape) > 2 else 1
    fits = up.shape == (shape[0] * kernel, down.shape[0]) and down.shape[1] == shape[1] * kernel
    if not fits or (len(shape) == 4 and shape[3] != kernel):
        raise _misfit(pair, shape)
    if len(shape) == 3:
        down = down.float().unflatten(1, (shape[1], kernel)).mean(2)
    return up, down


def _misfit(pair: LoraPair, shape: tuple[int, ...]) -> CheckpointError:
    middle = "" if pair.middle is None else f", {list(pair.middle.shape)} between them"
    return CheckpointError(
        f"{pair.key}: {list(pair.up.shape)} by {list(pair.down.shape)}{middle} is no change of a weight {list(shape)}"
    )
