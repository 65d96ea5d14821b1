"""Loading a model."""

from __future__ import annotations

from . import host


class T2VLoadModel:
    """A model's UNet, text encoder and autoencoder as MODEL, CLIP and VAE."""

    TITLE = "T2V Load Model"
    DESCRIPTION = (
        "Loads a text-to-video model. 'bundled' is the small model that comes with this pack and needs no download; "
        "the other entries are the model files in models/text2video and models/diffusion_models."
    )
    CATEGORY = "T2V/loaders"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    RETURN_NAMES = ("model", "clip", "vae")
    OUTPUT_TOOLTIPS = (
        "The denoising network, for a sampler.",
        "The text encoder; empty where the file holds only the network.",
        "The autoencoder that turns latents into frames; empty where the file holds only the network.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model_name": (
                    host.model_names(),
                    {"tooltip": "The model to load: 'bundled', or a file in models/text2video or diffusion_models."},
                ),
                "weight_dtype": (
                    list(host.WEIGHT_DTYPES),
                    {
                        "default": "auto",
                        "tooltip": "The number format the weights are kept in. 'auto' suits the machine; "
                        "fp16 and bf16 halve the memory.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, model_name, weight_dtype):
        if model_name is None:  # comes over a link, and is not known yet
            return None
        return host.current().model_stamp(model_name)

    def load(self, model_name, weight_dtype):
        return host.current().load_model(model_name, weight_dtype)
