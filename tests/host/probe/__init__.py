"""Nodes for the tests, loaded by the server as a custom node: they look inside a run, or disturb it on purpose."""

from __future__ import annotations

import copy
import itertools
import json
import time
from pathlib import Path

import comfy.model_management
import comfy.ops
import comfy.sample
import folder_paths
import torch
from comfy.cldm.cldm import ControlNet
from comfy.controlnet import ControlNet as ControlNetOfHost
from comfy.patcher_extension import WrappersMP
from safetensors.torch import save_file
from torch import Tensor

from .modify import ProbeModify
from .windows import ProbeImageModel, ProbeSliding, ProbeWindows

FOLDER = "probe"  # in the output folder


class Anything(str):
    """A socket type that every link fits."""

    def __ne__(self, other):
        return False


class ProbeTensor:
    """Writes every tensor of a value into a .safetensors file, so that a test can read the exact numbers.

    A bare tensor (IMAGE, SIGMAS, MASK) is named "value"; what is inside lists and dictionaries is named by its path,
    such as "samples" of a LATENT, "0.0" and "0.1.pooled_output" of a CONDITIONING's first entry. A NOISE is asked for
    the noise of `latent`.
    """

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "t2v_probe", "save", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (Anything("*"),)}, "optional": {"latent": ("LATENT",)}}

    def save(self, value, latent=None):
        if hasattr(value, "generate_noise"):
            value = value.generate_noise(latent)
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            f"{FOLDER}/tensor", folder_paths.get_output_directory()
        )
        filename = f"{name}_{counter:05}_.safetensors"  # the form from which ComfyUI counts on
        save_file(tensors_in(value), Path(folder, filename))
        return {"ui": {"tensors": [{"filename": filename, "subfolder": subfolder, "type": "output"}]}}


def tensors_in(value, path: str = "") -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {path or "value": value.detach().cpu().clone(memory_format=torch.contiguous_format)}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {
        name: tensor
        for key, item in items
        for name, tensor in tensors_in(item, f"{path}.{key}" if path else str(key)).items()
    }


class ScaledNoise:
    """A NOISE: the seed's usual noise times a factor."""

    def __init__(self, seed: int, scale: float):
        self.seed, self.scale = seed, scale

    def generate_noise(self, latent: dict) -> Tensor:
        return self.scale * comfy.sample.prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))


class ProbeNoise:
    """`scale` times the noise of `seed`."""

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "make", ("NOISE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"max": 2**64 - 1}), "scale": ("FLOAT", {"min": -100.0})}}

    def make(self, seed, scale):
        return (ScaledNoise(seed, scale),)


class ProbeTap:
    """A MODEL that notes each call of its UNet, one JSON object a line, in <name>.jsonl in the probe folder."""

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "patch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "name": ("STRING", {})}}

    def patch(self, model, name):
        folder = Path(folder_paths.get_output_directory(), FOLDER)
        folder.mkdir(exist_ok=True)
        file = folder / f"{Path(name).name}.jsonl"
        file.write_text("")

        def note(execute, x, timesteps, context, y, control, transformer_options, **more):
            call = {
                "x": list(x.shape),
                "dtype": str(x.dtype).removeprefix("torch."),
                "timesteps": timesteps.tolist(),
                "context": list(context.shape),
                "cond_or_uncond": list(transformer_options["cond_or_uncond"]),
                "control": {place: len(residuals) for place, residuals in (control or {}).items()},
            }
            with file.open("a") as lines:
                lines.write(json.dumps(call) + "\n")
            return execute(x, timesteps, context, y, control, transformer_options, **more)

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "t2v_probe", note)
        return (model,)


class ProbeSlow:
    """A MODEL that sleeps after every input block of its UNet and before every output block."""

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "patch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "seconds": ("FLOAT", {"max": 60.0})}}

    def patch(self, model, seconds):
        def wait(h, *rest):
            time.sleep(seconds)
            return (h, rest[0]) if len(rest) == 2 else h  # an output block has a skip connection too

        model = model.clone()
        model.set_model_input_block_patch(wait)
        model.set_model_output_block_patch(wait)
        return (model,)


class ProbeOOM:
    """A MODEL whose UNet runs out of memory."""

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "patch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        def run_out(h, options):
            raise comfy.model_management.OOM_EXCEPTION("Tried to allocate 1000.00 GiB")

        model = model.clone()
        model.set_model_input_block_patch(run_out)
        return (model,)


class ProbeHungry:
    """A MODEL that is thought to need `factor` times Stable Diffusion's memory for each pixel."""

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "patch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "factor": ("FLOAT", {"max": 1e9})}}

    def patch(self, model, factor):
        model = model.clone()
        model.add_object_patch("memory_usage_factor", factor)
        return (model,)


class ProbeControlNet:
    """A tiny ControlNet of ComfyUI's own class with random weights, for a UNet with these widths, finest first.

    Inside it is 32 wide; its last convolutions lead to the UNet's widths. Their weights, and so what it adds, grow with
    `gain`; at 0 it adds nothing.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "make", ("CONTROL_NET",)
    WIDTH = 32

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "widths": ("STRING", {"default": "32,48,64,80"}),
                "blocks_per_level": ("INT", {"default": 1, "min": 1}),
                "context_dim": ("INT", {"default": 96, "min": 1}),
                "seed": ("INT", {"max": 2**64 - 1}),
                "gain": ("FLOAT", {"default": 1.0}),
            }
        }

    def make(self, widths, blocks_per_level, context_dim, seed, gain):
        levels = [int(width) for width in widths.split(",")]
        network = ControlNet(
            image_size=8,
            in_channels=4,
            model_channels=self.WIDTH,
            hint_channels=3,
            num_res_blocks=blocks_per_level,
            channel_mult=(1,) * len(levels),
            num_head_channels=self.WIDTH,
            use_spatial_transformer=True,
            context_dim=context_dim,
            transformer_depth=[1] * blocks_per_level * len(levels),
            transformer_depth_middle=1,
        ).eval()
        # The first convolution; then each level's blocks, and its downsampling but for the last level's.
        skips = [levels[0]] + [w for w in levels for _ in range(blocks_per_level + 1)][:-1]
        for convolution, width in zip(
            [*network.zero_convs, network.middle_block_out], [*skips, levels[-1]], strict=True
        ):
            convolution[0] = comfy.ops.disable_weight_init.Conv2d(self.WIDTH, width, 1)
        self._fill(network, seed, gain)
        return (ControlNetOfHost(network, load_device=comfy.model_management.get_torch_device()),)

    @staticmethod
    @torch.no_grad()
    def _fill(network: ControlNet, seed: int, gain: float) -> None:
        """Weights that keep the size of what passes; biases 0, norms 1."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(float(name.endswith("weight")))
            if name.startswith(("zero_convs", "middle_block_out")):
                parameter *= gain


class ProbeResiduals:
    """A MODEL that writes what a ControlNet gave each call of its UNet into <name>_<call>.safetensors in FOLDER.

    A tensor is named by its place and its position in that place's list, such as "output.0".
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "patch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "name": ("STRING", {})}}

    def patch(self, model, name):
        folder = Path(folder_paths.get_output_directory(), FOLDER)
        folder.mkdir(exist_ok=True)
        calls = itertools.count()

        def keep(execute, x, timesteps, context, y, control, transformer_options, **more):
            save_file(tensors_in(control), folder / f"{Path(name).name}_{next(calls)}.safetensors")
            return execute(x, timesteps, context, y, control, transformer_options, **more)

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "t2v_probe", keep)
        return (model,)


class ProbeSlowVAE:
    """A VAE that sleeps before every batch of frames that it is given to decode."""

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "patch", ("VAE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"vae": ("VAE",), "seconds": ("FLOAT", {"max": 60.0})}}

    def patch(self, vae, seconds):
        def decode(samples, *args, **kwargs):
            time.sleep(seconds)
            return vae.decode(samples, *args, **kwargs)

        slow = copy.copy(vae)
        slow.decode = decode
        return (slow,)


class ProbeAudio:
    """An AUDIO: a tone in stereo. ComfyUI's own audio nodes need packages that not every installation has."""

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "make", ("AUDIO",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"max": 60.0}), "sample_rate": ("INT", {"max": 192000})}}

    def make(self, seconds, sample_rate):
        tone = 0.3 * torch.sin(torch.arange(int(seconds * sample_rate)) / 20)
        return ({"waveform": tone.repeat(1, 2, 1), "sample_rate": sample_rate},)


class ProbeScarce:
    """The MODEL as it is. From now on this server keeps at most so many bytes of a model's weights on the device that
    runs it, and moves the others there layer by layer: 0.1 is what `--novram` makes of it, `--lowvram` what is free.
    ComfyUI takes neither option together with `--cpu`.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "set", ("MODEL",)
    load = comfy.model_management.LoadedModel.model_load

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "bytes": ("FLOAT", {"min": 0.1, "max": 2.0**40})}}

    def set(self, model, bytes):
        def load(self, lowvram_model_memory=0, *args, **kwargs):
            return ProbeScarce.load(self, bytes, *args, **kwargs)

        comfy.model_management.LoadedModel.model_load = load
        return (model,)


NODES = [ProbeTensor, ProbeNoise, ProbeTap, ProbeSlow, ProbeOOM, ProbeControlNet, ProbeResiduals, ProbeSlowVAE]
NODES += [ProbeScarce, ProbeHungry, ProbeModify, ProbeAudio, ProbeWindows, ProbeSliding]
NODES += [ProbeImageModel]
NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODES}
