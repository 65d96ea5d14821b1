"""Modifiers of a model that hold numbers for each frame: guidance, strength, seeds, and how much time is mixed.

Frames are the latent's, counted from 0; a modifier made for another number of frames is refused. Nothing here counts
steps or calls: what changes while a clip is denoised is a function of the noise that is left, so that a sampler may
call the model as often as it likes, and a run cut in two equals the whole.

Noise left is 1 at the noise schedule's largest sigma and 0 at its smallest, even in timesteps: what KSampler's denoise
counts, and 1 minus what ComfyUI calls a percent of sampling.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import T2VError
from .noise import SEED_COUNT
from .noise_schedule import NoiseSchedule

HALF_TIMESTEP = 0.501 / 999
"""Noise left is known to whole timesteps, of which models have 1000: what is as near as this counts as equal."""
MAX_TEMPORAL = 100.0
"""A temporal strength above this is a slip; 2 is already far from what was trained."""


def noise_left(noise_schedule: NoiseSchedule, sigma: Tensor) -> float:
    """See above; sigma is a scalar, or equal in all its elements."""
    return int(noise_schedule.timestep(sigma.flatten()[0])) / (len(noise_schedule) - 1)


class PerFrame(ABC):
    """What modifiers with numbers for each frame have in common."""

    what: str
    """Its name in an error."""

    @property
    @abstractmethod
    def num_frames(self) -> int | None:
        """How many frames it has numbers for; None fits any clip."""

    def check(self, frames: int) -> None:
        """Raises T2VError unless it fits a latent of so many frames."""
        if self.num_frames not in (None, frames):
            raise T2VError(
                f"{self.what} has numbers for {self.num_frames} frames and the latent has {frames} frames; "
                "make it for as many frames as the clip has"
            )


@dataclass(frozen=True)
class GuidanceSchedule(PerFrame):
    """Guidance scale (cfg) of frame f where noise l is left: (frames[f], or the sampler's cfg) * steps(1 - l).

    frames: a scale for each frame, in place of the sampler's cfg; None keeps that.
    steps: what the scale is multiplied by while the noise falls: values at even distances from the largest noise
        level to the smallest, linear in between; None is 1 throughout. With scheduler "normal", denoise 1 and as many
        values as steps, value i is that of step i; a run that starts lower starts inside the curve.

    Raises T2VError when both are None, and for numbers that are not finite.
    """

    frames: tuple[float, ...] | None = None
    steps: tuple[float, ...] | None = None
    what = "the guidance schedule"

    def __post_init__(self) -> None:
        if self.frames is None and self.steps is None:
            raise T2VError("the guidance schedule is empty; give it a number for each frame, a curve, or both")
        for name in ("frames", "steps"):
            _freeze(self, name, f"guidance schedule ({name})")

    @property
    def num_frames(self) -> int | None:
        return None if self.frames is None else len(self.frames)

    def multiplier(self, left: float) -> float:
        """What the scale is multiplied by where so much noise (0..1) is left."""
        if self.steps is None:
            return 1.0
        last = len(self.steps) - 1
        place = (1.0 - left) * last
        if abs(place - round(place)) <= HALF_TIMESTEP * last:
            return self.steps[round(place)]
        low = int(place)
        return self.steps[low] + (self.steps[low + 1] - self.steps[low]) * (place - low)

    def scales(self, cfg: float, left: float) -> float | tuple[float, ...]:
        """The scale where so much noise is left: one number where all frames have the same, else one for each.

        cfg: the sampler's own, for a schedule without frames.
        """
        multiplier = self.multiplier(left)
        values = tuple(scale * multiplier for scale in (self.frames or (cfg,)))
        return values[0] if len(set(values)) == 1 else values

    def always_one(self, cfg: float) -> bool:
        """Whether the scale is 1 for every frame at every noise level, so that no negative text is needed."""
        return is_one(self.frames or (cfg,)) and is_one(self.steps or (1.0,))


def is_one(scales: float | Sequence[float]) -> bool:
    """Whether guidance at these scales is the positive text's prediction alone."""
    return all(math.isclose(scale, 1.0) for scale in ((scales,) if isinstance(scales, (int, float)) else scales))


@dataclass(frozen=True)
class StrengthSchedule(PerFrame):
    """How much of each frame is drawn anew, in the sense of KSampler's denoise: 1 all of it, 0 nothing.

    A frame of strength s is the original with noise of the level at hand while more than s of the noise is left, and is
    denoised freely from there on. It is a threshold and no blend, as in Levin and Fried (arXiv 2306.00950). A frame of
    strength 0 comes back bit for bit. The run's own denoise should be at least the largest strength.

    strengths: 0..1 for each frame; else T2VError.
    """

    strengths: tuple[float, ...]
    what = "the strength schedule"

    def __post_init__(self) -> None:
        _freeze(self, "strengths", "strength schedule", 0.0, 1.0)

    @property
    def num_frames(self) -> int:
        return len(self.strengths)

    def free(self, left: float) -> tuple[bool, ...]:
        """Which frames are denoised freely where so much noise is left; the others are kept."""
        return tuple(0.0 < strength >= left for strength in self.strengths)

    def check_start(self, left: float, noise: Tensor) -> None:
        """Raises T2VError for a run that must keep frames at its start and has no noise to keep them with: what it
        starts from is noisy itself, and the original is not known."""
        if bool(noise.any()):
            return
        kept = [frame for frame, free in enumerate(self.free(left)) if not free]
        if kept:
            raise T2VError(
                f"the strength schedule keeps frame {kept[0]} (strength {self.strengths[kept[0]]:g}) below the noise "
                f"level at which this run starts ({left:.3g}), and this run adds no noise; let the run before it end "
                "later, or do both in one"
            )

    def restore(self, latents: Tensor, original: Tensor) -> Tensor:
        """`latents` `[f, ...]` with the frames of strength 0 as they are in `original`."""
        kept = torch.tensor([strength == 0.0 for strength in self.strengths], device=latents.device)
        return torch.where(kept[(..., *(None,) * (latents.ndim - 1))], original.to(latents), latents)


@dataclass(frozen=True)
class NoiseSeeds(PerFrame):
    """Which seed the noise comes from that each frame starts from: frame f gets row f of its seed's noise.

    So the rows of a seed do not depend on the other seeds, and a single seed gives the noise that it always gives.

    keys: pairs (frame, seed): a seed holds from its frame to the next key; the first one also before.
    frames: the number of frames it is made for; None fits any clip.

    Raises T2VError for no keys, two at one frame, a negative frame, a seed outside 0 .. 2^64 - 1.
    """

    keys: tuple[tuple[int, int], ...]
    frames: int | None = None
    what = "the list of seeds"

    def __post_init__(self) -> None:
        keys = tuple(sorted((int(frame), int(seed)) for frame, seed in self.keys))
        if not keys:
            raise T2VError("there are no seeds; give a seed for each frame, or keys of a frame and a seed")
        for frame, seed in keys:
            if frame < 0:
                raise T2VError(f"a seed is given for frame {frame}; frames are counted from 0")
            if not 0 <= seed < SEED_COUNT:
                raise T2VError(f"the seed of frame {frame} is {seed}; it goes from 0 to {SEED_COUNT - 1}")
        if len({frame for frame, _ in keys}) < len(keys):
            raise T2VError(f"a frame has two seeds: {', '.join(f'{frame}: {seed}' for frame, seed in keys)}")
        object.__setattr__(self, "keys", keys)

    @classmethod
    def per_frame(cls, seeds: Iterable[int]) -> NoiseSeeds:
        """From a seed for each frame."""
        seeds = list(seeds)
        return cls(tuple(enumerate(seeds)), len(seeds))

    @property
    def num_frames(self) -> int | None:
        return self.frames

    def seed(self, frame: int) -> int:
        """The seed of a frame."""
        return self.keys[max(bisect_right(self.keys, frame, key=lambda key: key[0]) - 1, 0)][1]

    def noise(self, draw: Callable[[int], Tensor], frames: int) -> Tensor:
        """The clip's noise `[f, ...]`, with `draw(seed)` the whole noise of a seed, of the same shape."""
        seeds, noise = [self.seed(frame) for frame in range(frames)], None
        for seed in dict.fromkeys(seeds):
            drawn = draw(seed)
            noise = drawn if noise is None else noise
            rows = [frame for frame, its in enumerate(seeds) if its == seed]
            noise[rows] = drawn[rows]
        return noise


@dataclass(frozen=True)
class TemporalStrength(PerFrame):
    """How much of what the temporal parts of the UNet change is applied to each frame: x + s (temporal(x) - x).

    1 is as trained, 0 leaves each frame by itself, above 1 exaggerates. What a frame gives to the others stays.

    attention: for each frame, for the temporal transformers; convolution: for the temporal convolutions; None is 1.

    Raises T2VError when both are None or differ in length, and for numbers outside 0 .. MAX_TEMPORAL.
    """

    attention: tuple[float, ...] | None = None
    convolution: tuple[float, ...] | None = None
    what = "the temporal strength"

    def __post_init__(self) -> None:
        if self.attention is None and self.convolution is None:
            raise T2VError("the temporal strength is empty; give numbers for the attention, the convolution, or both")
        for name in ("attention", "convolution"):
            _freeze(self, name, f"temporal strength ({name})", 0.0, MAX_TEMPORAL)
        lengths = {len(values) for values in (self.attention, self.convolution) if values is not None}
        if len(lengths) > 1:
            raise T2VError(
                f"the temporal strength has {len(self.attention)} frames for the attention and {len(self.convolution)} "
                "for the convolution; they must agree"
            )

    @property
    def num_frames(self) -> int:
        return len(self.attention or self.convolution)

    def of(self, frames: Sequence[int]) -> TemporalStrength:
        """That of these frames, in this order."""
        attention, convolution = (
            None if values is None else tuple(values[frame] for frame in frames)
            for values in (self.attention, self.convolution)
        )
        return TemporalStrength(attention, convolution)


def _freeze(modifier: object, name: str, what: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Replaces a field's numbers by a tuple of floats, unless it is None; see the classes for what is refused."""
    values = getattr(modifier, name)
    if values is None:
        return
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise T2VError(f"{what}: not a row of numbers: {values!r}") from error
    if not numbers:
        raise T2VError(f"{what}: there are no numbers in it")
    for index, number in enumerate(numbers):
        if not (math.isfinite(number) and low <= number <= high):
            bounds = "finite" if low == -math.inf else f"between {low:g} and {high:g}"
            raise T2VError(f"{what}: number {index} is {number}; it must be {bounds}")
    object.__setattr__(modifier, name, numbers)
