"""T2VContextWindows on the headless host: what it patches, what a clip becomes, and what it refuses."""

from __future__ import annotations

import io

import pytest
import torch

FRAMES = 40
SETTINGS = {"length": 0, "overlap": 4, "stride": 1, "plan": "static", "fuse": "pyramid", "where": "latents"}


@pytest.fixture
def patch(part):
    def patch(model, **changes):
        return part("nodes").T2VContextWindows().patch(model, **{**SETTINGS, **changes})[0]

    return patch


@pytest.fixture
def run(part, host, tiny):
    def run(model, frames=FRAMES):
        texts = (host.encode(tiny.clip, words) for words in ("a red circle", ""))
        given = dict(zip(("positive", "negative"), texts, strict=True))
        given |= {"seed": 5, "steps": 2, "cfg": 2.5, "sampler_name": "euler", "scheduler": "normal"}
        given |= {"latent_image": {"samples": torch.zeros(frames, 4, 2, 2)}, "denoise": 1.0, "guidance_rescale": 0.0}
        return part("nodes").T2VSampler().sample(model, **given)[0]["samples"]

    return run


def test_it_is_the_modifier_and_a_second_one_replaces_it(part, host, tiny, patch):
    windows = part("t2v_core.windows").ContextWindows
    once = patch(tiny.model)
    assert once.modifiers == (windows(16, 4, 1, "static", "pyramid", "latents"),) and tiny.model.modifiers == ()
    again = patch(once, length=9, overlap=2, stride=3, plan="looped", fuse="gaussian", where="attention")
    assert again.modifiers == (windows(9, 2, 3, "looped", "gaussian", "attention"),)


def test_a_clip_is_made_in_windows_and_one_of_a_window_as_without(part, host, tiny, patch, run):
    diffusion = part("t2v_core.diffusion")
    expected = diffusion.sample(
        tiny.model.patched(diffusion.ContextWindows(16, 4)),
        torch.zeros(FRAMES, 4, 2, 2),
        tiny.clip.encode("a red circle")[0],
        tiny.clip.encode("")[0],
        noise=diffusion.prepare_noise((FRAMES, 4, 2, 2), 5),
        sampler="euler",
        sigmas=diffusion.sigmas_for("normal", tiny.model.denoiser.noise_schedule, 2),
        cfg=2.5,
        seed=5,
    )
    assert torch.equal(run(patch(tiny.model)), expected)
    assert not torch.allclose(run(tiny.model), expected, rtol=1e-2)
    assert torch.equal(run(patch(tiny.model), 16), run(tiny.model, 16))


def test_progress_says_which_window_it_is_at(part, models, tmp_path, tiny, patch, run):
    class Clock:
        now = 0.0

        def __call__(self):
            self.now += 11.0
            return self.now

    stream = io.StringIO()
    progress = part("headless.progress").Progress(stream, "lines", Clock())
    running = part("headless.host").HeadlessHost(models, tmp_path, progress)
    part("nodes.host").use(running)  # the fixture `host` of `run` puts it back
    run(patch(tiny.model, length=4, overlap=0))
    said = [line.split(",")[:2] for line in stream.getvalue().splitlines()]
    a_pass = ["window 8 of 10", "window 10 of 10"]
    before = [["Sampling 0/2", f" {words}"] for words in a_pass * 2]
    assert said[:4] == before and ["Sampling 1/2", " window 8 of 10"] in said and len(said) == 10


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"length": 4}, "overlap is 4; windows of 4 frames share 0 to 3"),
        ({"overlap": 16}, "overlap is 16; windows of 16 frames"),  # which is the model's own number
        ({"plan": "spiral"}, "unknown plan 'spiral'"),
    ],
)
def test_numbers_that_make_no_windows_are_refused(part, host, tiny, patch, changes, says):
    with pytest.raises(part("t2v_core.errors").T2VError, match=says):
        patch(tiny.model, **changes)


@pytest.mark.parametrize(
    ("length", "overlap", "says"),
    [
        (8, 8, "overlap is 8; windows of 8 frames share 0 to 7 of them"),
        (8, -1, "overlap is -1; windows of 8 frames share 0 to 7 of them"),
        (0, -1, "overlap is -1;"),
        (-3, 0, "length is -3; a window has at least 1 frame"),
        (-3, None, "length is -3;"),
        (8, 7, True),
        (0, 99, True),  # 99 of the model's own number of frames are told from the model
        (8, None, True),
        (None, 4, True),
        (None, None, True),
    ],
)
def test_numbers_are_checked_before_anything_runs(part, length, overlap, says):
    answer = part("nodes").T2VContextWindows.VALIDATE_INPUTS(length, overlap)
    assert answer is True if says is True else answer.startswith(says)


def test_a_model_of_no_length_needs_a_number(part, host, tiny, patch, monkeypatch):
    errors = part("t2v_core.errors")

    def none(model):
        raise errors.T2VError("num_frames: made for no number of frames")

    monkeypatch.setattr(host, "native_size", none)
    with pytest.raises(errors.T2VError, match="^length: the connected model .* give a number above 0"):
        patch(tiny.model)
    assert patch(tiny.model, length=8).modifiers[0].length == 8
