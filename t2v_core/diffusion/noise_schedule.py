"""The discrete noise schedule a model was trained with: betas, their sigmas, and the timestep of a sigma."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import T2VError

# Zero terminal SNR would make the last sigma infinite. ComfyUI keeps this much signal, so sigma_max is 4518.8.
LAST_ALPHA_BAR = 4.8973451890853435e-08
# VideoCrafter's `mid_step`: from this timestep on the signal is scaled in full.
SCALED_FROM = 400


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Sigma for each of the model's timesteps, in the variance-exploding scale of Karras et al. (arXiv 2206.00364).

    With alpha_bar as in Ho et al. (arXiv 2006.11239, eq. 4), sigma = sqrt((1 - alpha_bar) / alpha_bar). Where training
    made less of the clip besides, sqrt(alpha_bar) * signal * x0 + sqrt(1 - alpha_bar) * noise, sigma is that much
    larger: what is sampled is still x0 + sigma * noise, by any sampler.

    The tensors are fp32 on the CPU because ComfyUI's are: with fp64 the ties of `timestep` fall the other way.

    sigmas: `[num_timesteps]`, ascending; index 0 is the least noise.
    log_sigmas: `[num_timesteps]`, the logarithm taken in fp64 and then rounded.
    signal: `[num_timesteps]`, see above; None is 1 throughout.
    """

    sigmas: Tensor
    log_sigmas: Tensor
    signal: Tensor | None = None

    @classmethod
    def from_betas(
        cls, betas: Tensor, *, zero_terminal_snr: bool = False, signal: Tensor | None = None
    ) -> NoiseSchedule:
        """Build from the variances `[num_timesteps]` of the forward process, each in (0, 1); else T2VError.

        zero_terminal_snr: move the last timestep to (nearly) no signal: Lin et al. (arXiv 2305.08891), Algorithm 1.
        signal: `[num_timesteps]`, each in (0, 1], never rising; else T2VError.
        """
        betas = betas.to("cpu", torch.float64)
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
            raise T2VError(f"a noise schedule needs one row of at least 2 betas, each above 0 and below 1; got {betas}")
        alpha_bar = torch.cumprod(1.0 - betas, dim=0)
        if zero_terminal_snr:
            alpha_bar = _rescale_zero_terminal_snr(alpha_bar)
        sigmas = ((1.0 - alpha_bar) / alpha_bar).sqrt()
        if signal is None:
            return cls(sigmas.float(), sigmas.log().float())
        signal = signal.to("cpu", torch.float64)
        in_range = signal.shape == betas.shape and bool(((signal > 0) & (signal <= 1)).all())
        if not in_range or bool((signal.diff() > 0).any()):
            raise T2VError(f"the signal is {len(betas)} numbers above 0 and up to 1 that never rise; got {signal}")
        sigmas = sigmas / signal
        return cls(sigmas.float(), sigmas.log().float(), signal.float())

    @classmethod
    def scaled_linear(
        cls,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        num_timesteps: int = 1000,
        zero_terminal_snr: bool = False,
        signal_scale: float = 1.0,
    ) -> NoiseSchedule:
        """Betas whose square roots are evenly spaced, as Stable Diffusion, ModelScope and VideoCrafter were trained.

        signal_scale: the signal from timestep 400 on; before, it falls evenly from 1 at timestep 0. VideoCrafter2 was
            trained with 0.7: `use_scale` and `scale_b` of its `configs/inference_t2v_512_v2.0.yaml`, read by
            `LatentDiffusion` in `lvdm/models/ddpm3d.py` (github.com/AILab-CVC/VideoCrafter).
        """
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64)
        signal = None
        if signal_scale != 1.0:
            signal = torch.full((num_timesteps,), signal_scale, dtype=torch.float64)
            signal[:SCALED_FROM] = torch.linspace(1.0, signal_scale, SCALED_FROM, dtype=torch.float64)[:num_timesteps]
        return cls.from_betas(roots**2, zero_terminal_snr=zero_terminal_snr, signal=signal)

    def __len__(self) -> int:
        """The number of timesteps the model was trained with."""
        return len(self.sigmas)

    @property
    def sigma_min(self) -> float:
        """The sigma of timestep 0."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """The sigma of the last timestep."""
        return float(self.sigmas[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep whose log sigma is nearest, for sigma of any shape; the lower one on a tie.

        Returns integers of sigma's shape, on sigma's device.
        """
        log_sigma = sigma.to("cpu", torch.float32).log()
        distance = log_sigma.reshape(1, -1) - self.log_sigmas[:, None]
        return distance.abs().argmin(dim=0).reshape(sigma.shape).to(sigma.device)

    def sigma(self, timestep: Tensor) -> Tensor:
        """The fp32 sigma at a timestep that may be fractional: linear in log sigma, clamped to the ends."""
        t = timestep.to("cpu", torch.float32).clamp(0, len(self) - 1)
        low, high, w = t.floor().long(), t.ceil().long(), t.frac()
        log_sigma = (1 - w) * self.log_sigmas[low] + w * self.log_sigmas[high]
        return log_sigma.exp().to(timestep.device)

    def unscaled(self, sigma: Tensor) -> Tensor:
        """sqrt((1 - alpha_bar) / alpha_bar) where the noise level is sigma: sigma times the signal at its timestep."""
        return sigma if self.signal is None else sigma * self._signal_at(sigma)

    def x_scale(self, sigma: Tensor) -> Tensor:
        """How many times larger x = x0 + sigma * noise is than what the network was trained to see, of sigma's shape.

        That is sqrt(1 + sigma^2) for a network trained on sqrt(alpha_bar) * x0 + sqrt(1 - alpha_bar) * noise.
        """
        if self.signal is None:
            return (sigma**2 + 1.0) ** 0.5
        signal = self._signal_at(sigma)
        return ((signal * sigma) ** 2 + 1.0) ** 0.5 / signal

    def _signal_at(self, sigma: Tensor) -> Tensor:
        return self.signal[self.timestep(sigma).cpu()].to(sigma)

    def percent_to_sigma(self, percent: float) -> float:
        """The sigma after `percent` (0..1) of the timesteps, counted from the noisy end.

        0 and below give a sigma above every other, 1 and above give 0, so that a range of percents may cover all.
        """
        if percent <= 0.0:
            return 999999999.9
        if percent >= 1.0:
            return 0.0
        return float(self.sigma(torch.tensor((1.0 - percent) * (len(self) - 1))))


def _rescale_zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha_bar) so that its last value is nil and its first stays."""
    root = alpha_bar.sqrt()
    first, last = root[0], root[-1]
    rescaled = ((root - last) * (first / (first - last))) ** 2
    rescaled[-1] = LAST_ALPHA_BAR
    return rescaled
