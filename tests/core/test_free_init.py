"""FreeInit against diffusers' FreeInitMixin, and its loop against what it says of itself."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.free_init_utils import FreeInitMixin
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_models import BETAS, CONTEXT, NETWORK, SCHEDULE, diffusers_loop, relative

from t2v_core.diffusion import (
    FILTERS,
    ContextWindows,
    Denoiser,
    FreeInit,
    NativeSize,
    NetworkScale,
    NoiseSchedule,
    NoiseSeeds,
    StrengthSchedule,
    VideoModel,
    prepare_noise,
    sample,
    sample_with_free_init,
    sigmas_for,
)
from t2v_core.diffusion.free_init import LEAST_STOP, MAX_ORDER, MAX_ROUNDS, mix, noised
from t2v_core.diffusion.rounds import sample_rounds, seed_of
from t2v_core.errors import T2VError

SHAPE = (6, 4, 5, 8)
CONFIG = {**BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_diffusers(frames: Tensor) -> Tensor:
    return rearrange(frames, "f c h w -> 1 c f h w")


def ours(clip: Tensor) -> Tensor:
    return rearrange(clip, "1 c f h w -> f c h w")


def box(frames: int, height: int, width: int, spatial: float, temporal: float) -> Tensor:
    """box_low_pass_filter of github.com/TianxingWu/FreeInit, which diffusers has not: a box round the middle, as wide
    as Python's rounding makes it."""
    half = [round(size // 2 * stop) for size, stop in ((frames, temporal), (height, spatial), (width, spatial))]
    mask = torch.zeros(1, 1, frames, height, width)
    f, h, w = (slice(size // 2 - reach, size // 2 + reach) for size, reach in zip(mask.shape[2:], half, strict=True))
    mask[..., f, h, w] = 1.0
    return mask


@pytest.mark.parametrize("size", [(16, 8, 8), (5, 7, 9), (4, 6, 5), (1, 3, 1), (70, 3, 4)])
@pytest.mark.parametrize("kind", FILTERS)
def test_mixing_is_the_reference_s(kind, size):
    """Odd sides too, where the reference's filter is not symmetric and an imaginary part is thrown away."""
    frames, height, width = size
    low, high = torch.randn(2, frames, 4, height, width, generator=generator(0))
    for spatial, temporal, order in ((0.25, 0.25, 4), (0.6, 0.3, 2), (1.0, 0.1, 4), (0.3, 1.0, 7), (0.0, 0.5, 4)):
        reference = FreeInitMixin()
        mask = box(*size, spatial, temporal)
        if kind != "box":
            shape = (1, 4, *size)
            mask = reference._get_free_init_freq_filter(shape, "cpu", kind, order, spatial, temporal)
        expected = ours(reference._apply_freq_filter(in_diffusers(low), in_diffusers(high), mask))
        low_pass = FreeInit(3, kind, order, spatial, temporal).low_pass(*size)
        result = mix(low, high.clone(), low_pass)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
        if spatial and temporal and size == (16, 8, 8):
            assert (result - high).abs().max() > 0.01 and (result - low).abs().max() > 0.01


def reference_rounds(noise: Tensor, steps: int, fresh: torch.Generator, **settings) -> Tensor:
    """A pipeline of diffusers with FreeInit, on the small network: AnimateDiff's loop without its text and pictures."""
    pipeline = FreeInitMixin()
    pipeline.scheduler = DDIMScheduler(**CONFIG)
    pipeline.enable_free_init(**settings)
    latents = in_diffusers(noise)
    for number in range(settings["num_iters"]):
        latents, _ = pipeline._apply_free_init(latents, number, steps, torch.device("cpu"), torch.float32, fresh)
        latents = diffusers_loop(pipeline.scheduler, latents)
    return ours(latents)


def toy(*modifiers: object, scale: float = 1.0, schedule: NoiseSchedule = SCHEDULE) -> VideoModel:
    return VideoModel(Denoiser(NETWORK, schedule, "eps"), scale, NativeSize(64, 64, 16, 8.0), modifiers)


@pytest.mark.parametrize(("count", "fast"), [(3, False), (2, True)])  # 10 steps, then 20: both divide 1000
@pytest.mark.parametrize("kind", ["butterworth", "gaussian", "ideal"])
def test_the_loop_is_diffusers(kind, count, fast):
    noise = torch.randn(SHAPE, generator=generator(1))
    expected = reference_rounds(
        noise, 20, generator(2), num_iters=count, method=kind, use_fast_sampling=fast, spatial_stop_frequency=0.4
    )
    free_init = FreeInit(count, kind, spatial=0.4, fast=fast)
    rows = [sigmas_for("ddim_original", SCHEDULE, steps) for steps in free_init.steps(20)]
    drawn, scale = generator(2), 0.5
    model = toy(NetworkScale(), scale=scale)

    def run(number: int, noise: Tensor, seed: int) -> Tensor:
        zeros = torch.zeros_like(noise)
        return sample(model, zeros, CONTEXT, None, noise=noise, sampler="ddim", sigmas=rows[number], cfg=1.0, seed=0)

    result = scale * sample_rounds(
        free_init,
        noise,
        0,
        run,
        renoise=lambda latents, noise: noised(latents * scale, noise, SCHEDULE),
        fresh=lambda number: ours(torch.randn(1, 4, 6, 5, 8, generator=drawn)),
    )
    assert relative(result, expected) <= 1e-6
    plain = reference_rounds(noise, 20, generator(2), num_iters=1)
    assert relative(plain, expected) > 0.05


@pytest.mark.parametrize("number", [1, 2])
def test_the_noise_of_a_round_is_diffusers(number):
    """Given the same clip: to 1e-6."""
    noise, clip = torch.randn(2, *SHAPE, generator=generator(1))
    pipeline = FreeInitMixin()
    pipeline.scheduler = DDIMScheduler(**CONFIG)
    pipeline.enable_free_init()
    pipeline._apply_free_init(in_diffusers(noise), 0, 10, torch.device("cpu"), torch.float32, None)
    expected, _ = pipeline._apply_free_init(
        in_diffusers(clip), number, 10, torch.device("cpu"), torch.float32, generator(7)
    )
    fresh = ours(torch.randn(1, 4, 6, 5, 8, generator=generator(7)))
    result = mix(noised(clip, noise, SCHEDULE), fresh, FreeInit().low_pass(6, 5, 8))
    torch.testing.assert_close(result, ours(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 25, 50])
@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_the_steps_of_fast_sampling_are_diffusers(steps, rounds):
    pipeline, latents, counted = FreeInitMixin(), torch.zeros(1, 4, 1, 2, 2), []
    pipeline.scheduler = DDIMScheduler(**CONFIG)
    pipeline.enable_free_init(num_iters=rounds, use_fast_sampling=True)
    for number in range(rounds):
        _, timesteps = pipeline._apply_free_init(
            latents, number, steps, torch.device("cpu"), torch.float32, generator(0)
        )
        counted.append(len(timesteps))
    assert FreeInit(rounds, fast=True).steps(steps) == tuple(counted)
    assert FreeInit(rounds).steps(steps) == (steps,) * rounds


def test_nothing_is_taken_over_where_a_stop_is_0_and_all_where_all_passes():
    low, high = torch.randn(2, *SHAPE, generator=generator(3))
    for stops in ((0.0, 0.5), (0.5, 0.0)):
        assert torch.equal(mix(low, high.clone(), FreeInit(3, "gaussian", 4, *stops).low_pass(6, 5, 8)), high)
    torch.testing.assert_close(mix(low, high, torch.ones(6, 5, 5)), low, rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(sorted(FILTERS)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    stops=st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)),
    order=st.integers(1, MAX_ORDER),
)
def test_a_filter_is_a_share_and_what_both_have_is_kept(kind, size, stops, order):
    low_pass = FreeInit(3, kind, order, *stops).low_pass(*size)
    assert low_pass.dtype == torch.float32 and low_pass.shape == (*size[:2], size[2] // 2 + 1)
    assert 0.0 <= low_pass.min() and low_pass.max() <= 1.0
    same = torch.randn(size[0], 4, *size[1:], generator=generator(5))
    assert torch.equal(mix(same, same.clone(), low_pass), same)


@pytest.mark.parametrize("size", [(64, 32, 40), (63, 31, 41), (256, 12, 12)])
def test_mixing_needs_the_memory_of_about_one_channel(size):
    low, high = torch.randn(2, size[0], 4, *size[1:], generator=generator(0))
    low_pass = FreeInit().low_pass(*size)
    with torch.profiler.profile(profile_memory=True) as profile:
        mix(low, high, low_pass)
    alive = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    channel = 4 * size[0] * size[1] * size[2]
    parts = 3 * channel * 32 / size[0] + 6 * channel / size[1]  # 32 frames at once, and a row of all frames
    assert channel <= peak <= 1.1 * (channel + parts)


ROWS = [sigmas_for("normal", SCHEDULE, 4)] * 3


def rounds(*modifiers: object, free_init: FreeInit | None = None, network_scale: bool = False, **changes) -> Tensor:
    free_init = FreeInit(3, spatial=0.5, temporal=0.5) if free_init is None else free_init
    given = {"noise": prepare_noise(SHAPE, 9), "sampler": "euler", "cfg": 1.0, "seed": 9}
    given |= {"sigmas": [ROWS[0]] * free_init.rounds, "latents": torch.zeros(SHAPE), "cond": CONTEXT, "uncond": None}
    return sample_with_free_init(toy(*modifiers, scale=0.5), free_init=free_init, **{**given, **changes})


def once(*modifiers: object, **changes) -> Tensor:
    given = {"noise": prepare_noise(SHAPE, 9), "sampler": "euler", "cfg": 1.0, "seed": 9, "sigmas": ROWS[0]}
    given |= {"latents": torch.zeros(SHAPE), "cond": CONTEXT, "uncond": None}
    return sample(toy(*modifiers, scale=0.5), **{**given, **changes})


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_one_round_is_sampling_without_it(sampler):
    assert torch.equal(rounds(free_init=FreeInit(1), sampler=sampler), once(sampler=sampler))
    seeds = NoiseSeeds.per_frame([3, 4, 3, 5, 6, 7])
    assert torch.equal(rounds(seeds, free_init=FreeInit(1), sampler=sampler), once(seeds, sampler=sampler))


@pytest.mark.parametrize("modifiers", [(), (ContextWindows(4, 2),)])
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_rounds_are_runs_from_renewed_noise(sampler, modifiers):
    """The whole loop by hand, with each round's seed that of its fresh noise and of its steps' noise."""
    free_init, noise = FreeInit(3, spatial=0.5, temporal=0.5), prepare_noise(SHAPE, 9)
    low_pass, latents = free_init.low_pass(6, 5, 8), once(*modifiers, sampler=sampler)
    sigma = SCHEDULE.sigma_max
    for number in (1, 2):
        seed = (9 + number * 0xD1B54A32D192ED03) % 2**64
        z = (latents * 0.5 + sigma * noise) / (1 + sigma**2) ** 0.5
        start = mix(z, prepare_noise(SHAPE, seed), low_pass)
        latents = once(*modifiers, noise=start, seed=seed, sampler=sampler)
    windows, given = [], {"sampler": sampler, "between": lambda done, total: windows.append((done, total))}
    torch.testing.assert_close(rounds(*modifiers, **given), latents, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(latents, once(*modifiers, sampler=sampler), rtol=0.1)
    assert bool(windows) == bool(modifiers)


def test_every_round_has_a_seed_of_its_own_and_the_first_the_clip_s():
    seeds = [seed_of(2**64 - 1, number) % 2**32 for number in range(MAX_ROUNDS)]  # all that torch's generator uses
    assert seeds[0] == 2**32 - 1 and len(set(seeds)) == MAX_ROUNDS


def test_seeds_by_frame_hold_in_every_round():
    assert torch.equal(rounds(NoiseSeeds.per_frame([9] * 6)), rounds())
    seeds = NoiseSeeds.per_frame([9, 9, 9, 4, 4, 4])
    start = torch.cat([prepare_noise(SHAPE, 9)[:3], prepare_noise(SHAPE, 4)[3:]])
    other = rounds(seeds)
    assert not torch.allclose(other, rounds(), rtol=0.1)
    assert not torch.allclose(other, rounds(noise=start), rtol=1e-3)  # whose fresh noise is all of seed 9


def test_batch_index_holds_for_the_fresh_noise_too():
    index = [4, 2, 0, 1, 3, 5]
    given = {"noise": prepare_noise(SHAPE, 9, index)}
    assert not torch.allclose(rounds(batch_index=index, **given), rounds(**given), rtol=1e-3)
    assert torch.equal(rounds(batch_index=range(6)), rounds())


def test_steps_are_counted_over_all_rounds_and_cancelling_ends_them():
    free_init, seen = FreeInit(3, fast=True), []
    rows = [sigmas_for("normal", SCHEDULE, steps) for steps in free_init.steps(6)]
    rounds(free_init=free_init, sigmas=rows, callback=lambda step, *state: seen.append((step, len(state))))
    assert seen == [(step, 3) for step in range(2 + 4 + 6)]

    class Cancelled(Exception):
        pass

    def cancel(step: int, *state: Tensor) -> None:
        if step == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        rounds(callback=cancel)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": MAX_ROUNDS + 1}, "rounds is 101"),
        ({"filter_type": "no_such"}, "filter_type: there is no filter 'no_such'; there are butterworth"),
        ({"order": 0}, "order is 0"),
        ({"spatial": 1.1}, "spatial_stop_frequency is 1.1"),
        ({"temporal": -0.1}, "temporal_stop_frequency is -0.1"),
        ({"temporal": float("nan")}, "temporal_stop_frequency is nan"),
        ({"temporal": 1e-170}, "temporal_stop_frequency is 1e-170; it is 0, or from 1e-06 to 1"),
        ({"rounds": 1.5}, "rounds is 1.5; it is a whole number"),
        ({"order": 2.5}, "order is 2.5; it is a whole number"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(numbers, says):
    with pytest.raises(T2VError) as caught:
        FreeInit(**numbers)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("modifiers", "changes", "says"),
    [
        ((), {"latents": torch.ones(SHAPE)}, "free_init: latent_image is not empty"),
        ((), {"noise": torch.zeros(SHAPE)}, "free_init: the noise is empty"),
        ((StrengthSchedule((1.0,) * 6),), {}, "free_init: the model has a strength for each frame"),
        ((NoiseSeeds.per_frame([1, 2]),), {}, "the list of seeds has numbers for 2 frames"),
        ((), {"sigmas": ROWS[:2]}, "sigmas for 2 rounds, and FreeInit has 3"),
        ((), {"batch_index": [0]}, "batch_index names 1 frames"),
        ((), {"seed": -1}, "seed is -1"),
    ],
)
def test_what_does_not_go_with_it_is_refused_before_any_work(modifiers, changes, says):
    def never(*state: object) -> None:
        raise AssertionError("it began")

    with pytest.raises(T2VError) as caught:
        rounds(*modifiers, callback=never, **changes)
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("stop", [LEAST_STOP, 1e-3])
def test_the_lowest_stops_still_make_a_filter(kind, stop):
    for numbers in ({"spatial": stop}, {"temporal": stop}, {"spatial": stop, "temporal": stop}):
        made = FreeInit(filter_type=kind, order=MAX_ORDER, **numbers).low_pass(9, 6, 7)
        assert torch.isfinite(made).all() and made.min() >= 0 and made.max() <= 1
