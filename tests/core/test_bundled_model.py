"""The shipped weights draw what prompts say: fixed prompts and seeds, read by the detectors."""

from __future__ import annotations

from collections import Counter
from statistics import median

import pytest
import torch

from t2v_core.checkpoints import BUNDLED_PATH, load_bundled
from t2v_core.training.clips.mixture import random_scene
from t2v_core.training.clips.scenes import draw, sample_clip
from t2v_core.training.evaluation import changing
from t2v_core.training.evaluation.detect import read
from t2v_core.training.evaluation.evaluate import Settings, generate
from t2v_core.training.evaluation.prompts import load_prompts

QUICK = Settings(steps=6)  # as right as the 12 of the evaluation, in half the time


@pytest.fixture(scope="module")
def bundled():
    return load_bundled()


def test_the_file_is_small_and_describes_itself(bundled):
    assert BUNDLED_PATH.stat().st_size < 12_000_000
    native = bundled.model.native
    assert (native.width, native.height, native.num_frames, native.fps) == (96, 96, 16, 8)


def test_latents_have_the_scale_that_comfyui_expects(bundled):
    """An SD1.5 latent times 0.18215 has unit variance; stock nodes assume it."""
    scenes = [prompt.scene for prompt in load_prompts()["seen"][:12]]
    frames = torch.cat([draw(sample_clip(scene, torch.Generator().manual_seed(i))) for i, scene in enumerate(scenes)])
    latents = bundled.autoencoder.encode(frames * 2 - 1) * 0.18215
    assert 0.7 < latents.std() < 1.3
    assert latents.shape == (12 * 16, 4, 12, 12)


def test_the_prompt_decides_and_the_seed_varies(bundled):
    red, again, blue, other = (
        generate(bundled, f"a {colour} circle growing on a black background", seed, QUICK)
        for colour, seed in (("red", 1), ("red", 1), ("blue", 1), ("red", 2))
    )
    assert torch.equal(red, again)
    assert (red - blue).abs().mean() > 0.02
    assert not torch.equal(red, other)


@torch.no_grad()
def test_at_least_97_in_100_clips_are_read_right_after_the_autoencoder(bundled):
    """Clips of all kinds, as training draws them, a third with what training kept out."""
    numbers = torch.Generator().manual_seed(21)
    count, failed = 150, Counter()
    for number in range(count):
        scene = random_scene(numbers, held_out=number % 3 == 0)
        copied = bundled.autoencoder.decode(bundled.autoencoder.encode(draw(sample_clip(scene, numbers)) * 2 - 1))
        right = read((copied / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)).matches(scene)
        failed[tuple(name for name, match in right.items() if not match)] += 1
    print(failed)
    assert failed[()] >= 0.97 * count


def test_a_prompt_that_is_blended_changes_evenly():
    found = [each.correlation for each in changing.blends(BUNDLED_PATH, QUICK)]
    print(sorted(round(each, 3) for each in found))
    assert len(found) == 20 and median(found) >= 0.9
