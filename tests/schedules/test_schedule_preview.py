"""Previews: five golden pictures, and what the pixels of others must show. Run as a program, this redraws the five."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2v_core.schedules import FILE_LIMIT, ScheduleError
from t2v_core.schedules.drawing import BACKGROUND, COLOURS, LABEL, OTHERS, PANEL, fit, mix, nice_step, text_width
from t2v_core.schedules.preview import preview
from t2v_core.schedules.preview_keys import FOOT, HEAD, HEIGHT, MARGIN, WIDTH
from t2v_core.schedules.table import read_schedule

GOLDEN = Path(__file__).parent / "golden"
SAMPLERS = ("Euler a", "DPM++ 2M", "Euler a", "DDIM", "LCM", "UniPC", "DDIM", "Heun", "Euler a", "LCM")

PICTURES = {
    "prompt_travel": (
        '"0": "a red circle moving right on a white background", "8": "a green square moving right", '
        '"16": "a blue triangle, navy background", "24": "a yellow star, growing"',
        32,
        8.0,
    ),
    "hold_with_negatives": (
        '{"0": "a red circle bouncing --neg blurry, low quality", "6": "a blue circle bouncing --neg text, watermark", '
        '"11": "a red circle bouncing --neg blurry, low quality"}',
        16,
        8.0,
    ),
    "slerp_bezier_long_labels": (
        '0: "a photograph of a small lighthouse on a rocky coast at dawn, long exposure, gentle waves, soft mist over '
        'the water, gulls in the distance, a fishing boat coming home" @slerp @smoothstep\n'
        '48: "the same lighthouse in a thunderstorm, towering waves, (lightning:1.3), dark clouds racing, rain on the '
        'lens, dramatic and cold" @bezier(0.6, -0.4, 0.3, 1.4)\n'
        '90: "calm night"',
        120,
        24.0,
    ),
    "values": (
        "0:(1.0), 10:(3.0) @smoothstep, 20:(1.5+sin(2*pi*t/10)), 40:(2.5) @hold, 50:(0.5), 56:(0.5)",
        64,
        8.0,
    ),
    "texts_100000_frames": (
        ", ".join(f'{number * 9973}:("{name}")' for number, name in enumerate(SAMPLERS)),
        100_000,
        24.0,
    ),
}


def draw(text: str, num_frames: int, fps: float = 8.0) -> Image.Image:
    return preview(read_schedule(text, limit=FILE_LIMIT), num_frames, fps)


def small(picture: Image.Image) -> np.ndarray:
    """An eighth of the size: what a person sees of it, and not how some version draws the edge of a letter."""
    size = (picture.width // 8, picture.height // 8)
    return np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BOX), np.float64)


def difference(name: str, drawn: Image.Image) -> float:
    """Mean difference from the golden picture, of 255."""
    return float(np.abs(small(drawn) - small(Image.open(GOLDEN / f"{name}.png"))).mean())


TOLERANCE = 0.6  # another Pillow moves a letter by a pixel: 0.1; text 4% wider: 0.4 and more


@pytest.mark.parametrize("name", PICTURES)
def test_it_looks_like_the_golden_picture(name):
    drawn = draw(*PICTURES[name])
    assert drawn.size == Image.open(GOLDEN / f"{name}.png").size and drawn.mode == "RGB"
    assert difference(name, drawn) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("hold_with_negatives", '"6"', '"7"'),
        ("hold_with_negatives", "text, watermark", "blurry, low quality"),
        ("prompt_travel", '"16"', '"18"'),
        ("slerp_bezier_long_labels", "0.6, -0.4, 0.3, 1.4", "0.6, 0, 0.3, 1"),
        ("values", "(3.0)", "(2.5)"),
        ("values", " @hold", ""),
        ("texts_100000_frames", "29919", "32919"),
    ],
)
def test_a_picture_of_something_else_is_beyond_the_tolerance(name, old, new):
    text, num_frames, fps = PICTURES[name]
    assert old in text
    changed = draw(text.replace(old, new), num_frames, fps)
    golden = Image.open(GOLDEN / f"{name}.png")
    assert changed.size != golden.size or difference(name, changed) > TOLERANCE


def column(picture: Image.Image, frame: float, num_frames: int) -> np.ndarray:
    """The pixels of the plot right of where a frame begins."""
    x = MARGIN + (WIDTH - 2 * MARGIN) * (frame + 0.5) / num_frames
    return np.asarray(picture)[HEAD : picture.height - FOOT, int(x)]


def filled(picture: Image.Image, number: int, frame: float, num_frames: int) -> int:
    """How many pixels high band `number` is at a frame."""
    colour = mix(COLOURS[number % len(COLOURS)], PANEL, 0.45)
    return int((np.abs(column(picture, frame, num_frames).astype(int) - colour).max(-1) < 8).sum())


def test_a_band_is_as_high_as_its_share():
    picture = draw('"0": "a", "8": "b"', 12)
    full = filled(picture, 1, 10, 12)
    assert full > 50 and filled(picture, 0, 10, 12) <= 1
    for frame in range(1, 7):
        share = (frame + 0.5) / 8
        assert filled(picture, 1, frame, 12) == pytest.approx(share * full, abs=3)
        assert filled(picture, 0, frame, 12) == pytest.approx((1 - share) * full, abs=3)


def test_a_hold_switches_at_its_key():
    picture = draw('{"0": "a", "6": "b"}', 12)
    for frame in range(12):
        assert (filled(picture, 0, frame, 12) > 50) == (frame < 6)
        assert (filled(picture, 1, frame, 12) > 50) == (frame >= 6)


def test_the_last_frame_is_drawn_to_its_end():
    picture = draw('"0": "a", "12": "b"', 8)
    full = filled(draw('"0": "a", "8": "b"', 12), 1, 10, 12)
    assert filled(picture, 1, 7.4, 8) == pytest.approx(7 / 12 * full, abs=3)


def test_one_text_at_two_keys_is_one_band():
    picture = draw('{"0": "a", "4": "b", "8": "a"}', 12)
    assert filled(picture, 0, 2, 12) and filled(picture, 0, 10, 12)
    assert not filled(picture, 2, 10, 12)


def test_maths_in_a_prompt_is_one_band():
    picture = draw('{"0": "a `t`", "6": "b"}', 12)
    assert all(filled(picture, 0, frame, 12) > 50 for frame in range(6)) and not filled(picture, 2, 8, 12)


def test_pre_and_app_text_stand_in_where_a_half_is_empty():
    from t2v_core.schedules import parse_prompts

    bare = preview(parse_prompts('{"0": "a", "6": "b"}'), 12)
    both = preview(parse_prompts('{"0": "a", "6": "b"}', app_text="--neg blurry `t`"), 12)
    assert filled(bare, 2, 3, 12) == 0 and filled(both, 2, 3, 12) > 30 and filled(both, 2, 9, 12) > 30


def test_texts_beyond_the_twelfth_share_a_band():
    picture = draw(",".join(f'"{key}": "text {key}"' for key in range(30)), 30)
    assert picture.height > HEIGHT
    last = np.asarray(picture)[picture.height - FOOT - 12, :].astype(int)
    grey = np.abs(last - np.array(mix(OTHERS, PANEL, 0.45))).max(-1) < 8
    assert not grey[MARGIN : MARGIN + 180].any() and grey[MARGIN + 260 : WIDTH - MARGIN - 10].mean() > 0.8


def test_the_curve_goes_through_its_values():
    values = [0.0, 4.0, 1.0, 3.0, 3.0, 2.0, 0.0, 4.0]
    picture = draw(",".join(f"{frame}:({value})" for frame, value in enumerate(values)), 8)
    pixels = np.asarray(picture).astype(int)
    is_curve = np.abs(pixels - COLOURS[0]).max(-1) < 8
    left = np.flatnonzero(is_curve.any(0))[0] + 5.5  # the first dot's radius
    right = WIDTH - MARGIN
    heights = []
    for frame in range(8):
        x = round(left + (right - left) * frame / 8)
        heights.append(np.flatnonzero(is_curve[:, x]).mean())
    slope, offset = np.polyfit(values, heights, 1)
    assert slope < -20
    assert np.abs(np.polyval([slope, offset], values) - heights).max() < 4


@pytest.mark.parametrize(("text", "colour"), [("0:(0) @hold, 4:(4)", 0), ("0:(0*t), 4:(4)", 1)])
def test_what_does_not_blend_stays_level_up_to_the_next_key(text, colour):
    pixels = np.asarray(draw(text, 8)).astype(int)[HEAD + 30 : -FOOT]
    is_curve = np.abs(pixels - COLOURS[colour]).max(-1) < 8
    heights = [np.flatnonzero(is_curve[:, round(60 + (WIDTH - MARGIN - 60) * frame / 8)]).mean() for frame in (1, 3.7)]
    assert heights[0] == pytest.approx(heights[1], abs=1) and heights[0] > 150


def test_expressions_have_a_colour_of_their_own():
    pixels = np.asarray(draw("0:(1), 8:(t)", 16)).astype(int)
    curve = [np.abs(pixels[HEAD + 30 : -FOOT] - COLOURS[number]).max(-1) < 8 for number in (0, 1)]
    middle = curve[0].shape[1] // 2
    assert curve[0][:, : middle - 10].any() and not curve[1][:, : middle - 10].any()
    assert curve[1][:, middle + 20 :].any() and not curve[0][:, middle + 20 : WIDTH - MARGIN].any()


def test_a_single_peak_among_100000_frames_is_seen():
    pixels = np.asarray(draw("where(t == 77777, 5, 0)", 100_000)).astype(int)
    curve = np.abs(pixels - COLOURS[1]).max(-1) < 8
    tall = np.flatnonzero(curve[HEAD + 30 : -FOOT].sum(0) > 100)
    assert 1 <= len(tall) <= 3 and 0.75 < tall[0] / WIDTH < 0.82


@pytest.mark.parametrize(
    ("text", "num_frames", "fps"),
    [
        ("a", 1, 8.0),
        ("", 1, 1000.0),
        ("word " * 40_000, 3, 8.0),
        ("x" * 200_000, 3, 0.01),
        ("\u65e5\u672c \u0007 \u202e \U0001f3ac", 2, 23.976),
        ("0:(7.5)", 1, 8.0),
        ("0", 16, 8.0),
        ("0:(-1.7e308) @hold, 9:(1.7e308)", 10, 8.0),
        ("1.7e308", 10, 8.0),
        ("0:(5e-324), 9:(0)", 10, 8.0),
        ("0:(1e-280), 9:(2e-280)", 10, 8.0),
        ("0:(1e16), 9:(10000000000000002)", 10, 8.0),
        ("0:(1),1:(2)", 2, 1e-3),
        ("0:(1),1:(2)", 2, 1e9),
        ("t", 10_000_000, 1e-3),
        ('0:(""), 3:("DDIM")', 5, 8.0),
        ('"2": "a", "12": "b"', 8, 8.0),
        ('"1:3": 1, 6: 7, max_f: 0', 8, 8.0),
        ('"0:2": 1, 6: (t), 12: 7', 8, 8.0),
        ('"0:2": 1, 6: (t), 8: 7, 9: 1', 1000, 8.0),
        ('"0:2": 1, 6: (t), 1200: 7, 1300: 1', 1000, 8.0),
        ('"0": "--neg x", "3": "y"', 8, 8.0),
        ("4:(t) @linear, 7:(2)", 10, 8.0),
        ('0:"a" @bezier(0, -1e6, 1, 1e6), 9:"b"', 10, 8.0),
    ],
)
def test_anything_that_can_be_evaluated_can_be_drawn(text, num_frames, fps):
    picture = draw(text, num_frames, fps)
    assert picture.size == (WIDTH, HEIGHT) and picture.mode == "RGB"
    assert len(picture.getcolors(WIDTH * HEIGHT)) > 20 and picture.getpixel((1, 100)) == BACKGROUND


def test_ten_thousand_keys_are_drawn():
    picture = draw(",".join(f'"{key * 10}": "prompt {key % 3000}"' for key in range(10_000)), 100_000, 24.0)
    assert picture.width == WIDTH and picture.height < 1000


def test_what_cannot_be_evaluated_is_not_drawn():
    with pytest.raises(ScheduleError, match="not a finite number at frame 2"):
        draw("1/(t-2)", 4)


def test_words_are_broken_and_cut_to_fit():
    words = "a red circle moving right on a white background"
    lines = fit(words, LABEL, 150, 9)
    assert " ".join(lines) == words and len(lines) > 2 and all(text_width(line, LABEL) <= 150 for line in lines)
    cut = fit(words, LABEL, 150, 2)
    assert len(cut) == 2 and cut[0] == lines[0] and cut[1].endswith("...")
    assert all(text_width(line, LABEL) <= 150 for line in cut)
    assert fit("", LABEL, 150) == [] and fit("x" * 10**6, LABEL, 150, 5)[0].endswith("x...")


@pytest.mark.parametrize("span", [1e-280, 0.003, 1, 7.3, 100, 99999, 1.7e308])
@pytest.mark.parametrize("most", [2, 5, 8.7])
def test_a_nice_step_is_the_smallest_that_fits(span, most):
    step = nice_step(span, most)
    mantissa = float(f"{step:e}".split("e")[0])
    assert round(mantissa, 9) in (1, 2, 5)
    smaller = step * {1: 0.5, 2: 0.5, 5: 0.4}[round(mantissa)]
    assert span / step <= most * (1 + 1e-6) < span / smaller * (1 + 1e-6)


if __name__ == "__main__":
    for name, picture in PICTURES.items():
        drawn = draw(*picture)
        drawn.quantize(64, dither=Image.Dither.NONE).save(GOLDEN / f"{name}.png", optimize=True)
