"""Windows of the attention in a run: through `sample`, what they cost, and the word before a clip that does not fit."""

from __future__ import annotations

import re

import pytest
import torch
from core.references import clip, randomise, relative_error
from core.test_memory import measured_peak
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from t2v_core.diffusion import (
    ContextWindows,
    Denoiser,
    NativeSize,
    NoiseSchedule,
    TemporalStrength,
    VideoModel,
    prepare_noise,
    sample,
    sigmas_for,
)
from t2v_core.errors import T2VError
from t2v_core.models import memory, pieces
from t2v_core.models.compiled import CompiledParts
from t2v_core.models.hooks import TemporalScale
from t2v_core.models.memory import most_frames, needed_bytes
from t2v_core.models.unet3d import UNet3D, UNet3DConfig
from t2v_core.windows import temporal_windows

FRAMES = 23
SCHEDULE = NoiseSchedule.scaled_linear()
SHIFTED = ContextWindows(7, 3, plan="shifted", where="attention")
STRENGTHS = tuple(frame / FRAMES for frame in range(FRAMES))


def unet(**more) -> UNet3D:
    sizes = {"blocks_per_level": 1, "context_dim": 6, "head_dim": 4, "input_heads": 3, "norm_groups": 4}
    sizes |= {"widths": (8, 16), "attention": (True, False)}
    return randomise(UNet3D(UNet3DConfig(**{**sizes, **more})))


def model(network: torch.nn.Module, *modifiers: object, fps: bool = False) -> VideoModel:
    return VideoModel(Denoiser(network, SCHEDULE, "eps"), 1.0, NativeSize(32, 32, 16, 8.0), modifiers, fps)


def run(video_model: VideoModel, frames: int = FRAMES, size: int = 4) -> Tensor:
    shape = (frames, 4, size, size)
    texts = torch.randn(frames + 1, 5, 6, generator=torch.Generator().manual_seed(0))
    given = {"latents": torch.zeros(shape), "cond": texts[1:], "uncond": texts[:1], "noise": prepare_noise(shape, 2)}
    sigmas = sigmas_for("normal", SCHEDULE, 3)
    return sample(video_model, **given, sampler="euler", sigmas=sigmas, cfg=3.0, seed=2)


@pytest.mark.parametrize("fps", [False, True])
def test_a_run_gives_the_network_the_windows_of_each_noise_level(fps):
    network = unet(fps_embedding=fps)
    hooks = TemporalScale(STRENGTHS, None)

    class Asked(torch.nn.Module):
        def forward(self, x, timesteps, context, **told):
            windows = temporal_windows(SHIFTED, FRAMES, float(timesteps[0]) / 999)
            return network(x, timesteps, context, **told, hooks=hooks, windows=windows)

    ours = run(model(network, SHIFTED, TemporalStrength(STRENGTHS), fps=fps))
    assert torch.equal(ours, run(model(Asked(), fps=fps)))
    assert relative_error(run(model(network, TemporalStrength(STRENGTHS), fps=fps)), ours) >= 1e-2


def test_compiled_it_is_the_same_and_another_plan_compiles_nothing_anew():
    class Counting:
        graphs, counts = 0, []

        def __call__(self, graph, examples):
            self.graphs += 1
            return graph.forward

    torch._dynamo.reset()
    network, (x, t, context), backend = unet(widths=(8,), attention=(False,)), clip(1, FRAMES, 3, 3, 6), Counting()
    parts = CompiledParts(backend)
    plans = [temporal_windows(SHIFTED, FRAMES, left) for left in (0.1, 0.3)]
    assert plans[0].index.shape == plans[1].index.shape and not torch.equal(plans[0].index, plans[1].index)
    with torch.no_grad():
        for plan in plans:
            compiled = network(x, t, context, windows=plan, compiled=parts)
            assert relative_error(compiled, network(x, t, context, windows=plan)) <= 1e-6
            backend.counts.append(backend.graphs)
    torch._dynamo.reset()
    assert parts.failure is None and backend.counts[0] == backend.counts[1] > 1


@given(state=st.integers(1, 100), fixed=st.integers(0, 100), free=st.integers(0, 100_000))
def test_the_frames_that_fit_do_and_one_more_does_not(state, fixed, free):
    def needed(frames: int) -> int:
        return fixed + state * frames

    fit = most_frames(needed, free)
    assert (fit == 0 or needed(fit) <= free) and needed(fit + 1) > free


def test_a_clip_that_does_not_fit_is_refused_before_any_work(monkeypatch, tmp_path):
    """The only thing that is not real is how much is free."""
    network, calls = unet(), []
    network.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape))
    windowed = model(network, ContextWindows(7, 3, where="attention"))
    monkeypatch.setattr(pieces, "CPU_BYTES", 1 << 14)  # or they would be more than the clip itself
    free = (needed_bytes(network, 20, 16, 16) + pieces.CPU_BYTES) / memory.SHARE
    (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {int(free) // 1024 + 1} kB\n")
    monkeypatch.setattr(memory, "MEMORY_FILE", tmp_path / "meminfo")
    with pytest.raises(T2VError, match=r"^where: .*\. 60 frames need .* GiB.*Set where to latents") as error:
        run(windowed, frames=60, size=16)
    (fit,) = map(int, re.findall(r"enough for (\d+) frames", str(error.value)))
    assert not calls and fit == 20
    with pytest.raises(T2VError, match="enough for 20 frames"):
        run(windowed, frames=21, size=16)
    assert not calls
    run(windowed, frames=20, size=16)
    assert {len(shape) for shape in calls} == {5} and {shape[0] for shape in calls} == {1}  # each text apart


def test_another_network_is_refused():
    network = torch.nn.Conv3d(4, 4, 1)
    with pytest.raises(T2VError, match="where: windows of the attention are for a UNet3D.*choose latents"):
        run(model(network, SHIFTED))


@pytest.mark.parametrize(("overlap", "plan"), [(4, "static"), (15, "looped")])
def test_memory_is_what_the_frames_need_and_at_most_a_piece(overlap, plan):
    sizes = {"blocks_per_level": 1, "context_dim": 16, "head_dim": 16, "input_heads": 4, "norm_groups": 8}
    network = randomise(UNet3D(UNet3DConfig(widths=(32, 64), attention=(True, True), **sizes)))
    windows = temporal_windows(ContextWindows(16, overlap, plan=plan), 96, 0.0)
    plain, windowed = (measured_peak(network, 96, 16, 16, **told) for told in ({}, {"windows": windows}))
    assert plain <= windowed + (1 << 20) and windowed <= plain + pieces.CPU_BYTES


@pytest.mark.parametrize(("length", "overlap"), [(16, 4), (24, 20)])
def test_work_of_the_published_network_hardly_grows(length, overlap):
    """Of 96 frames of 256 x 256, against a clip of one window, a frame each."""
    network = UNet3D(UNet3DConfig(), device="meta")

    def flops(frames: int) -> float:
        given = clip(1, frames, 32, 32, 1024)
        windows = temporal_windows(ContextWindows(length, overlap), frames, 0.0)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*(tensor.to("meta") for tensor in given), windows=windows)
        return counter.get_total_flops() / frames

    ratio = flops(96) / flops(length)
    print(f"work per frame: {ratio:.4f}")
    assert 0.99 <= ratio <= 1.2
