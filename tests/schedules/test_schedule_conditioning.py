"""Texts over frames as conditioning: against the formulas in numpy, and by counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2v_core.errors import T2VError
from t2v_core.schedules import parse_prompts
from t2v_core.schedules.conditioning import blend, scheduled_rows


class Encoder:
    """A text as random numbers that depend on it alone. A chunk is 3 tokens; `longer` are texts of two chunks."""

    def __init__(self, longer: tuple[str, ...] = (), pooled: bool = True):
        self.asked: list[str] = []
        self.longer, self.pooled = longer, pooled

    def __call__(self, text: str):
        self.asked.append(text)
        numbers = torch.Generator().manual_seed(int.from_bytes(text.encode(), "little") % 2**31)
        tokens = 6 if text in self.longer else 3
        cond = torch.randn(1, tokens, 5, generator=numbers)
        return cond, torch.randn(1, 5, generator=numbers) if self.pooled else None


def track(text: str, frames: int = 120, **options):
    return parse_prompts(text, **options).evaluate(frames).positive


def test_rows_equal_the_formula():
    encoder = Encoder()
    found = track('{"0": "a", "8": "b", "12": "c"}', 16, blend="linear")
    rows, pooled = scheduled_rows(encoder, found)
    a, b, c = (Encoder()(text) for text in "abc")
    for frame in range(16):
        weight = min(1.0, frame / 8) if frame < 8 else min(1.0, (frame - 8) / 4)
        first, last = (a, b) if frame < 8 else (b, c)
        for got, x, y in zip((rows, pooled), first, last, strict=True):
            wanted = (1 - weight) * x[0].double().numpy() + weight * y[0].double().numpy()
            assert np.abs(got[frame].numpy() - wanted).max() < 1e-6


def test_120_frames_with_4_keys_cost_4_encodes():
    encoder = Encoder()
    rows, pooled = scheduled_rows(encoder, track('{"0": "a", "30": "b", "60": "c", "90": "d"}', blend="linear"))
    assert encoder.asked == ["a", "b", "c", "d"]
    assert (rows.shape, pooled.shape) == ((120, 3, 5), (120, 5))


def test_a_text_that_comes_back_is_encoded_once():
    encoder = Encoder()
    rows, _ = scheduled_rows(encoder, track('{"0": "a", "30": "b", "60": "a"}', blend="hold"))
    assert encoder.asked == ["a", "b"]
    assert torch.equal(rows[0], rows[119]) and torch.equal(rows[29], rows[0]) and not torch.equal(rows[30], rows[0])


def test_one_text_for_all_frames_is_one_row_in_memory():
    rows, pooled = scheduled_rows(Encoder(), track("a", 3000))
    assert (rows.shape, pooled.shape) == ((3000, 3, 5), (3000, 5))
    assert rows.untyped_storage().nbytes() == 3 * 5 * 4 and torch.equal(rows[2999], Encoder()("a")[0][0])


def test_a_slice_of_frames_equals_the_slice_of_the_whole():
    schedule = parse_prompts('{"0": "a", "30": "b", "60": "long", "90": "c"}', blend="slerp")
    whole, pooled = scheduled_rows(Encoder(("long",)), schedule.evaluate(120).positive)
    assert whole.shape == (120, 6, 5)
    chosen = [45, 46, 47, 80]  # among them one that blends with the long text
    part, part_pooled = scheduled_rows(Encoder(("long",)), schedule.evaluate(120, frames=chosen).positive)
    assert torch.equal(part, whole[chosen]) and torch.equal(part_pooled, pooled[chosen])


def test_a_shorter_text_is_filled_up_with_the_empty_prompt():
    encoder = Encoder(longer=("long",), pooled=False)
    rows, pooled = scheduled_rows(encoder, track('{"0": "a", "8": "long"}', 16, blend="hold"))
    assert encoder.asked == ["a", "long", ""] and pooled is None
    assert torch.equal(rows[0], torch.cat([Encoder()("a")[0][0], Encoder()("")[0][0]]))
    assert torch.equal(rows[8], Encoder(("long",))("long")[0][0])


def spherical(a: np.ndarray, b: np.ndarray, weight: float) -> np.ndarray:
    """By a rotation in the plane of the two: a, turned towards b by part of the angle."""
    unit = a / np.linalg.norm(a)
    aside = b - (b @ unit) * unit
    aside /= np.linalg.norm(aside)
    angle = weight * np.arctan2(b @ aside, b @ unit)
    length = (1 - weight) * np.linalg.norm(a) + weight * np.linalg.norm(b)
    return length * (np.cos(angle) * unit + np.sin(angle) * aside)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_slerp_turns_evenly(seed, weight):
    numbers = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 1, 7, generator=numbers, dtype=torch.float64)
    got = blend(a, b, torch.tensor([weight], dtype=torch.float64), torch.tensor([True]))[0].numpy()
    assert np.abs(got - spherical(a[0].numpy(), b[0].numpy(), weight)).max() < 1e-6


@pytest.mark.parametrize(
    "a, b",
    [([1.0, 0.0], [2.0, 0.0]), ([1.0, 0.0], [-1.0, 0.0]), ([0.0, 0.0], [1.0, 0.0]), ([1.0, 0.0], [1.0, 1e-5])],
    ids=["parallel", "opposite", "zero", "almost parallel"],
)
def test_where_there_is_no_turn_the_way_is_straight(a, b):
    a, b = (torch.tensor([x], dtype=torch.float64) for x in (a, b))
    got = blend(a, b, torch.tensor([0.25], dtype=torch.float64), torch.tensor([True]))
    torch.testing.assert_close(got, 0.75 * a + 0.25 * b, atol=1e-4, rtol=0)


def test_the_ends_are_exact_and_half_precision_stays():
    a, b = torch.randn(2, 2, 4, 9).half()
    for slerp in (False, True):
        got = blend(a, b, torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([slerp, slerp]))
        assert got.dtype is torch.float16
        torch.testing.assert_close(got, torch.stack([a[0], b[1]]), atol=1e-3, rtol=0)
    assert torch.equal(
        blend(a, b, torch.tensor([0.0, 1.0]).double(), torch.tensor([False] * 2)), torch.stack([a[0], b[1]])
    )


def test_an_encoder_that_gives_something_else_is_refused():
    found = track('{"0": "a", "8": "b"}', 16)
    with pytest.raises(T2VError, match=r"\[2, 3, 5\]"):
        scheduled_rows(lambda text: (torch.zeros(2, 3, 5), None), found)
    with pytest.raises(T2VError, match="others none"):
        scheduled_rows(lambda text: (torch.zeros(1, 3, 5), torch.zeros(1, 5) if text == "a" else None), found)


def test_rows_that_no_memory_would_hold_are_refused():
    def encode(text: str):
        return torch.zeros(1, 77, 1024), None

    with pytest.raises(T2VError, match="30000 frames would take 9 GiB .* up to 27235 frames"):
        scheduled_rows(encode, track("a", 30_000))
