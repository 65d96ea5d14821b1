"""Model files: every layout people have them in, read into our networks and written back."""

from .bundled import BUNDLED_PATH, Bundled, BundledConfig, load_bundled, save_bundled
from .load import LAYOUTS, UNetWeights, load_unet, save_unet, unet_state_dict
from .model_file import ModelFile, ModelSettings, read_model

__all__ = [
    "BUNDLED_PATH",
    "LAYOUTS",
    "Bundled",
    "BundledConfig",
    "ModelFile",
    "ModelSettings",
    "UNetWeights",
    "load_bundled",
    "load_unet",
    "read_model",
    "save_bundled",
    "save_unet",
    "unet_state_dict",
]
