"""Windows of the attention over time alone, in ComfyUI: what headless gives, and a word where they cannot be."""

from __future__ import annotations

import json

import pytest
import torch
from prompts import Failed, Graph, Node
from table import CFG, CHANGED, EQUAL, SEED, STEPS, UNCHANGED, Clip, core, nothing, relative_error
from torch import Tensor

from t2v_core.models.hooks import TemporalScale
from t2v_core.windows import ContextWindows, temporal_windows

FRAMES, SIZE = 40, 32
NUMBERS = {"length": 16, "overlap": 4, "where": "attention"}
STRENGTHS = [0.25 + frame / FRAMES for frame in range(FRAMES)]


def windowed(graph: Graph, model: Node | list, *modifiers: tuple[str, dict], **numbers) -> Node:
    """A MODEL with windows of the attention, after other modifiers."""
    given = [*modifiers, ("ContextWindows", {**NUMBERS, **numbers})]
    return graph.add("ProbeModify", model=model, modifiers=json.dumps(given))


def long_clip(frames: int = FRAMES) -> Clip:
    return Clip(width=SIZE, height=SIZE, frames=frames)


def expected(frames: int = FRAMES, hooks=None, positive: Tensor | None = None, **numbers) -> Tensor:
    """The clip without ComfyUI: the UNet is called with the plan's windows at each noise level."""
    model, modifier = core(), ContextWindows(**{**NUMBERS, **numbers})
    texts = model.negative, model.positive if positive is None else positive

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        left = float(model.noise_schedule.timestep(sigma)) / (len(model.noise_schedule) - 1)
        windows = temporal_windows(modifier, frames, left)

        def unet(x: Tensor, timesteps: Tensor, context: Tensor, hooks=None) -> Tensor:
            return model.unet(x, timesteps, context, hooks=hooks, windows=windows)

        uncond, cond = (model.denoise(x, sigma, text, hooks, unet) for text in texts)
        return uncond + CFG * (cond - uncond)

    return model.sample(denoise, nothing(SIZE, SIZE, frames))


@pytest.mark.parametrize("numbers", [{}, {"plan": "looped", "fuse": "flat"}, {"plan": "shifted"}], ids=str)
def test_every_sampler_node_gives_what_headless_gives(comfy, numbers):
    clip = long_clip()
    model = windowed(clip, clip.model, **numbers)
    given = {"model": model, "positive": clip.positive, "negative": clip.negative, "latent_image": clip.empty}
    ours = clip.add("T2VSampler", **given, seed=SEED, steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="normal",
                    denoise=1.0, guidance_rescale=0.0)  # fmt: skip
    stock, ours, plain = clip.latents(comfy, clip.sample(model=model), ours, clip.sample())
    inside = expected(**numbers)
    assert relative_error(stock, inside) <= EQUAL and relative_error(ours, inside) <= EQUAL
    assert relative_error(plain, inside) > CHANGED


def test_texts_and_strengths_of_frames_and_the_last_windows_hold(comfy):
    """Beside what else there is for each frame; windows in one place take the place of those in the other."""
    clip = long_clip()
    other = windowed(clip, clip.model, plan="looped", where="latents")
    model = windowed(clip, other, ("TemporalStrength", {"attention": STRENGTHS}))
    once, again, back = clip.latents(
        comfy,
        clip.sample(model=model),
        clip.sample(model=windowed(clip, clip.model, ("TemporalStrength", {"attention": STRENGTHS}))),
        clip.sample(model=windowed(clip, model, ("TemporalStrength", {"attention": [1.0] * FRAMES}), plan="looped",
                                   where="latents")),
    )  # fmt: skip
    assert torch.equal(once, again)
    assert relative_error(once, expected(hooks=TemporalScale(STRENGTHS, None))) <= EQUAL
    (latents,) = clip.latents(comfy, clip.sample(model=other))
    assert relative_error(back, latents) <= UNCHANGED


def test_a_clip_of_one_window_is_the_plain_clip(comfy):
    clip = long_clip(16)
    plain, within = clip.latents(comfy, clip.sample(), clip.sample(model=windowed(clip, clip.model)))
    assert torch.equal(within, plain)


def test_a_clip_that_does_not_fit_is_refused_before_the_first_step(comfy):
    clip = long_clip()
    hungry = clip.add("ProbeHungry", model=windowed(clip, clip.model), factor=1e6)
    tapped = clip.add("ProbeTap", model=hungry, name="hungry")
    clip.add("SaveLatent", samples=clip.sample(model=tapped), filename_prefix="hungry")
    with pytest.raises(Failed, match=r"40 frames need [0-9.]+ GiB.*enough for \d frames. Set where to latents"):
        comfy.run(clip)
    assert (comfy.output / "probe" / "hungry.jsonl").read_text() == ""
