"""LoRAs: small changes to a UNet3D and its text encoder, in every format people have them in."""

from .apply import changed, encoder_with_lora, with_lora
from .folder import find_loras
from .low_rank import LowRank
from .place import Placement, place_lora
from .read import Lora, LoraPair, read_lora

__all__ = [
    "Lora",
    "LoraPair",
    "LowRank",
    "Placement",
    "changed",
    "encoder_with_lora",
    "find_loras",
    "place_lora",
    "read_lora",
    "with_lora",
]
