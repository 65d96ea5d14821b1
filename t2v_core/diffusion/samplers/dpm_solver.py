"""DPM-Solver++ of order 2: Lu et al. (arXiv 2211.01095), at alpha = 1, so lambda = -log sigma.

Its steps solve the part of the equation that is linear in x exactly and take the estimate D as constant or linear in
lambda. For the SDE, with h = lambda_next - lambda and z fresh noise,

  x_next = D + e^(-(1 + eta) h) (x - D) + sigma_next sqrt(1 - e^(-2 eta h)) z,

where eta is the variance of the noise relative to that of the reverse SDE: 0 gives the ODE, 1 their SDE-DPM-Solver++.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ancestral import split
from .common import Denoise, Kept, NoiseSource, Step


def dpmpp_2m(denoise: Denoise, x: Tensor, step: Step, kept: Kept) -> tuple[Tensor, Kept]:
    """DPM-Solver++(2M), for the ODE: Lu et al., Algorithm 2."""
    sigma, sigma_next = step.sigma, step.sigma_next
    denoised = denoise(x, sigma)
    h = sigma.log() - sigma_next.log()  # lambda_next - lambda
    D = _at_the_middle(denoised, h, kept) if sigma_next > 0 else denoised
    x = (sigma_next / sigma) * x - torch.expm1(-h) * D
    return x, {"D": denoised, "h": h}


def dpmpp_2m_sde(denoise: Denoise, x: Tensor, step: Step, kept: Kept) -> tuple[Tensor, Kept]:
    """SDE-DPM-Solver++(2M), the midpoint form: `dpmpp_2m` for the SDE, and equal to it at eta 0."""
    sigma, sigma_next, eta = step.sigma, step.sigma_next, step.eta
    denoised = denoise(x, sigma)
    if sigma_next == 0:
        return denoised, {}
    h = sigma.log() - sigma_next.log()
    D = _at_the_middle(denoised, h, kept)
    x = (sigma_next / sigma) * torch.exp(-eta * h) * x - torch.expm1(-(1 + eta) * h) * D
    added = sigma_next * (-torch.expm1(-2 * eta * h)).sqrt()
    if added > 0:
        x = x + added * step.noise(sigma, sigma_next)
    return x, {"D": denoised, "h": h}


def dpmpp_sde(denoise: Denoise, x: Tensor, step: Step, kept: Kept) -> tuple[Tensor, Kept]:
    """DPM-Solver++(2S), Algorithm 1 with r = 1/2, for the SDE. Two estimates a step.

    The second is made in the middle of the step, s, at which x has the noise of the Brownian path so far: noise is
    asked for (sigma, sigma_s) and then for (sigma, sigma_next), so the two must be of one path (`BrownianNoise`).

    The noise is given to a step in `split`'s amounts, as ComfyUI does it: at eta 0 and 1 those above; between them
    eta^2 is its variance, and the sampler of order 1.
    """
    sigma, sigma_next = step.sigma, step.sigma_next
    denoised = denoise(x, sigma)
    if sigma_next == 0:
        return denoised, {}
    lambda_, lambda_next = -sigma.log(), -sigma_next.log()
    sigma_s = torch.exp(-(lambda_ + (lambda_next - lambda_) / 2))
    sigma_s = sigma_s.clamp(sigma_next, sigma)  # where the two are close, rounding may leave the step
    u = _first_order(x, denoised, sigma, sigma_s, step.noise, step.eta)
    return _first_order(x, denoise(u, sigma_s), sigma, sigma_next, step.noise, step.eta), {}


def _at_the_middle(D: Tensor, h: Tensor, kept: Kept) -> Tensor:
    """D continued in lambda through the step before to the middle of this one: Lu et al., Algorithm 2."""
    if not kept or kept["h"] == 0:
        return D
    r = kept["h"] / h
    return (1 + 1 / (2 * r)) * D - 1 / (2 * r) * kept["D"]


def _first_order(
    x: Tensor, D: Tensor, sigma: Tensor, sigma_next: Tensor, noise: NoiseSource | None, eta: float
) -> Tensor:
    """From sigma to sigma_next with D constant."""
    sigma_down, sigma_up = split(sigma, sigma_next, eta)
    x = D + (sigma_down / sigma) * (x - D)
    return x + sigma_up * noise(sigma, sigma_next) if sigma_up > 0 else x
