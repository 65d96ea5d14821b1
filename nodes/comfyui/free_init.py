"""FreeInit where ComfyUI samples: each round is a run of its guider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.model_sampling
import torch
from torch import Tensor

from ...t2v_core.diffusion import FreeInit, NoiseSeeds, StrengthSchedule
from ...t2v_core.diffusion.rounds import check_start, fresh_noise, sample_rounds
from ...t2v_core.errors import T2VError
from . import modifiers

Run = Callable[[Any, int, Tensor, int], Tensor]


def sample(
    free_init: FreeInit,
    model: Any,
    latents: Tensor,
    noise: Tensor,
    seed: int,
    batch_index: Sequence[int] | None,
    run: Run,
) -> Tensor:
    """`t2v_core.diffusion.sample_with_free_init` of a MODEL whose latents are a frame batch `[f, c, h, w]`.

    run: `(MODEL, round, noise, seed) -> latents`.
    """
    check_start(latents, noise, modifiers.patched_with(model, StrengthSchedule))
    model_sampling = model.get_model_object("model_sampling")
    if not isinstance(model_sampling, comfy.model_sampling.EPS):
        raise T2VError(
            "free_init: this is a flow model, whose clips begin with noise in which nothing of them is left; FreeInit "
            "is for diffusion models"
        )
    seeds = modifiers.patched_with(model, NoiseSeeds)
    fresh = fresh_noise(noise.shape, seed, seeds, batch_index)
    if seeds is not None:
        model, noise = modifiers.without_seeds(model), fresh(0)
    sigma = torch.as_tensor(model_sampling.sigma_max, dtype=torch.float32).reshape(1).cpu()

    def run_unless_cancelled(number: int, noise: Tensor, seed: int) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return run(model, number, noise, seed)

    def renoise(latents: Tensor, noise: Tensor) -> Tensor:
        scaled = model.model.process_latent_in(latents.to("cpu", torch.float32))
        return model_sampling.calculate_input(sigma, scaled + noise * sigma)

    return sample_rounds(free_init, noise.to("cpu", torch.float32), seed, run_unless_cancelled, renoise, fresh)
