"""A denoiser of clips made one of longer clips: it sees them whole, but for its attention over time."""

from __future__ import annotations

from torch import Tensor

from ..errors import T2VError
from ..models.memory import check_whole_clip, needed_bytes, plannable_bytes
from ..models.unet3d import UNet3D
from ..windows import ContextWindows, temporal_windows
from .denoiser import Denoiser
from .modifiers import noise_left


class AttentionWindowed:
    """`(x, sigma, cond) -> denoised`, as guidance wants it, for clips `[b, c, f, h, w]` longer than a window.

    windows: the plan. denoiser: of the whole clip; its network passes windows on to a `UNet3D`.
    """

    def __init__(self, windows: ContextWindows, denoiser: Denoiser):
        self._windows, self._denoiser = windows, denoiser

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        left = noise_left(self._denoiser.noise_schedule, sigma)
        return self._denoiser(x, sigma, cond, windows=temporal_windows(self._windows, x.shape[2], left))


def check_attention(network: object, frames: int, h: int, w: int) -> None:
    """Raises T2VError unless a network can have windows of the attention for clips of so many frames, of latents
    `[h, w]`: a `UNet3D`, with the free memory for one such clip."""
    if not isinstance(network, UNet3D):
        raise T2VError("where: windows of the attention are for a UNet3D, and this model is another; choose latents")
    device_type = next(network.parameters()).device.type
    check_whole_clip(lambda frames: needed_bytes(network, frames, h, w), frames, plannable_bytes(network), device_type)
