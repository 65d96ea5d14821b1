"""Sampling a clip several times, each time from noise that is renewed by what came out: the loop of FreeInit.

Whoever samples gives the loop its parts, so a host may sample in its own way. `sample_with_free_init` is the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import T2VError
from .free_init import FreeInit, mix, noised
from .model import VideoModel
from .modifiers import NoiseSeeds, StrengthSchedule
from .noise import SEED_COUNT, frame_numbers, generator_for, prepare_noise
from .sample import sample as sample_once
from .samplers import BoundSampler, Callback
from .windowed import Between

ROUND_SEEDS = 0xD1B54A32D192ED03
"""From a round's seed to the next one's. Not a small number, for seeds beside each other are drawn from too."""


def sample_with_free_init(
    model: VideoModel,
    latents: Tensor,
    cond: Tensor,
    uncond: Tensor | None,
    *,
    free_init: FreeInit,
    noise: Tensor,
    sampler: str | BoundSampler,
    sigmas: Sequence[Tensor],
    cfg: float,
    seed: int,
    batch_index: Sequence[int] | None = None,
    callback: Callback | None = None,
    between: Between | None = None,
    sample: Callable[..., Tensor] = sample_once,
) -> Tensor:
    """`sample` with FreeInit; what is not said here is as there.

    latents: all 0, for FreeInit begins with noise alone.
    sigmas: those of each round, for as many steps as `free_init.steps` says.
    callback: as in `sample`, and steps are counted on from round to round.
    sample: makes a round, called as the library's is.

    Raises T2VError for what `sample` refuses, and for what `check_start` does.
    """
    check_start(latents, noise, model.modifier(StrengthSchedule))
    if len(sigmas) != free_init.rounds:
        raise T2VError(f"there are sigmas for {len(sigmas)} rounds, and FreeInit has {free_init.rounds}")
    seeds = model.modifier(NoiseSeeds)
    fresh = fresh_noise(noise.shape, seed, seeds, batch_index)
    if seeds is not None:
        model, noise = model.without(NoiseSeeds), fresh(0)
    scale, noise_schedule = model.latent_scale, model.denoiser.noise_schedule
    done = [sum(max(len(row) - 1, 0) for row in sigmas[:number]) for number in range(len(sigmas))]

    def run(number: int, noise: Tensor, seed: int) -> Tensor:
        def report(step: int, *state: Tensor) -> None:
            if callback is not None:
                callback(done[number] + step, *state)

        given = {"noise": noise, "sampler": sampler, "sigmas": sigmas[number], "cfg": cfg, "seed": seed}
        return sample(model, latents, cond, uncond, **given, callback=report, between=between)

    def renoise(latents: Tensor, noise: Tensor) -> Tensor:
        return noised(latents.to("cpu", torch.float32) * scale, noise, noise_schedule)

    return sample_rounds(free_init, noise.to("cpu", torch.float32), seed, run, renoise, fresh)


def check_start(latents: Tensor, noise: Tensor, strength: StrengthSchedule | None) -> None:
    """Raises T2VError where a clip does not begin with noise alone, for which FreeInit is made."""
    if bool(latents.any()):
        raise T2VError(
            "free_init: latent_image is not empty, and FreeInit makes clips out of noise alone; give an empty latent, "
            "or leave FreeInit out"
        )
    if strength is not None:
        raise T2VError(
            "free_init: the model has a strength for each frame, and FreeInit makes clips out of noise alone, in which "
            "there is nothing to keep; leave out one of the two"
        )
    if not bool(noise.any()):
        raise T2VError("free_init: the noise is empty, so FreeInit has none to renew; leave it out, or give noise")


def fresh_noise(
    latents_shape: Sequence[int], seed: int, seeds: NoiseSeeds | None, batch_index: Sequence[int] | None
) -> Callable[[int], Tensor]:
    """`(round) -> noise [f, c, h, w]`: plain noise of the round's seed, or of each frame's where there are `seeds`;
    of round 0, it is what a clip starts from anyway. Raises T2VError for what `prepare_noise` refuses."""
    frame_numbers(latents_shape, batch_index)
    generator_for(seed)

    def draw(seed: int) -> Tensor:
        return prepare_noise(latents_shape, seed, batch_index)

    if seeds is None:
        return lambda number: draw(seed_of(seed, number))
    seeds.check(latents_shape[0])
    return lambda number: seeds.noise(lambda its: draw(seed_of(its, number)), latents_shape[0])


def seed_of(seed: int, number: int) -> int:
    """The seed of a round, counted from 0."""
    return (seed + number * ROUND_SEEDS) % SEED_COUNT


def sample_rounds(
    free_init: FreeInit,
    noise: Tensor,
    seed: int,
    run: Callable[[int, Tensor, int], Tensor],
    renoise: Callable[[Tensor, Tensor], Tensor],
    fresh: Callable[[int], Tensor],
) -> Tensor:
    """The loop itself; returns the latents of the last round.

    noise: `[f, c, h, w]`, fp32 on the CPU, which the first round starts from.
    run: `(round, noise, seed) -> latents [f, c, h, w]`; rounds are counted from 0. Raising from it cancels.
    renoise: `(latents, noise) -> z` of unit variance, fp32 on the CPU: `noised`, in the model's scale.
    fresh: `(round) -> noise`, which will be overwritten.
    """
    latents = run(0, noise, seed)
    low_pass = free_init.low_pass(len(noise), *noise.shape[2:]) if free_init.rounds > 1 else None
    for number in range(1, free_init.rounds):
        z = renoise(latents, noise)
        latents = None  # a long clip is not to be in memory more often than it must
        start = mix(z, fresh(number), low_pass)
        del z
        latents = run(number, start, seed_of(seed, number))
    return latents
