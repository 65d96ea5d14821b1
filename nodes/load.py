"""Loading a model."""

from __future__ import annotations

from . import host


class T2VLoadModel:
    """A model's UNet, text encoder and autoencoder as MODEL, CLIP and VAE."""

    TITLE = "T2V Load Model"
    DESCRIPTION = (
        "Loads a text-to-video model. 'bundled' is the small model that comes with this pack and needs no download; "
        "the other entries are the models in models/text2video and models/diffusion_models, files and folders. The "
        "node says what it recognised, and loads only what something is connected to."
    )
    CATEGORY = "T2V/loaders"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    RETURN_NAMES = ("model", "clip", "vae")
    OUTPUT_TOOLTIPS = (
        "The denoising network, for a sampler.",
        "The text encoder; empty where the model comes with none.",
        "The autoencoder that turns latents into frames; empty where the model comes with none.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model_name": (
                    host.model_names(),
                    {"tooltip": "The model to load: 'bundled', or one in models/text2video or diffusion_models."},
                ),
                "weight_dtype": (
                    list(host.WEIGHT_DTYPES),
                    {
                        "default": "auto",
                        "tooltip": "The number format the weights are kept in. 'auto' suits the machine; "
                        "fp16 and bf16 halve the memory.",
                    },
                ),
            },
            "hidden": {"prompt": "PROMPT", "unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def IS_CHANGED(cls, model_name, weight_dtype, prompt=None, unique_id=None):
        if model_name is None:  # comes over a link, and is not known yet
            return None
        running = host.current()
        # What is not loaded now has to be when something is connected to it later.
        return running.model_stamp(model_name), linked_outputs(running.prompt(prompt, unique_id), unique_id)

    def load(self, model_name, weight_dtype, prompt=None, unique_id=None):
        running = host.current()
        parts = linked_outputs(running.prompt(prompt, unique_id), unique_id)
        loaded = running.load_model(model_name, weight_dtype, [host.PARTS[index] for index in parts])
        return {"ui": {"text": (loaded.text,)}, "result": (loaded.model, loaded.clip, loaded.vae)}


def linked_outputs(prompt: dict | None, node_id: str | None) -> tuple[int, ...]:
    """Which outputs of a node are connected to something in a prompt; all where that cannot be told."""
    every = tuple(range(len(T2VLoadModel.RETURN_TYPES)))
    if not prompt or node_id not in prompt:
        return every
    links = [
        value
        for node in prompt.values()
        for value in node.get("inputs", {}).values()
        if isinstance(value, list) and len(value) == 2
    ]
    return tuple(index for index in every if [node_id, index] in links)
