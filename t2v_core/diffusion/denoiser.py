"""A trained network as a denoiser, `(x, sigma, cond) -> denoised`, whatever the network was trained to predict.

In the variance-exploding scale x = x0 + sigma * noise, so with s = sigma:
  eps:  D = x - s * eps                               (Karras et al., arXiv 2206.00364, Table 1, column VP)
  v:    D = x / (s^2 + 1) - v * s / sqrt(s^2 + 1)     (Salimans and Ho, arXiv 2202.00512, section 4)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import T2VError
from .noise_schedule import NoiseSchedule


def denoised_from_eps(x: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """Remove the predicted noise."""
    return x - eps * sigma


def denoised_from_v(x: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
    """Turn a velocity prediction into the denoised latents."""
    return x / (sigma**2 + 1.0) - v * sigma / (sigma**2 + 1.0) ** 0.5


def v_from_denoised(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """The inverse of `denoised_from_v`; sigma must not be 0."""
    return (x / (sigma**2 + 1.0) - denoised) * (sigma**2 + 1.0) ** 0.5 / sigma


PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"eps": denoised_from_eps, "v": denoised_from_v}


def align(sigma: Tensor, x: Tensor) -> Tensor:
    """Shape sigma, a scalar or `[b]`, so that it multiplies x, `[b, ...]`."""
    return sigma if sigma.ndim == 0 else sigma.reshape(-1, *(1,) * (x.ndim - 1))


class Denoiser:
    """A network with its noise schedule.

    network: called as `network(x, timesteps, context)` with x `[b, c, f, h, w]` scaled to unit variance, timesteps
        `[b]` float and context as passed; returns x's shape.
    prediction: what the network returns, "eps" (noise) or "v" (velocity, not for a noise schedule with a signal);
        another raises T2VError.
    """

    def __init__(self, network: Callable[..., Tensor], noise_schedule: NoiseSchedule, prediction: str):
        if prediction not in PREDICTIONS:
            raise T2VError(f"unknown prediction {prediction!r}; the known ones are {', '.join(PREDICTIONS)}")
        if prediction == "v" and noise_schedule.signal is not None:
            raise T2VError("a noise schedule with a signal is for a network that predicts eps; velocity has none")
        self.network = network
        self.noise_schedule = noise_schedule
        self.prediction = prediction

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor, **told: Any) -> Tensor:
        """Estimate the clean latents.

        x: noisy latents `[b, c, f, h, w]`; sigma: their noise level, a scalar or `[b]`, above 0.
        cond: `[b, tokens, dim]`, or `[b * f, tokens, dim]` for one text per frame. told: handed on to the network.
        The network runs in its own dtype, the arithmetic around it in x's, which is also what is returned.
        """
        level = align(sigma, x)
        scaled = x / align(self.noise_schedule.x_scale(sigma), x)  # c_in
        timesteps = self.noise_schedule.timestep(sigma).to(x.device, torch.float32).expand(x.shape[0])
        dtype = self._dtype or x.dtype
        output = self.network(scaled.to(dtype), timesteps, cond.to(x.device, dtype), **told)
        return PREDICTIONS[self.prediction](x, level, output.to(x.dtype))

    @property
    def device(self) -> torch.device:
        """Where the network's weights are; the CPU if it has none."""
        weight = self._first_weight()
        return torch.device("cpu") if weight is None else weight.device

    @property
    def _dtype(self) -> torch.dtype | None:
        weight = self._first_weight()
        return None if weight is None else weight.dtype

    def _first_weight(self) -> Tensor | None:
        return next(self.network.parameters(), None) if isinstance(self.network, nn.Module) else None
