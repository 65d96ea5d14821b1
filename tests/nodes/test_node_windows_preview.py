"""T2VWindowsPreview on the headless host: its picture and words, and what it refuses."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def show(part, host, tiny):
    def show(windows=True, **given):
        model = tiny.model
        if windows:
            (model,) = part("nodes").T2VContextWindows().patch(model, 0, 4, 1, "static", "pyramid", "latents")
        return part("nodes").T2VWindowsPreview().show(model, **{"num_frames": 0, "fps": 8.0, **given})

    return show


def latent(frames: int) -> dict:
    return {"samples": torch.zeros(frames, 4, 12, 12)}


def test_the_picture_and_the_words(part, show, tiny):
    shown = show(latent_image=latent(40), positive=[[torch.zeros(40, 3, 8), {}]])
    image, text = shown["result"]
    assert image.shape[0] == 1 and image.shape[2:] == (640, 3) and 0 <= image.min() < image.max() <= 1
    assert shown["ui"] == {"text": (text,)}
    assert "static, pyramid: 3 windows of 16 frames, each frame 1.20 times" in text
    peak = part("t2v_core.models.memory").peak_bytes
    one, whole = (peak(tiny.model.denoiser.network.config, frames, 12, 12) / 2**30 for frames in (16, 40))
    assert f"memory: {one:.2f} GiB for a window, {whole:.2f} GiB for all frames" in text
    assert "memory" not in show(num_frames=40)["result"][1]


def test_a_schedule_s_picture_on_top(show):
    plain, _ = show(num_frames=40)["result"]
    red = torch.zeros(2, 360, 640, 3)
    red[..., 0] = 1
    image, _ = show(num_frames=40, schedule=red)["result"]
    assert torch.equal(image[:, 360:], plain) and torch.equal(image[:, :360], red[:1])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"windows": False, "num_frames": 40}, "model: it has no windows; connect it behind T2V Context Windows"),
        ({}, "num_frames: 0 means the latent's number of frames; connect latent_image or give a number"),
        ({"num_frames": 30, "latent_image": latent(40)}, "num_frames: it is 30 and latent_image has 40 frames"),
        ({"num_frames": 40, "positive": [[torch.zeros(16, 3, 8), {}]]}, "positive: the conditioning has 16 rows"),
        ({"num_frames": 40, "schedule": torch.zeros(2, 3)}, "schedule: not an IMAGE"),
        ({"latent_image": {"samples": torch.zeros(1, 4, 3, 8, 8)}}, "latent_image: the latent has 5 dimensions"),
    ],
)
def test_what_does_not_fit_is_refused(part, show, given, says):
    with pytest.raises(part("t2v_core.errors").T2VError) as caught:
        show(**given)
    assert says in str(caught.value)
