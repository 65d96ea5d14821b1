"""Noise against what ComfyUI's prepare_noise draws, the stream of torch.manual_seed, frame after frame; and the law of
Brownian noise."""

from __future__ import annotations

import gc
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2v_core.diffusion import noise_source, prepare_noise
from t2v_core.diffusion.noise import BrownianNoise, step_noise
from t2v_core.errors import T2VError

# Printed by ComfyUI 0.3.64's prepare_noise(torch.zeros(3, 4, 5, 5), 42): rows [0, 0, 0, :5] and [2, 3, 4, :5]; and
# with noise_inds=[4, 1, 4] the row [0, 0, 0, :5]. The tolerance allows for another processor's logarithm.
FIRST = [1.9269152879714966, 1.4872840642929077, 0.9007171988487244, -2.1055209636688232, 0.6784184575080872]
LAST = [-0.7711532115936279, 0.17988650500774384, -2.126762628555298, -0.13408313691616058, -1.0407685041427612]
INDEXED = [1.096641182899475, -0.6836934685707092, 0.06604336202144623, -0.0007737990817986429, 0.1620604395866394]


def test_noise_is_comfyui_s():
    noise = prepare_noise((3, 4, 5, 5), 42)
    assert noise.dtype == torch.float32 and noise.device.type == "cpu"
    assert noise[0, 0, 0].tolist() == pytest.approx(FIRST, abs=1e-5)
    assert noise[2, 3, 4].tolist() == pytest.approx(LAST, abs=1e-5)
    assert prepare_noise((3, 4, 5, 5), 42, [4, 1, 4])[0, 0, 0].tolist() == pytest.approx(INDEXED, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 42, 2**64 - 1])
@pytest.mark.parametrize("shape", [(8, 4, 8, 8), (5, 4, 5, 5), (1, 4, 1, 1)])
def test_noise_is_the_stream_of_the_global_seed(seed, shape):
    before = torch.get_rng_state()
    noise = prepare_noise(shape, seed)
    assert torch.equal(torch.get_rng_state(), before)  # the host's own generator is left alone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        assert torch.equal(noise, torch.randn(shape))


@settings(max_examples=25, deadline=None)
@given(
    frames=st.integers(1, 6),
    longer=st.integers(1, 6),
    size=st.sampled_from([(2, 2), (8, 8), (4, 5), (6, 10), (3, 4)]),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_longer_clip_starts_with_the_same_noise(frames, longer, size, seed):
    """Wherever h * w is a multiple of 4; it is not so for 5 x 5, where torch draws the last 16 values afresh."""
    short, long = (prepare_noise((f, 4, *size), seed) for f in (frames, frames + longer))
    assert torch.equal(long[:frames], short)


@settings(max_examples=25, deadline=None)
@given(indices=st.lists(st.integers(0, 9), min_size=1, max_size=6), size=st.sampled_from([(4, 4), (5, 5)]))
def test_batch_index_picks_frames(indices, size):
    """Each frame is drawn by itself, the unwanted ones too."""
    noise = prepare_noise((len(indices), 4, *size), 7, indices)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        frames = [torch.randn(1, 4, *size) for _ in range(max(indices) + 1)]
    assert torch.equal(noise, torch.cat([frames[i] for i in indices]))


def test_batch_index_of_a_whole_clip_is_no_batch_index():
    assert torch.equal(prepare_noise((6, 4, 8, 8), 3, range(6)), prepare_noise((6, 4, 8, 8), 3))


def test_noise_source_is_seeded_apart_from_the_start():
    """ComfyUI draws from seed + 1 on the CPU; its 0.3.64 drew from seed, repeating the noise the clip started from."""
    x = torch.zeros(6, 4, 8, 8)
    draw = noise_source(x, 42)
    first, second = draw(1.0, 0.5), draw(0.5, 0.2)
    expected = torch.Generator().manual_seed(43)
    assert torch.equal(first, torch.randn(x.shape, generator=expected))
    assert torch.equal(second, torch.randn(x.shape, generator=expected))
    start = prepare_noise(x.shape, 42)
    assert abs(float((first * start).mean())) < 0.1
    assert noise_source(x.double(), 2**64 - 1)(1.0, 0.5).dtype == torch.float64


MANY = torch.zeros(100_000)  # the standard error of a moment is 0.3 to 0.5%


def shared(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The correlation of a Brownian path's increments over two intervals, each (high, low)."""
    overlap = max(0.0, min(a[0], b[0]) - max(a[1], b[1]))
    return overlap / math.sqrt((a[0] - a[1]) * (b[0] - b[1]))


@pytest.mark.parametrize(
    "steps",
    [
        [(10.0, 4.0), (10.0, 1.0)],  # as dpmpp_sde asks
        [(10.0, 1.0), (10.0, 4.0)],  # the bridge
        [(10.0, 1.0), (10.0, 4.0), (10.0, 8.0), (10.0, 5.0), (10.0, 2.0), (10.0, 0.5)],
        [(10.0, 1.0), (4.0, 3.0), (3.0, 1.0)],  # 4 is drawn between 10 and 1 though no call has ended there
        [(10.0, 8.0), (5.0, 2.0), (2.0, 1.0)],
    ],
)
def test_moments_of_brownian_noise(steps):
    noise = BrownianNoise(MANY, 1)
    drawn = torch.stack([noise(*step) for step in steps])
    expected = torch.tensor([[shared(a, b) for b in steps] for a in steps])
    torch.testing.assert_close(drawn @ drawn.T / MANY.numel(), expected, rtol=0, atol=0.015)
    torch.testing.assert_close(drawn.mean(1), torch.zeros(len(steps)), rtol=0, atol=0.015)


@settings(max_examples=50, deadline=None)
@given(
    levels=st.lists(st.floats(2**-10, 5000.0, width=32), min_size=3, max_size=8, unique=True),
    order=st.randoms(use_true_random=False),
)
def test_increments_add_up(levels, order):
    """W is one path: over parts of a step, in whatever order the parts' ends were drawn, the increments add up."""
    levels = sorted(levels, reverse=True)
    ends = levels[1:]
    order.shuffle(ends)
    noise = BrownianNoise(torch.zeros(3, dtype=torch.float64), 5)
    wholes = {end: noise(levels[0], end) * math.sqrt(levels[0] - end) for end in ends}
    total = torch.zeros(3, dtype=torch.float64)
    for high, low in pairwise(levels):
        total += noise(high, low) * math.sqrt(high - low)
        torch.testing.assert_close(total, wholes[low], rtol=1e-9, atol=1e-9)


def test_brownian_noise_is_seeded_and_shaped():
    x = torch.zeros(2, 4, 3, 5, dtype=torch.float64)
    first = BrownianNoise(x, 42)(3.0, 1.0)
    assert first.shape == x.shape and first.dtype == x.dtype
    assert torch.equal(first, BrownianNoise(x, 42)(torch.tensor(3.0), torch.tensor(1.0)))
    assert not torch.equal(first, BrownianNoise(x, 43)(3.0, 1.0))
    start = torch.randn(x.shape, generator=torch.Generator().manual_seed(42), dtype=x.dtype)
    assert not torch.allclose(first, start) and not torch.allclose(first, -start)


def test_brownian_noise_forgets_what_it_has_passed():
    x = torch.zeros(7, 13)
    noise = BrownianNoise(x, 0)

    def held() -> int:
        gc.collect()
        return sum(isinstance(o, torch.Tensor) and o.shape == x.shape for o in gc.get_objects())

    before = held()
    for high, low in pairwise(range(100, 0, -1)):
        noise(high, high - 0.5)
        noise(high, low)
    assert held() <= before + 2


@pytest.mark.parametrize(("sigma", "sigma_next"), [(5.0, 6.0), (5.0, 5.0), (9.0, 1.0), (float("nan"), 1.0)])
def test_brownian_noise_is_drawn_downwards(sigma, sigma_next):
    noise = BrownianNoise(torch.zeros(2), 0)
    noise(8.0, 7.0)
    with pytest.raises(T2VError, match="drawn downwards"):
        noise(sigma, sigma_next)


def test_each_kind_of_step_noise():
    x = torch.zeros(3)
    assert step_noise("none", x, 4) is None
    for kind, source in (("independent", noise_source), ("brownian", BrownianNoise)):
        noise, expected = step_noise(kind, x, 4), source(x, 4)
        for step in ((4.0, 2.0), (4.0, 1.0)):  # the first draw is the same in both, the second is not
            assert torch.equal(noise(*step), expected(*step))
    with pytest.raises(T2VError, match="seed is -1"):
        step_noise("brownian", x, -1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (((2, 4, 8, 8), -1), "seed is -1.*18446744073709551615"),
        (((2, 4, 8, 8), 2**64), "seed is 18446744073709551616"),
        (((0, 4, 8, 8), 0), r"at least 1; got \[0, 4, 8, 8\]"),
        (((1, 4, 2, 8, 8), 0), r"\[frames, channels, h, w\]"),
        (((2, 4, 8, 8), 0, [0, 1, 2]), "names 3 frames and the latents hold 2"),
        (((2, 4, 8, 8), 0, [0, -1]), "holds -1"),
    ],
)
def test_bad_input(arguments, says):
    with pytest.raises(T2VError, match=says):
        prepare_noise(*arguments)
