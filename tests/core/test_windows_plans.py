"""Plans and weights of windows over frames: what holds for every one of them, and the published ones by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2v_core.errors import T2VError
from t2v_core.windows import FUSES, PLACES, PLANS, ContextWindows
from t2v_core.windows.plans import offset

MANY = settings(max_examples=150, deadline=None)


@st.composite
def any_windows(draw, plans=tuple(PLANS)) -> tuple[ContextWindows, int, float]:
    """Windows, a clip's number of frames, and the noise left."""
    length = draw(st.integers(1, 48))
    numbers = (length, draw(st.integers(0, length - 1)), draw(st.integers(1, 6)))
    names = (draw(st.sampled_from(plans)), draw(st.sampled_from(list(FUSES))), draw(st.sampled_from(PLACES)))
    return ContextWindows(*numbers, *names), draw(st.integers(1, 2000)), draw(st.integers(0, 999)) / 999


@MANY
@given(any_windows())
def test_every_frame_is_in_a_window_and_its_weights_sum_to_1(drawn):
    windows, frames, left = drawn
    plan = windows.at(frames, left)
    size = min(windows.length, frames)
    assert plan.weights.shape == (len(plan.frames), size) == plan.indices.shape and plan.length == size
    assert plan.weights.dtype == torch.float32 and bool((plan.weights > 0).all())
    assert all(len(set(window)) == size for window in plan.frames)
    assert {frame for window in plan.frames for frame in window} == set(range(frames))
    total = np.zeros(frames)
    for window, weights in zip(plan.frames, plan.weights.double().numpy(), strict=True):
        total[list(window)] += weights
    assert np.abs(total - 1).max() < 1e-6
    assert plan.work == len(plan.frames) * size / frames


@MANY
@given(any_windows())
def test_a_clip_no_longer_than_a_window_is_one_window(drawn):
    windows, frames, left = drawn
    assert windows.applies(frames) == (frames > windows.length)
    if not windows.applies(frames):
        plan = windows.at(frames, left)
        assert plan.frames == (tuple(range(frames)),) and torch.equal(plan.weights, torch.ones(1, frames))


@MANY
@given(any_windows([name for name in PLANS if name != "looped"]))
def test_windows_that_do_not_loop_go_forward_in_even_steps(drawn):
    windows, frames, left = drawn
    for window in windows.at(frames, left).frames:
        steps = set(np.diff(window).tolist())
        assert len(steps) <= 1 and all(step in [2**row for row in range(windows.stride)] for step in steps)


@MANY
@given(any_windows(["looped"]), st.integers(1, 50))
def test_a_ring_has_no_beginning(drawn, turns):
    """Turned by what brings the starts of every row to starts, a looped plan is the same set of weighted windows."""
    windows, frames, left = drawn
    if not windows.applies(frames):
        return
    rows = PLANS["looped"].rows(frames, windows.length, windows.overlap, windows.stride, 0)
    turn = turns * math.lcm(*(frames // math.gcd(frames, len(row.starts)) for row in rows)) % frames
    plan = windows.at(frames, left)
    weighted = sorted(zip(plan.frames, plan.weights.tolist(), strict=True))
    turned = sorted((tuple((frame + turn) % frames for frame in window), weights) for window, weights in weighted)
    assert [window for window, _ in turned] == [window for window, _ in weighted]
    np.testing.assert_allclose([weights for _, weights in turned], [weights for _, weights in weighted], rtol=1e-5)


def frames_of(plan: str, frames: int, length: int, overlap: int, stride: int = 1, left: float = 0.0):
    return [list(window) for window in ContextWindows(length, overlap, stride, plan).at(frames, left).frames]


def spans(*starts: int, length: int = 4, step: int = 1) -> list[list[int]]:
    return [list(range(start, start + length * step, step)) for start in starts]


def test_the_plans_by_hand():
    assert frames_of("static", 11, 4, 1) == spans(0, 3, 6, 7)
    assert frames_of("static", 10, 4, 1) == spans(0, 3, 6)
    assert frames_of("batched", 11, 4, 3) == spans(0, 4, 7)
    assert frames_of("uniform", 11, 4, 1) == frames_of("static", 11, 4, 1)
    assert frames_of("uniform", 13, 4, 1, 3) == spans(0, 3, 6, 9) + spans(0, 6, step=2) + spans(0, step=4)
    assert frames_of("uniform", 12, 4, 1, 3) == spans(0, 3, 6, 8) + spans(0, 5, step=2)  # every 4th does not fit
    ring = [[0, 1, 2, 3], [2, 3, 4, 5], [5, 6, 7, 8], [7, 8, 9, 0]]
    assert frames_of("looped", 10, 4, 1) == ring
    assert frames_of("looped", 10, 4, 1, 9) == ring + [[0, 2, 4, 6], [5, 7, 9, 1]]


def test_shifted_windows_begin_elsewhere_with_the_noise_and_nothing_else():
    seen = set()
    for timestep in range(1000):
        left = timestep / 999
        starts = [window[0] for window in frames_of("shifted", 20, 6, 2, left=left)]
        moved = offset(left, 4)
        assert starts == sorted({0, *range(moved, 14, 4), 14})
        seen.add(moved)
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("steps", [8, 10, 12, 15, 16, 20, 24, 25, 28, 30, 32, 40, 50])
def test_shifts_spread_evenly_over_the_hop_whatever_the_number_of_steps(steps):
    """The discrepancy of the offsets, against the 1.36 / sqrt(n) that one in twenty random draws exceeds
    (Kolmogorov)."""
    hop = 10_000
    every = np.arange(steps) * (1000 // steps) / 999
    for lefts in (np.linspace(1, 0, steps), np.linspace(1, 0, steps + 1)[:-1], every):
        places = np.sort([offset(left, hop) / hop for left in lefts])
        counts = np.arange(1, steps + 1) / steps
        assert max((counts - places).max(), (places - counts + 1 / steps).max()) < 1.36 / steps**0.5


def weights(fuse: str, frames: int = 12, length: int = 8, overlap: int = 4, plan: str = "static"):
    return ContextWindows(length, overlap, 1, plan, fuse).at(frames, 0.0).weights.double()


def test_the_weights_by_hand():
    """Two windows of 8 with 4 frames in common: their shares in these are the formulas' ratios."""
    alone, distances = torch.ones(4), ((0.5, 3.5), (1.5, 2.5))  # of the two from their middles
    for fuse, first in {
        "flat": [1 / 2] * 4,
        "pyramid": [4 / 5, 3 / 5, 2 / 5, 1 / 5],
        "overlap-linear": [4 / 5, 3 / 5, 2 / 5, 1 / 5],
        "relative": [(1 - near / 3.505) / (1 - near / 3.505 + max(0.01, 1 - far / 3.505)) for near, far in distances],
        "gaussian": [1 / (1 + math.exp((near**2 - far**2) / (2 * (8 / 6) ** 2))) for near, far in distances],
    }.items():
        first = first if len(first) == 4 else [*first, *(1 - share for share in first[::-1])]
        first = torch.tensor(first, dtype=torch.float64)
        expected = torch.stack([torch.cat([alone, first]), torch.cat([1 - first, alone])])
        torch.testing.assert_close(weights(fuse), expected, rtol=0, atol=1e-6, msg=fuse)


def test_linear_weights_fall_only_where_a_neighbour_is():
    """Before they are divided by their sum: three windows of 8, the last moved back to share 6 with the one before."""
    raw = FUSES["overlap-linear"](8, np.array([0, 4, 6]), np.array([4, 6, 0]))
    falling = np.array([8, 8, 8, 8, 4, 3, 2, 1]) / np.array([8, 8, 8, 8, 5, 5, 5, 5])
    both = np.minimum(np.arange(1, 9) / 5, np.arange(8, 0, -1) / 7)
    rising = np.array([1, 2, 3, 4, 5, 6, 7, 7]) / 7
    np.testing.assert_allclose(raw, [falling, both, rising])


def test_relative_weights_are_the_running_average_of_the_published_code():
    """One number a frame and window, added up window after window as AnimateDiff-Evolved does."""
    plan = ContextWindows(16, 6, 1, "static", "relative").at(60, 0.0)
    values = np.random.default_rng(0).normal(size=(len(plan.frames), 16))
    mean, total = np.zeros(60), np.zeros(60)
    for window, row in zip(plan.frames, values, strict=True):
        for frame, value in zip(window, row, strict=True):
            bias = max(1e-2, 1 - abs(frame - (window[0] + window[-1]) / 2) / ((window[-1] - window[0] + 1e-2) / 2))
            mean[frame] = mean[frame] * (total[frame] / (total[frame] + bias)) + value * (bias / (total[frame] + bias))
            total[frame] += bias
    fused = np.zeros(60)
    for window, row, share in zip(plan.frames, values, plan.weights.double().numpy(), strict=True):
        fused[list(window)] += row * share
    np.testing.assert_allclose(fused, mean, atol=1e-6)


def test_a_plan_is_made_once():
    windows = ContextWindows()
    assert windows.at(3376, 0.5) is ContextWindows().at(3376, 0.1)
    assert len(windows.at(3376, 0.0).frames) == math.ceil((3376 - 16) / 12) + 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"length": 0}, "length is 0; a window has at least 1"),
        ({"length": 4, "overlap": 4}, "overlap is 4; windows of 4 frames share 0 to 3"),
        ({"overlap": -1}, "overlap is -1; windows of 16 frames share 0 to 15"),
        ({"stride": 0}, "stride is 0; it is the number of rows of windows"),
        ({"length": 16.0}, "length is 16.0; it is a whole number"),
        ({"plan": "spiral"}, "unknown plan 'spiral'; the known ones are static, uniform, looped, batched, shifted"),
        ({"fuse": "max"}, "unknown fuse 'max'; the known ones are flat, pyramid, overlap-linear, gaussian, relative"),
        ({"where": "pixels"}, "unknown where 'pixels'; the known ones are latents, attention"),
    ],
)
def test_numbers_out_of_range_are_named(changes, says):
    with pytest.raises(T2VError, match=says):
        ContextWindows(**changes)
    with pytest.raises(T2VError, match="the clip has 0 frames"):
        ContextWindows().at(0, 0.0)
