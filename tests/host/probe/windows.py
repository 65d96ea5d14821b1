"""Nodes that look at context windows: what a run is prepared for, and what a call is told of its window."""

from __future__ import annotations

import json
from pathlib import Path

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import folder_paths
import torch
from comfy.controlnet import ControlNet
from comfy.patcher_extension import WrappersMP


class ProbeWindows:
    """A MODEL that notes, one JSON object a line in <name>.jsonl in the probe folder, for how many frames memory is
    asked for, and for each call of its UNet the frames, and what it is told of them under "ad_params" and
    "t2v_frames".
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "patch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "name": ("STRING", {})}}

    def patch(self, model, name):
        folder = Path(folder_paths.get_output_directory(), "probe")
        folder.mkdir(exist_ok=True)
        file = folder / f"{Path(name).name}.jsonl"
        file.write_text("")

        def note(**facts):
            with file.open("a") as lines:
                lines.write(json.dumps(facts) + "\n")

        def prepared(execute, model, noise_shape, *args, **kwargs):
            note(prepared=list(noise_shape))
            return execute(model, noise_shape, *args, **kwargs)

        def called(execute, x, timesteps, context, y, control, transformer_options, **more):
            keys = ("ad_params", "t2v_frames", "cond_or_uncond")
            told = {key: transformer_options[key] for key in keys if key in transformer_options}
            note(x=list(x.shape), num_video_frames=more.get("num_video_frames"), **told)
            return execute(x, timesteps, context, y, control, transformer_options, **more)

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "t2v_probe", prepared)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "t2v_probe", called)
        return (model,)


class Sliding(ControlNet):
    """Takes its frames itself, by what it is told of the window, and cannot be copied: its method is bound to it."""

    def __init__(self, network, **options):
        super().__init__(network, **options)
        self.sub_idxs, self.full_latent_length, self.context_length = None, 0, 0
        self.get_control = self.get_sliding

    def get_sliding(self, x_noisy, *args, **kwargs):
        whole = self.cond_hint_original
        if self.sub_idxs is not None:
            assert len(self.sub_idxs) % self.context_length == 0 and max(self.sub_idxs) < self.full_latent_length
            self.cond_hint_original, self.cond_hint = whole[[row % len(whole) for row in self.sub_idxs]], None
        out = ControlNet.get_control(self, x_noisy, *args, **kwargs)
        self.cond_hint_original, self.cond_hint = whole, None
        return out

    def copy(self):
        made = Sliding(self.control_model, load_device=self.load_device)
        made.control_model_wrapped = self.control_model_wrapped
        self.copy_to(made)
        return made


class ProbeSliding:
    """A ControlNet that is told of windows as those made for AnimateDiff-Evolved are."""

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "make", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"control_net": ("CONTROL_NET",)}}

    def make(self, control_net):
        device = comfy.model_management.get_torch_device()
        return (Sliding(control_net.control_model, load_device=device),)


class ProbeImageModel:
    """A MODEL of ComfyUI's own for pictures, of Stable Diffusion's kind: small, with random weights, for texts of the
    width `context_dim`."""

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"context_dim": ("INT", {"default": 96, "min": 1})}}

    def make(self, context_dim):
        sizes = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1]}
        sizes |= {"channel_mult": (1, 2), "num_head_channels": 32, "use_spatial_transformer": True, "legacy": False}
        sizes |= {"transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1}
        sizes |= {"context_dim": context_dim, "dtype": torch.float32}
        device = comfy.model_management.get_torch_device()
        config = comfy.supported_models.SD15(sizes)
        config.unet_config = sizes
        model = comfy.model_base.BaseModel(config, device=device)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.diffusion_model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
                else:
                    parameter.fill_(float(name.endswith("weight")))
        return (comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device),)
