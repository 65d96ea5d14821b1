"""ComfyUI's ControlNets and T2I-adapters on our MODEL: what they add lands where it should (see `table`).

What they give each call is written down by a probe; what the UNet makes of it is computed in the core.
"""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file
from table import CFG, RANDOM_UNET, RANDOM_WIDTHS, STEPS, Clip, Core, check_row, random_core

from t2v_core.models.hooks import UNetHooks


class Residuals(UNetHooks):
    """Adds to each place what stands last in its list: ControlNets fill middle and output, adapters input."""

    def __init__(self, residuals, unet):
        self.residuals = residuals
        self.last = {"input": len(unet.input_blocks) - 1, "middle": 0, "output": len(unet.output_blocks) - 1}

    def add(self, place, index, h):
        return h + self.residuals.get(f"{place}.{self.last[place] - index}", 0)

    def input_block(self, index, h):
        h = self.add("input", index, h)
        return h, h

    def middle_block(self, h):
        return self.add("middle", 0, h)

    def output_block(self, index, h, skip):
        return h, self.add("output", index, skip)


def with_residuals(comfy, model: Core, name: str):
    """A guided denoiser with the residuals that ProbeResiduals wrote, one file a step."""
    step = iter(range(STEPS))

    def denoise(x, sigma):
        both = load_file(comfy.output / "probe" / f"{name}_{next(step)}.safetensors")
        halves = ({place: each.chunk(2)[part] for place, each in both.items()} for part in (0, 1))
        hooks = [Residuals(half, model.unet) for half in halves]
        texts = (model.negative, model.positive)
        uncond, cond = (model.denoise(x, sigma, *each) for each in zip(texts, hooks, strict=True))
        return uncond + CFG * (cond - uncond)

    return denoise


def controlled(clip: Clip, control_net, name: str):
    """A sampler under a ControlNet that is shown the bundled model's clip."""
    shown = clip.add("VAEDecode", samples=clip.sample(model=clip.load("bundled")), vae=clip.vae)
    applied = clip.add(
        "ControlNetApplyAdvanced",
        positive=clip.positive,
        negative=clip.negative,
        control_net=control_net,
        image=shown,
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    model = clip.add("ProbeResiduals", model=clip.model, name=name)
    return clip.sample(model=model, positive=applied[0], negative=applied[1])


def test_control_net(comfy):
    random_unet = random_core(comfy.models)
    clip = Clip(RANDOM_UNET)
    shape = {"widths": ",".join(map(str, RANDOM_WIDTHS)), "blocks_per_level": 2, "context_dim": 96, "seed": 1}
    rows = [
        controlled(clip, clip.add("ProbeControlNet", gain=gain, **shape), f"control_net_{gain:.0f}")
        for gain in (0.0, 1.0)
    ]
    rows = clip.latents(comfy, clip.sample(), *rows)
    check_row(*rows, random_unet.sample(with_residuals(comfy, random_unet, "control_net_1")))


def adapter_weights(gain: float) -> dict[str, torch.Tensor]:
    """Random weights of a T2I-adapter (Mou et al. arXiv 2302.08453) for RANDOM_WIDTHS."""
    generator = torch.Generator().manual_seed(0)

    def convolution(name, outputs, inputs, size):
        std = gain * (inputs * size**2) ** -0.5
        weight = std * torch.randn(outputs, inputs, size, size, generator=generator)
        return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}

    file, before = convolution("conv_in", RANDOM_WIDTHS[0], 3 * 8**2, 3), RANDOM_WIDTHS[0]
    for index, width in enumerate(width for width in RANDOM_WIDTHS for _ in range(2)):
        if width != before:
            file |= convolution(f"body.{index}.in_conv", width, before, 1)
        file |= convolution(f"body.{index}.block1", width, width, 3)
        file |= convolution(f"body.{index}.block2", width, width, 1)
        before = width
    return file


def test_t2i_adapter(comfy):
    random_unet = random_core(comfy.models)
    clip, rows = Clip(RANDOM_UNET), []
    (comfy.models / "controlnet").mkdir(exist_ok=True)
    for gain in (0, 1):
        save_file(adapter_weights(gain), comfy.models / "controlnet" / f"adapter_{gain}.safetensors")
        adapter = clip.add("ControlNetLoader", control_net_name=f"adapter_{gain}.safetensors")
        rows.append(controlled(clip, adapter, f"adapter_{gain}"))
    rows = clip.latents(comfy, clip.sample(), *rows)
    check_row(*rows, random_unet.sample(with_residuals(comfy, random_unet, "adapter_1")))
