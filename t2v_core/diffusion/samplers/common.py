"""What every sampler is given, and how it reports a step."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
NoiseSource = Callable[[Tensor, Tensor], Tensor]
Unscaled = Callable[[Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor, Tensor], None]


def report(callback: Callback | None, step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
    """Tell the callback, if there is one, of a step's x and of the first estimate made from it."""
    if callback is not None:
        callback(step, x, sigma, denoised)
