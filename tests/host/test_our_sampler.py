"""What T2VSampler has in ComfyUI beside KSampler's inputs, and what it takes from a LATENT as KSampler does."""

from __future__ import annotations

import torch
from prompts import Graph, Node

STEPS, FRAMES, SEED, CFG = 4, 4, 11, 6.0


class Clip(Graph):
    """A graph that samples one empty clip of the bundled model as often as asked; its latents by `saved`."""

    def __init__(self):
        super().__init__()
        loader = self.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
        positive, negative = (
            self.add("T2VTextEncode", clip=loader[1], text=text) for text in ("a red circle on white", "")
        )
        self.links = {"model": loader, "positive": positive, "negative": negative}
        self.latent = self.add("T2VEmptyLatent", width=64, height=64, num_frames=FRAMES)

    def saved(self, node: str = "T2VSampler", rescale: float = 0.0, **changes) -> Node:
        sampling = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "karras"}
        ours = {"guidance_rescale": rescale} if node == "T2VSampler" else {}
        inputs = {**sampling, "denoise": 1.0, "latent_image": self.latent, **self.links, **ours, **changes}
        return self.add("SaveLatent", samples=self.add(node, **inputs), filename_prefix="clip")


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def test_guidance_rescale_equals_headless_and_changes_the_clip(comfy, part, host):
    nodes = part("nodes")
    model, encoder, _ = nodes.T2VLoadModel().load("bundled", "auto")["result"]
    positive, negative = (nodes.T2VTextEncode().encode(encoder, text)[0] for text in ("a red circle on white", ""))
    (latent,) = nodes.T2VEmptyLatent().make(64, 64, FRAMES)
    clip = Clip()
    saved = {rescale: clip.saved(rescale=rescale) for rescale in (0.0, 0.7, 1.0)}
    run = comfy.run(clip)
    for rescale, node in saved.items():
        (expected,) = nodes.T2VSampler().sample(
            model, SEED, STEPS, CFG, "euler", "karras", positive, negative, latent, 1.0, rescale
        )
        assert relative_error(run.latent(node), expected["samples"]) <= 1e-5, rescale
    assert relative_error(run.latent(saved[0.7]), run.latent(saved[0.0])) > 0.01


def test_a_noise_socket_goes_before_the_seed(comfy):
    clip = Clip()
    plain = clip.saved()
    given = clip.saved(seed=SEED + 1, noise=clip.add("RandomNoise", noise_seed=SEED))
    other = clip.saved(seed=SEED + 1)
    run = comfy.run(clip)
    assert torch.equal(run.latent(given), run.latent(plain))
    assert relative_error(run.latent(other), run.latent(plain)) > 0.01


def test_mask_frame_numbers_and_denoise_are_ksamplers(comfy):
    clip = Clip()
    first = clip.add("T2VSampler", guidance_rescale=0.0, seed=1, steps=2, cfg=2.0, sampler_name="euler",
                     scheduler="normal", denoise=1.0, latent_image=clip.latent, **clip.links)  # fmt: skip
    half = clip.add("SolidMask", value=1.0, width=64, height=32)
    none = clip.add("SolidMask", value=0.0, width=64, height=64)
    mask = clip.add("MaskComposite", destination=none, source=half, x=0, y=0, operation="add")
    masked = clip.add("SetLatentNoiseMask", samples=first, mask=mask)
    cut = clip.add("LatentFromBatch", samples=first, batch_index=1, length=2)
    pairs = [
        [clip.saved(node, latent_image=latent, denoise=0.6, sampler_name=name) for node in ("T2VSampler", "KSampler")]
        for latent, name in ((masked, "euler"), (masked, "ddim"), (cut, "dpmpp_2m"))
    ]
    run = comfy.run(clip)
    for ours, theirs in pairs:
        assert relative_error(run.latent(ours), run.latent(theirs)) <= 1e-5
