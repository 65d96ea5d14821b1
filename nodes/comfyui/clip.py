"""The CLIP of a model that brings its own text encoder."""

from __future__ import annotations

import comfy.model_management
import comfy.sd
import comfy.supported_models_base
import torch

from ...t2v_core.models.text_encoder import TextEncoder
from ...t2v_core.text import PromptEncoder

NAME = "t2v"


class ComfyTextEncoder(TextEncoder):
    """TextEncoder as ComfyUI's CLIP calls it. Inherits, so that LoRAs and saved files know its weights."""

    dtypes = {torch.float32}

    def __init__(self, prompt_encoder: PromptEncoder):
        network = prompt_encoder.network
        super().__init__(network.config)
        self.load_state_dict(network.state_dict(), assign=True)
        self.eval().requires_grad_(False)
        self._tokenizer, self._length = prompt_encoder.tokenizer, prompt_encoder.length

    def encode_token_weights(self, tokens):
        device = comfy.model_management.intermediate_device()
        # Made for each call: one that were kept would hold this module and be held by it, and ComfyUI warns of that.
        encoder = PromptEncoder(self, self._tokenizer, self._length)
        return tuple(part.to(device) for part in encoder.encode_chunks(tokens[NAME]))

    def set_clip_options(self, options):
        """CLIPSetLastLayer and the like: this encoder's last layer is the one its UNet was trained with."""

    def reset_clip_options(self):
        """There are none."""

    def load_sd(self, state_dict):
        return self.load_state_dict(state_dict, strict=False)


class Tokenizer:
    """Prompts to chunks of weighted ids, the same as headless."""

    def __init__(self, prompt_encoder: PromptEncoder):
        self._prompt_encoder = prompt_encoder

    def tokenize_with_weights(self, text, return_word_ids=False, **kwargs):
        chunks = self._prompt_encoder.chunks(text)
        if return_word_ids:
            chunks = [[(*pair, place) for place, pair in enumerate(pairs)] for pairs in chunks]
        return {NAME: chunks}

    def untokenize(self, token_weight_pairs):
        word = self._prompt_encoder.tokenizer.word
        return [(pair, word(pair[0])) for pair in token_weight_pairs]

    def clone(self):
        return self

    def state_dict(self):
        return {}


def build(prompt_encoder: PromptEncoder):
    """The CLIP of a prompt encoder."""
    network = ComfyTextEncoder(prompt_encoder)
    target = comfy.supported_models_base.ClipTarget(
        lambda **_: Tokenizer(prompt_encoder), lambda device=None, **_: network.to(device)
    )
    return comfy.sd.CLIP(
        target,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        model_options={"dtype": torch.float32},
    )
