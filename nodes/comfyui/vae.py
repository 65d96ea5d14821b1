"""The VAE of a model that brings its own autoencoder."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch

from ...t2v_core.models.autoencoder import Autoencoder

# Bytes per pixel of one frame in single precision: 130 and 180 measured, on a CPU, and a quarter for what kernels take.
ENCODE_BYTES = 160
DECODE_BYTES = 225


class WholePatcher(comfy.model_patcher.ModelPatcher):
    """Loads its network whole or not at all, also under `--novram`: layers of PyTorch's own cannot run from two
    memories, and ComfyUI would leave all of them in the one they are in."""

    def partially_load(self, device_to, extra_memory=0, *args, **kwargs):
        return super().partially_load(device_to, 2 * self.model_size(), *args, **kwargs)

    def partially_unload(self, device_to, memory_to_free=0, *args, **kwargs):
        return 0  # so ComfyUI unloads all of it


class ComfyVAE(comfy.sd.VAE):
    """ComfyUI's VAE around our network.

    ComfyUI knows no public way to give it a network. Its constructor for the trivial pixel-space VAE sets every
    attribute that this version has, after which only what describes the network is replaced.
    """

    def __init__(self, network: Autoencoder):
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)})
        network = network.float().eval()
        self.first_stage_model = network
        self.downscale_ratio = self.upscale_ratio = network.config.downscale
        self.latent_channels = network.config.latent_channels
        self.working_dtypes = [torch.float32]
        self.vae_dtype = torch.float32
        self.disable_offload = True
        self.memory_used_encode = lambda shape, dtype: shape[2] * shape[3] * ENCODE_BYTES
        pixels = self.upscale_ratio**2  # not of `self` below: a cycle would keep the network alive
        self.memory_used_decode = lambda shape, dtype: shape[2] * shape[3] * pixels * DECODE_BYTES
        self.patcher = WholePatcher(
            network, load_device=self.device, offload_device=comfy.model_management.vae_offload_device()
        )
