"""A text-to-video model ready to sample, and the modifiers that change how it does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from ..errors import T2VError
from .denoiser import Denoiser
from .modifiers import GuidanceSchedule, NoiseSeeds, StrengthSchedule, TemporalStrength

Modifier = TypeVar("Modifier")


@dataclass(frozen=True)
class NativeSize:
    """The clip a model was trained on: pixels, frames, frames per second."""

    width: int
    height: int
    num_frames: int
    fps: float


@dataclass(frozen=True)
class GuidanceRescale:
    """Pull guidance's spread back to the conditioned one: see `guide`. multiplier 0 (off) .. 1 (full)."""

    multiplier: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.multiplier <= 1.0:
            raise T2VError(f"guidance rescale is {self.multiplier}; it goes from 0 (off) to 1 (full)")


MODIFIERS: tuple[type, ...] = (GuidanceRescale, GuidanceSchedule, StrengthSchedule, NoiseSeeds, TemporalStrength)


@dataclass(frozen=True)
class VideoModel:
    """What `sample` needs to know of a model.

    denoiser: the network with its noise schedule.
    latent_scale: the network sees latents times this (0.18215 for Stable Diffusion's); a LATENT wire carries them
        unscaled.
    native: the size it was trained on.
    modifiers: plain objects, at most one of a kind, each of a type in `MODIFIERS`; another raises T2VError.
    """

    denoiser: Denoiser
    latent_scale: float
    native: NativeSize
    modifiers: tuple = ()

    def __post_init__(self) -> None:
        for modifier in self.modifiers:
            if type(modifier) not in MODIFIERS:
                known = ", ".join(kind.__name__ for kind in MODIFIERS)
                raise T2VError(f"unknown model modifier {modifier!r}; the known ones are {known}")

    def patched(self, modifier: object) -> VideoModel:
        """A copy with the modifier added, in place of an earlier one of its kind; the model itself is unchanged."""
        others = tuple(m for m in self.modifiers if type(m) is not type(modifier))
        return replace(self, modifiers=(*others, modifier))

    def modifier(self, kind: type[Modifier]) -> Modifier | None:
        """The modifier of this kind, or None."""
        return next((m for m in self.modifiers if type(m) is kind), None)
