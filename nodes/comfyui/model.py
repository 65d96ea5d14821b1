"""The MODEL: a BaseModel around UNet3D, in a ModelPatcher, so that ComfyUI loads, moves, patches and saves it."""

from __future__ import annotations

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as memory
import comfy.supported_models_base
import comfy.utils
import torch

from ...t2v_core.checkpoints import ModelFile
from ...t2v_core.diffusion import NativeSize
from ...t2v_core.errors import T2VError
from ...t2v_core.models.memory import peak_bytes
from . import compat
from .model_sampling import ScaledSignal
from .unet import ComfyUNet3D

MODEL_TYPES = {"eps": comfy.model_base.ModelType.EPS, "v": comfy.model_base.ModelType.V_PREDICTION}
WORKSPACE = 1.25  # what kernels take for themselves, on top of the tensors


class Latents(comfy.latent_formats.SD15):
    """Stable Diffusion's latents; previews of a model with an autoencoder of its own are in its own colours."""

    def __init__(self, scale: float, rgb: tuple[tuple[float, ...], ...]):
        super().__init__(scale_factor=scale)
        if rgb:
            *factors, bias = (list(row) for row in rgb)
            self.latent_rgb_factors, self.latent_rgb_factors_bias = factors, bias
            self.taesd_decoder_name = None  # would decode another autoencoder's latents


class OneText(comfy.conds.CONDConstant):
    """Whether each conditioning of a call has one text for all its frames; conditionings of both kinds share a call."""

    def can_concat(self, other):
        return True

    def concat(self, others):
        return all(each.cond for each in (self, *others))


class ModelConfig(comfy.supported_models_base.BASE):
    """What ComfyUI asks of a model's kind."""

    unet_extra_config = {}
    memory_usage_factor = 1.0  # Stable Diffusion's; used where attention writes its scores out

    def __init__(self, file: ModelFile):
        # FreeU acts where features are 4 and 2 times model_channels wide: the deepest levels.
        super().__init__({"config": file.unet.config, "model_channels": max(file.unet.config.widths) // 4})
        self.file = file.without_weights()
        self.sampling_settings = {"zsnr": file.settings.zero_terminal_snr}
        self.latent_format = Latents(file.settings.latent_scale, file.settings.latent_rgb)

    def process_unet_state_dict_for_saving(self, state_dict):
        return super().process_unet_state_dict_for_saving(self.file.to_file(state_dict)) | self.file.settings_entry()


class T2VModel(comfy.model_base.BaseModel):
    """A clip's frames are the batch, `[f, 4, h, w]`, one clip a latent."""

    def __init__(self, config: ModelConfig, device: torch.device):
        settings = config.file.settings
        super().__init__(config, MODEL_TYPES[settings.prediction], device=device, unet_model=ComfyUNet3D)
        self.native: NativeSize = settings.native
        noise_schedule = config.file.noise_schedule()
        if noise_schedule.signal is not None:
            self.model_sampling = ScaledSignal(noise_schedule)

    def extra_conds(self, **kwargs):
        noise, text = kwargs["noise"], kwargs.get("cross_attn")
        unet = self.diffusion_model.config
        if noise.ndim != 4 or noise.shape[1] != unet.in_channels:
            raise T2VError(
                f"the latent is {list(noise.shape)}; this model takes one clip as [frames, {unet.in_channels}, "
                "height / 8, width / 8], as T2VEmptyLatent and EmptyLatentImage make it"
            )
        if text is None or text.ndim != 3 or text.shape[2] != unet.context_dim:
            raise T2VError(
                f"the conditioning is {None if text is None else list(text.shape)}; this model reads text features of "
                f"width {unet.context_dim}: encode the prompt with the CLIP that belongs to it"
            )
        if text.shape[0] not in (1, noise.shape[0]):
            raise T2VError(
                f"the conditioning has {text.shape[0]} rows and the latent {noise.shape[0]} frames; "
                "it takes 1 row for the whole clip or one for each frame"
            )
        told = {"num_video_frames": comfy.conds.CONDConstant(noise.shape[0]), "one_text": OneText(text.shape[0] == 1)}
        if unet.fps_embedding:
            told["fps"] = comfy.conds.CONDConstant(self.native.fps)
        return super().extra_conds(**kwargs) | told

    def memory_required(self, input_shape, *args, **kwargs):
        frames, h, w = input_shape[0], *input_shape[-2:]  # of any latent; extra_conds refuses what is not one clip
        dtype = self.get_dtype() if self.manual_cast_dtype is None else self.manual_cast_dtype
        size, kind = memory.dtype_size(dtype), memory.get_torch_device().type
        needed = peak_bytes(self.diffusion_model.config, frames, h, w, size, kind) * WORKSPACE
        if memory.xformers_enabled() or memory.pytorch_attention_flash_attention():
            return needed
        return max(needed, super().memory_required(input_shape, *args, **kwargs))


def build(file: ModelFile, weight_dtype: torch.dtype | None):
    """The MODEL of a file, its weights in the memory where ComfyUI keeps what does not run.

    weight_dtype: of the weights; None lets ComfyUI choose by its command line, the device and the file.
    """
    state_dict = dict(file.unet.state_dict)
    config, load_device = ModelConfig(file), memory.get_torch_device()
    if weight_dtype is None:
        weight_dtype = memory.unet_dtype(
            model_params=comfy.utils.calculate_parameters(state_dict),
            supported_dtypes=config.supported_inference_dtypes,
            weight_dtype=comfy.utils.weight_dtype(state_dict),
        )
    manual_cast = memory.unet_manual_cast(weight_dtype, load_device, config.supported_inference_dtypes)
    config.set_inference_dtype(weight_dtype, manual_cast)
    offload_device = memory.unet_offload_device()
    model = T2VModel(config, offload_device)
    patcher = compat.patcher_class()(model, load_device=load_device, offload_device=offload_device)
    compat.load_weights(model, patcher, state_dict)
    return patcher
