"""Modifiers with numbers for each frame, against their formulas and against runs without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_models import SCHEDULE

from t2v_core.diffusion import (
    SAMPLERS,
    Denoiser,
    GuidanceRescale,
    GuidanceSchedule,
    NativeSize,
    NoiseSeeds,
    StrengthSchedule,
    TemporalStrength,
    VideoModel,
    prepare_noise,
    rescale_guidance,
    sample,
    sigmas_for,
)
from t2v_core.errors import T2VError

FRAMES, SEED, STEPS, CFG = 6, 42, 6, 3.0
SHAPE = (FRAMES, 4, 4, 4)
NORMAL = sigmas_for("normal", SCHEDULE, STEPS)


def text(seed: int) -> Tensor:
    return torch.randn(1, 7, 6, generator=torch.Generator().manual_seed(seed))


COND, UNCOND = text(0), text(1)
ORIGINAL = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9)) * 5


class Apart:
    """Sees each frame by itself, and remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        self.calls.append((x, timesteps))
        says = context.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
        return 0.5 * x + torch.tanh(x * x.flip(-1) + 4 * says) - timesteps.reshape(-1, 1, 1, 1, 1) / 2e3


def model(*modifiers: object, network=None) -> VideoModel:
    native = NativeSize(64, 64, 16, 8.0)
    return VideoModel(Denoiser(network or Apart(), SCHEDULE, "v"), 0.5, native, modifiers)


def run(*modifiers: object, network=None, **changes) -> Tensor:
    arguments = {"latents": torch.zeros(SHAPE), "cond": COND, "uncond": UNCOND, "noise": prepare_noise(SHAPE, SEED)}
    arguments |= {"sampler": "euler", "sigmas": NORMAL, "cfg": CFG, "seed": SEED}
    return sample(model(*modifiers, network=network), **{**arguments, **changes})


def halves(first: float, second: float) -> list[float]:
    return [first] * (FRAMES // 2) + [second] * (FRAMES // 2)


def check_halves(mixed: Tensor, first: Tensor, second: Tensor) -> None:
    """Frames that do not see each other: each half is that of the clip which is all like it."""
    middle = FRAMES // 2
    torch.testing.assert_close(mixed[:middle], first[:middle], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mixed[middle:], second[middle:], rtol=1e-6, atol=1e-6)
    assert (first - second).abs().amin(dim=0).max() > 0.01  # and the two are not alike


# --- guidance ---


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_sde"])
def test_a_constant_guidance_schedule_is_plain_guidance(sampler):
    plain = run(sampler=sampler)
    for schedule, cfg in (
        (GuidanceSchedule(frames=[CFG] * FRAMES), 9.0),
        (GuidanceSchedule(steps=[1.0]), CFG),
        (GuidanceSchedule(frames=[CFG / 2] * FRAMES, steps=[2.0, 2.0]), 1.0),
    ):
        assert torch.equal(run(schedule, sampler=sampler, cfg=cfg), plain)


def test_each_half_of_the_frames_has_its_own_scale():
    check_halves(run(GuidanceSchedule(frames=halves(2.0, 6.0))), run(cfg=2.0), run(cfg=6.0))


@pytest.mark.parametrize("scheduler", ["normal", "karras"])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_the_formula_at_every_call_of_the_model(scheduler, sampler, rescale):
    """(frames or cfg) * steps, the second linear between its values, and Lin et al.'s rescaling on top."""
    frames, steps = np.linspace(1.5, 6.0, FRAMES), np.array([0.2, 1.3, 0.7, 1.0])
    plain, network = model(), Apart()
    seen = []

    def check(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        left = int(SCHEDULE.timestep(sigma)) / 999
        scale = torch.tensor(frames * np.interp(1 - left, np.linspace(0, 1, len(steps)), steps)).float()
        clip = x.movedim(0, 1)[None]
        cond, uncond = (plain.denoiser(clip, sigma, each) for each in (COND, UNCOND))
        expected = uncond + scale.reshape(1, 1, -1, 1, 1) * (cond - uncond)
        if rescale:
            expected = rescale_guidance(clip, sigma, expected, cond, rescale)
        torch.testing.assert_close(denoised, expected[0].movedim(1, 0), rtol=1e-4, atol=1e-4)
        seen.append(left)

    modifiers = [GuidanceSchedule(frames=frames, steps=steps), GuidanceRescale(rescale)]
    sigmas = sigmas_for(scheduler, SCHEDULE, STEPS)
    run(*modifiers, network=network, sampler=sampler, sigmas=sigmas, callback=check)
    assert len(seen) == STEPS and seen == sorted(seen, reverse=True)
    assert len(network.calls) == (2 * STEPS - 1 if sampler == "heun" else STEPS)


def test_as_many_values_as_steps_are_one_for_each_step():
    values = [1.0, 0.0, 2.0, 0.5, 3.0, 1.5]
    whole = run(GuidanceSchedule(steps=values))
    x, noise = torch.zeros(SHAPE), prepare_noise(SHAPE, SEED)
    for step, value in enumerate(values):
        x = run(cfg=CFG * value, latents=x, noise=noise, sigmas=NORMAL[step : step + 2])
        noise = torch.zeros(SHAPE)
    torch.testing.assert_close(whole, x, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, run(), rtol=1e-2)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_run_cut_in_two_equals_the_whole(sampler):
    schedule = GuidanceSchedule(frames=halves(2.0, 5.0), steps=[0.3, 2.0, 1.0])
    first = run(schedule, sampler=sampler, sigmas=NORMAL[:4])
    second = run(schedule, sampler=sampler, sigmas=NORMAL[3:], latents=first, noise=torch.zeros(SHAPE))
    torch.testing.assert_close(second, run(schedule, sampler=sampler), rtol=1e-5, atol=1e-5)


def test_the_negative_text_is_computed_only_where_the_scale_is_not_1():
    network = Apart()
    ones = GuidanceSchedule(frames=[1.0] * FRAMES, steps=[1.0, 1.0])
    assert torch.equal(run(ones, network=network, uncond=None), run(cfg=1.0))
    assert [len(x) for x, _ in network.calls] == [1] * STEPS
    network = Apart()
    run(GuidanceSchedule(frames=[1.0] * FRAMES, steps=[1.0, 1.0, 1.0, 2.0, 1.0, 1.0]), network=network)
    assert [len(x) for x, _ in network.calls] == [1, 1, 1, 2, 1, 1]
    network = Apart()
    run(GuidanceSchedule(frames=[1.0] * (FRAMES - 1) + [2.0]), network=network, cfg=1.0)
    assert [len(x) for x, _ in network.calls] == [2] * STEPS


# --- strength ---


def timesteps_left(sigmas: Tensor) -> list[float]:
    return [int(t) / 999 for t in SCHEDULE.timestep(sigmas)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_full_strength_is_a_free_run_and_none_gives_the_frames_back(sampler):
    given = {"latents": ORIGINAL, "sampler": sampler}
    free = run(**given)
    assert torch.equal(run(StrengthSchedule([1.0] * FRAMES), **given), free)
    mixed = run(StrengthSchedule(halves(0.0, 1.0)), **given)
    middle = FRAMES // 2
    assert torch.equal(mixed[:middle], ORIGINAL[:middle])
    assert not torch.equal(free[:middle], ORIGINAL[:middle])
    if SAMPLERS[sampler].noise == "none":
        torch.testing.assert_close(mixed[middle:], free[middle:], rtol=1e-6, atol=1e-6)


def test_a_strength_is_the_noise_at_which_a_run_from_there_starts():
    """Frames kept down to a noise level are, from there on, a clip that starts at that level."""
    sigmas = sigmas_for("simple", SCHEDULE, 12)[1:]  # below the largest, where x starts as original + sigma * noise
    left = timesteps_left(sigmas)
    assert left[3] > 0.6 > left[4]
    kept = run(StrengthSchedule([0.6] * FRAMES), latents=ORIGINAL, sigmas=sigmas)
    expected = run(latents=ORIGINAL, sigmas=sigmas[4:])
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(kept, run(latents=ORIGINAL, sigmas=sigmas[3:]), rtol=1e-2)
    exactly = StrengthSchedule([left[4]] * FRAMES)  # the level itself belongs to the free part
    assert torch.equal(run(exactly, latents=ORIGINAL, sigmas=sigmas), kept)


def test_each_half_of_the_frames_has_its_own_strength():
    one, other = (run(StrengthSchedule([s] * FRAMES), latents=ORIGINAL) for s in (0.3, 0.8))
    check_halves(run(StrengthSchedule(halves(0.3, 0.8)), latents=ORIGINAL), one, other)


def test_the_model_sees_kept_frames_as_the_original_with_the_levels_noise():
    network, noise = Apart(), prepare_noise(SHAPE, SEED)
    run(StrengthSchedule(halves(0.5, 1.0)), network=network, latents=ORIGINAL, sampler="heun", cfg=1.0)
    assert len(network.calls) == 2 * STEPS - 1
    for x, timestep in network.calls:
        sigma = NORMAL[(NORMAL - SCHEDULE.sigmas[int(timestep)]).abs().argmin()]
        noised = (ORIGINAL * 0.5 + noise * sigma) / (1 + sigma**2).sqrt()
        same = torch.isclose(x[0].movedim(0, 1), noised, rtol=1e-4, atol=1e-4).flatten(1).all(dim=1)
        assert same.tolist() == halves(bool(timestep / 999 > 0.5), False)


def test_a_run_that_goes_on_from_noise_cannot_keep_frames():
    zeros = torch.zeros(SHAPE)
    with pytest.raises(T2VError, match=r"keeps frame 3 \(strength 0\.2\).*adds no noise"):
        run(StrengthSchedule(halves(0.9, 0.2)), latents=ORIGINAL, noise=zeros, sigmas=NORMAL[2:])
    schedule = StrengthSchedule(halves(0.9, 0.5))
    first = run(schedule, latents=ORIGINAL, sigmas=NORMAL[:4])
    second = run(schedule, latents=first, noise=zeros, sigmas=NORMAL[3:])
    torch.testing.assert_close(second, run(schedule, latents=ORIGINAL), rtol=1e-5, atol=1e-5)


def test_a_run_that_stops_early_leaves_kept_frames_their_noise():
    noise = prepare_noise(SHAPE, SEED)
    stopped = run(StrengthSchedule([0.0] * FRAMES), latents=ORIGINAL, sigmas=NORMAL[1:4])
    torch.testing.assert_close(stopped, ORIGINAL + noise * NORMAL[3] / 0.5, rtol=1e-4, atol=1e-4)


# --- seeds ---


def test_each_frame_starts_from_its_row_of_its_seeds_noise():
    def start(*modifiers: object, **changes) -> Tensor:
        seen = []
        run(*modifiers, callback=lambda step, x, sigma, denoised: seen.append(x), **changes)
        return seen[0]

    rows = {seed: start(noise=prepare_noise(SHAPE, seed)) for seed in (3, 8, 5)}
    assert torch.equal(start(NoiseSeeds([(0, 3)])), rows[3])
    for keys in ([(0, 3), (2, 8), (5, 3)], [(5, 3), (2, 8), (0, 3), (40, 5)], [(1, 3), (2, 8), (5, 3)]):
        expected = torch.cat([rows[3][:2], rows[8][2:5], rows[3][5:]])
        assert torch.equal(start(NoiseSeeds(keys)), expected), keys
    per_frame = NoiseSeeds.per_frame([3, 3, 8, 8, 5, 5])
    assert torch.equal(start(per_frame), torch.cat([rows[3][:2], rows[8][2:4], rows[5][4:]]))
    numbers = [4, 4, 0, 9, 1, 2]
    cut = {seed: start(noise=prepare_noise(SHAPE, seed, numbers)) for seed in (3, 8)}
    both = start(NoiseSeeds([(0, 3), (3, 8)]), batch_index=numbers)
    assert torch.equal(both, torch.cat([cut[3][:3], cut[8][3:]]))


def test_no_noise_stays_none_whatever_the_seeds():
    given = {"latents": ORIGINAL, "noise": torch.zeros(SHAPE), "sigmas": NORMAL[3:]}
    assert torch.equal(run(NoiseSeeds([(0, 3)]), **given), run(**given))


def test_kept_frames_keep_the_noise_of_their_seeds():
    noise = prepare_noise(SHAPE, 3)
    modifiers = [StrengthSchedule(halves(0.4, 0.9)), NoiseSeeds([(0, 3)])]
    assert torch.equal(run(*modifiers, latents=ORIGINAL), run(modifiers[0], latents=ORIGINAL, noise=noise))


# --- what is refused ---

MADE = [
    GuidanceSchedule(frames=[2.0] * 5),
    StrengthSchedule([0.5] * 5),
    NoiseSeeds.per_frame(range(5)),
    TemporalStrength(attention=[1.0] * 5),
]


@pytest.mark.parametrize("modifier", MADE, ids=lambda each: type(each).__name__)
def test_another_number_of_frames_is_refused_before_any_work(modifier):
    network = Apart()
    with pytest.raises(T2VError, match=r"for 5 frames and the latent has 6 frames"):
        run(modifier, network=network)
    assert network.calls == []


@pytest.mark.parametrize("modifier", MADE, ids=lambda each: type(each).__name__)
def test_a_second_of_a_kind_replaces_the_first_and_the_model_is_left_alone(modifier):
    plain = model(GuidanceRescale(0.3))
    patched = plain.patched(modifier)
    other = type(modifier)(**{**vars(modifier)})
    assert plain.modifiers == (GuidanceRescale(0.3),)
    assert patched.patched(other).modifiers == (GuidanceRescale(0.3), other)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GuidanceSchedule(), "guidance schedule is empty"),
        (lambda: GuidanceSchedule(frames=[]), r"guidance schedule \(frames\): there are no numbers"),
        (lambda: GuidanceSchedule(steps=[1.0, float("nan")]), r"\(steps\): number 1 is nan; it must be finite"),
        (lambda: GuidanceSchedule(frames=["a"]), "not a row of numbers"),
        (lambda: GuidanceSchedule(frames=3.0), "not a row of numbers"),
        (lambda: StrengthSchedule([0.5, 1.5]), "strength schedule: number 1 is 1.5; it must be between 0 and 1"),
        (lambda: StrengthSchedule([-0.1]), "number 0 is -0.1"),
        (lambda: NoiseSeeds([]), "there are no seeds"),
        (lambda: NoiseSeeds([(-1, 3)]), "a seed is given for frame -1"),
        (lambda: NoiseSeeds([(2, -3)]), "the seed of frame 2 is -3; it goes from 0 to 18446744073709551615"),
        (lambda: NoiseSeeds.per_frame([2**64]), "the seed of frame 0 is 18446744073709551616"),
        (lambda: NoiseSeeds([(0, 1), (4, 2), (4, 3)]), "a frame has two seeds: 0: 1, 4: 2, 4: 3"),
        (lambda: TemporalStrength(), "temporal strength is empty"),
        (lambda: TemporalStrength(attention=[-1.0]), r"temporal strength \(attention\): number 0 is -1.0"),
        (lambda: TemporalStrength([1.0], [1.0, 1.0]), "1 frames for the attention and 2 for the convolution"),
        (lambda: run(GuidanceSchedule(frames=[2.0] * FRAMES), uncond=None), "a cfg other than 1 needs a negative"),
        (lambda: run(GuidanceSchedule(steps=[2.0]), cfg=float("nan")), "cfg is nan"),
        (lambda: model("sharper"), "unknown model modifier 'sharper'.*GuidanceSchedule, StrengthSchedule, NoiseSeeds"),
    ],
)
def test_bad_numbers(make, says):
    with pytest.raises(T2VError, match=says):
        make()
