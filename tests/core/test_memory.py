"""The memory estimate against what PyTorch's allocator is asked for in a real forward pass."""

from __future__ import annotations

import pytest
import torch

from t2v_core.models.memory import peak_activations
from t2v_core.models.unet3d import UNet3D, UNet3DConfig


def measured_peak(unet: UNet3D, frames: int, h: int, w: int) -> int:
    """Bytes alive at once at most, above those before the pass."""
    x, context = torch.randn(1, 4, frames, h, w), torch.randn(1, 7, unet.config.context_dim)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        unet(x, torch.tensor([500.0]), context)
    alive = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


@pytest.mark.parametrize(
    ("widths", "attention", "blocks", "input_heads", "size"),
    [
        ((64, 128, 256, 256), (True, True, True, False), 2, 8, (32, 40)),  # ModelScope's form, a fifth of its width
        ((48, 64, 80), (False, True, False), 1, 8, (32, 32)),
        ((32, 64), (True, False), 2, 1, (17, 33)),  # the widest step is in the last blocks
        ((64, 64), (False, False), 1, 1, (32, 32)),  # and is a convolution
        ((16, 256), (False, True), 1, 1, (24, 24)),  # and is on the lower level
    ],
)
def test_estimate_covers_the_measured_peak_and_is_near_it(widths, attention, blocks, input_heads, size):
    config = UNet3DConfig(
        widths=widths,
        attention=attention,
        blocks_per_level=blocks,
        context_dim=32,
        head_dim=16,
        input_heads=input_heads,
        norm_groups=16,
    )
    frames = 4
    measured = measured_peak(UNet3D(config), frames, *size)
    estimate = 4 * frames * peak_activations(config, *size)
    assert measured > 1 << 20  # the measurement saw something
    # Below 1 where the convolution copies its input into an order of its own.
    assert 0.85 <= estimate / measured <= 1.15, estimate / measured
