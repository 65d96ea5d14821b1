"""Pictures and words of plans: what the pixels must show, told by the plan's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2v_core.schedules.drawing import COLOURS, PANEL
from t2v_core.schedules.preview_keys import FOOT, MARGIN, WIDTH
from t2v_core.windows import FUSES, PLANS, ContextWindows
from t2v_core.windows.preview import MOST_LANES, described, headline, preview


def share_of_bars(picture: Image.Image, frame: int, frames: int) -> list[float]:
    """How much of a bar's colour each row of bars has at a frame, of those that have any."""
    x = int(MARGIN + (WIDTH - 2 * MARGIN) * (frame + 0.5) / frames)
    column = np.asarray(picture)[: picture.height - FOOT, x].astype(float)
    found, before = [], None
    for pixel in column[30:]:
        shares = [
            float((pixel - PANEL) @ (colour - PANEL) / ((colour - PANEL) @ (colour - PANEL)))
            for colour in (np.array(each, float) for each in COLOURS[:2])
        ]
        errors = [np.abs(np.array(PANEL) + s * (np.array(c) - PANEL) - pixel).max()
                  for s, c in zip(shares, COLOURS[:2], strict=True)]  # fmt: skip
        best = int(np.argmin(errors))
        now = round(shares[best], 1) if errors[best] < 4 and shares[best] > 0.08 else None
        if now is not None and now != before:
            found.append(shares[best])
        before = now
    return found


@pytest.mark.parametrize(
    ("modifier", "frames"),
    [
        (ContextWindows(16, 4), 40),
        (ContextWindows(16, 4, plan="looped", fuse="flat"), 36),
        (ContextWindows(16, 0, plan="batched", fuse="relative"), 40),
        (ContextWindows(8, 2, 2, plan="uniform", fuse="gaussian"), 40),
    ],
    ids=lambda each: getattr(each, "plan", None),
)
def test_a_bar_is_as_bright_as_its_frames_count(modifier, frames):
    windows, picture = modifier.at(frames, 1.0), preview(modifier, frames)
    for frame in range(frames):
        weights = sorted(float(w) for w in windows.weights[windows.indices == frame])
        drawn = sorted(share_of_bars(picture, frame, frames))
        assert len(drawn) == len(weights), frame
        assert drawn == sorted(drawn) and np.allclose(drawn, 0.12 + 0.88 * np.sqrt(weights), atol=0.03), frame


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20), st.integers(0, 19), st.integers(1, 3), st.sampled_from(sorted(PLANS)),
    st.sampled_from(sorted(FUSES)), st.integers(1, 3000), st.floats(0.5, 60),
)  # fmt: skip
def test_every_plan_can_be_drawn(length, overlap, stride, plan, fuse, frames, fps):
    modifier = ContextWindows(length, min(overlap, length - 1), stride, plan, fuse)
    picture = preview(modifier, frames, fps)
    assert picture.mode == "RGB" and picture.width == WIDTH and picture.height <= 500
    assert described(modifier, frames).startswith(headline(modifier, frames))


def test_more_rows_than_there_is_room_for_are_left_out_and_counted():
    modifier = ContextWindows(MOST_LANES + 6, MOST_LANES + 5)
    few = ContextWindows(MOST_LANES, MOST_LANES - 1)
    rows = preview(modifier, 200).height - preview(few, 200).height
    assert 0 <= rows <= 30  # a title of two lines


def test_a_picture_on_top_keeps_its_shape():
    below = preview(ContextWindows(), 40)
    above = torch.tensor([200, 10, 10]).expand(100, 320, 3) / 255
    both = preview(ContextWindows(), 40, above=above)
    assert both.size == (WIDTH, 200 + below.height)
    assert both.getpixel((320, 100)) == (200, 10, 10)
    assert np.array_equal(np.asarray(both)[200:], np.asarray(below))


def test_what_is_said_is_the_plan():
    said = described(ContextWindows(16, 4, fuse="flat"), 160, (2**30, 2**31)).splitlines()
    assert said == [
        "static, flat: 13 windows of 16 frames, each frame 1.30 times",
        "where: latents",
        "frames: 160",
        "windows: 13 of 16 frames, from frame 0, 12, 24, 36, 48, 60, 72, 84, 96, 108, 120, 132, 144",
        "work: 1.30 times that of the frames without windows",
        "memory: 1.00 GiB for a window, 2.00 GiB for all frames at once, beside the weights",
    ]
    assert "these are the first step's" in described(ContextWindows(16, 8, plan="shifted"), 100)
    assert described(ContextWindows(16, 4), 16).startswith("16 frames: one window of up to 16, so nothing is cut")
    assert ", ... 3360" in described(ContextWindows(16, 4), 3376)
