"""The detectors: on drawn clips they must be right, and nearly so on clips as soft and as noisy as generated ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t2v_core.training.clips.scenes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    FRAMES,
    LONGER,
    MOTIONS,
    PACED,
    PLAIN_THINGS,
    RADIUS_OF_TWO,
    SIZE,
    SIZES,
    SPEEDS,
    Clip,
    Layer,
    Scene,
    Thing,
    draw,
    sample_clip,
)
from t2v_core.training.clips.shapes import SHAPES
from t2v_core.training.evaluation.detect import Frame, Reading, Track, read, read_frames

GROUNDS = tuple(BACKGROUNDS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """What is read here is too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shuffled(options: list, count: int, seed: int) -> list:
    order = torch.randperm(len(options), generator=torch.Generator().manual_seed(seed))
    return [options[i] for i in order[:count]]


def of_one(count: int, seed: int = 1) -> list[Scene]:
    """One thing of each motion, with sizes and speeds; what is large is never fast, as in training."""
    things = [
        replace(thing, size=size, speed=speed)
        for thing, size, speed in product(PLAIN_THINGS, SIZES, SPEEDS)
        if (size, speed) != ("large", "fast") and (thing.motion in PACED or speed == "medium")
    ]
    # As many of each motion, though those without a pace have fewer combinations.
    each = -(-count // len(MOTIONS))
    by_motion = (shuffled([thing for thing in things if thing.motion == motion], each, seed) for motion in MOTIONS)
    scenes = [Scene((thing,), GROUNDS[i % len(GROUNDS)]) for i, thing in enumerate(sum(by_motion, []))]
    return shuffled(scenes, count, seed + 1)


def of_two(count: int, seed: int = 2) -> list[Scene]:
    pairs = zip(shuffled(list(PLAIN_THINGS), count, seed), shuffled(list(PLAIN_THINGS), count, seed + 1), strict=True)
    return [Scene(pair, GROUNDS[i % len(GROUNDS)]) for i, pair in enumerate(pairs)]


def filmed(count: int, seed: int = 3) -> list[Scene]:
    options = product(COLOURS, SHAPES, ("small", "medium"), GROUNDS, CAMERAS[1:])
    scenes = [
        Scene((Thing(colour, shape, "still", size),), ground, camera) for colour, shape, size, ground, camera in options
    ]
    return shuffled(scenes, count, seed)


def clips(scenes: list[Scene], frames: int = FRAMES, size: int = SIZE) -> Iterator[tuple[Scene, Tensor]]:
    """Each scene with a drawn clip of it `[f, h, w, 3]`."""
    generator = torch.Generator().manual_seed(5)
    for scene in scenes:
        yield scene, draw(sample_clip(scene, generator, frames), size).permute(0, 2, 3, 1)


def degraded(frames: Tensor, seed: int) -> Tensor:
    """Soft, noisy, off in colour, with a ghost of the next frame in one and a shake of a pixel in another."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.exp(-0.5 * torch.arange(-3.0, 4.0).square())
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 7)
    soft = F.pad(frames.permute(0, 3, 1, 2), (3, 3, 3, 3), mode="replicate")
    soft = F.conv2d(F.conv2d(soft, kernel, groups=3), kernel.transpose(2, 3), groups=3).permute(0, 2, 3, 1).clone()
    soft[5] = 0.7 * soft[5] + 0.3 * soft[6]
    soft[9] = soft[9].roll((1, -1), (0, 1))
    shift = 0.03 * (2 * torch.randint(2, (3,), generator=generator) - 1)
    return (soft + shift + 0.02 * torch.randn(soft.shape, generator=generator)).clamp(0, 1)


def accuracy(scenes: list[Scene], change: Callable[[Tensor, int], Tensor] | None = None, **sizes: int) -> float:
    """Share of the clips with all attributes read right. What was wrong is printed."""
    failed: Counter[str] = Counter()
    right = 0
    for number, (scene, frames) in enumerate(clips(scenes, **sizes)):
        reading = read(frames if change is None else change(frames, number))
        wrong = [name for name, match in reading.matches(scene).items() if not match]
        right += not wrong
        failed.update(wrong)
        if wrong:
            print(f"{wrong}: {scene} read as {reading.scene}")
    print(f"{right} of {len(scenes)} right; {dict(failed)}")
    return right / len(scenes)


@pytest.mark.parametrize(
    ("scenes", "sizes"),
    [
        pytest.param(of_one(207), {}, id="one"),
        pytest.param(of_two(120), {}, id="two"),
        pytest.param(filmed(66), {}, id="filmed"),
        pytest.param(of_one(27, 7) + of_two(15, 8) + filmed(12, 9), {"frames": LONGER}, id="24 frames"),
        pytest.param(of_one(36, 10) + of_two(18, 11) + filmed(12, 12), {"size": 64}, id="64 pixels"),
    ],
)
def test_at_least_99_in_100_drawn_clips_are_read_right(scenes, sizes):
    assert accuracy(scenes, **sizes) >= 0.99


@pytest.mark.parametrize(
    "scenes",
    [
        pytest.param(of_one(72, 13), id="one"),
        pytest.param(of_two(36, 14), id="two"),
        pytest.param(filmed(30, 15), id="filmed"),
    ],
)
def test_at_least_97_in_100_degraded_clips_are_read_right(scenes):
    assert accuracy(scenes, degraded) >= 0.97


CLOSEST = [("yellow", "white"), ("cyan", "white"), ("pink", "beige"), ("orange", "beige"), ("blue", "navy"),
           ("purple", "navy")]  # fmt: skip


@pytest.mark.parametrize("colour,ground", CLOSEST)
@pytest.mark.parametrize("camera", ["fixed", "pan left"])
def test_colours_close_to_the_ground_are_told_apart(colour, ground, camera):
    scene = Scene((Thing(colour, "circle", "still"),), ground, camera)
    ((_, frames),) = clips([scene])
    assert all(read(degraded(frames, 1)).matches(scene).values())


def test_tracks_are_where_the_thing_was_drawn():
    clip = sample_clip(Scene((Thing("red", "circle", "orbiting"),), "white"), torch.Generator().manual_seed(3))
    reading = read(draw(clip).permute(0, 2, 3, 1))
    for name in ("x", "y", "radius"):
        assert getattr(reading.tracks[0], name) == pytest.approx(getattr(clip.layers[0], name), abs=0.003)
    assert reading.shape_iou[0]["circle"] > 0.95


def spots(*places: tuple[float, float, float], frames: int = FRAMES, colour: str = "red") -> Tensor:
    """Circles at rest at (x, y, radius) on white."""
    layers = tuple(Layer("circle", *((each,) * frames for each in place), COLOURS[colour]) for place in places)
    return draw(Clip(Scene((), "white"), layers, BACKGROUNDS["white"])).permute(0, 2, 3, 1)


NOISE = torch.rand(FRAMES, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
BLANK = torch.full((FRAMES, SIZE, SIZE, 3), 0.98)
SMALL = RADIUS_OF_TWO[0]
ONE = spots((0.3, 0.5, SMALL))


@pytest.mark.parametrize(
    ("frames", "count"),
    [
        pytest.param(BLANK, 0, id="blank"),
        pytest.param(torch.zeros_like(BLANK), 0, id="black"),
        pytest.param(NOISE, 0, id="noise"),
        pytest.param(0.5 + 0.1 * (NOISE - 0.5), 0, id="grey mush"),
        pytest.param(torch.cat([BLANK[:6], ONE[6:]]), 1, id="there in most frames"),
        pytest.param(torch.cat([ONE[:6], BLANK[6:]]), 0, id="gone in most frames"),
        pytest.param(spots((0.3, 0.5, SMALL), (0.7, 0.3, 0.3 * SMALL)), 1, id="a speck"),
        pytest.param(spots((0.3, 0.5, SMALL), (0.7, 0.3, SMALL)), 2, id="a second one"),
        pytest.param(spots((0.3, 0.3, SMALL), (0.3, 0.7, SMALL)), 2, id="one above the other"),
        pytest.param(spots((0.2, 0.5, SMALL), (0.5, 0.5, SMALL), (0.8, 0.5, SMALL)), 3, id="three"),
        pytest.param(torch.cat([ONE[:7], spots((0.3, 0.5, SMALL), (0.7, 0.5, SMALL))[:2], ONE[9:]]), 1, id="a ghost"),
        pytest.param(ONE[:1], 1, id="one frame"),
    ],
)
def test_as_many_things_are_found_as_most_frames_show(frames, count):
    reading = read(frames)
    assert len(reading.scene.things) == len(reading.tracks) == len(reading.shape_iou) == count
    assert all(len(track.x) == len(track.y) == len(track.radius) == len(frames) for track in reading.tracks)
    wanted = Scene((Thing("red", "circle", "still", "small"),), "white")
    assert reading.matches(wanted)["count"] == (count == 1)
    assert reading.matches(wanted)["colour"] == (count > 0)


RED, BLUE = Thing("red", "circle", "still"), Thing("blue", "star", "up")


def seen(*things: Thing, at: tuple[float, ...] = (0.25, 0.75), radius: tuple[float, ...] = (0.1, 0.1)) -> Reading:
    tracks = tuple(Track((x,), (0.5,), (r,)) for x, r, _ in zip(at, radius, things, strict=False))
    return Reading(Scene(things, "white"), tracks, ({},) * len(things))


def test_left_and_right_are_matched_each_with_its_own():
    wanted = Scene((RED, BLUE), "white")
    names = {f"{side} {name}" for side in ("left", "right") for name in ("colour", "shape", "motion")}
    assert seen(RED, BLUE).matches(wanted) == dict.fromkeys({"count", "background", "camera"} | names, True)
    swapped = seen(BLUE, RED).matches(wanted)
    assert {name for name, right in swapped.items() if right} == {"count", "background", "camera"}
    one_wrong = seen(RED, replace(BLUE, motion="down")).matches(wanted)
    assert {name for name, right in one_wrong.items() if not right} == {"right motion"}


@pytest.mark.parametrize(("found", "x", "side"), [(RED, 0.3, "left"), (BLUE, 0.7, "right"), (BLUE, 0.3, None)])
def test_one_thing_of_two_is_compared_with_the_one_in_its_half(found, x, side):
    matches = seen(found, at=(x,)).matches(Scene((RED, BLUE), "white"))
    assert not matches["count"]
    assert {name for name, right in matches.items() if right} - {"background", "camera"} == (
        {f"{side} {name}" for name in ("colour", "shape", "motion")} if side else set()
    )


def test_the_biggest_thing_is_compared_with_the_only_one_wanted():
    matches = seen(RED, BLUE, radius=(0.1, 0.2)).matches(Scene((BLUE,), "white"))
    assert not matches.pop("count")
    assert all(matches.values())


@pytest.mark.parametrize(
    ("motion", "camera", "names"),
    [
        ("right", "fixed", {"motion", "size", "speed"}),
        ("still", "fixed", {"motion", "size"}),
        ("growing", "fixed", {"motion"}),
        ("still", "zoom in", set()),
    ],
)
def test_only_what_a_caption_may_say_is_compared(motion, camera, names):
    matches = seen(RED).matches(Scene((Thing("red", "circle", motion),), "white", camera))
    assert set(matches) == {"count", "colour", "shape", "background", "camera"} | names


def test_what_a_change_shows_is_read_frame_by_frame():
    before = spots((0.4, 0.5, 0.15))
    after = draw(sample_clip(Scene((Thing("blue", "star", "still"),), "navy"), torch.Generator().manual_seed(1)))
    frames = read_frames(torch.cat([before[:8], after.permute(0, 2, 3, 1)[8:]]))
    looks = [(frame.colour, frame.shape, frame.background) for frame in frames]
    assert looks == [("red", "circle", "white")] * 8 + [("blue", "star", "navy")] * 8
    first = frames[0]
    assert (first.x, first.y, first.radius) == pytest.approx((0.4, 0.5, 0.15), abs=0.003)
    assert first.rgb == pytest.approx(COLOURS["red"], abs=0.01)
    assert first.background_rgb == pytest.approx(BACKGROUNDS["white"], abs=0.01)


def test_a_frame_without_a_thing_has_no_names():
    white = BACKGROUNDS["white"]
    assert read_frames(BLANK[:1]) == [Frame("", "", "white", *(pytest.approx(white),) * 2, 0.5, 0.5, 0.0)]
    assert read_frames(NOISE[:1])[0].colour == ""


@pytest.mark.parametrize(("off", "things"), [(0.2, 1), (0.5, 2)])
def test_a_stain_on_the_ground_is_no_thing(off, things):
    """A square beside the thing, as far off the ground as what a moving camera's squares may be, or as a thing is."""
    frames = draw(sample_clip(Scene((Thing("blue", "circle", "still"),), "white"), torch.Generator().manual_seed(3)))
    frames[:, 1:, 4:20, 4:20] -= off / 2**0.5  # green and blue
    assert len(read(frames.permute(0, 2, 3, 1)).scene.things) == things
