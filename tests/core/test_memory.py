"""The memory estimate against what PyTorch's allocator is asked for in a real forward pass."""

from __future__ import annotations

import os

import pytest
import torch

from t2v_core.diffusion import Denoiser, NativeSize, NoiseSchedule, VideoModel, sample
from t2v_core.models import memory
from t2v_core.models.memory import peak_bytes
from t2v_core.models.unet3d import UNet3D, UNet3DConfig


def measured_peak(unet: UNet3D, frames: int, h: int, w: int, **told) -> int:
    """Bytes alive at once at most, above those before the pass."""
    x, context = torch.randn(1, 4, frames, h, w), torch.randn(1, 7, unet.config.context_dim)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        unet(x, torch.tensor([500.0]), context, **told)
    alive = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


@pytest.mark.parametrize(
    ("widths", "attention", "blocks", "input_heads", "size", "frames"),
    [
        ((64, 128, 256, 256), (True, True, True, False), 2, 8, (32, 40), 4),  # ModelScope's form, a fifth of its width
        ((48, 64, 80), (False, True, False), 1, 8, (32, 32), 4),
        ((48, 64, 80), (False, True, False), 1, 8, (32, 32), 32),  # the first transformer goes through in many pieces
        ((32, 64), (True, False), 2, 1, (17, 33), 4),  # the widest step is in the last blocks
        ((64, 64), (False, False), 1, 1, (32, 32), 4),  # and is a convolution
        ((16, 256), (False, True), 1, 1, (24, 24), 4),  # and is on the lower level
    ],
)
def test_estimate_covers_the_measured_peak_and_is_near_it(widths, attention, blocks, input_heads, size, frames):
    config = UNet3DConfig(
        widths=widths,
        attention=attention,
        blocks_per_level=blocks,
        context_dim=32,
        head_dim=16,
        input_heads=input_heads,
        norm_groups=16,
    )
    measured = measured_peak(UNet3D(config), frames, *size)
    estimate = peak_bytes(config, frames, *size)
    assert measured > 1 << 20  # the measurement saw something
    # Below 1 where the convolution copies its input into an order of its own.
    assert 0.85 <= estimate / measured <= 1.15, estimate / measured


def test_the_texts_run_apart_where_there_is_not_the_memory_for_both(monkeypatch, tmp_path):
    """The only thing that is not real is how much is free."""
    config = UNet3DConfig(widths=(16, 16), attention=(True, False), context_dim=8, head_dim=8, norm_groups=8)
    torch.manual_seed(5)
    unet = UNet3D(config)
    model = VideoModel(Denoiser(unet, NoiseSchedule.scaled_linear(), "eps"), 1.0, NativeSize(64, 64, 4, 8.0))
    calls = []
    unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    latents, text = torch.zeros(4, 4, 8, 8), torch.randn(1, 5, 8)
    made = {}
    both = peak_bytes(config, 8, 8, 8)
    for free in (2 * both, both):
        (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {free // 1024} kB\n")
        monkeypatch.setattr(memory, "MEMORY_FILE", tmp_path / "meminfo")
        settings = {"noise": torch.ones_like(latents), "sampler": "euler", "cfg": 5.0, "seed": 0}
        made[free] = sample(model, latents, text, -text, sigmas=torch.tensor([5.0, 2.0, 0.0]), **settings)
    assert calls == [2, 2, 1, 1, 1, 1]
    torch.testing.assert_close(*made.values(), rtol=1e-3, atol=1e-3)


def test_free_memory_is_what_this_machine_has():
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or 2**24 < free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.free_bytes(torch.device("meta")) is None
