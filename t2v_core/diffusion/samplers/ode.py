"""One-step solvers of the probability-flow ODE: Karras et al. (arXiv 2206.00364), Algorithm 1."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from .common import Callback, Denoise, report


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, *, callback: Callback | None = None) -> Tensor:
    """Euler's method: Algorithm 1 without its 2nd-order correction."""
    for step, (t, t_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, t)
        report(callback, step, x, t, denoised)
        d = (x - denoised) / t
        x = x + (t_next - t) * d
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, *, callback: Callback | None = None) -> Tensor:
    """Heun's 2nd-order method: Algorithm 1. Two estimates a step."""
    for step, (t, t_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, t)
        report(callback, step, x, t, denoised)
        d = (x - denoised) / t
        x_next = x + (t_next - t) * d
        if t_next > 0:
            d_next = (x_next - denoise(x_next, t_next)) / t_next
            x_next = x + (t_next - t) * (d + d_next) / 2
        x = x_next
    return x
