"""A text-to-video model ready to sample, and the modifiers that change how it does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ..errors import T2VError
from ..models.compiled import CompiledParts
from ..windows import ContextWindows
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


@dataclass(frozen=True)
class NetworkScale:
    """x begins and ends in the scale in which the network sees it: `NoiseSchedule.x_scale` times smaller than here.

    The implementations of DDIM that ModelScope and VideoCrafter were published with never leave that scale: a clip
    starts from noise of variance 1, and what is left of the noise at the end is scaled with it. A clip that is given
    starts as it does anyway. Nothing changes for sigmas that start at the noise schedule's largest and end at 0; it is
    for those that do not and are a whole run, as those of `ddim_original`, and not for a part of one.
    """


@dataclass(frozen=True)
class FrameRate:
    """The frames per second that a model with `fps_input` is told, in place of its native ones; above 0."""

    fps: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise T2VError(f"fps is {self.fps}; it must be a number above 0")


@dataclass(frozen=True)
class Compiled:
    """The network's parts are called by `parts`, compiled where that works."""

    parts: CompiledParts = field(default_factory=CompiledParts)


NO_FPS_INPUT = (
    "fps: this model does not take a frame rate, as VideoCrafter2 does; how fast its clips play is set where they are "
    "saved"
)

MODIFIERS: tuple[type, ...] = (
    GuidanceRescale,
    GuidanceSchedule,
    StrengthSchedule,
    NoiseSeeds,
    TemporalStrength,
    NetworkScale,
    FrameRate,
    Compiled,
    ContextWindows,
)


@dataclass(frozen=True)
class VideoModel:
    """What `sample` needs to know of a model.

    denoiser: the network with its noise schedule.
    latent_scale: the network sees latents times this (0.18215 for Stable Diffusion's); a LATENT wire carries them
        unscaled.
    native: the size it was trained on.
    modifiers: plain objects, at most one of a kind, each of a type in `MODIFIERS`; another raises T2VError.
    fps_input: whether the network takes the frame rate; if not, the modifier `FrameRate` raises T2VError.
    """

    denoiser: Denoiser
    latent_scale: float
    native: NativeSize
    modifiers: tuple = ()
    fps_input: bool = False

    def __post_init__(self) -> None:
        for modifier in self.modifiers:
            if type(modifier) not in MODIFIERS:
                known = ", ".join(kind.__name__ for kind in MODIFIERS)
                raise T2VError(f"unknown model modifier {modifier!r}; the known ones are {known}")
            if isinstance(modifier, FrameRate) and not self.fps_input:
                raise T2VError(NO_FPS_INPUT)

    @property
    def fps(self) -> float | None:
        """The frame rate to tell the network, None where it takes none."""
        if not self.fps_input:
            return None
        chosen = self.modifier(FrameRate)
        return self.native.fps if chosen is None else chosen.fps

    def patched(self, modifier: object) -> VideoModel:
        """A copy with the modifier added, in place of an earlier one of its kind; the model itself is unchanged."""
        return replace(self, modifiers=(*self.without(type(modifier)).modifiers, modifier))

    def without(self, kind: type) -> VideoModel:
        """A copy without its modifier of this kind, if it has one."""
        return replace(self, modifiers=tuple(m for m in self.modifiers if type(m) is not kind))

    def modifier(self, kind: type[Modifier]) -> Modifier | None:
        """The modifier of this kind, or None."""
        return next((m for m in self.modifiers if type(m) is kind), None)
