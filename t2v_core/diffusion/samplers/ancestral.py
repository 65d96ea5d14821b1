"""Samplers that step towards the estimate and then add fresh noise."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import Denoise, Kept, Step, Unscaled


def ddim(denoise: Denoise, x: Tensor, step: Step, kept: Kept) -> tuple[Tensor, Kept]:
    """DDIM: Song et al. (arXiv 2010.02502), eq. 12 in the form of eq. 13 (divided by sqrt(alpha_bar)), and eq. 16.

    eta 0 is deterministic and equals `euler`; 1 is the ancestral sampling of DDPM.
    """
    sigma, sigma_next = step.sigma, step.sigma_next
    predicted_x0 = denoise(x, sigma)
    eps = (x - predicted_x0) / sigma
    remains, added = split(sigma, sigma_next, step.eta, step.unscaled)
    x = x + (remains - sigma) * eps
    if added > 0:
        x = x + added * step.noise(sigma, sigma_next)
    return x, {}


def euler_ancestral(denoise: Denoise, x: Tensor, step: Step, kept: Kept) -> tuple[Tensor, Kept]:
    """An Euler step below the next sigma, then fresh noise up to it.

    The step of Karras et al., Algorithm 2, with the noise added after it instead of before, in the amount that
    DDPM's posterior has (Ho et al., arXiv 2006.11239, eq. 7) at eta 1.
    """
    sigma, sigma_next = step.sigma, step.sigma_next
    denoised = denoise(x, sigma)
    sigma_down, sigma_up = split(sigma, sigma_next, step.eta, step.unscaled)
    d = (x - denoised) / sigma
    x = x + (sigma_down - sigma) * d if sigma_next > 0 else denoised  # the same, without the cancellation
    if sigma_up > 0:
        x = x + sigma_up * step.noise(sigma, sigma_next)
    return x, {}


def lcm(denoise: Denoise, x: Tensor, step: Step, kept: Kept) -> tuple[Tensor, Kept]:
    """The sampling of latent consistency models (Luo et al., arXiv 2310.04378): estimate, noise it again, and so on.

    That is Song et al. (arXiv 2303.01469), Algorithm 1. All of the noise is replaced at each step: it is meant for a
    model distilled to reach x0 from any sigma at once.
    """
    sigma, sigma_next = step.sigma, step.sigma_next
    x_0 = denoise(x, sigma)
    return x_0 + sigma_next * step.noise(sigma, sigma_next) if sigma_next > 0 else x_0, {}


def split(sigma: Tensor, sigma_next: Tensor, eta: float, unscaled: Unscaled | None = None) -> tuple[Tensor, Tensor]:
    """Divide sigma_next^2 into what the step keeps and what fresh noise adds: (sigma_down, sigma_up).

    sigma_up is DDIM's sigma_tau(eta) (Song et al., eq. 16) over sqrt(alpha_bar_next), never above sigma_next.

    unscaled: sqrt((1 - alpha_bar) / alpha_bar) of a sigma, for a model whose sigma is another
        (`NoiseSchedule.unscaled`): VideoCrafter's DDIM takes eq. 16 by alpha_bar there too.
    """
    of, of_next = (sigma, sigma_next) if unscaled is None else (unscaled(sigma), unscaled(sigma_next))
    sigma_up = eta * (sigma_next**2 * (of**2 - of_next**2) / of**2) ** 0.5
    sigma_up = torch.minimum(sigma_up, sigma_next)
    return (sigma_next**2 - sigma_up**2) ** 0.5, sigma_up
