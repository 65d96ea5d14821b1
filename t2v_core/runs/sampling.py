"""`sample`, kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..diffusion import VideoModel, sample
from ..models.compiled import CompiledParts
from .digest import digest
from .folder import RunsFolder

_MEANING = 1
"""Goes up with every change to this pack after which the same inputs give other bits: older runs then begin anew."""


NOT_KEPT = "This run is not kept: a tensor that decides it cannot be read, so it could be taken for another one."


def key_of(*decides: Any, device: torch.device, known: Mapping[type, Callable[[Any], Any]] | None = None) -> str | None:
    """The name of a run: a digest of everything that decides its bits; None where that has none (see `digest`).

    decides: all that it is started with. device: where the work is done. known: see `digest`.
    """
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    known = {CompiledParts: lambda parts: parts.backend, **(known or {})}
    return digest((_MEANING, torch.__version__, where, decides), known)


def sample_kept(
    runs: RunsFolder | None,
    model: VideoModel,
    latents: Tensor,
    cond: Tensor,
    uncond: Tensor | None,
    *,
    told: Mapping[str, Callable],
    **settings: Any,
) -> Tensor:
    """`sample`, which goes on where a run with the same arguments was cut off, and keeps its state after every step.

    runs: where; None keeps nothing. Not kept is a clip that is shorter than it keeps, nor one without a name, which it
        says.
    told: the arguments of `sample` that are told of the work and have no part in it, such as its callback.
    settings: its other ones, all by name.

    Returns the same bits as `sample`; where the run is kept, mapped into memory from its folder. Raises T2VError as
    `sample` and `RunsFolder.open` do.
    """
    sigmas = settings["sigmas"]
    if runs is None or not runs.keeps(len(latents)) or len(sigmas) < 2:
        return sample(model, latents, cond, uncond, **settings, **told)
    denoiser, sampler = model.denoiser, settings["sampler"]
    network = (denoiser.network, denoiser.noise_schedule, denoiser.prediction)
    inputs = (network, model.latent_scale, model.fps, model.modifiers, latents, cond, uncond, settings)
    key = key_of(inputs, device=denoiser.device)
    if key is None:
        runs.say(NOT_KEPT)
        return sample(model, latents, cond, uncond, **settings, **told)
    with runs.open(key, latents.shape, len(sigmas) - 1, getattr(sampler, "name", sampler)) as run:
        return run.deliver(sample(model, latents, cond, uncond, **settings, **told, keeper=run))
