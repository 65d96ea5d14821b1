"""The renderer, the captions and the detectors that read clips: on drawn clips the detectors must be right."""

from __future__ import annotations

import math

import pytest
import torch

from t2v_core.checkpoints import load_bundled
from t2v_core.text import WordTokenizer
from t2v_core.training.captions import NAMES, free_caption, plain_caption, vocabulary
from t2v_core.training.detect import read
from t2v_core.training.shapes import (
    BACKGROUNDS,
    COLOURS,
    COMBINATIONS,
    HELD_OUT,
    MOTIONS,
    SEEN,
    SHAPES,
    coverage,
    draw,
    sample_clip,
)


def clips(stride: int):
    """Every `stride`-th combination with a drawn clip `[16, 3, 64, 64]`."""
    generator = torch.Generator().manual_seed(5)
    for attributes in COMBINATIONS[::stride]:
        yield attributes, draw(sample_clip(attributes, generator))


def test_detectors_read_at_least_99_in_100_drawn_clips_right():
    right = [all(read(frames.permute(0, 2, 3, 1)).matches(a).values()) for a, frames in clips(7)]
    assert len(right) > 200
    assert sum(right) / len(right) >= 0.99


def test_detectors_read_at_least_97_in_100_reconstructions_right():
    network = load_bundled().autoencoder
    right = []
    for attributes, frames in clips(19):
        with torch.no_grad():
            restored = (network.decode(network.encode(frames * 2 - 1)) / 2 + 0.5).clamp(0, 1)
        right.append(all(read(restored.permute(0, 2, 3, 1)).matches(attributes).values()))
    assert sum(right) / len(right) >= 0.97


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_the_area_of_a_circle_of_their_radius(shape):
    middle, radius = torch.tensor([0.5]), torch.tensor([0.2])
    area = coverage(shape, middle, middle, radius, 256).mean().item()
    assert area == pytest.approx(math.pi * 0.2**2, rel=0.01)


@pytest.mark.parametrize("motion", MOTIONS)
def test_shapes_stay_inside_the_frame(motion):
    """No pixel of the border is half covered: at most the soft edge of a shape reaches it."""
    generator = torch.Generator().manual_seed(3)
    for attributes in [a for a in COMBINATIONS if a.motion == motion][::9]:
        clip = sample_clip(attributes, generator)
        track = (torch.tensor(values) for values in (clip.x, clip.y, clip.radius))
        mask = coverage(attributes.shape, *track, 64)
        assert max(mask[:, [0, -1]].max(), mask[:, :, [0, -1]].max()) < 0.5


def test_held_out_pairs_are_never_in_the_training_combinations():
    assert len(SEEN) + len(HELD_OUT) == len(COLOURS) * len(SHAPES) * len(MOTIONS) * len(BACKGROUNDS)
    assert not any(a.held_out for a in SEEN)
    assert all(a.held_out for a in HELD_OUT)
    # Each single attribute of a held-out combination was shown in others.
    for name in NAMES:
        assert {getattr(a, name) for a in HELD_OUT} <= {getattr(a, name) for a in SEEN}


def test_every_word_a_caption_may_hold_is_in_the_vocabulary_but_the_unknown_one():
    tokenizer = WordTokenizer(vocabulary())
    generator = torch.Generator().manual_seed(0)
    for index in range(600):
        attributes = COMBINATIONS[index * 37 % len(COMBINATIONS)]
        assert 3 not in tokenizer.words(plain_caption(attributes))
        text = free_caption(attributes, generator).text
        assert 3 not in tokenizer.words(text.replace("qqq", "")), text
        assert len(tokenizer.words(text)) <= 22  # one chunk


def test_a_clip_depends_on_nothing_but_its_generator():
    first, second = (sample_clip(COMBINATIONS[70], torch.Generator().manual_seed(9)) for _ in range(2))
    assert first == second
    assert torch.equal(draw(first), draw(second))
