"""T2VLoadLora in a real ComfyUI: each family of files, off, on and taken out, alone and beside ComfyUI's LoraLoader."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from prompts import Failed
from safetensors.torch import save_file
from table import CFG, EQUAL, PROMPT, Clip, bundled, check_row, core, relative_error

from t2v_core.text import PromptEncoder

RANK, ALPHA, STRENGTH = 2, 3.0, 0.8
# A matrix, a kernel over pixels, one over frames, and the projection that original files have as a 1D convolution; our
# name, diffusers' name, and the shape that the original's weight has behind its channels.
LAYERS = {
    "middle_block.1.transformer_blocks.0.attn2.to_v": ("mid_block.attentions.0.transformer_blocks.0.attn2.to_v", ()),
    "middle_block.0.in_layers.2": ("mid_block.resnets.0.conv1", (3, 3)),
    "middle_block.0.temporal_conv.conv1.2": ("mid_block.temp_convs.0.conv1.2", (3, 1, 1)),
    "middle_block.2.proj_in": ("mid_block.temp_attentions.0.proj_in", (1,)),
}
TEXT = "layers.1.up"


class Files:
    """LoRA files of random numbers, and what each adds to the weights at strength 1, by our names."""

    def __init__(self, folder):
        self.folder, self.generator = folder, torch.Generator().manual_seed(0)
        folder.mkdir(exist_ok=True)

    def factors(self, name: str, network, kernel: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        weight = network.get_submodule(name).weight
        up = weight.std() * torch.randn(len(weight), RANK, *[1] * len(kernel), generator=self.generator)
        return up, torch.randn(RANK, weight.shape[1], *kernel, generator=self.generator)

    def kohya(self, name: str) -> dict[str, torch.Tensor]:
        """Flattened original names, with the original's shapes and its misspelling; and a layer of the text encoder."""
        file, added = {}, {}
        for ours, (_, kernel) in LAYERS.items():
            key = f"lora_unet_{ours.replace('.', '_').replace('temporal_conv', 'temopral_conv')}"
            up, down = self.factors(ours, core().unet, kernel)
            file |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(ALPHA)}
            added[f"{ours}.weight"] = ALPHA / RANK * up.flatten(1) @ down.flatten(1)
        up, down = self.factors(TEXT, bundled().prompt_encoder.network)
        file |= {"lora_te_layers_1_up.lora_up.weight": up, "lora_te_layers_1_up.lora_down.weight": down}
        added[f"{TEXT}.weight"] = up @ down
        save_file(file, self.folder / name)
        return added

    def peft(self, name: str) -> dict[str, torch.Tensor]:
        """diffusers' names and shapes, and the scale in the metadata."""
        file, added = {}, {}
        for ours, (theirs, kernel) in LAYERS.items():
            up, down = self.factors(ours, core().unet, () if kernel == (1,) else kernel)
            file |= {f"unet.{theirs}.lora_A.weight": down, f"unet.{theirs}.lora_B.weight": up}
            added[f"{ours}.weight"] = ALPHA / RANK * up.flatten(1) @ down.flatten(1)
        save_file(file, self.folder / name, {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": ALPHA})})
        return added

    def stable_lora(self, name: str) -> dict[str, torch.Tensor]:
        """The web UI's: kernels in the matrices' sides, a mean for the one over frames."""
        file, added = {}, {}
        for ours, (_, kernel) in LAYERS.items():
            size, weight = (kernel or (1,))[0], core().unet.get_submodule(ours).weight
            up = weight.std() * torch.randn(len(weight) * size, RANK * size, generator=self.generator)
            down = torch.randn(RANK * size, weight.shape[1] * size, generator=self.generator)
            axes = (..., None) if "proj" in ours else (...,)
            key = ours.replace("temporal_conv", "temopral_conv")
            file |= {f"{key}.lora_A": down[axes], f"{key}.lora_B": up[axes]}
            product = up @ down
            if kernel == (3, 1, 1):
                product = product.view(*weight.shape[:2], 3, 3, 1).mean(dim=-2)
            added[f"{ours}.weight"] = product
        save_file(file, self.folder / name, {"stable_lora_text_to_video": "v1"})
        return added

    def cloneofsimo(self, name: str) -> dict[str, torch.Tensor]:
        """A list without names: the temporal transformers' layers in diffusers' order."""
        from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel

        transformer = TransformerTemporalModel(4, 8, in_channels=32, norm_num_groups=8)
        layers = [each for each, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
        unet, tensors, added = core().unet, [], {}
        kinds = {each: type(module).__name__ for each, module in unet.named_modules()}
        found = [each for each, kind in kinds.items() if kind == "TemporalTransformer"]
        # diffusers makes its middle block last.
        for place in sorted(found, key=lambda each: each.startswith("middle")):
            for layer in layers:
                up, down = self.factors(f"{place}.{layer}", unet)
                tensors += [0.1 * up, down]
                added[f"{place}.{layer}.weight"] = 0.1 * up @ down
        torch.save(tensors, self.folder / name)
        return added


@pytest.fixture(scope="module")
def files(comfy) -> Files:
    return Files(comfy.models / "loras")


def with_added(network, *added_and_strength):
    """A copy of the network with so much of the LoRAs in its weights."""
    network = deepcopy(network)
    with torch.no_grad():
        for added, strength in added_and_strength:
            for name, weight in network.named_parameters():
                if name in added:
                    weight += strength * added[name].reshape(weight.shape)
    return network


def check(comfy, before, off, on, expected) -> None:
    """As `check_row`. In the ComfyUI that is a package, each copy of a MODEL has its own note of which patches are in
    the weights, so that a LoRA stays in after it was taken out, ComfyUI's own loader's too; there, only the value."""
    if comfy.installation.is_package:
        assert relative_error(on, expected) <= EQUAL
    else:
        check_row(before, off, on, expected)
        assert torch.equal(before, off)


class LoraClip(Clip):
    """The shared prompt with our LoRA node in it."""

    def lora(self, name: str, strength: float, model=None, **clip):
        inputs = {"lora_name": name, "strength_model": strength, "strength_clip": clip.pop("strength_clip", 0.0)}
        return self.add("T2VLoadLora", model=model or self.model, **inputs, **clip)


@pytest.mark.parametrize(
    ("family", "name"),
    [("kohya", "k.safetensors"), ("peft", "p.safetensors"), ("stable_lora", "s.safetensors"), ("cloneofsimo", "c.pt")],
)
def test_each_family(comfy, files, family, name):
    """Strength 0 changes nothing, 1 is the merged weights, and without the node all is as before, bit for bit."""
    added = getattr(files, family)(name)
    clip = LoraClip()
    rows = [clip.sample(model=clip.lora(name, strength)) for strength in (0.0, 1.0)]
    before, off, on = clip.latents(comfy, clip.sample(), *rows)
    check(comfy, before, off, on, core().sample(core().guided(unet=with_added(core().unet, (added, 1.0)))))
    if comfy.installation.is_package:
        return
    again = LoraClip()
    (after,) = again.latents(comfy, again.sample(cfg=CFG + 1e-9))  # another prompt to ComfyUI, the same numbers
    assert torch.equal(after, before)


def test_beside_comfyui_s_own_loader_and_in_the_text_encoder(comfy, files):
    """Ours with ComfyUI's before and behind it, both networks, another strength each."""
    mine, stock = files.kohya("mine.safetensors"), {}
    name = "middle_block.1.transformer_blocks.0.attn2.to_v"  # one that ours changes too
    up, down = files.factors(name, core().unet)
    stock[f"{name}.weight"] = up @ down
    key = f"diffusion_model.{name}"
    save_file({f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}, files.folder / "stock.safetensors")

    clip = LoraClip()
    plain = {"lora_name": "stock.safetensors", "strength_model": STRENGTH}
    first = clip.add("LoraLoaderModelOnly", model=clip.model, **plain)
    ours = clip.lora("mine.safetensors", -STRENGTH, first, clip=clip.clip, strength_clip=0.5)
    last = clip.add("LoraLoaderModelOnly", model=ours, **plain)
    none = clip.add("T2VLoadLora", model=clip.model, clip=clip.clip, lora_name="none", strength_model=1.0,
                    strength_clip=1.0)  # fmt: skip
    before, off, on = clip.latents(
        comfy,
        clip.sample(),
        clip.sample(model=none, positive=clip.text(PROMPT, none[1])),
        clip.sample(model=last, positive=clip.text(PROMPT, ours[1])),
    )
    unet = with_added(core().unet, (mine, -STRENGTH), (stock, 2 * STRENGTH))
    encoder = bundled().prompt_encoder
    encoder = PromptEncoder(with_added(encoder.network, (mine, 0.5)), encoder.tokenizer, encoder.length)
    positive = encoder.encode(PROMPT)[0]

    def both(x, sigma):
        uncond = core().denoise(x, sigma, core().negative, unet=unet)
        return uncond + CFG * (core().denoise(x, sigma, positive, unet=unet) - uncond)

    check(comfy, before, off, on, core().sample(both))


def test_another_model_s_lora_is_refused_and_the_server_lives_on(comfy, files):
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_up.weight": torch.ones(320, 2), f"{key}.lora_down.weight": torch.ones(2, 768)}
    save_file(tensors, files.folder / "sd15.safetensors")
    clip = LoraClip()
    with pytest.raises(Failed, match="It seems to be a LoRA for Stable Diffusion 1.x, which makes images"):
        clip.latents(comfy, clip.sample(model=clip.lora("sd15.safetensors", 1.0)))
    again = LoraClip()
    assert again.latents(comfy, again.sample())[0].isfinite().all()
