"""One result from four doors: headless, T2VSampler, KSampler, and SamplerCustomAdvanced with our SAMPLER."""

from __future__ import annotations

import random
from itertools import product

import pytest
import torch
from prompts import Graph

STEPS, FRAMES, SIZE, SEED = 25, 4, 64, 11
PROMPT, NEGATIVE = "a red circle moving left to right on a white background", "blurry"
LONG = " ".join(
    random.Random(0).choices("a red blue green circle square star moving left right up on white".split(), k=150)
)
DETERMINISTIC = ("euler", "dpmpp_2m", "ddim")
SCHEDULERS = ("normal", "karras", "simple")


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def in_comfyui(
    comfy, prompt: str, sampler: str, scheduler: str, cfg: float, size: int = SIZE, frames: int = FRAMES
) -> dict[str, torch.Tensor]:
    """The clip in ComfyUI by each of the three ways."""
    graph = Graph()
    model = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    common = {"seed": SEED, "steps": STEPS, "cfg": cfg, "sampler_name": sampler, "scheduler": scheduler, "denoise": 1.0}

    ours = [graph.add("T2VTextEncode", clip=model[1], text=text) for text in (prompt, NEGATIVE)]
    latent = graph.add("T2VEmptyLatent", width=size, height=size, num_frames=frames)
    sampled = graph.add(
        "T2VSampler",
        model=model,
        positive=ours[0],
        negative=ours[1],
        latent_image=latent,
        guidance_rescale=0.0,
        **common,
    )
    saved = {"T2VSampler": graph.add("SaveLatent", samples=sampled, filename_prefix="ours")}

    stock = [graph.add("CLIPTextEncode", clip=model[1], text=text) for text in (prompt, NEGATIVE)]
    empty = graph.add("EmptyLatentImage", width=size, height=size, batch_size=frames)
    sampled = graph.add("KSampler", model=model, positive=stock[0], negative=stock[1], latent_image=empty, **common)
    saved["KSampler"] = graph.add("SaveLatent", samples=sampled, filename_prefix="stock")

    sampled = graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=SEED),
        guider=graph.add("CFGGuider", model=model, positive=stock[0], negative=stock[1], cfg=cfg),
        sampler=graph.add("T2VSamplerSelect", sampler_name=sampler, eta=-1.0),
        sigmas=graph.add("BasicScheduler", model=model, scheduler=scheduler, steps=STEPS, denoise=1.0),
        latent_image=empty,
    )
    saved["SamplerCustomAdvanced"] = graph.add("SaveLatent", samples=sampled, filename_prefix="custom")
    run = comfy.run(graph)
    return {way: run.latent(node) for way, node in saved.items()}


def headless(
    nodes, prompt: str, sampler: str, scheduler: str, cfg: float, size: int = SIZE, frames: int = FRAMES
) -> torch.Tensor:
    """The clip without ComfyUI, by the same nodes."""
    model, clip, _ = nodes.T2VLoadModel().load("bundled", "auto")["result"]
    positive, negative = (nodes.T2VTextEncode().encode(clip, text)[0] for text in (prompt, NEGATIVE))
    (latent,) = nodes.T2VEmptyLatent().make(size, size, frames)
    sampled = nodes.T2VSampler().sample(
        model, SEED, STEPS, cfg, sampler, scheduler, positive, negative, latent, 1.0, 0.0
    )
    return sampled[0]["samples"]


SHORT = [*zip(DETERMINISTIC, SCHEDULERS, (2.5, 1.0, 2.5), strict=True)]  # each sampler and each scheduler once
CASES = [
    *(
        pytest.param((PROMPT, *way), marks=[] if way in SHORT else pytest.mark.long)
        for way in product(DETERMINISTIC, SCHEDULERS, (2.5, 1.0))
    ),
    ("a (red:1.3) circle (moving (left:0.8)) on \\(white\\)", "euler", "normal", 2.5),
    (LONG, "dpmpp_2m", "normal", 2.5),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}-{case[2]}-{case[3]}-{len(case[0].split())} words")
def test_headless_and_every_way_in_comfyui_agree(comfy, part, host, case):
    expected = headless(part("nodes"), *case)
    assert expected.shape == (FRAMES, 4, SIZE // 8, SIZE // 8) and expected.std() > 1
    for way, latents in in_comfyui(comfy, *case).items():
        assert relative_error(latents, expected) <= 1e-5, way


@pytest.mark.long
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_a_clip_of_the_models_own_size_agrees(comfy, part, host, sampler):
    native = part("t2v_core.checkpoints").load_bundled().model.native
    case = (PROMPT, sampler, "normal", 2.5, native.width, native.num_frames)
    expected = headless(part("nodes"), *case)
    assert expected.shape == (native.num_frames, 4, native.height // 8, native.width // 8)
    errors = {way: relative_error(latents, expected) for way, latents in in_comfyui(comfy, *case).items()}
    print(errors)
    assert max(errors.values()) <= 1e-5


@pytest.mark.parametrize(
    "sampler", [pytest.param(name, marks=pytest.mark.long) for name in ("heun", "uni_pc", "uni_pc_bh2")]
)
def test_the_other_deterministic_samplers_agree_too(comfy, part, host, sampler):
    case = (PROMPT, sampler, "normal", 2.5)
    ways = in_comfyui(comfy, *case)
    assert relative_error(ways["T2VSampler"], headless(part("nodes"), *case)) <= 1e-5
    assert relative_error(ways["T2VSampler"], ways["KSampler"]) <= 1e-4  # ComfyUI's UniPC loses digits in fp32


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", pytest.param("dpmpp_sde", marks=pytest.mark.long)])
def test_samplers_on_a_brownian_path_walk_comfyuis(comfy, sampler):
    ways = in_comfyui(comfy, PROMPT, sampler, "karras", 2.5)
    for way, latents in ways.items():
        assert relative_error(latents, ways["KSampler"]) <= 1e-4, way
