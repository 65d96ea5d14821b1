"""Sampling by windows: where nothing may change, against a slow reference, and what becomes of what frames have."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from t2v_core.diffusion import (
    Compiled,
    ContextWindows,
    Denoiser,
    FrameRate,
    GuidanceRescale,
    GuidanceSchedule,
    NativeSize,
    NoiseSchedule,
    NoiseSeeds,
    StrengthSchedule,
    TemporalStrength,
    VideoModel,
    guide,
    prepare_noise,
    sample,
    sigmas_for,
)
from t2v_core.diffusion.modifiers import noise_left
from t2v_core.models import memory
from t2v_core.models.compiled import CompiledParts
from t2v_core.models.hooks import TemporalScale
from t2v_core.models.memory import peak_bytes
from t2v_core.models.unet3d import UNet3D, UNet3DConfig
from t2v_core.windows import FUSES, MOST_AT_ONCE, PLANS
from t2v_core.windows.apply import Fused, batches

FRAMES = 24
CONFIG = UNet3DConfig(
    widths=(8, 16), attention=(True, False), blocks_per_level=1, context_dim=6, head_dim=8, input_heads=1, norm_groups=4
)
STEPS = 3


@cache
def unet(silent: bool = False, fps: bool = False) -> UNet3D:
    """Random weights; silent: nothing goes from frame to frame."""
    network = UNet3D(replace(CONFIG, fps_embedding=fps)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    if silent:
        for name, module in network.named_modules():
            if name.endswith("temporal_conv"):
                torch.nn.init.zeros_(module.conv4[-1].weight), torch.nn.init.zeros_(module.conv4[-1].bias)
            if type(module).__name__ == "TemporalTransformer":
                torch.nn.init.zeros_(module.proj_out.weight), torch.nn.init.zeros_(module.proj_out.bias)
    return network


def model(*modifiers: object, silent: bool = False, fps: bool = False) -> VideoModel:
    denoiser = Denoiser(unet(silent, fps), NoiseSchedule.scaled_linear(), "eps")
    return VideoModel(denoiser, 0.18215, NativeSize(32, 32, 16, 8.0), modifiers, fps)


def texts(rows: int = FRAMES, seed: int = 0) -> Tensor:
    return torch.randn(rows, 5, 6, generator=torch.Generator().manual_seed(seed))


def run(video_model: VideoModel, frames: int = FRAMES, **changes) -> Tensor:
    shape = (frames, 4, 4, 4)
    given = {"latents": torch.zeros(shape), "cond": texts(frames), "uncond": texts(1, 1)}
    given |= {"noise": prepare_noise(shape, 2), "sampler": "euler", "cfg": 3.0, "seed": 2}
    given |= {"sigmas": sigmas_for("normal", video_model.denoiser.noise_schedule, STEPS)}
    return sample(video_model, **{**given, **changes})


EVERY = [(plan, fuse) for plan in PLANS for fuse in FUSES]


@pytest.mark.parametrize("where", ["latents", "attention"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_clip_of_one_window_is_the_plain_result(plan, where):
    plain = run(model())
    assert torch.equal(run(model(ContextWindows(FRAMES, 4, 2, plan, where=where))), plain)
    assert torch.equal(run(model(ContextWindows(FRAMES + 9, 4, 2, plan, where=where))), plain)
    other = run(model(ContextWindows(FRAMES - 1, 4)))
    assert not torch.allclose(other, plain, rtol=1e-2)


@cache
def of_silent_frames(windows: ContextWindows | None = None) -> Tensor:
    """A clip with all that frames may have of their own: texts, guidance, strengths, seeds, temporal strengths."""
    own = (
        GuidanceSchedule(tuple(1 + frame / 10 for frame in range(FRAMES))),
        GuidanceRescale(0.5),
        StrengthSchedule(tuple(0.4 + 0.6 * (frame % 3 > 0) for frame in range(FRAMES))),
        NoiseSeeds(((0, 1), (10, 2))),
        TemporalStrength(tuple(frame / FRAMES for frame in range(FRAMES))),
    )
    start = torch.randn(FRAMES, 4, 4, 4, generator=torch.Generator().manual_seed(9))
    return run(model(*own, *filter(None, [windows]), silent=True), latents=start)


@pytest.mark.parametrize(("length", "overlap", "stride"), [(7, 3, 2), (5, 0, 3)])
@pytest.mark.parametrize(("plan", "fuse"), EVERY)
def test_frames_that_do_not_see_each_other_do_not_notice_windows(plan, fuse, length, overlap, stride):
    expected = of_silent_frames()
    result = of_silent_frames(ContextWindows(length, overlap, stride, plan, fuse))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("rescale", [0.0, 0.6])
@pytest.mark.parametrize("plan", PLANS)
def test_each_step_is_the_windows_one_by_one_under_guidance_of_the_whole(plan, rescale):
    """A reference as slow as can be: window by window, frame by frame, with each window's own hooks."""
    windows = ContextWindows(7, 3, 2, plan, "gaussian")
    scales = tuple(0.1 * frame for frame in range(FRAMES))
    video_model = model(windows, TemporalStrength(scales, scales[::-1]), GuidanceRescale(rescale))
    schedule, levels = video_model.denoiser.noise_schedule, []

    def by_hand(x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        plan = windows.at(FRAMES, noise_left(schedule, sigma))
        total = torch.zeros_like(x)
        for frames, weights in zip(plan.frames, plan.weights.tolist(), strict=True):
            hooks = TemporalScale([scales[i] for i in frames], [scales[::-1][i] for i in frames])
            network = lambda x, t, context, hooks=hooks: unet()(x, t, context, hooks=hooks)  # noqa: E731
            rows = text if len(text) == 1 else text[list(frames)]
            part = Denoiser(network, schedule, "eps")(x[:, :, list(frames)], sigma, rows)
            for place, (frame, weight) in enumerate(zip(frames, weights, strict=True)):
                total[:, :, frame] += weight * part[:, :, place]
        return total

    def check(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        expected = guide(by_hand, texts(), texts(1, 1), 3.0, rescale, apart=True)(x.movedim(0, 1)[None], sigma)
        torch.testing.assert_close(denoised, expected[0].movedim(0, 1), rtol=1e-4, atol=1e-4)
        levels.append(windows.at(FRAMES, noise_left(schedule, sigma)).frames)

    run(video_model, callback=check)
    assert len(levels) == STEPS and (len(set(levels)) > 1) == (plan == "shifted")


def turned(tensor: Tensor, by: int) -> Tensor:
    return tensor.roll(by, 0) if len(tensor) > 1 else tensor


@pytest.mark.parametrize(
    ("length", "overlap", "stride", "hop", "fuse"),
    [(8, 2, 1, 6, "flat"), (7, 3, 1, 4, "gaussian"), *((8, 4, 2, 12, fuse) for fuse in FUSES)],
)
def test_a_loop_that_is_turned_gives_the_loop_turned(length, overlap, stride, hop, fuse):
    windows = ContextWindows(length, overlap, stride, "looped", fuse)
    noise, looped = prepare_noise((FRAMES, 4, 4, 4), 2), model(windows)
    as_it_is = run(looped)
    result = run(looped, cond=turned(texts(), hop), noise=turned(noise, hop))
    torch.testing.assert_close(result, turned(as_it_is, hop), rtol=1e-3, atol=1e-3)
    straight = model(replace(windows, plan="uniform"))
    unlike = run(straight, cond=turned(texts(), hop), noise=turned(noise, hop)) - turned(run(straight), hop)
    assert unlike.abs().max() > 0.1


class Counted(torch.nn.Module):
    """A network that keeps what it was called with: clips, frames and rows of text."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        self.calls.append((x.shape[0], x.shape[2], len(context)))
        return torch.zeros_like(x)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("frames", [60, 301])
def test_the_work_is_the_overlap_factor(plan, frames):
    """Frames that the network sees, over the clip's, for two texts a step; and one row of text a window or a frame."""
    network, windows = Counted(), ContextWindows(16, 4, 1, plan)
    counted = VideoModel(Denoiser(network, NoiseSchedule.scaled_linear(), "eps"), 1.0, NativeSize(32, 32, 16, 8.0))
    schedule = counted.denoiser.noise_schedule
    sigmas = sigmas_for("normal", schedule, STEPS)
    run(counted.patched(windows), frames, sigmas=sigmas)
    seen = sum(clips * length for clips, length, _ in network.calls)
    plans = [windows.at(frames, noise_left(schedule, sigma)) for sigma in sigmas[:-1]]
    assert seen / frames == pytest.approx(2 * sum(each.work for each in plans))
    nominal = 1.0 if plan == "batched" else 16 / 12
    for each in plans:  # beside the ends: what has no window before it, and windows that are moved back
        assert nominal * (1 - 4 / frames) <= each.work <= nominal + 2 * 16 / frames
    assert {length for _, length, _ in network.calls} == {16}
    assert {rows // clips for clips, _, rows in network.calls} == {1, 16}
    assert max(clips for clips, _, _ in network.calls) == min(MOST_AT_ONCE, *(len(each.frames) for each in plans))


def test_windows_run_together_as_far_as_there_is_memory(monkeypatch, tmp_path):
    """And none asks for the memory of the clip. The only thing that is not real is how much is free."""
    calls = []
    windowed = model(ContextWindows(6, 2))
    network = windowed.denoiser.network
    hook = network.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    one, results = peak_bytes(CONFIG, 6, 4, 4), []
    wanted = {0: [1] * 10, one: [1] * 10, 3 * one / memory.SHARE: [3, 3, 3, 1], 99 * one: [8, 2]}
    for free, expected in wanted.items():
        (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {int(free) // 1024 + 1} kB\n")
        monkeypatch.setattr(memory, "MEMORY_FILE", tmp_path / "meminfo")
        calls.clear()
        results.append(run(windowed, 42, sigmas=torch.tensor([5.0, 0.0]), cfg=1.0))
        assert calls == expected
    hook.remove()
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-4)


def test_a_longer_clip_takes_its_own_latents_more_and_nothing_else():
    """Bytes alive at once while it is sampled, against those of its latents, and against the UNet's for all frames."""

    def peak(frames: int) -> int:
        windowed = model(ContextWindows(4, 1))
        given = {"noise": prepare_noise((frames, 4, 16, 16), 0), "latents": torch.zeros(frames, 4, 16, 16)}
        given |= {"cond": texts(frames), "sigmas": torch.tensor([5.0, 0.0]), "cfg": 1.0}
        with torch.profiler.profile(profile_memory=True) as profile:
            run(windowed, frames, **given)
        alive = most = 0
        for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
            if event.name() == "[memory]":
                alive += event.nbytes()
                most = max(most, alive)
        return most

    more, latents = peak(72) - peak(28), 4 * 16 * 16 * 4 * (72 - 28)
    assert more < 6 * latents
    assert peak_bytes(CONFIG, 72, 16, 16) - peak_bytes(CONFIG, 28, 16, 16) > 20 * latents


def test_between_windows_a_host_is_told_and_may_cancel():
    told, steps = [], []
    windowed, given = model(ContextWindows(6, 2)), {"between": lambda *done: told.append(done)}
    run(windowed, 42, callback=lambda step, *_: steps.append(len(told)), **given)
    a_pass = [(8, 10), (10, 10)]
    assert told == a_pass * 2 * STEPS and steps == [4, 8, 12]
    told.clear()
    run(model(ContextWindows(42)), 42, **given)
    assert told == []

    def cancel(done: int, total: int) -> None:
        told.append(done)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(windowed, 42, between=cancel)
    assert told == [8]


def test_what_the_network_is_told_reaches_every_window():
    windows = ContextWindows(7, 3)
    slow, own = (run(model(windows, *rate, fps=True)) for rate in ([FrameRate(3.0)], []))
    assert not torch.allclose(slow, own, rtol=1e-2)
    assert torch.equal(run(model(windows, FrameRate(8.0), fps=True)), own)
    frames = []

    class Parts(CompiledParts):
        def __call__(self, part: torch.nn.Module, *arguments: object) -> object:
            frames.append(len(arguments[0]))
            return part(*arguments)

    assert torch.equal(run(model(windows, Compiled(Parts()))), run(model(windows)))
    assert set(frames) == {6 * 7}


def test_windows_are_added_in_their_order_whatever_the_batches():
    windows = ContextWindows(6, 4, plan="looped", fuse="gaussian").at(31, 0.0)
    like = torch.zeros(31, 3, 2).transpose(1, 2)
    results = torch.randn(len(windows.frames), 6, 2, 3, generator=torch.Generator().manual_seed(0))
    totals = []
    for at_once in (1, 4, 100):
        fused = Fused(windows, like)
        for batch in batches(windows, at_once):
            fused.add(batch, results[batch])
        totals.append(fused.total)
    assert torch.equal(totals[0], totals[1]) and torch.equal(totals[0], totals[2])
    ones = Fused(windows, like)
    ones.add(slice(None), torch.ones_like(results))
    torch.testing.assert_close(ones.total, torch.ones(31, 2, 3))
