"""Which public model a file is, as far as its layout and its name tell, and the clip that one was made for.

The UNets of ModelScope, zeroscope, potat1 and animov are the same network with other numbers in it, so only a name
tells them apart; where no name does, no more is claimed than the kind. Sizes are those of the models' cards; where a
card gives no number of frames, it is ModelScope's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..diffusion.model import NativeSize

# ModelScope's pipeline writes 8 frames a second; so do those of the models made from it.
MODELSCOPE_NATIVE = NativeSize(256, 256, 16, 8.0)
# VideoCrafter2's frame rate is an input of the network as well; 28 is what its authors sample with.
VIDEOCRAFTER_NATIVE = NativeSize(512, 320, 16, 28.0)


@dataclass(frozen=True)
class Family:
    """A public model, or a kind of model.

    native: the clip it was made for; None where that is not known.
    by_name: whether only the name of its file or folder tells it.
    signal_scale: how the signal was scaled in training, see `NoiseSchedule.scaled_linear`.
    """

    name: str
    native: NativeSize | None
    by_name: bool = True
    signal_scale: float = 1.0


# The first whose pattern is somewhere in the name is it. `zs2` is how the files for the A1111 extension are called.
_NAMED = (
    (r"(zeroscope|zs2).*xl", Family("zeroscope v2 XL", NativeSize(1024, 576, 24, 8.0))),
    (r"(zeroscope|zs2).*576w", Family("zeroscope v2 576w", NativeSize(576, 320, 24, 8.0))),
    (r"(zeroscope|zs2).*30x", Family("zeroscope v2 dark 30x", NativeSize(448, 256, 30, 8.0))),
    (r"(zeroscope|zs2).*448w", Family("zeroscope v2 448w", NativeSize(448, 256, 24, 8.0))),
    (r"zeroscope|zs2", Family("zeroscope", None)),
    (r"potat", Family("potat1", NativeSize(1024, 576, 16, 8.0))),
    (r"animov.*512", Family("animov 512x", NativeSize(512, 512, 16, 8.0))),
    (r"animov", Family("animov", None)),
    (r"text-to-video-ms|modelscope|damo", Family("ModelScope text-to-video 1.7B", MODELSCOPE_NATIVE)),
)
OURS = Family("this pack's own kind", None, by_name=False)
VIDEOCRAFTER2 = Family("VideoCrafter2", VIDEOCRAFTER_NATIVE, by_name=False, signal_scale=0.7)
KIND = Family("ModelScope kind", None, by_name=False)


def family_of(layout: str, name: str) -> Family:
    """The family of a model in a layout of `LAYOUTS`, called `name` (an `Entry`'s, or a file's)."""
    if layout == "bundled":
        return OURS
    if layout == "videocrafter":
        return VIDEOCRAFTER2
    return next((family for pattern, family in _NAMED if re.search(pattern, name.lower())), KIND)


def native_size(layout: str, name: str) -> NativeSize:
    """The clip such a model was made for; where that is not known, ModelScope's, from which all of the kind come."""
    return family_of(layout, name).native or MODELSCOPE_NATIVE
