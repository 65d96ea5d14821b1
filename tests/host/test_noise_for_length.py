"""Noise for long clips and FreeInit in ComfyUI: as without it, under every sampler that takes them."""

from __future__ import annotations

import json

import pytest
import torch
from prompts import Failed, Graph, Interrupted, Node
from table import (
    CFG,
    CHANGED,
    EQUAL,
    RANDOM_UNET,
    SEED,
    SIZE,
    STEPS,
    VIDEOCRAFTER,
    Clip,
    Core,
    core,
    nothing,
    random_core,
    relative_error,
    videocrafter,
)
from torch import Tensor

from t2v_core.diffusion import FreeInit, LongNoise, NetworkScale, NoiseSeeds, sample, sample_with_free_init

FRAMES = 12
FREE_INIT = {"rounds": 3, "filter_type": "gaussian", "order": 4, "spatial_stop_frequency": 0.5,
             "temporal_stop_frequency": 0.4, "fast_sampling": True}  # fmt: skip
ROUNDS = FreeInit(3, "gaussian", 4, 0.5, 0.4, True)
SEEDS = ("NoiseSeeds", {"keys": [[0, 3], [5, 9]]})


class Long(Clip):
    """The table's clip with more frames, sampled by T2VSampler."""

    def __init__(self, model_name: str = "bundled"):
        super().__init__(model_name, frames=FRAMES)

    def ours(self, **changes) -> Node:
        plain = {"model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": self.empty}
        plain |= {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal"}
        return self.add("T2VSampler", **{**plain, "denoise": 1.0, "guidance_rescale": 0.0, **changes})

    def noise(self, kind: str = "freenoise", **changes) -> Node:
        return self.add(
            "T2VLongNoise", **{"seed": SEED, "kind": kind, "window": 5, "stride": 2, "alpha": 0.7, **changes}
        )

    def seeded(self, model: Node | list, modifier: tuple[str, dict] = SEEDS) -> Node:
        return self.add("ProbeModify", model=model, modifiers=json.dumps([modifier]))


def in_core(
    kind: str | None, free_init: FreeInit | None = None, of: Core | None = None, *modifiers: object, **changes
) -> Tensor:
    """The same clip without ComfyUI."""
    of, scheduler = of or core(), changes.pop("scheduler", "normal")
    model = of.model
    for modifier in modifiers:
        model = model.patched(modifier)
    latents = nothing(frames=FRAMES)
    prior = LongNoise("freenoise", 16, 4) if kind is None else LongNoise(kind, 5, 2, 0.7)  # the first is plain noise
    given = {"noise": prior.draw(latents.shape, SEED), "sampler": "euler", "cfg": CFG, "seed": SEED, **changes}
    texts = (of.positive, of.negative)
    if free_init is None:
        return sample(model, latents, *texts, sigmas=of.sigmas(), **given)
    rows = [of.sigmas(steps, scheduler=scheduler) for steps in free_init.steps(STEPS)]
    return sample_with_free_init(model, latents, *texts, sigmas=rows, free_init=free_init, **given)


@pytest.mark.parametrize("kind", ["freenoise", "progressive"])
def test_long_noise_is_headless_s_under_our_sampler_and_comfyui_s(comfy, kind):
    clip = Long()
    noise = clip.noise(kind)
    guider = clip.add("CFGGuider", model=clip.model, positive=clip.positive, negative=clip.negative, cfg=CFG)
    sigmas = clip.add("BasicScheduler", model=clip.model, scheduler="normal", steps=STEPS, denoise=1.0)
    euler = clip.add("KSamplerSelect", sampler_name="euler")
    ways = [
        clip.ours(noise=noise, seed=SEED + 1),
        clip.add("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=euler, sigmas=sigmas,
                 latent_image=clip.empty),
    ]  # fmt: skip
    *made, plain = clip.latents(comfy, *ways, clip.sample())
    expected = in_core(kind)
    errors = [relative_error(each, expected) for each in made]
    print(kind, [f"{error:.1e}" for error in errors])
    assert max(errors) <= EQUAL
    assert relative_error(plain, in_core(None)) <= EQUAL and relative_error(expected, plain) >= CHANGED


def test_frames_cut_out_of_a_latent_have_the_long_clip_s_noise(comfy):
    clip = Long()
    cut = clip.add("LatentFromBatch", samples=clip.empty, batch_index=6, length=4)
    (made,) = clip.latents(comfy, clip.ours(noise=clip.noise(), latent_image=cut))
    noise = LongNoise("freenoise", 5, 2).draw((FRAMES, 4, SIZE // 8, SIZE // 8), SEED)[6:10]
    given = {"sampler": "euler", "sigmas": core().sigmas(), "cfg": CFG, "seed": SEED}
    expected = sample(core().model, nothing(frames=4), core().positive, core().negative, noise=noise, **given)
    assert relative_error(made, expected) <= EQUAL


@pytest.mark.parametrize(
    ("model", "sampler", "scheduler"),
    [
        (RANDOM_UNET, "euler", "normal"),
        (RANDOM_UNET, "euler_ancestral", "normal"),
        (VIDEOCRAFTER, "ddim", "ddim_original"),
    ],
)
def test_free_init_is_headless_s(comfy, model, sampler, scheduler):
    """On models that were not trained down to no signal, so that something of each round is left in the next."""
    of = random_core(comfy.models) if model == RANDOM_UNET else videocrafter(comfy.models)
    clip, how = Long(model), {"sampler_name": sampler, "scheduler": scheduler, "cfg": 1.5}
    free_init = clip.add("T2VFreeInit", **FREE_INIT)
    once = clip.add("T2VFreeInit", **{**FREE_INIT, "rounds": 1})
    made = clip.ours(free_init=free_init, **how)
    mixed = clip.ours(free_init=free_init, noise=clip.noise("mixed"), **how)
    made, mixed, single, plain = clip.latents(comfy, made, mixed, clip.ours(free_init=once, **how), clip.ours(**how))
    scale = [NetworkScale()] if scheduler == "ddim_original" else []
    given = {"sampler": sampler, "scheduler": scheduler, "cfg": 1.5}
    expected = [in_core(kind, ROUNDS, of, *scale, **given) for kind in (None, "mixed")]
    errors = [relative_error(*pair) for pair in zip((made, mixed), expected, strict=True)]
    print(model, sampler, [f"{error:.1e}" for error in errors])
    assert max(errors) <= EQUAL
    assert torch.equal(single, plain) and relative_error(made, plain) >= CHANGED


def test_free_init_keeps_seeds_by_frame_and_leaves_the_model_as_it_was(comfy):
    clip, of = Long(RANDOM_UNET), random_core(comfy.models)
    model = clip.seeded(clip.model)
    made = clip.ours(model=model, free_init=clip.add("T2VFreeInit", **FREE_INIT))
    made, after = clip.latents(comfy, made, clip.ours(model=model))
    seeds = NoiseSeeds(((0, 3), (5, 9)))
    assert relative_error(made, in_core(None, ROUNDS, of, seeds)) <= EQUAL
    assert relative_error(after, in_core(None, None, of, seeds)) <= EQUAL


def test_progress_counts_the_steps_of_all_rounds(comfy):
    clip = Long()
    sampler = clip.ours(free_init=clip.add("T2VFreeInit", **{**FREE_INIT, "fast_sampling": False}), seed=SEED + 5)
    clip.add("SaveLatent", samples=sampler, filename_prefix="progress")
    seen = [(each["value"], each["max"]) for each in comfy.run(clip).data("progress") if each["node"] == sampler.id]
    assert seen == [(step, 3 * STEPS) for step in range(1, 3 * STEPS + 1)]


def test_a_later_round_can_be_interrupted(comfy):
    clip = Long()
    free_init = clip.add("T2VFreeInit", **{**FREE_INIT, "rounds": 100, "fast_sampling": False})
    sampler = clip.ours(free_init=free_init, seed=SEED + 6)
    clip.add("SaveLatent", samples=sampler, filename_prefix="interrupted")
    job = comfy.queue(clip)
    job.wait_for("progress", lambda data: data["node"] == sampler.id and data["value"] > STEPS)
    comfy.interrupt()
    with pytest.raises(Interrupted) as caught:
        job.result()
    assert caught.value.node_id == sampler.id


def refusal(comfy, graph: Graph) -> str:
    with pytest.raises(Failed) as caught:
        comfy.run(graph)
    return caught.value.message


def test_what_does_not_go_with_them_is_refused(comfy):
    for modifier, given, says in (
        (SEEDS, "noise", "noise: the model has a seed for each frame"),
        (("StrengthSchedule", {"strengths": [1.0] * FRAMES}), "free_init", "free_init: the model has a strength"),
    ):
        clip = Long()
        node = clip.noise() if given == "noise" else clip.add("T2VFreeInit", **FREE_INIT)
        clip.add(
            "SaveLatent",
            samples=clip.ours(model=clip.seeded(clip.model, modifier), **{given: node}),
            filename_prefix="no",
        )
        assert says in refusal(comfy, clip)
    clip = Long()
    free_init = clip.add("T2VFreeInit", **FREE_INIT)
    clip.add("SaveLatent", samples=clip.ours(free_init=free_init, latent_image=clip.sample()), filename_prefix="no")
    assert "free_init: latent_image is not empty" in refusal(comfy, clip)
