"""Model files: every layout people have them in, read into our networks and written back."""

from .bundled import BUNDLED_PATH, Bundled, BundledConfig, load_bundled, save_bundled
from .describe import Description
from .entries import Entry, Part
from .files import WeightFile
from .folders import find_models, model_at
from .load import LAYOUTS, UNetWeights, load_unet, save_unet, unet_state_dict
from .model_file import PARTS, ModelFile, ModelSettings, read_model

__all__ = [
    "BUNDLED_PATH",
    "LAYOUTS",
    "PARTS",
    "Bundled",
    "BundledConfig",
    "Description",
    "Entry",
    "ModelFile",
    "ModelSettings",
    "Part",
    "UNetWeights",
    "WeightFile",
    "find_models",
    "load_bundled",
    "load_unet",
    "model_at",
    "read_model",
    "save_bundled",
    "save_unet",
    "unet_state_dict",
]
