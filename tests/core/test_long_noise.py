"""Noise for long clips: FreeNoise's order against diffusers', and everybody's variances and correlations against the
formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from t2v_core.diffusion import LONG_NOISE_KINDS, LongNoise, noise_source, prepare_noise
from t2v_core.diffusion.long_noise import MAX_ALPHA, freenoise_order
from t2v_core.errors import T2VError

SHAPE = (40, 4, 8, 8)
WIDE = (24, 4, 96, 96)  # 36,864 values a frame: the standard error of a correlation is 0.5%
SIZES = st.tuples(st.integers(1, 3), st.sampled_from([4, 8, 12]), st.sampled_from([4, 8]))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlations(noise: Tensor) -> Tensor:
    """`[f, f]`: of each frame's values with each other frame's."""
    return torch.corrcoef(noise.flatten(1).double())


def in_diffusers(kind: str, frames: int, window: int, stride: int, seed: int, latents: Tensor | None = None) -> Tensor:
    """What AnimateDiff's pipeline starts from with FreeNoise, as `[f, c, h, w]`."""
    from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin

    pipeline = AnimateDiffFreeNoiseMixin()
    pipeline.vae_scale_factor = 1
    pipeline._free_noise_context_length, pipeline._free_noise_context_stride = window, stride
    pipeline._free_noise_noise_type = kind
    height, width = SHAPE[2:]
    made = pipeline._prepare_latents_free_noise(
        1, 4, frames, height, width, torch.float32, torch.device("cpu"), generator(seed), latents
    )
    return made[0].movedim(1, 0)


@pytest.mark.parametrize(
    ("frames", "window", "stride"),
    [(64, 16, 4), (61, 16, 4), (17, 16, 4), (50, 16, 5), (40, 16, 16), (30, 8, 1), (33, 7, 3), (16, 16, 4), (9, 16, 4)],
)
def test_freenoise_is_diffusers_shuffle(frames, window, stride):
    expected = in_diffusers("shuffle_context", frames, window, stride, seed=3)
    drawn = generator(3)
    plain = torch.randn(1, 4, frames, *SHAPE[2:], generator=drawn)[0].movedim(1, 0)
    assert torch.equal(plain[freenoise_order(frames, window, stride, drawn)], expected)


def test_repeat_is_what_diffusers_documents_and_does_where_it_is_given_the_window():
    """Without, it draws the whole clip: it compares a number of frames with the kind's name."""
    noise = LongNoise("repeat", 16).draw(SHAPE, 5)
    window = prepare_noise((16, *SHAPE[1:]), 5)
    assert torch.equal(noise, in_diffusers("repeat_context", 40, 16, 4, 0, window.movedim(0, 1)[None]))
    slip = in_diffusers("repeat_context", 40, 16, 4, 0)
    assert correlations(slip).fill_diagonal_(0.0).abs().max() < 0.5 < correlations(noise)[0, 16]


@pytest.mark.parametrize("frames", [1, 15, 16])
@pytest.mark.parametrize("kind", ["freenoise", "repeat"])
def test_a_clip_of_one_window_has_plain_noise(kind, frames):
    for size in (SHAPE[1:], (4, 5, 5)):
        assert torch.equal(LongNoise(kind, 16, 4).draw((frames, *size), 8), prepare_noise((frames, *size), 8))


@pytest.mark.parametrize("kind", ["mixed", "progressive"])
def test_noise_that_shares_nothing_is_plain(kind):
    assert torch.equal(LongNoise(kind, alpha=0.0).draw(SHAPE, 8), prepare_noise(SHAPE, 8))


def test_groups_stay_together_and_are_shuffled():
    """Where the stride divides the window, each window is the first with the frames of each group in another order."""
    order = freenoise_order(160, 16, 4, generator(0))
    windows = [order[start : start + 16] for start in range(0, 160, 16)]
    assert windows[0] == list(range(16))
    for window in windows[1:]:
        assert sorted(window) == windows[0]
        assert [frame // 4 for frame in window] == [place // 4 for place in range(16)]
    assert len({tuple(window) for window in windows}) == len(windows)
    assert freenoise_order(40, 16, 1, generator(0)) == [frame % 16 for frame in range(40)]


ALPHAS = [0.3, 1.0, 2.0, MAX_ALPHA]
CASES = [("freenoise", 1.0), ("repeat", 1.0), *((kind, alpha) for kind in ("mixed", "progressive") for alpha in ALPHAS)]


@pytest.mark.parametrize(("kind", "alpha"), CASES)
def test_every_frame_is_unit_noise_with_the_correlations_of_the_formula(kind, alpha):
    prior = LongNoise(kind, 8, 4, alpha)
    noise = prior.draw(WIDE, 1)
    assert noise.dtype == torch.float32 and noise.device.type == "cpu"
    torch.testing.assert_close(noise.flatten(1).mean(1), torch.zeros(24), rtol=0, atol=0.025)
    torch.testing.assert_close(noise.flatten(1).var(1), torch.ones(24), rtol=0, atol=0.035)
    apart = (torch.arange(24)[:, None] - torch.arange(24)).abs().double()
    if kind == "mixed":
        expected = torch.where(apart == 0, 1.0, alpha**2 / (1 + alpha**2))
    elif kind == "progressive":
        expected = (alpha / math.sqrt(1 + alpha**2)) ** apart
    elif kind == "repeat":
        expected = (apart % 8 == 0).double()
    else:
        equal = [[torch.equal(a, b) for b in noise] for a in noise]
        expected = torch.tensor(equal).double()
        assert (expected.sum(1) == 3).all()  # three windows, each with each frame once
    torch.testing.assert_close(correlations(noise), expected.to(torch.float64), rtol=0, atol=0.025)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(LONG_NOISE_KINDS)),
    window=st.integers(1, 12),
    stride=st.integers(1, 12),
    frames=st.integers(1, 30),
    longer=st.integers(0, 20),
    size=SIZES,
    seed=st.integers(0, 2**64 - 1),
)
def test_a_longer_clip_starts_with_the_same_noise(kind, window, stride, frames, longer, size, seed):
    prior = LongNoise(kind, window, min(stride, window), 1.5)
    short, long = (prior.draw((f, 4, *size[1:]), seed) for f in (frames, frames + longer))
    assert torch.equal(long[:frames], short)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(LONG_NOISE_KINDS)),
    indices=st.lists(st.integers(0, 39), min_size=1, max_size=6),
    seed=st.integers(0, 2**64 - 1),
)
def test_batch_index_picks_frames_of_the_long_clip(kind, indices, seed):
    prior = LongNoise(kind, 8, 4, 1.5)
    assert torch.equal(prior.draw((len(indices), *SHAPE[1:]), seed, indices), prior.draw(SHAPE, seed)[indices])


def test_what_is_shared_is_neither_the_start_of_a_clip_nor_what_a_sampler_adds():
    shared = LongNoise("mixed", alpha=MAX_ALPHA).draw((2, *WIDE[1:]), 5)[0].flatten()
    others = [prepare_noise(WIDE, seed)[0].flatten() for seed in (4, 6, 7)]
    others += [noise_source(torch.zeros(WIDE), 5)(1.0, 0.5)[0].flatten()]
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([shared, other]))[0, 1])) < 0.03


@pytest.mark.parametrize("kind", LONG_NOISE_KINDS)
def test_the_seed_decides_and_the_host_s_own_generator_is_left_alone(kind):
    prior, before = LongNoise(kind, 8, 4, 1.0), torch.get_rng_state()
    first, again, other = (prior.draw(SHAPE, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"kind": "no_such"}, "kind: there is no long noise 'no_such'"),
        ({"window": 0}, "window is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"stride": 17}, "stride is 17; it is the number of frames that are shuffled together, from 1 to the window's"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": MAX_ALPHA + 1}, "alpha is 101"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(numbers, says):
    with pytest.raises(T2VError) as caught:
        LongNoise(**numbers)
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", LONG_NOISE_KINDS)
def test_it_is_drawn_for_what_plain_noise_is_drawn_for(kind):
    prior = LongNoise(kind)
    for shape, seed, index in (
        ((1, 4, 2, 4, 4), 0, None),
        ((0, 4, 4, 4), 0, None),
        ((2, 4, 4, 4), -1, None),
        ((2, 4, 4, 4), 0, [1]),
        ((2, 4, 4, 4), 0, [1, -1]),
    ):
        with pytest.raises(T2VError):
            prior.draw(shape, seed, index)
