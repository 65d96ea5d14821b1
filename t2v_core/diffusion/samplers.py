"""Samplers: how to walk x from the first sigma to the last. Adding one is one function and one row of `SAMPLERS`.

Every sampler is `(denoise, x, sigmas, *, callback) -> x`; one that adds noise also takes `noise` and `eta`. It knows
nothing of text, video or guidance: x has any shape, `denoise(x, sigma)` returns D(x; sigma), its estimate of x0.
All work in the variance-exploding scale of Karras et al. (arXiv 2206.00364): x = x0 + sigma * noise.

  sigmas    `[n + 1]`, descending, above 0 except the last; one step per pair
  noise     `(sigma, sigma_next) -> Tensor`, unit-variance noise of x's shape for that step
  callback  `(step, x, sigma, denoised)`, once a step as soon as its first estimate is known; raising cancels
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import T2VError

Denoise = Callable[[Tensor, Tensor], Tensor]
NoiseSource = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor, Tensor], None]

OWN_ETA = -1.0


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, *, callback: Callback | None = None) -> Tensor:
    """Euler's method on the probability-flow ODE: Karras et al., Algorithm 1 without its 2nd-order correction."""
    for step, (t, t_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, t)
        _report(callback, step, x, t, denoised)
        d = (x - denoised) / t
        x = x + (t_next - t) * d
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, *, callback: Callback | None = None) -> Tensor:
    """Heun's 2nd-order method on the probability-flow ODE: Karras et al., Algorithm 1. Two estimates a step."""
    for step, (t, t_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, t)
        _report(callback, step, x, t, denoised)
        d = (x - denoised) / t
        x_next = x + (t_next - t) * d
        if t_next > 0:
            d_next = (x_next - denoise(x_next, t_next)) / t_next
            x_next = x + (t_next - t) * (d + d_next) / 2
        x = x_next
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, *, callback: Callback | None = None) -> Tensor:
    """DPM-Solver++(2M): Lu et al. (arXiv 2211.01095), Algorithm 2, at alpha = 1, so lambda = -log sigma."""
    previous = h_previous = None
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        _report(callback, step, x, sigma, denoised)
        h = sigma.log() - sigma_next.log()  # lambda_next - lambda
        D = denoised
        if previous is not None and h_previous > 0 and sigma_next > 0:
            r = h_previous / h
            D = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * previous
        x = (sigma_next / sigma) * x - torch.expm1(-h) * D
        previous, h_previous = denoised, h
    return x


def ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource | None = None,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM: Song et al. (arXiv 2010.02502), eq. 12 in the form of eq. 13 (divided by sqrt(alpha_bar)), and eq. 16.

    eta 0 is deterministic and equals `euler`; 1 is the ancestral sampling of DDPM.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        predicted_x0 = denoise(x, sigma)
        _report(callback, step, x, sigma, predicted_x0)
        eps = (x - predicted_x0) / sigma
        kept, added = _split(sigma, sigma_next, eta)
        x = x + (kept - sigma) * eps
        if added > 0:
            x = x + added * noise(sigma, sigma_next)
    return x


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource | None = None,
    eta: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """An Euler step below the next sigma, then fresh noise up to it.

    The step of Karras et al., Algorithm 2, with the noise added after it instead of before, in the amount that
    DDPM's posterior has (Ho et al., arXiv 2006.11239, eq. 7) at eta 1.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        _report(callback, step, x, sigma, denoised)
        sigma_down, sigma_up = _split(sigma, sigma_next, eta)
        d = (x - denoised) / sigma
        x = x + (sigma_down - sigma) * d if sigma_next > 0 else denoised  # the same, without the cancellation
        if sigma_up > 0:
            x = x + sigma_up * noise(sigma, sigma_next)
    return x


def _split(sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Divide sigma_next^2 into what the step keeps and what fresh noise adds: (sigma_down, sigma_up).

    sigma_up is DDIM's sigma_tau(eta) (Song et al., eq. 16) over sqrt(alpha_bar_next), never above sigma_next.
    """
    sigma_up = eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
    sigma_up = torch.minimum(sigma_up, sigma_next)
    return (sigma_next**2 - sigma_up**2) ** 0.5, sigma_up


def _report(callback: Callback | None, step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
    if callback is not None:
        callback(step, x, sigma, denoised)


@dataclass(frozen=True)
class Sampler:
    """A row of `SAMPLERS`, callable with the same arguments for every sampler.

    function: the sampler.
    eta: how much fresh noise it adds unless told otherwise; None for one that never adds any.
    """

    function: Callable[..., Tensor]
    eta: float | None = None

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigmas: Tensor,
        *,
        noise: NoiseSource | None = None,
        eta: float = OWN_ETA,
        callback: Callback | None = None,
    ) -> Tensor:
        """Run it. eta -1 means the sampler's own; noise and eta do nothing for a sampler that adds no noise."""
        if self.eta is None:
            return self.function(denoise, x, sigmas, callback=callback)
        eta = self.eta if eta == OWN_ETA else eta
        if eta > 0 and noise is None:
            raise T2VError(
                f"{self.function.__name__} with eta {eta} adds noise at each step and was given no noise source"
            )
        return self.function(denoise, x, sigmas, noise=noise, eta=eta, callback=callback)


SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler),
    "euler_ancestral": Sampler(euler_ancestral, eta=1.0),
    "heun": Sampler(heun),
    "dpmpp_2m": Sampler(dpmpp_2m),
    "ddim": Sampler(ddim, eta=0.0),
}


@dataclass(frozen=True)
class BoundSampler:
    """A sampler with its settings: what a SAMPLER wire carries.

    name: a key of `SAMPLERS`.
    eta: 0 and up, how much fresh noise is added at each step (1 is DDPM's amount); -1 for the sampler's own.
        A sampler that adds no noise (euler, heun, dpmpp_2m) ignores it.

    Raises T2VError for an unknown name, listing the known ones, and for an eta that is neither.
    """

    name: str
    eta: float = OWN_ETA

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise T2VError(f"unknown sampler {self.name!r}; the known ones are {', '.join(SAMPLERS)}")
        if self.eta != OWN_ETA and not (math.isfinite(self.eta) and self.eta >= 0):
            raise T2VError(f"eta is {self.eta}; it is 0 or above, or -1 for the sampler's own")

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigmas: Tensor,
        *,
        noise: NoiseSource | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Walk x down the sigmas."""
        return SAMPLERS[self.name](denoise, x, sigmas, noise=noise, eta=self.eta, callback=callback)
