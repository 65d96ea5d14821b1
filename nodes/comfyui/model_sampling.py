"""A MODEL's noise schedule: what ComfyUI asks of one whose signal was scaled in training as VideoCrafter2's was, and
how much of any model's noise is left."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

from ...t2v_core.diffusion import NoiseSchedule


class ScaledSignal(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """`NoiseSchedule` with a signal: other sigmas, and x is shown to the network at another scale."""

    def __init__(self, noise_schedule: NoiseSchedule):
        super().__init__()
        self.set_sigmas(noise_schedule.sigmas)
        self.register_buffer("log_sigmas", noise_schedule.log_sigmas)  # as they were before sigmas were rounded
        self.register_buffer("signal", noise_schedule.signal)

    def unscaled(self, sigma: Tensor) -> Tensor:
        """As `NoiseSchedule.unscaled`, on the device of sigma."""
        return sigma * self._signal_at(sigma)

    def x_scale(self, sigma: Tensor) -> Tensor:
        """As `NoiseSchedule.x_scale`, on the device of sigma."""
        signal = self._signal_at(sigma)
        return ((signal * sigma) ** 2 + 1.0) ** 0.5 / signal

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise / _in_front(self.x_scale(sigma), noise)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        if not max_denoise:
            return super().noise_scaling(sigma, noise, latent_image, max_denoise)
        return noise * _in_front(self.x_scale(sigma), noise) + latent_image

    def _signal_at(self, sigma: Tensor) -> Tensor:
        return self.signal[self.timestep(sigma).to(self.signal.device)].to(sigma)


def _in_front(values: Tensor, x: Tensor) -> Tensor:
    """A number, or one for each row of x, in a shape that multiplies x."""
    return values.reshape(()) if values.numel() == 1 else values.reshape(-1, *(1,) * (x.ndim - 1))


def noise_left(model_sampling: Any, sigma: Tensor) -> float:
    """1 at the largest sigma of a model's noise schedule to 0 at its smallest, even in its timesteps.

    sigma is equal in all its elements. Equal to `t2v_core.diffusion.modifiers.noise_left` for its noise schedules.
    """
    least, most, here = (
        float(model_sampling.timestep(torch.as_tensor(each)))
        for each in (model_sampling.sigma_min, model_sampling.sigma_max, sigma.flatten()[0])
    )
    return min(max((here - least) / (most - least), 0.0), 1.0)
