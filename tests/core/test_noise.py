"""Noise against what ComfyUI's prepare_noise draws: the stream of torch.manual_seed, frame after frame."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2v_core.diffusion import noise_source, prepare_noise
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
