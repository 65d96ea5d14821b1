"""The renderer, the mixture of scenes and the captions: what training shows, and what it never does."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from t2v_core.text import WordTokenizer
from t2v_core.training.clips.captions import (
    DRAWN,
    HELD_OUT,
    UNKNOWN,
    everything,
    fields,
    free_caption,
    plain_caption,
    vocabulary,
)
from t2v_core.training.clips.mixture import Change, draw_change, random_change, random_scene
from t2v_core.training.clips.scenes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    HELD_OUT_THINGS,
    MOTIONS,
    PACED,
    PHASED,
    SEEN_THINGS,
    SIZES,
    SPEEDS,
    TRAVEL,
    Scene,
    Thing,
    draw,
    sample_clip,
)
from t2v_core.training.clips.shapes import SHAPES, coverage
from t2v_core.training.text import LENGTH


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(count: int, seed: int = 1) -> list[Scene]:
    numbers = generator(seed)
    return [random_scene(numbers) for _ in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_the_area_of_a_circle_of_their_radius(shape):
    middle, radius = torch.tensor([0.5]), torch.tensor([0.2])
    area = coverage(shape, middle, middle, radius, 256).mean().item()
    assert area == pytest.approx(math.pi * 0.2**2, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_the_same_wherever_its_box_is(shape):
    """Only the pixels round a shape are worked out: moved by whole pixels, it must be moved and nothing else."""
    radius = torch.tensor([0.1])
    here = coverage(shape, torch.tensor([0.5]), torch.tensor([0.5]), radius, 64)
    there = coverage(shape, torch.tensor([0.5 + 9 / 64]), torch.tensor([0.5 - 14 / 64]), radius, 64)
    torch.testing.assert_close(there, here.roll((-14, 9), (1, 2)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("motion, frames", list(product(MOTIONS, (16, 24))))
def test_shapes_stay_inside_the_frame(motion, frames):
    """No pixel of the border is half covered: at most the soft edge of a shape reaches it."""
    numbers = generator(3)
    for size, shape, speed in product(SIZES, SHAPES, SPEEDS if motion in PACED else ("medium",)):
        if (size, speed) == ("large", "fast"):
            continue
        clip = sample_clip(Scene((Thing("red", shape, motion, size, speed),), "white"), numbers, frames)
        track = (torch.tensor(values) for values in (clip.layers[0].x, clip.layers[0].y, clip.layers[0].radius))
        mask = coverage(shape, *track, 64)
        assert max(mask[:, [0, -1]].max(), mask[:, :, [0, -1]].max()) < 0.5


def test_of_two_things_each_keeps_to_its_half():
    numbers = generator(4)
    for left, right in zip(SEEN_THINGS[::5], SEEN_THINGS[2::5], strict=False):
        clip = sample_clip(Scene((left, right), "black"), numbers)
        first, second = (
            coverage(layer.shape, *(torch.tensor(v) for v in (layer.x, layer.y, layer.radius)), 64)
            for layer in clip.layers
        )
        assert first[:, :, 32:].max() < 0.5 and second[:, :, :32].max() < 0.5


@pytest.mark.parametrize("way, step", [("right", (1, 0)), ("left", (-1, 0)), ("up", (0, -1)), ("down", (0, 1))])
@pytest.mark.parametrize("speed", SPEEDS)
def test_a_thing_goes_the_way_it_is_said_to_and_as_far(way, step, speed):
    low, high = TRAVEL[speed]
    for seed in range(20):
        clip = sample_clip(Scene((Thing("red", "circle", way, speed=speed),), "white"), generator(seed))
        layer = clip.layers[0]
        gone = (layer.x[-1] - layer.x[0], layer.y[-1] - layer.y[0])
        along, across = (sum(a * b for a, b in zip(gone, v, strict=True)) for v in (step, step[::-1]))
        assert low <= along <= high + 1e-6 and abs(across) < 1e-6


@pytest.mark.parametrize("way, drift", [("left", (1, 0)), ("right", (-1, 0)), ("up", (0, 1)), ("down", (0, -1))])
def test_the_world_goes_the_other_way_when_the_camera_pans(way, drift):
    """The ground and the thing together: the frames, shifted back by the thing's way, are the first frame again."""
    scene = Scene((Thing("red", "circle", "still"),), "gray", f"pan {way}")
    clip = sample_clip(scene, generator(7))
    layer, frames = clip.layers[0], draw(clip, 200)
    shift = [round(200 * (values[8] - values[0])) for values in (layer.x, layer.y)]
    assert shift[0] * drift[0] > 10 or shift[1] * drift[1] > 10
    moved = frames[8].roll((-shift[1], -shift[0]), (1, 2))
    inner = slice(60, 140)
    assert (moved - frames[0])[:, inner, inner].abs().mean() < 0.02
    assert (frames[8] - frames[0])[:, inner, inner].abs().mean() > 0.05


def test_the_ground_grows_with_the_thing_when_the_camera_zooms_in():
    clip = sample_clip(Scene((Thing("red", "star", "still"),), "gray", "zoom in"), generator(2))
    layer = clip.layers[0]
    scales = [scale for _, _, scale in clip.view]
    assert scales[0] == 1 and scales[-1] > 1.4 and scales == sorted(scales)
    assert layer.radius[-1] / layer.radius[0] == pytest.approx(scales[-1], rel=1e-5)
    edges = (draw(clip)[:, :, 0].diff(dim=-1).abs().amax(1) > 0.02).sum(-1)  # of squares, along the top row
    assert edges[0] > edges[-1]


def test_a_clip_depends_on_nothing_but_its_generator():
    scene = scenes(5)[-1]
    first, second = (sample_clip(scene, generator(9)) for _ in range(2))
    assert first == second
    assert torch.equal(draw(first), draw(second))


def test_played_backwards_a_clip_shows_what_its_scene_backwards_says():
    for scene in scenes(60):
        assert scene.backwards().backwards() == scene
    zoom = Scene((Thing("red", "star", "still"),), "gray", "zoom in")
    assert zoom.backwards().camera == "zoom out"
    assert Scene((Thing("red", "circle", "growing"),), "gray").backwards().things[0].motion == "shrinking"


@pytest.mark.parametrize("frames", [16, 24])
@pytest.mark.parametrize("speed", SPEEDS)
def test_hops_begin_at_the_bottom_and_turns_at_the_right(speed, frames):
    """So that a frame's place says which of the three paces it is."""
    for seed in range(20):
        hopping, turning = (
            sample_clip(Scene((Thing("red", "circle", motion, speed=speed),), "white"), generator(seed), frames)
            for motion in PHASED
        )
        y, x, turned = (torch.tensor(each) for each in (hopping.layers[0].y, turning.layers[0].x, turning.layers[0].y))
        assert y[0] > y.min() + 0.6 * (y.max() - y.min())
        middle, radius = (x.max() + x.min()) / 2, (x.max() - x.min()) / 2
        assert x[0] > middle + 0.6 * radius
        assert turned[1] > turned[0]  # and goes on downwards


def test_what_has_a_set_beginning_is_not_reversible():
    bouncing, still = Thing("red", "circle", "bouncing"), Thing("red", "circle", "still")
    assert Scene((still, still), "white").reversible
    assert not Scene((bouncing,), "white").reversible and not Scene((still, bouncing), "white").reversible
    change = Change(Scene((still,), "white"), Scene((bouncing,), "white"), (0.0, 1.0))
    assert not change.reversible and not change.backwards().reversible
    assert Change(Scene((still,), "white"), Scene((still,), "white"), (0.0, 1.0)).reversible


def test_held_out_pairs_are_never_drawn():
    assert len(SEEN_THINGS) + len(HELD_OUT_THINGS) == len(COLOURS) * len(SHAPES) * len(MOTIONS)
    drawn = scenes(3000)
    assert not any(scene.held_out for scene in drawn)
    numbers = generator(2)
    assert all(random_scene(numbers, held_out=True).held_out for _ in range(300))
    for change in (random_change(numbers) for _ in range(600)):
        assert not change.held_out
    # Each single attribute of a held-out combination was shown in others.
    for name in ("colour", "shape", "motion"):
        assert {getattr(a, name) for a in HELD_OUT_THINGS} <= {getattr(a, name) for a in SEEN_THINGS}


def test_everything_is_drawn_often():
    drawn = scenes(4000)
    for name, values in (
        ("colour", COLOURS),
        ("shape", SHAPES),
        ("motion", MOTIONS),
        ("size", SIZES),
        ("speed", SPEEDS),
    ):
        for value in values:
            assert sum(getattr(scene.things[0], name) == value for scene in drawn) > 100, value
    for background in BACKGROUNDS:
        assert sum(scene.background == background for scene in drawn) > 500
    for camera in CAMERAS:
        assert sum(scene.camera == camera for scene in drawn) > 40
    assert 0.3 < sum(len(scene.things) == 2 for scene in drawn) / 4000 < 0.4


def test_a_change_shows_the_first_look_and_then_the_other():
    numbers = generator(5)
    for _ in range(30):
        change = random_change(numbers)
        frames = draw_change(change, numbers)
        assert frames.shape == (16, 3, 96, 96)
        ground = [torch.tensor(BACKGROUNDS[scene.background]) for scene in (change.before, change.after)]
        corner = frames[:, :, 1, 1]
        for weight, seen in zip(change.weights, corner, strict=True):
            assert (seen - torch.lerp(*ground, weight)).abs().max() < 0.05
        assert change.backwards().backwards() == replace(change, weights=change.backwards().backwards().weights)


def test_a_thing_turns_without_a_jump():
    numbers, turning = generator(6), 0
    for _ in range(200):
        change = random_change(numbers)
        if change.before.things[0].motion == change.after.things[0].motion:
            continue
        turning += 1
        frames = draw_change(change, numbers)
        assert (frames[1:] - frames[:-1]).abs().mean((1, 2, 3)).max() < 0.03
    assert turning > 20


@pytest.mark.parametrize("wording", [DRAWN, HELD_OUT], ids=["drawn", "held out"])
def test_captions_fit_one_chunk_and_say_what_they_claim(wording):
    """Every word is known but the unknown one (and those of held-out wordings), and a field said is there by a word."""
    tokenizer, numbers = WordTokenizer(vocabulary()), generator(0)
    for scene in scenes(1500, seed=8):
        caption = free_caption(scene, numbers, wording)
        words = tokenizer.words(caption.text)
        assert len(words) <= LENGTH - 2, caption.text
        if wording is DRAWN:
            assert 3 not in tokenizer.words(caption.text.replace(UNKNOWN, "")), caption.text
        assert caption.said <= set(fields(scene))
    for scene in scenes(200, seed=9):
        assert 3 not in tokenizer.words(plain_caption(scene))
        assert {"count", "colour", "shape", "background"} <= everything(scene).said


def test_the_plain_wording():
    thing = Thing("orange", "star", "right", "small", "fast")
    assert (
        plain_caption(Scene((thing,), "navy"))
        == "a small orange star moving left to right quickly on a navy background"
    )
    two = Scene((Thing("orange", "star", "up"), Thing("red", "circle", "still")), "white")
    assert plain_caption(two) == "an orange star moving up and a red circle staying still on a white background"
    filmed = Scene((Thing("red", "circle", "still"),), "gray", "pan left")
    assert plain_caption(filmed) == "a red circle on a gray background, the camera pans left"


def test_wordings_kept_out_share_no_sentence_with_those_drawn():
    for name in ("one", "two", "ground", "camera"):
        assert not set(getattr(DRAWN, name)) & set(getattr(HELD_OUT, name))
    assert "heading rightwards" not in " | ".join(free_caption(s, generator(1)).text for s in scenes(2000))
