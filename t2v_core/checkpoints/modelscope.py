"""ModelScope's layout: text-to-video-ms-1.7b, zeroscope v2, potat1, animov, `text2video_pytorch_model.pth`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from ..models.unet3d import UNet3DConfig
from .keymap import KeyMap
from .layout import TEMPORAL_CONVOLUTIONS, Layout, Settings, hidden_settings, levels_of, places, read_config

KEYS = KeyMap(
    (
        ("*.temopral_conv.*", "*.temporal_conv.*"),  # misspelt in every file
        ("time_embed.*", "time_embed.*"),
        ("fps_embedding.*", "fps_embedding.*"),
        ("input_blocks.*", "input_blocks.*"),
        ("middle_block.*", "middle_block.*"),
        ("output_blocks.*", "output_blocks.*"),
        ("out.*", "out.*"),
    ),
    one_axis_more=(
        *TEMPORAL_CONVOLUTIONS,
        # Temporal transformers project by 1D convolutions of one tap there.
        "input_blocks.0.1.proj_{}.weight",
        "input_blocks.{}.2.proj_{}.weight",
        "middle_block.2.proj_{}.weight",
        "output_blocks.{}.2.proj_{}.weight",
    ),
)


def _detect(keys: Collection[str]) -> bool:
    return any(".temopral_conv." in key for key in keys)


def _config(tensors: Mapping[str, Tensor], settings: Settings) -> UNet3DConfig:
    named = places(tensors)
    ends = {place[: -len(".op")] for place in named if re.fullmatch(r"input_blocks\.\d+\.op", place)}
    attention, blocks_per_level = levels_of(named, ends)
    return read_config(tensors, KEYS, attention, blocks_per_level, settings)


MODELSCOPE = Layout("modelscope", _detect, _config, lambda config: KEYS, hidden_settings)
