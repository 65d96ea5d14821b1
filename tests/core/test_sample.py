"""`sample`: the way in and out of a sampler, the model's modifiers, and what bad input gets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from t2v_core.diffusion import (
    SAMPLERS,
    BoundSampler,
    Denoiser,
    GuidanceRescale,
    NativeSize,
    NoiseSchedule,
    VideoModel,
    guide,
    prepare_noise,
    sample,
    sigmas_for,
)
from t2v_core.errors import T2VError

SCALE = 0.18215
FRAMES = 6


class SmallNetwork(torch.nn.Module):
    """Each frame sees its neighbours, its text and the timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(4, 4, 3, padding=1)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        b, _, f = x.shape[:3]
        says = context.mean(dim=(1, 2))
        says = says.reshape(b, f) if len(context) == b * f else says[:, None].expand(b, f)
        return (
            0.5 * x + torch.tanh(self.conv(x) + says.reshape(b, 1, f, 1, 1)) - timesteps.reshape(-1, 1, 1, 1, 1) / 2e3
        )


def model(prediction: str = "v", zero_terminal_snr: bool = True, network=None) -> VideoModel:
    schedule = NoiseSchedule.scaled_linear(zero_terminal_snr=zero_terminal_snr)
    denoiser = Denoiser(SmallNetwork() if network is None else network, schedule, prediction)
    return VideoModel(denoiser, SCALE, NativeSize(64, 64, 16, 8.0))


def text(rows: int = 1, tokens: int = 7, dim: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(rows, tokens, dim, generator=torch.Generator().manual_seed(seed))


def run(video_model: VideoModel | None = None, **changes) -> Tensor:
    video_model = video_model or model()
    shape = (FRAMES, 4, 8, 8)
    arguments = {
        "latents": torch.zeros(shape),
        "cond": text(),
        "uncond": text(seed=1),
        "noise": prepare_noise(shape, 42),
        "sampler": "euler",
        "sigmas": sigmas_for("normal", video_model.denoiser.noise_schedule, 6),
        "cfg": 3.0,
        "seed": 42,
    }
    return sample(video_model, **{**arguments, **changes})


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("prediction", "zero_snr"), [("eps", False), ("v", True)])
def test_every_sampler_makes_a_clip(name, prediction, zero_snr):
    result = run(model(prediction, zero_snr), sampler=name)
    assert result.shape == (FRAMES, 4, 8, 8) and result.dtype == torch.float32
    assert torch.isfinite(result).all() and not result.requires_grad
    assert torch.equal(result, run(model(prediction, zero_snr), sampler=BoundSampler(name)))  # the same seed, the same


@pytest.mark.parametrize("zero_snr", [False, True])
def test_a_perfect_eps_model_returns_the_latents_it_started_from(zero_snr):
    """With x = latents + sigma * noise, a network that knows the noise must give the latents back, unscaled."""
    noise = prepare_noise((FRAMES, 4, 8, 8), 3)
    latents = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1)) * 5
    schedule = NoiseSchedule.scaled_linear(zero_terminal_snr=zero_snr)
    known = noise.movedim(0, 1)[None]
    perfect = VideoModel(Denoiser(lambda x, t, context: known, schedule, "eps"), SCALE, NativeSize(64, 64, 16, 8.0))
    sigmas = sigmas_for("normal", schedule, 10, denoise=0.5)
    result = run(perfect, latents=latents, noise=noise, sigmas=sigmas, cfg=1.0, uncond=None)
    torch.testing.assert_close(result, latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("prediction", "zero_snr"), [("eps", False), ("v", True)])
def test_the_noise_is_sqrt_1_plus_sigma_squared_only_at_sigma_max(prediction, zero_snr):
    video_model = model(prediction, zero_snr)
    noise = prepare_noise((FRAMES, 4, 8, 8), 42)
    latents = torch.full(noise.shape, 2.0)
    starts = {}

    def first_x(scheduler: str) -> Tensor:
        def keep(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
            starts.setdefault(scheduler, (x, float(sigma)))

        run(
            video_model,
            latents=latents,
            sigmas=sigmas_for(scheduler, video_model.denoiser.noise_schedule, 5),
            callback=keep,
        )
        return starts[scheduler]

    x, sigma = first_x("karras")
    torch.testing.assert_close(x, latents * SCALE + noise * (1 + sigma**2) ** 0.5, rtol=1e-5, atol=1e-4)
    x, sigma = first_x("ddim_uniform")
    assert sigma < 0.999 * video_model.denoiser.noise_schedule.sigma_max
    torch.testing.assert_close(x, latents * SCALE + noise * sigma, rtol=1e-5, atol=1e-4)


def test_a_text_per_frame_reaches_its_frame():
    """A network that looks at no other frame: changing frame 3's text changes frame 3 alone."""

    def frame_by_frame(x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        b, _, f = x.shape[:3]
        return torch.tanh(x) + context.mean(dim=(1, 2)).reshape(b, 1, f, 1, 1)

    texts = text(FRAMES)
    other = texts.clone()
    other[3] += 1
    video_model = model(network=frame_by_frame)
    changed = (run(video_model, cond=texts) - run(video_model, cond=other)).abs().amax(dim=(1, 2, 3))
    assert (changed > 0.01).tolist() == [i == 3 for i in range(FRAMES)]
    same = run(video_model, cond=texts[:1].expand(FRAMES, -1, -1), uncond=text(FRAMES, seed=1)[:1])
    video_model = model()
    shared = run(video_model, cond=texts[:1])
    repeated = run(video_model, cond=texts[:1].expand(FRAMES, -1, -1))
    torch.testing.assert_close(shared, repeated, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(same).all()


def test_seed_moves_only_samplers_that_add_noise():
    assert torch.equal(run(seed=1), run(seed=2))
    ancestral = [run(sampler="euler_ancestral", seed=seed) for seed in (1, 2, 1)]
    assert torch.equal(ancestral[0], ancestral[2]) and not torch.equal(ancestral[0], ancestral[1])
    assert not torch.equal(run(sampler=BoundSampler("ddim", 1.0)), run(sampler="ddim"))


def test_no_sigmas_no_change():
    latents = torch.randn(FRAMES, 4, 8, 8)
    assert run(latents=latents, sigmas=torch.empty(0)) is latents


def test_the_callback_cancels_between_steps():
    steps = []

    def callback(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        steps.append(step)
        assert x.shape == denoised.shape == (FRAMES, 4, 8, 8)
        if step == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(callback=callback)
    assert steps == [0, 1]


def test_inputs_are_left_as_they_were():
    latents = torch.ones(FRAMES, 4, 8, 8)
    noise = prepare_noise(latents.shape, 1)
    kept = noise.clone()
    run(latents=latents, noise=noise)
    assert torch.equal(latents, torch.ones_like(latents)) and torch.equal(noise, kept)


def test_guidance_rescale_is_a_modifier_on_a_copy():
    plain = model()
    rescaled = plain.patched(GuidanceRescale(0.7))
    assert plain.modifiers == () and rescaled.modifiers == (GuidanceRescale(0.7),)
    assert rescaled.patched(GuidanceRescale(0.2)).modifiers == (GuidanceRescale(0.2),)
    assert torch.equal(run(plain.patched(GuidanceRescale(0.0))), run(plain))

    def check(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        clip = x.movedim(0, 1)[None]
        by_guide = {
            r: guide(plain.denoiser, text(), text(seed=1), 8.0, r)(clip, sigma)[0].movedim(0, 1) for r in (0.7, 0)
        }
        torch.testing.assert_close(denoised, by_guide[0.7])
        assert not torch.allclose(denoised, by_guide[0])

    run(rescaled, cfg=8.0, callback=check)


def with_one(value: float, shape: tuple[int, ...]) -> Tensor:
    tensor = torch.zeros(shape)
    tensor.view(-1)[7] = value
    return tensor


SHAPE = (FRAMES, 4, 8, 8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"latents": torch.zeros(1, 4, 6, 8, 8)}, r"5 dimensions.*\[frames, 4, h, w\], one clip a latent"),
        ({"latents": torch.zeros(FRAMES, 16, 8, 8)}, "16 channels; the model takes 4"),
        ({"latents": torch.zeros(0, 4, 8, 8), "noise": torch.zeros(0, 4, 8, 8)}, "0 frames"),
        ({"latents": with_one(float("nan"), SHAPE)}, "LATENT holds 1 of 1536 values that are NaN"),
        ({"noise": with_one(float("inf"), SHAPE)}, "noise holds 1 of 1536"),
        ({"noise": torch.zeros(5, 4, 8, 8)}, r"noise has shape \[5, 4, 8, 8\] and LATENT \[6, 4, 8, 8\]"),
        ({"cond": text(4)}, "positive conditioning has 4 rows and LATENT 6 frames"),
        ({"uncond": text(12)}, "negative conditioning has 12 rows and LATENT 6 frames"),
        ({"cond": with_one(float("nan"), (1, 7, 6))}, "positive conditioning holds 1 of 42"),
        ({"cond": torch.zeros(7, 6)}, r"positive conditioning has shape \[7, 6\]"),
        ({"uncond": text(dim=9)}, "positive conditioning is 6 wide and negative 9"),
        ({"uncond": None}, "cfg 3.0 needs a negative"),
        ({"cfg": float("nan")}, "cfg is nan"),
        ({"sampler": "plms"}, "unknown sampler 'plms'"),
        ({"seed": -1, "sampler": "euler_ancestral"}, "seed is -1"),
        ({"sigmas": torch.tensor([1.0, 2.0, 0.0])}, "from 1 to 2 at step 0"),
        ({"sigmas": torch.tensor([1.0, 0.0, 0.0])}, "from 0 to 0 at step 1"),
        ({"sigmas": torch.tensor([1.0, -1.0])}, "from 1 to -1 at step 0"),
        ({"sigmas": torch.tensor([1.0, float("nan")])}, "SIGMAS holds 1 of 2"),
        ({"sigmas": torch.tensor(1.0)}, "one row of noise levels"),
    ],
)
def test_bad_input_is_refused_before_any_work(changes, says):
    def never(*_):
        raise AssertionError("the network ran")

    with pytest.raises(T2VError, match=says):
        run(model(network=never), **changes)


def test_an_unknown_modifier_is_refused():
    with pytest.raises(T2VError, match="unknown model modifier 'sharper'.*GuidanceRescale"):
        model().patched("sharper")
    with pytest.raises(T2VError, match="rescale is nan"):
        GuidanceRescale(float("nan"))
