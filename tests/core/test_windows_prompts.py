"""The bundled model by windows: a prompt that changes inside of one is drawn from its frame on, as detectors read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from t2v_core.checkpoints import load_bundled
from t2v_core.diffusion import ContextWindows, prepare_noise, sample, sigmas_for
from t2v_core.training.evaluation.detect import Frame, read_frames

BEFORE, AFTER = "a red circle on a white background", "a blue square on a black background"
LOOKS = (("red", "white"), ("blue", "black"))


@pytest.fixture(scope="module")
def bundled():
    return load_bundled()


@torch.no_grad()
def frames_around(bundled, windows: ContextWindows, frames: int, at: int, steps: int, near: slice) -> list[Frame]:
    """What is seen in some frames of a clip whose prompt changes at frame `at`."""
    model = bundled.model.patched(windows)
    first, last, nothing = (bundled.prompt_encoder.encode(text)[0] for text in (BEFORE, AFTER, ""))
    cond: Tensor = torch.cat([first.expand(at, -1, -1), last.expand(frames - at, -1, -1)])
    shape = (frames, 4, 12, 12)
    latents = sample(
        model,
        torch.zeros(shape),
        cond,
        nothing,
        noise=prepare_noise(shape, 7),
        sampler="dpmpp_2m",
        sigmas=sigmas_for("normal", model.denoiser.noise_schedule, steps),
        cfg=2.0,
        seed=7,
    )
    return read_frames((bundled.autoencoder.decode(latents[near]) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1))


def looks(seen: list[Frame]) -> list[tuple[str, str]]:
    return [(frame.colour, frame.background) for frame in seen]


@pytest.mark.parametrize("plan", ["static", "shifted"])
def test_a_prompt_that_changes_within_a_window_changes_at_its_frame(bundled, plan):
    """All of 64 frames but the one before the change and the one after it, which may show either."""
    seen = looks(frames_around(bundled, ContextWindows(plan=plan), 64, 30, 6, slice(None)))
    assert seen[:29] == [LOOKS[0]] * 29 and seen[31:] == [LOOKS[1]] * 33


@pytest.mark.long
@pytest.mark.parametrize("plan", ["static", "uniform", "looped", "batched", "shifted"])
def test_the_prompt_of_1000_frames_changes_at_frame_500(bundled, plan):
    windows = replace(ContextWindows(), plan=plan, stride=2 if plan == "uniform" else 1)
    seen = looks(frames_around(bundled, windows, 1000, 500, 6, slice(480, 520)))
    assert seen[:19] == [LOOKS[0]] * 19 and seen[21:] == [LOOKS[1]] * 19, seen
