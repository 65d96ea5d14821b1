"""The CLIP and VAE of public models: ComfyUI's own networks, built by its own loaders from a file's weights."""

from __future__ import annotations

from typing import Any

import comfy.sd
import folder_paths

from ...t2v_core.checkpoints import WeightFile
from ...t2v_core.errors import CheckpointError


def text_encoder(file: WeightFile) -> Any:
    """The CLIP of a text tower under OpenCLIP's or transformers' names."""
    # ComfyUI tells the kind of tower by its shapes, and changes the dictionaries it is given.
    return _built(
        file,
        lambda weights: comfy.sd.load_text_encoder_state_dicts(
            [weights],
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION,
        ),
    )


def autoencoder(file: WeightFile) -> Any:
    """The VAE of an autoencoder under Latent Diffusion's or diffusers' names. Raises CheckpointError where ComfyUI's
    network has another number of weights, some of which would be left at random."""
    vae = _built(file, lambda weights: comfy.sd.VAE(sd=weights))
    expected = 0 if vae.first_stage_model is None else len(vae.first_stage_model.state_dict())
    if len(file.tensors) != expected:
        raise CheckpointError(
            f"{file.path}: this autoencoder has {len(file.tensors)} weights, and ComfyUI's network for it {expected}; "
            "connect VAELoader with a VAE of Stable Diffusion 1 or 2"
        )
    return vae


def _built(file: WeightFile, build: Any) -> Any:
    """What ComfyUI makes of the weights; where they do not fit its network, an error that names the file."""
    try:
        return build(dict(file.tensors))
    except RuntimeError as error:  # of load_state_dict: the first line says nothing, the second the first mismatch
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file.path}: its weights do not fit ComfyUI's network: {reason:.300}") from None
