"""Which sigmas a sampler visits. Adding a scheduler is one function and one row of `SCHEDULERS`.

Every row equals ComfyUI's of the same name to fp32 rounding, also where that returns more or fewer sigmas than asked.
ComfyUI has no `ddim_original`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import T2VError
from .noise_schedule import NoiseSchedule

# 10000 steps at denoise 0.01, the most that ComfyUI's own inputs allow.
MAX_STEPS = 1_000_000


def normal(noise_schedule: NoiseSchedule, steps: int) -> Tensor:
    """Timesteps evenly spaced from the last to the first, both included, then 0."""
    return _append_zero(noise_schedule.sigma(torch.linspace(len(noise_schedule) - 1, 0, steps)))


def sgm_uniform(noise_schedule: NoiseSchedule, steps: int) -> Tensor:
    """Timesteps evenly spaced from the last; the first timestep itself is left out, 0 takes its place."""
    return _append_zero(noise_schedule.sigma(torch.linspace(len(noise_schedule) - 1, 0, steps + 1)[:-1]))


def simple(noise_schedule: NoiseSchedule, steps: int) -> Tensor:
    """Every (num_timesteps / steps)-th trained sigma from the largest down, never between two, then 0."""
    stride = len(noise_schedule) / steps
    return _append_zero(noise_schedule.sigmas[[-(1 + int(i * stride)) for i in range(steps)]])


def ddim_uniform(noise_schedule: NoiseSchedule, steps: int) -> Tensor:
    """Timesteps 1, 1 + s, 1 + 2s, ... with s = num_timesteps // steps: Song et al. (arXiv 2010.02502), appendix D.2.

    Where s does not divide evenly there are more sigmas than `steps + 1`.
    """
    stride = max(len(noise_schedule) // steps, 1)
    return _append_zero(noise_schedule.sigmas[1::stride].flip(0))


def ddim_original(noise_schedule: NoiseSchedule, steps: int) -> Tensor:
    """The timesteps of `ddim_uniform`, then timestep 0 in place of sigma 0: alpha_bar[0] is where the implementations
    of DDIM end that ModelScope and VideoCrafter were published with.

    Sources: `GaussianDiffusion.ddim_sample_loop` of modelscope's `video_synthesis/diffusion.py`, and
    `make_ddim_sampling_parameters` of `lvdm/models/utils_diffusion.py` (github.com/AILab-CVC/VideoCrafter). The last
    timestep stands for those beyond it, as in the former.
    """
    timesteps = torch.arange(1, len(noise_schedule) + 1, max(len(noise_schedule) // steps, 1))
    timesteps = timesteps.clamp(max=len(noise_schedule) - 1)
    return noise_schedule.sigmas[torch.cat([timesteps.flip(0), timesteps.new_zeros(1)])]


def karras(noise_schedule: NoiseSchedule, steps: int) -> Tensor:
    """Karras et al. (arXiv 2206.00364), eq. 5, with rho = 7."""
    rho = 7.0
    ramp = torch.linspace(0, 1, steps)
    most, least = noise_schedule.sigma_max ** (1 / rho), noise_schedule.sigma_min ** (1 / rho)
    return _append_zero((most + ramp * (least - most)) ** rho)


def exponential(noise_schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced in log sigma, then 0."""
    return _append_zero(
        torch.linspace(math.log(noise_schedule.sigma_max), math.log(noise_schedule.sigma_min), steps).exp()
    )


@dataclass(frozen=True)
class Scheduler:
    """A row of `SCHEDULERS`, callable as its function.

    function: `(noise_schedule, steps) -> sigmas`.
    network_scale: whether its sigmas end above 0, and are for a model with the modifier `NetworkScale`.
    """

    function: Callable[[NoiseSchedule, int], Tensor]
    network_scale: bool = False

    def __call__(self, noise_schedule: NoiseSchedule, steps: int) -> Tensor:
        """The sigmas, fp32, descending."""
        return self.function(noise_schedule, steps)


SCHEDULERS: dict[str, Scheduler] = {
    "normal": Scheduler(normal),
    "karras": Scheduler(karras),
    "exponential": Scheduler(exponential),
    "sgm_uniform": Scheduler(sgm_uniform),
    "simple": Scheduler(simple),
    "ddim_uniform": Scheduler(ddim_uniform),
    "ddim_original": Scheduler(ddim_original, network_scale=True),
}


def sigmas_for(
    scheduler: str,
    noise_schedule: NoiseSchedule,
    steps: int,
    denoise: float = 1.0,
    *,
    discard_penultimate: bool = False,
) -> Tensor:
    """The sigmas a sampler walks down: fp32 `[steps + 1]`, descending, ending in 0 (`ddim_original` a little above).

    scheduler: a name in `SCHEDULERS` (`ddim_uniform` and `ddim_original` may return more than `steps + 1`).
    steps: how many sampler steps, at least 1.
    denoise: 0..1, the share of the way to start at. Below 1 the last `steps + 1` sigmas of a finer noise schedule of
        `int(steps / denoise)` steps; 0 gives an empty tensor. So ComfyUI's KSampler does it.
    discard_penultimate: take one step more and leave out the last sigma above 0, as KSampler does for samplers that
        spend their last step badly on it (`Sampler.discards_penultimate`). Not where the end itself is above 0.

    Raises T2VError for an unknown scheduler, for steps or denoise out of range.
    """
    if scheduler not in SCHEDULERS:
        raise T2VError(f"unknown scheduler {scheduler!r}; the known ones are {', '.join(SCHEDULERS)}")
    if steps < 1:
        raise T2VError(f"steps is {steps}; sampling needs at least 1")
    if not 0.0 <= denoise <= 1.0:
        raise T2VError(f"denoise is {denoise}; it goes from 0 (keep the latents) to 1 (start from noise alone)")
    if denoise == 0.0:
        return torch.empty(0)
    whole = denoise > 0.9999
    total = steps if whole else int(steps / denoise)
    if total > MAX_STEPS:
        raise T2VError(f"{steps} steps at denoise {denoise} make a noise schedule of {total} steps, above {MAX_STEPS}")
    row = SCHEDULERS[scheduler]
    discard_penultimate = discard_penultimate and not row.network_scale
    sigmas = row(noise_schedule, total + discard_penultimate)
    if discard_penultimate:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    return sigmas if whole else sigmas[-(steps + 1) :]


def _append_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])
