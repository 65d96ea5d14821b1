"""FreeInit: the same clip sampled again and again, each time from noise whose slow and coarse part is that of the clip
made before (Wu et al., arXiv 2312.07537).

With z the last clip noised again by the noise of the first round, up to the largest noise level, and fresh noise e, the
next round starts from IFFT(LPF FFT(z) + (1 - LPF) FFT(e)), where FFT is over frames, height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import T2VError
from .noise_schedule import NoiseSchedule

MAX_ROUNDS = 100
MAX_ORDER = 100
LEAST_STOP = 1e-6  # below no clip has another frequency than 0, and far below its powers are no numbers any more
FRAMES_AT_ONCE = 32


@dataclass(frozen=True)
class FreeInit:
    """FreeInit's numbers; the names in brackets are those of diffusers' `enable_free_init`.

    rounds: how often the clip is sampled, 1 to MAX_ROUNDS [num_iters]. 1 is sampling as without FreeInit.
    filter_type: one of `FILTERS`; "box" is of the authors' code alone [method].
    order: of the butterworth filter: the larger, the steeper, 1 to MAX_ORDER [order].
    spatial, temporal: where the filter stops, 0 or LEAST_STOP..1 of the highest frequency; at 0 of either nothing is
        taken over [spatial_stop_frequency, temporal_stop_frequency].
    fast: fewer steps in the early rounds [use_fast_sampling].

    Raises T2VError for what is out of range.
    """

    rounds: int = 3
    filter_type: str = "butterworth"
    order: int = 4
    spatial: float = 0.25
    temporal: float = 0.25
    fast: bool = False

    def __post_init__(self) -> None:
        for name in ("rounds", "order"):
            if not isinstance(getattr(self, name), int):
                raise T2VError(f"{name} is {getattr(self, name)!r}; it is a whole number")
        if not 1 <= self.rounds <= MAX_ROUNDS:
            raise T2VError(f"rounds is {self.rounds}; a clip is sampled 1 to {MAX_ROUNDS} times")
        if self.filter_type not in FILTERS:
            raise T2VError(f"filter_type: there is no filter {self.filter_type!r}; there are {', '.join(FILTERS)}")
        if not 1 <= self.order <= MAX_ORDER:
            raise T2VError(f"order is {self.order}; it goes from 1 to {MAX_ORDER}")
        for name in ("spatial", "temporal"):
            stop = getattr(self, name)
            if stop != 0.0 and not LEAST_STOP <= stop <= 1.0:
                raise T2VError(f"{name}_stop_frequency is {stop}; it is 0, or from {LEAST_STOP} to 1")

    def steps(self, steps: int) -> tuple[int, ...]:
        """The number of steps of each round, where so many are asked for; `fast` has the last round alone take all."""
        if not self.fast:
            return (steps,) * self.rounds
        return tuple(max(1, steps * done // self.rounds) for done in range(1, self.rounds + 1))

    def low_pass(self, frames: int, height: int, width: int) -> Tensor:
        """The filter fp32 `[frames, height, width // 2 + 1]`, for the frequencies of `torch.fft.rfftn`.

        The authors' filter is not symmetric where a side is odd (and the box nowhere), and they take the real part of
        what comes out. That is the filter's mean over a frequency and its negative, which is what is given here.
        """
        sizes = (frames, height, width)
        mask = torch.zeros(frames, height, width // 2 + 1)
        if self.spatial == 0 or self.temporal == 0:
            return mask
        rows, columns = torch.arange(height), torch.arange(width // 2 + 1)
        for frame in range(frames):
            for sign in (1, -1):
                numbers = (torch.tensor(sign * frame), sign * rows[:, None], sign * columns)
                # Where fftshift has put the frequency.
                places = [(number + size // 2) % size for number, size in zip(numbers, sizes, strict=True)]
                mask[frame] += 0.5 * FILTERS[self.filter_type](self, places, sizes)
        return mask


def mix(low: Tensor, high: Tensor, low_pass: Tensor) -> Tensor:
    """What the filter lets pass of `low`, and of `high` the rest; `[f, c, h, w]` each, fp32 on the CPU.

    `high` is overwritten and returned. Frequencies are over the whole clip, but one channel's at a time, and the
    transforms go through in parts: beside the clips and the filter there is about one channel's size in memory.
    """
    frames, channels, height, width = high.shape
    parts = [slice(start, start + FRAMES_AT_ONCE) for start in range(0, frames, FRAMES_AT_ONCE)]
    spectrum = torch.empty(low_pass.shape, dtype=torch.complex64)
    for channel in range(channels):
        for part in parts:
            spectrum[part] = torch.fft.rfft2(low[part, channel] - high[part, channel])
        for row in range(height):
            over_frames = torch.fft.fft(spectrum[:, row], dim=0).mul_(low_pass[:, row])
            spectrum[:, row] = torch.fft.ifft(over_frames, dim=0)
        for part in parts:
            high[part, channel] += torch.fft.irfft2(spectrum[part], s=(height, width))
    return high


def noised(latents: Tensor, noise: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
    """Latents (in the model's scale) with as much noise as there is, as the network sees it: unit variance."""
    sigma = torch.tensor(noise_schedule.sigma_max)
    return (latents + noise * sigma) / noise_schedule.x_scale(sigma)


Places = list[Tensor]
Sizes = tuple[int, int, int]


def _distance(free_init: FreeInit, places: Places, sizes: Sizes) -> Tensor:
    """d^2 = ((d_s / d_t) (2t / T - 1))^2 + (2h / H - 1)^2 + (2w / W - 1)^2, fp64."""
    t, h, w = ((2.0 * place.double() / size - 1.0) ** 2 for place, size in zip(places, sizes, strict=True))
    return (free_init.spatial / free_init.temporal) ** 2 * t + h + w


def _butterworth(free_init: FreeInit, places: Places, sizes: Sizes) -> Tensor:
    return 1.0 / (1.0 + (_distance(free_init, places, sizes) / free_init.spatial**2) ** free_init.order)


def _gaussian(free_init: FreeInit, places: Places, sizes: Sizes) -> Tensor:
    return (-_distance(free_init, places, sizes) / (2 * free_init.spatial**2)).exp()


def _ideal(free_init: FreeInit, places: Places, sizes: Sizes) -> Tensor:
    """1 where d^2 <= 2 d_s. A ball of radius d_s would be d^2 <= d_s^2, but so have the authors' code and diffusers."""
    return (_distance(free_init, places, sizes) <= 2 * free_init.spatial).double()


def _box(free_init: FreeInit, places: Places, sizes: Sizes) -> Tensor:
    """1 in a box round frequency 0, which has one frequency more below 0 than above it."""
    stops = (free_init.temporal, free_init.spatial, free_init.spatial)
    inside = torch.tensor(True)
    for place, size, stop in zip(places, sizes, stops, strict=True):
        reach = round(size // 2 * stop)
        inside = inside & (place >= size // 2 - reach) & (place < size // 2 + reach)
    return inside.double()


FILTERS: dict[str, Callable[[FreeInit, Places, Sizes], Tensor]] = {
    "butterworth": _butterworth,
    "gaussian": _gaussian,
    "ideal": _ideal,
    "box": _box,
}
