"""VideoCrafter2's layout: `model.ckpt`, written by lvdm's openaimodel3d.UNetModel (Chen et al. 2401.09047).

It is ModelScope's network with the frame rate as a further input. Two modules stand elsewhere (the transformer after
the first convolution, and the convolutions between levels), and of the temporal transformers only that first one
projects by convolutions. Source of the names: github.com/AILab-CVC/VideoCrafter,
`lvdm/modules/networks/openaimodel3d.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from ..models.unet3d import UNet3DConfig
from .keymap import KeyMap
from .layout import TEMPORAL_CONVOLUTIONS, Layout, Settings, hidden_settings, levels_of, places, read_config

FIRST_TRANSFORMER = "init_attn.0."
KEYS = KeyMap(
    (
        ("*.temopral_conv.*", "*.temporal_conv.*"),  # misspelt here too
        (f"{FIRST_TRANSFORMER}*", "input_blocks.0.1.*"),
        ("input_blocks.{}.0.op.*", "input_blocks.{}.op.*"),
        ("time_embed.*", "time_embed.*"),
        ("fps_embedding.*", "fps_embedding.*"),
        ("input_blocks.*", "input_blocks.*"),
        ("middle_block.*", "middle_block.*"),
        ("output_blocks.*", "output_blocks.*"),
        ("out.*", "out.*"),
    ),
    one_axis_more=(*TEMPORAL_CONVOLUTIONS, "input_blocks.0.1.proj_{}.weight"),
)


def _detect(keys: Collection[str]) -> bool:
    # VideoCrafter1 has the first transformer too, and no convolution over frames.
    return any(key.startswith(FIRST_TRANSFORMER) for key in keys) and any(".temopral_conv." in key for key in keys)


def _config(tensors: Mapping[str, Tensor], settings: Settings) -> UNet3DConfig:
    named = places(tensors)
    ends = {place[: -len(".0.op")] for place in named if re.fullmatch(r"input_blocks\.\d+\.0\.op", place)}
    attention, blocks_per_level = levels_of(named, ends)
    return read_config(tensors, KEYS, attention, blocks_per_level, settings)


VIDEOCRAFTER = Layout("videocrafter", _detect, _config, lambda config: KEYS, hidden_settings)
