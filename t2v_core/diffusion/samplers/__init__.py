"""Samplers: how to walk x from the first sigma to the last. Adding one is one function and one row of `SAMPLERS`.

Every sampler is `(denoise, x, sigmas, *, callback) -> x`; one that adds noise also takes `noise`, and `eta` where the
amount can be chosen. It knows nothing of text, video or guidance: x has any shape, `denoise(x, sigma)` returns
D(x; sigma), its estimate of x0. All work in the variance-exploding scale of Karras et al. (arXiv 2206.00364):
x = x0 + sigma * noise.

  sigmas    `[n + 1]`, descending, above 0 except the last; one step per pair
  noise     `(sigma, sigma_next) -> Tensor`, unit-variance noise of x's shape for that step
  unscaled  `sigma -> Tensor`, for models whose sigma is not that of alpha_bar: `NoiseSchedule.unscaled`
  callback  `(step, x, sigma, denoised)`, once a step as soon as its first estimate is known; raising cancels
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...errors import T2VError
from .ancestral import ddim, euler_ancestral, lcm
from .common import Callback, Denoise, NoiseSource, Unscaled
from .dpm_solver import dpmpp_2m, dpmpp_2m_sde, dpmpp_sde
from .ode import euler, heun
from .unipc import uni_pc, uni_pc_bh2

__all__ = [
    "OWN_ETA",
    "SAMPLERS",
    "BoundSampler",
    "Callback",
    "Denoise",
    "NoiseKind",
    "NoiseSource",
    "Sampler",
    "Unscaled",
]

OWN_ETA = -1.0

NoiseKind = Literal["none", "independent", "brownian"]


@dataclass(frozen=True)
class Sampler:
    """A row of `SAMPLERS`, callable with the same arguments for every sampler.

    function: the sampler.
    noise: which it adds: "none", "independent" (each call draws anew) or "brownian" (the increments of one Brownian
        path in sigma, divided by the root of their length: calls for overlapping steps agree with each other).
    eta: how much unless told otherwise; None for a sampler that adds none or always the same.
    discards_penultimate: whether KSampler asks the scheduler for one step more and leaves out the last sigma above 0.
    """

    function: Callable[..., Tensor]
    noise: NoiseKind = "none"
    eta: float | None = None
    discards_penultimate: bool = False

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigmas: Tensor,
        *,
        noise: NoiseSource | None = None,
        eta: float = OWN_ETA,
        unscaled: Unscaled | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Run it. eta -1 means the sampler's own. One that adds no noise ignores noise, one without eta ignores eta,
        and unscaled is for those with an eta whose noise is independent."""
        if self.noise == "none":
            return self.function(denoise, x, sigmas, callback=callback)
        if self.eta is not None and eta == OWN_ETA:
            eta = self.eta
        if noise is None and (self.eta is None or eta > 0):
            amount = "" if self.eta is None else f" with eta {eta}"
            raise T2VError(f"{self.function.__name__}{amount} adds noise at each step and was given no noise source")
        chosen = {} if self.eta is None else {"eta": eta}
        if chosen and self.noise == "independent":
            chosen["unscaled"] = unscaled
        return self.function(denoise, x, sigmas, noise=noise, callback=callback, **chosen)


SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler),
    "euler_ancestral": Sampler(euler_ancestral, "independent", eta=1.0),
    "heun": Sampler(heun),
    "dpmpp_2m": Sampler(dpmpp_2m),
    "ddim": Sampler(ddim, "independent", eta=0.0),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde, "brownian", eta=1.0),
    "dpmpp_sde": Sampler(dpmpp_sde, "brownian", eta=1.0),
    "uni_pc": Sampler(uni_pc, discards_penultimate=True),
    "uni_pc_bh2": Sampler(uni_pc_bh2, discards_penultimate=True),
    "lcm": Sampler(lcm, "independent"),
}


@dataclass(frozen=True)
class BoundSampler:
    """A sampler with its settings: what a SAMPLER wire carries.

    name: a key of `SAMPLERS`.
    eta: 0 and up, how much fresh noise is added at each step (1 is the usual amount); -1 for the sampler's own.
        A sampler that adds no noise (euler, heun, dpmpp_2m, uni_pc, uni_pc_bh2) ignores it, and so does lcm.

    Raises T2VError for an unknown name, listing the known ones, and for an eta that is neither.
    """

    name: str
    eta: float = OWN_ETA

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise T2VError(f"unknown sampler {self.name!r}; the known ones are {', '.join(SAMPLERS)}")
        if self.eta != OWN_ETA and not (math.isfinite(self.eta) and self.eta >= 0):
            raise T2VError(f"eta is {self.eta}; it is 0 or above, or -1 for the sampler's own")

    @property
    def noise(self) -> NoiseKind:
        """Which kind of noise to give it."""
        return SAMPLERS[self.name].noise

    @property
    def adds_noise(self) -> bool:
        """Whether it does with this eta."""
        row = SAMPLERS[self.name]
        eta = row.eta if self.eta == OWN_ETA else self.eta
        return row.noise != "none" and (row.eta is None or eta > 0)

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigmas: Tensor,
        *,
        noise: NoiseSource | None = None,
        unscaled: Unscaled | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Walk x down the sigmas."""
        row = SAMPLERS[self.name]
        return row(denoise, x, sigmas, noise=noise, eta=self.eta, unscaled=unscaled, callback=callback)
