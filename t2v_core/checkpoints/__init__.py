"""Model files: every layout people have them in, read into our networks and written back."""

from .bundled import BUNDLED_PATH, Bundled, BundledConfig, load_bundled, save_bundled
from .load import LAYOUTS, UNetWeights, load_unet, save_unet, unet_state_dict

__all__ = [
    "BUNDLED_PATH",
    "LAYOUTS",
    "Bundled",
    "BundledConfig",
    "UNetWeights",
    "load_bundled",
    "load_unet",
    "save_bundled",
    "save_unet",
    "unet_state_dict",
]
