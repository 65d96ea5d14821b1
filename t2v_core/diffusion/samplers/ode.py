"""One-step solvers of the probability-flow ODE: Karras et al. (arXiv 2206.00364), Algorithm 1."""

from __future__ import annotations

from torch import Tensor

from .common import Denoise, Kept, Step


def euler(denoise: Denoise, x: Tensor, step: Step, kept: Kept) -> tuple[Tensor, Kept]:
    """Euler's method: Algorithm 1 without its 2nd-order correction."""
    t, t_next = step.sigma, step.sigma_next
    d = (x - denoise(x, t)) / t
    return x + (t_next - t) * d, {}


def heun(denoise: Denoise, x: Tensor, step: Step, kept: Kept) -> tuple[Tensor, Kept]:
    """Heun's 2nd-order method: Algorithm 1. Two estimates a step."""
    t, t_next = step.sigma, step.sigma_next
    d = (x - denoise(x, t)) / t
    x_next = x + (t_next - t) * d
    if t_next > 0:
        d_next = (x_next - denoise(x_next, t_next)) / t_next
        x_next = x + (t_next - t) * (d + d_next) / 2
    return x_next, {}
