"""The original samplers in ComfyUI: T2VSampler's `ddim_original`, and VideoCrafter2's signal and frame rate, which the
stock KSampler obeys too. Each clip is what the core makes of the same file."""

from __future__ import annotations

import json

import pytest
import torch
from prompts import Failed
from table import (
    CFG,
    CHANGED,
    EQUAL,
    FRAMES,
    SEED,
    VIDEOCRAFTER,
    Clip,
    Core,
    core,
    nothing,
    relative_error,
    videocrafter,
)
from torch import Tensor

from t2v_core.diffusion import FrameRate, NetworkScale, StrengthSchedule, prepare_noise, sample, sigmas_for

STEPS = 5
PLAIN = {"steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
ORIGINAL = {**PLAIN, "sampler_name": "ddim", "scheduler": "ddim_original"}


def in_core(of: Core, settings: dict, *modifiers: object, latents: Tensor | None = None) -> Tensor:
    model, latents = of.model, nothing() if latents is None else latents
    if settings["scheduler"] == "ddim_original":
        modifiers = (*modifiers, NetworkScale())
    for modifier in modifiers:
        model = model.patched(modifier)
    sigmas = sigmas_for(settings["scheduler"], of.noise_schedule, settings["steps"], settings["denoise"])
    given = {"cond": of.positive, "uncond": of.negative, "noise": prepare_noise(latents.shape, SEED), "seed": SEED}
    return sample(model, latents, **given, sampler=settings["sampler_name"], sigmas=sigmas, cfg=settings["cfg"])


def sampled(clip: Clip, node: str, settings: dict, **changes):
    given = {"model": clip.model, "positive": clip.positive, "negative": clip.negative, "latent_image": clip.empty}
    given |= {"guidance_rescale": 0.0} if node == "T2VSampler" else {}
    return clip.add(node, **{**given, "seed": SEED, **settings, **changes})


def check(results: dict[str, tuple[Tensor, Tensor]]) -> None:
    errors = {name: relative_error(*pair) for name, pair in results.items()}
    print({name: f"{error:.1e}" for name, error in errors.items()})
    assert max(errors.values()) <= EQUAL


def test_videocrafter2(comfy):
    vc = videocrafter(comfy.models)
    clip = Clip(VIDEOCRAFTER)
    slower = clip.add("T2VModelFps", model=clip.model, fps=8.0)
    cases = {
        "KSampler": ("KSampler", PLAIN, ()),
        "KSampler, DDIM": ("KSampler", {**ORIGINAL, "scheduler": "ddim_uniform"}, ()),
        "KSampler, 8 fps": ("KSampler", PLAIN, (FrameRate(8.0),)),
        "T2VSampler": ("T2VSampler", ORIGINAL, ()),
        "T2VSampler, 8 fps": ("T2VSampler", ORIGINAL, (FrameRate(8.0),)),
        "T2VSampler, eta 1": ("T2VSampler", {**ORIGINAL, "sampler_name": "euler_ancestral"}, ()),
    }
    nodes = [
        sampled(clip, node, settings, model=slower if modifiers else clip.model)
        for node, settings, modifiers in cases.values()
    ]
    latents = clip.latents(comfy, *nodes)
    expected = [in_core(vc, settings, *modifiers) for _, settings, modifiers in cases.values()]
    check(dict(zip(cases, zip(latents, expected, strict=True), strict=True)))
    assert relative_error(expected[2], expected[0]) >= CHANGED


def test_a_clip_that_is_given_and_frames_and_areas_that_are_kept(comfy):
    clip = Clip()
    first, half = clip.sample(), {**ORIGINAL, "denoise": 0.5}
    strengths = {"strengths": [0.0, 0.5, 1.0, 1.0]}
    kept = clip.add("ProbeModify", model=clip.model, modifiers=json.dumps([["StrengthSchedule", strengths]]))
    none, top = (clip.add("SolidMask", value=value, width=64, height=h) for value, h in ((0.0, 64), (1.0, 32)))
    mask = clip.add("MaskComposite", destination=none, source=top, x=0, y=0, operation="add")
    nodes = [
        first,
        sampled(clip, "T2VSampler", ORIGINAL),
        sampled(clip, "T2VSampler", half, latent_image=first),
        sampled(clip, "T2VSampler", ORIGINAL, latent_image=first, model=kept),
        sampled(clip, "T2VSampler", half, latent_image=clip.add("SetLatentNoiseMask", samples=first, mask=mask)),
    ]
    first, made, changed, strength, masked = clip.latents(comfy, *nodes)
    given = StrengthSchedule(**strengths)
    check(
        {
            "made": (made, in_core(core(), ORIGINAL)),
            "changed": (changed, in_core(core(), half, latents=first)),
            "frames kept": (strength, in_core(core(), ORIGINAL, given, latents=first)),
            "area kept": (masked[:, :, 4:], first[:, :, 4:]),
        }
    )
    assert torch.equal(strength[0], first[0]) and len(strength) == FRAMES
    assert relative_error(masked[:, :, :4], first[:, :, :4]) >= CHANGED


def test_what_is_refused(comfy):
    clip = Clip()
    flow = clip.add("ModelSamplingSD3", model=clip.model, shift=3.0)
    clip.add("SaveLatent", samples=sampled(clip, "T2VSampler", ORIGINAL, model=flow), filename_prefix="no")
    with pytest.raises(Failed, match="scheduler: ddim_original counts the timesteps of a diffusion model's"):
        comfy.run(clip)
    clip = Clip()
    told = clip.add("T2VModelFps", model=clip.model, fps=8.0)
    clip.add("SaveLatent", samples=sampled(clip, "KSampler", PLAIN, model=told), filename_prefix="no")
    with pytest.raises(Failed, match="fps: this model does not take a frame rate, as VideoCrafter2 does"):
        comfy.run(clip)
