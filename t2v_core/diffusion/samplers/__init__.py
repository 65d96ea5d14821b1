"""Samplers: how to walk x from the first sigma to the last. Adding one is one function and one row of `SAMPLERS`.

Every sampler is one step, `(denoise, x, step, kept) -> (x, kept)`: `Step` says where it goes from and to, and `Kept` is
what the sampler remembers of the steps before, empty at the first and where it has no memory. `walk` takes the steps.
A sampler knows nothing of text, video or guidance: x has any shape, `denoise(x, sigma)` returns D(x; sigma), its
estimate of x0, and is called with the step's own x and sigma first. All work in the variance-exploding scale of
Karras et al. (arXiv 2206.00364): x = x0 + sigma * noise.

  sigmas    `[n + 1]`, descending, above 0 except the last; one step per pair
  noise     `(sigma, sigma_next) -> Tensor`, unit-variance noise of x's shape for that step
  unscaled  `sigma -> Tensor`, for models whose sigma is not that of alpha_bar: `NoiseSchedule.unscaled`
  eta       how much of it, where that can be chosen
  callback  `(step, x, sigma, denoised)`, once a step as soon as its first estimate is known; raising cancels
  keeper    keeps the state after each step, so that a walk cut off can go on: see `walk`
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...errors import T2VError
from .ancestral import ddim, euler_ancestral, lcm
from .common import Callback, Denoise, Kept, NoiseSource, Step, StepFunction, Unscaled
from .dpm_solver import dpmpp_2m, dpmpp_2m_sde, dpmpp_sde
from .ode import euler, heun
from .unipc import uni_pc, uni_pc_bh2
from .walk import Keeper, State, walk

__all__ = [
    "OWN_ETA",
    "SAMPLERS",
    "BoundSampler",
    "Callback",
    "Denoise",
    "Keeper",
    "Kept",
    "NoiseKind",
    "NoiseSource",
    "Sampler",
    "State",
    "Step",
    "Unscaled",
]

OWN_ETA = -1.0

NoiseKind = Literal["none", "independent", "brownian"]


@dataclass(frozen=True)
class Sampler:
    """A row of `SAMPLERS`, callable with the same arguments for every sampler.

    function: the sampler's step.
    noise: which it adds: "none", "independent" (each call draws anew) or "brownian" (the increments of one Brownian
        path in sigma, divided by the root of their length: calls for overlapping steps agree with each other).
    eta: how much unless told otherwise; None for a sampler that adds none or always the same.
    discards_penultimate: whether KSampler asks the scheduler for one step more and leaves out the last sigma above 0.
    """

    function: StepFunction
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
        keeper: Keeper | None = None,
    ) -> Tensor:
        """Run it. eta -1 means the sampler's own. One that adds no noise ignores noise, one without eta ignores eta,
        and unscaled is for those with an eta whose noise is independent."""
        if self.noise == "none":
            return walk(self.function, denoise, x, Step(sigmas, 0), callback, keeper)
        if self.eta is not None and eta == OWN_ETA:
            eta = self.eta
        if noise is None and (self.eta is None or eta > 0):
            amount = "" if self.eta is None else f" with eta {eta}"
            raise T2VError(f"{self.function.__name__}{amount} adds noise at each step and was given no noise source")
        return walk(self.function, denoise, x, Step(sigmas, 0, noise, eta, unscaled), callback, keeper)


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
        keeper: Keeper | None = None,
    ) -> Tensor:
        """Walk x down the sigmas."""
        row = SAMPLERS[self.name]
        return row(denoise, x, sigmas, noise=noise, eta=self.eta, unscaled=unscaled, callback=callback, keeper=keeper)
