"""T2VUpscaleLatent and T2VEncode in a real ComfyUI, beside the nodes of its own that do the same."""

from __future__ import annotations

import torch
from prompts import Graph

SIZES = ((96, 72), (72, 80))  # of 80 x 64; ComfyUI makes nothing smaller than 64


def test_they_do_what_latentupscale_and_imagescale_with_vaeencode_do(comfy, part):
    """Latents by each method; frames by each, and at their own size, which is no multiple of 8 and is cut."""
    methods = part("t2v_core.resize")
    graph = Graph()
    model = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    text = graph.add("T2VTextEncode", clip=model[1], text="a red circle on a white background")
    empty = graph.add("T2VEmptyLatent", width=80, height=64, num_frames=3)
    settings = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": model, "positive": text, "negative": text, "latent_image": empty}
    latents = graph.add("T2VSampler", guidance_rescale=0.0, **links, **settings)
    pairs = {}
    for method in methods.METHODS:
        for width, height in SIZES:
            given = {"samples": latents, "upscale_method": method, "width": width, "height": height}
            nodes = graph.add("T2VUpscaleLatent", **given), graph.add("LatentUpscale", crop="disabled", **given)
            pairs[method, width] = nodes
    images = graph.add("T2VDecode", samples=latents, vae=model[2], frames_per_batch=0)
    cut = graph.add("ImageCrop", image=images, width=77, height=61, x=1, y=2)
    for method, width, height in [*((name, 48, 72) for name in methods.IMAGE_METHODS), ("own size", 0, 0)]:
        given = {"upscale_method": "area" if width == 0 else method, "width": width, "height": height}
        scaled = graph.add("ImageScale", image=cut, crop="disabled", **given)
        ours = graph.add("T2VEncode", images=cut, vae=model[2], frames_per_batch=2, **given)
        pairs["encoded", method] = ours, graph.add("VAEEncode", pixels=scaled, vae=model[2])
    saved = {
        name: [graph.add("SaveLatent", samples=node, filename_prefix="resize") for node in nodes]
        for name, nodes in pairs.items()
    }
    run = comfy.run(graph)
    for name, nodes in saved.items():
        ours, theirs = (run.latent(node) for node in nodes)
        assert ours.shape == theirs.shape and theirs.std() > 0.3
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
