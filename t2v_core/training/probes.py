"""How much worse the denoiser does when the caption lies: which words it reads, in seconds and without generating."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..diffusion.noise_schedule import NoiseSchedule
from ..models.unet3d import UNet3D
from .clips.captions import everything
from .clips.scenes import BACKGROUNDS, COLOURS, STRAIGHT, Scene
from .clips.shapes import SHAPES
from .latents import Clips
from .text import token_ids

CLIPS = 24  # for each probe


def _after(value: str, table) -> str:
    """Another entry of a table: the one after."""
    values = tuple(table)
    return values[(values.index(value) + 1) % len(values)]


def _lie(place: int, **tables) -> Callable[[Scene], Scene]:
    """Changes these attributes of one thing."""

    def lie(scene: Scene) -> Scene:
        thing = scene.things[place]
        false = replace(thing, **{name: _after(getattr(thing, name), table) for name, table in tables.items()})
        return replace(scene, things=(*scene.things[:place], false, *scene.things[place + 1 :]))

    return lie


def _swapped(scene: Scene) -> Scene:
    """Each thing in the other's colour."""
    left, right = scene.things
    return replace(scene, things=(replace(left, colour=right.colour), replace(right, colour=left.colour)))


@dataclass(frozen=True)
class Probe:
    """Clips, a lie about them, and the timestep at which it shows: layout and motion are decided early, looks late."""

    applies: Callable[[Scene], bool]
    lie: Callable[[Scene], Scene]
    timestep: int


def _alone(scene: Scene) -> bool:
    return len(scene.things) == 1 and scene.camera == "fixed"


def _paced(motion: str) -> Probe:
    """Whether the pace of this motion is read: what is slow is called fast, and the other way round."""
    return Probe(lambda s: _alone(s) and s.things[0].motion == motion and s.things[0].speed != "medium",
                 _lie(0, speed=("slow", "fast")), 900)  # fmt: skip


def _together(scene: Scene) -> bool:
    return len(scene.things) == 2


PROBES = {
    "direction": Probe(lambda s: _alone(s) and s.things[0].motion in STRAIGHT, Scene.backwards, 900),
    "shape": Probe(_alone, _lie(0, shape=SHAPES), 700),
    "colour": Probe(_alone, _lie(0, colour=COLOURS), 700),
    "size": Probe(lambda s: _alone(s) and s.things[0].size != "medium", _lie(0, size=("small", "large")), 900),
    "speed": Probe(lambda s: _alone(s) and s.things[0].speed != "medium", _lie(0, speed=("slow", "fast")), 900),
    "pace of hops": _paced("bouncing"),
    "pace of turns": _paced("orbiting"),
    "background": Probe(_alone, lambda s: replace(s, background=_after(s.background, BACKGROUNDS)), 900),
    "second shape": Probe(_together, _lie(1, shape=SHAPES), 700),
    "second colour": Probe(_together, _lie(1, colour=COLOURS), 700),
    "second direction": Probe(lambda s: _together(s) and s.things[1].motion in STRAIGHT,
                              lambda s: replace(s, things=(s.things[0], s.backwards().things[1])), 900),
    "whose colour": Probe(lambda s: _together(s) and s.things[0].colour != s.things[1].colour, _swapped, 700),
    "camera": Probe(lambda s: s.camera != "fixed", Scene.backwards, 900),
}  # fmt: skip


@torch.no_grad()
def sensitivity(error: Callable[[UNet3D, NoiseSchedule, Tensor, Tensor, Tensor, Tensor], Tensor], network: UNet3D,
                schedule: NoiseSchedule, clips: Clips,
                names: Iterable[str] = tuple(PROBES)) -> dict[str, float]:  # fmt: skip
    """Per probe, the mean `error` with the false caption over that with the true one. About 1: the word is not read.

    error: called with network, schedule, latents `[n, 4, f, h, w]`, text, timesteps `[n]` and noise; gives `[n]`.
    names: of `PROBES`; one that none of the clips suits is left out.
    """
    found = {}
    for name in names:
        probe = PROBES[name]
        scenes = [(i, s) for i, s in enumerate(clips.shown[:6000]) if isinstance(s, Scene) and probe.applies(s)][:CLIPS]
        if not scenes:
            continue
        chosen, true = zip(*scenes, strict=True)
        x0 = clips.latents[list(chosen)].float()
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(99))
        timesteps = torch.full((len(x0),), probe.timestep)

        def mean_error(described: list[Scene], x0=x0, noise=noise, timesteps=timesteps) -> float:
            text = clips.encoder(token_ids([everything(scene) for scene in described]))[0]
            device = next(network.parameters()).device
            return error(network, schedule, *(each.to(device) for each in (x0, text, timesteps, noise))).mean().item()

        found[name] = mean_error([probe.lie(scene) for scene in true]) / mean_error(list(true))
    return found
