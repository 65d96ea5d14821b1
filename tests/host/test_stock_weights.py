"""ComfyUI's own nodes that change, merge and save the weights of our MODEL and CLIP (see `table`)."""

from __future__ import annotations

import shutil
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from table import CFG, PROMPT, RANDOM_UNET, Clip, bundled, check_row, core, random_core

from t2v_core.checkpoints import save_unet
from t2v_core.text import PromptEncoder

LORA = "table.safetensors"
RANK, ALPHA, STRENGTH = 2, 3.0, 0.8
BLOCK = "middle_block.1.transformer_blocks.0"
# A linear layer, a convolution of pixels, one of frames, under the two namings that LoRA files have.
UNET_KEYS = {
    f"{BLOCK}.attn2.to_v": f"diffusion_model.{BLOCK}.attn2.to_v",
    "output_blocks.5.0.out_layers.3": "lora_unet_output_blocks_5_0_out_layers_3",
    "output_blocks.5.0.temporal_conv.conv1.2": "lora_unet_output_blocks_5_0_temporal_conv_conv1_2",
}
TEXT_KEYS = {"layers.0.up": "text_encoders.layers.0.up", "layers.1.out": "text_encoders.layers.1.out"}


@pytest.fixture(scope="module")
def lora(comfy) -> dict[str, torch.Tensor]:
    """A LoRA of random numbers in the server's models folder; what it adds to each weight at strength 1."""
    generator, file, added = torch.Generator().manual_seed(0), {}, {}
    weights = {**core().unet.state_dict(), **bundled().prompt_encoder.network.state_dict()}
    for name, key in {**UNET_KEYS, **TEXT_KEYS}.items():
        weight = weights[f"{name}.weight"]
        up = weight.std() * torch.randn(len(weight), RANK, generator=generator)
        down = torch.randn(RANK, weight[0].numel(), generator=generator)
        added[f"{name}.weight"] = (ALPHA / RANK * up @ down).reshape(weight.shape)
        # A kernel over frames has five axes in files, [out, in, frames, 1, 1]: one more than in our network.
        axes = [1] * ("temporal" in name)
        file[f"{key}.lora_up.weight"] = up.reshape(*up.shape, *[1] * (weight.ndim - 2), *axes)
        file[f"{key}.lora_down.weight"] = down.reshape(RANK, *weight.shape[1:], *axes)
        file[f"{key}.alpha"] = torch.tensor(ALPHA)
    (comfy.models / "loras").mkdir(exist_ok=True)
    save_file(file, comfy.models / "loras" / LORA)
    return added


def with_added(network, added, strength):
    """The network with so much of the LoRA in its weights."""
    state_dict = network.state_dict()
    for name in added.keys() & state_dict.keys():
        state_dict[name] = state_dict[name] + strength * added[name]
    network = deepcopy(network)
    network.load_state_dict(state_dict)
    return network


def test_lora_loader(comfy, lora):
    clip = Clip()

    def through(strength_model, strength_clip):
        loaded = clip.add(
            "LoraLoader",
            model=clip.model,
            clip=clip.clip,
            lora_name=LORA,
            strength_model=strength_model,
            strength_clip=strength_clip,
        )
        return clip.sample(model=loaded, positive=clip.text(PROMPT, loaded[1]))

    rows = clip.latents(comfy, clip.sample(), through(0.0, 0.0), through(STRENGTH, 0.0), through(STRENGTH, -STRENGTH))
    unet = with_added(core().unet, lora, STRENGTH)
    check_row(*rows[:3], core().sample(core().guided(unet=unet)))

    encoder = bundled().prompt_encoder
    encoder = PromptEncoder(with_added(encoder.network, lora, -STRENGTH), encoder.tokenizer, encoder.length)
    positive = encoder.encode(PROMPT)[0]

    def both(x, sigma):
        uncond = core().denoise(x, sigma, core().negative, unet=unet)
        return uncond + CFG * (core().denoise(x, sigma, positive, unet=unet) - uncond)

    check_row(rows[2], rows[2], rows[3], core().sample(both))


def test_hook_lora(comfy, lora):
    """A LoRA for one text and not the other; then for the second half of the steps only."""
    clip = Clip()

    def under(strength, start=0.0):
        hooks = clip.add("CreateHookLora", lora_name=LORA, strength_model=strength, strength_clip=0.0)
        first = clip.add("CreateHookKeyframe", strength_mult=float(start == 0), start_percent=0.0)
        second = clip.add("CreateHookKeyframe", strength_mult=1.0, start_percent=start, prev_hook_kf=first)
        hooks = clip.add("SetHookKeyframes", hooks=hooks, hook_kf=second)
        positive = clip.add(
            "ConditioningSetProperties", cond_NEW=clip.positive, strength=1.0, set_cond_area="default", hooks=hooks
        )
        return clip.sample(positive=positive)

    plain, off, on, late = clip.latents(comfy, clip.sample(), under(0.0), under(STRENGTH), under(STRENGTH, 0.5))
    unet = with_added(core().unet, lora, STRENGTH)

    def guided(below):
        def denoise(x, sigma):
            uncond = core().denoise(x, sigma, core().negative)
            cond = core().denoise(x, sigma, core().positive, unet=unet if sigma < below else None)
            return uncond + CFG * (cond - uncond)

        return denoise

    check_row(plain, off, on, core().sample(guided(torch.inf)))
    check_row(plain, off, late, core().sample(guided(core().noise_schedule.percent_to_sigma(0.5))))


@pytest.mark.long
def test_model_merge_simple(comfy):
    torch.manual_seed(0)
    other = deepcopy(core().unet)
    other.load_state_dict({key: each * (1 + 0.1 * torch.randn_like(each)) for key, each in other.state_dict().items()})
    (comfy.models / "text2video").mkdir(exist_ok=True)
    save_unet(other, comfy.models / "text2video" / "other.safetensors", "bundled")
    clip, ratio = Clip(), 0.25
    second = clip.load("other.safetensors")
    rows = [
        clip.sample(model=clip.add("ModelMergeSimple", model1=clip.model, model2=second, ratio=share))
        for share in (1.0, ratio)
    ]
    ours, theirs, merged = core().unet.state_dict(), other.state_dict(), deepcopy(other)
    merged.load_state_dict({key: ratio * ours[key] + (1 - ratio) * theirs[key] for key in ours})
    check_row(*clip.latents(comfy, clip.sample(), *rows), core().sample(core().guided(unet=merged)))


def save_and_take(comfy, clip: Clip, models: dict) -> None:
    """Saves MODELs by ComfyUI's node and moves the files to where T2VLoadModel finds them, `name`.safetensors."""
    for name, model in models.items():
        clip.add("ModelSave", model=model, filename_prefix=f"diffusion_models/{name}")
    comfy.run(clip)
    (comfy.models / "text2video").mkdir(exist_ok=True)
    for name in models:
        (saved,) = (comfy.output / "diffusion_models").glob(f"{name}_*.safetensors")
        shutil.move(saved, comfy.models / "text2video" / f"{name}.safetensors")


def test_model_save_and_reload(comfy, lora):
    clip = Clip()
    changed = clip.add("LoraLoaderModelOnly", model=clip.model, lora_name=LORA, strength_model=STRENGTH)
    save_and_take(comfy, clip, {"saved": clip.model, "with_lora": changed})
    clip = Clip()
    rows = [clip.sample(model=clip.load(f"{name}.safetensors")) for name in ("saved", "with_lora")]
    unet = with_added(core().unet, lora, STRENGTH)
    check_row(*clip.latents(comfy, clip.sample(), *rows), core().sample(core().guided(unet=unet)))


def test_a_saved_file_has_the_names_and_shapes_of_its_layout(comfy):
    random_core(comfy.models)
    clip = Clip(RANDOM_UNET)
    save_and_take(comfy, clip, {"copy": clip.model})
    original, copy = (comfy.models / "text2video" / name for name in (RANDOM_UNET, "copy.safetensors"))

    prefix, ours, theirs = "model.diffusion_model.", load_file(original), load_file(copy)
    copied = {key.removeprefix(prefix): each for key, each in theirs.items() if key.startswith(prefix)}
    assert copied.keys() == ours.keys()
    assert all(torch.equal(copied[key], ours[key]) for key in ours)
    # As in text-to-video-ms-1.7b, misspelt word and all: a 3D kernel over frames, a 1D one around temporal attention.
    assert copied["input_blocks.1.0.temopral_conv.conv1.2.weight"].shape == (32, 32, 3, 1, 1)
    assert copied["input_blocks.1.2.proj_in.weight"].shape == (32, 32, 1)
    again = Clip("copy.safetensors")
    plain, reloaded = clip.latents(comfy, clip.sample())[0], again.latents(comfy, again.sample())[0]
    assert torch.equal(reloaded, plain)
