"""The samplers that the models were published with: ModelScope's, run from its own file, and VideoCrafter2's by
formula. Both are walked with the scheduler `ddim_original` and the modifier `NetworkScale`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from core.references import (
    MODELSCOPE_CONTEXT,
    as_videocrafter,
    modelscope_module,
    modelscope_unet,
    relative_error,
    write,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from t2v_core.checkpoints import read_model
from t2v_core.diffusion import (
    SCHEDULERS,
    BoundSampler,
    Denoiser,
    FrameRate,
    NativeSize,
    NetworkScale,
    NoiseSchedule,
    StrengthSchedule,
    TemporalStrength,
    VideoModel,
    guide,
    sample,
    sigmas_for,
)
from t2v_core.errors import CheckpointError, T2VError

MODELSCOPE, VIDEOCRAFTER = NoiseSchedule.scaled_linear(), NoiseSchedule.scaled_linear(signal_scale=0.7)
SCALE, FRAMES, CFG = 0.18215, 4, 9.0
SMALL = {"multipliers": (1, 2), "attention": (True, False), "blocks_per_level": 1}
ORIGINAL = [name for name, row in SCHEDULERS.items() if row.network_scale]


class SmallNetwork(nn.Module):
    """A fixed eps model that mixes space, frames, the timestep and the text."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(21)
        self.conv_in, self.conv_out = nn.Conv3d(4, 8, 3, padding=1), nn.Conv3d(8, 4, 3, padding=1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        says = context.mean(dim=(1, 2)) + torch.sin(timesteps.to(x.dtype) / 150)
        return 0.8 * x + 0.2 * self.conv_out(torch.sin(self.conv_in(x) + says.reshape(-1, 1, 1, 1, 1)))


NETWORK = SmallNetwork().eval().requires_grad_(False)


def texts(dim: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(8)
    cond, uncond = torch.randn(2, 1, 11, dim, generator=generator)
    return cond, uncond


def noise_of(height: int = 6, width: int = 8, seed: int = 3) -> Tensor:
    """`[f, 4, h, w]`."""
    return torch.randn(FRAMES, 4, height, width, generator=torch.Generator().manual_seed(seed))


def in_clips(frames: Tensor) -> Tensor:
    """`[f, c, h, w]` as the one clip `[1, c, f, h, w]` of the references."""
    return frames.movedim(0, 1)[None].contiguous()  # or torch.randn_like would draw in another order


def in_frames(clip: Tensor) -> Tensor:
    return clip[0].movedim(1, 0).contiguous()


def model(network=NETWORK, noise_schedule: NoiseSchedule = MODELSCOPE, *modifiers: object) -> VideoModel:
    denoiser = Denoiser(network, noise_schedule, "eps")
    return VideoModel(denoiser, SCALE, NativeSize(64, 64, 16, 8.0), (NetworkScale(), *modifiers))


def run(video_model: VideoModel, noise: Tensor, steps: int, **changes) -> Tensor:
    cond, uncond = texts()
    arguments = {"latents": torch.zeros_like(noise), "cond": cond, "uncond": uncond, "noise": noise, "cfg": CFG}
    sigmas = sigmas_for("ddim_original", video_model.denoiser.noise_schedule, steps)
    return sample(video_model, **{**arguments, "sampler": "ddim", "sigmas": sigmas, "seed": 0, **changes})


# --- ModelScope ---


def modelscope_ddim(network, noise: Tensor, given: list[dict], steps: int, scale: float | None, eta: float = 0.0):
    """The clip that ModelScope's loop makes of noise `[1, 4, f, h, w]`, in the scale of the network."""
    module = modelscope_module("diffusion")
    betas = module.beta_schedule("linear_sd", 1000, init_beta=0.00085, last_beta=0.0120)
    diffusion = module.GaussianDiffusion(betas, mean_type="eps", var_type="fixed_small")
    given = given if scale else given[0]
    return diffusion.ddim_sample_loop(noise, network, given, guide_scale=scale, ddim_timesteps=steps, eta=eta)


@pytest.mark.parametrize("steps", [1, 2, 7, 15, 25, 27, 50, 60, 1000])
def test_the_timesteps_are_modelscopes(steps):
    """Also where there are more of them than steps were asked for, and where the last stands for the one beyond."""
    seen = []

    def note(x: Tensor, t: Tensor) -> Tensor:
        seen.append(int(t))
        return x

    modelscope_ddim(note, torch.zeros(1, 1), [{}], steps, None)
    sigmas = sigmas_for("ddim_original", MODELSCOPE, steps)
    assert MODELSCOPE.timestep(sigmas).tolist() == [*seen, 0]
    assert len(seen) == {7: 8, 15: 16, 27: 28, 60: 63}.get(steps, steps)


def test_the_sigmas_are_those_of_alpha_bar():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha_bar = np.cumprod(1 - betas)[[*range(961, 0, -40), 0]]
    expected = np.sqrt((1 - alpha_bar) / alpha_bar)
    np.testing.assert_allclose(sigmas_for("ddim_original", MODELSCOPE, 25), expected, rtol=1e-5)
    np.testing.assert_allclose(sigmas_for("ddim_original", MODELSCOPE, 15, denoise=0.6), expected[-16:], rtol=1e-5)
    whole = sigmas_for("ddim_original", MODELSCOPE, 25, discard_penultimate=True)
    assert torch.equal(whole, sigmas_for("ddim_original", MODELSCOPE, 25))
    assert ORIGINAL == ["ddim_original"]


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@pytest.mark.parametrize("steps", [10, 15, 25])
def test_modelscope_from_noise_to_latents(steps, sampler):
    noise, (cond, uncond) = noise_of(), texts()
    expected = modelscope_ddim(NETWORK, in_clips(noise), [{"context": cond}, {"context": uncond}], steps, CFG)
    ours = run(model(), noise, steps, sampler=sampler)
    assert relative_error(ours * SCALE, in_frames(expected)) <= 2e-5
    # What the modifier does is felt, and so is that the run ends above sigma 0.
    without = run(replace(model(), modifiers=()), noise, steps, sampler=sampler)
    uniform = run(model(), noise, steps, sampler=sampler, sigmas=sigmas_for("ddim_uniform", MODELSCOPE, steps))
    assert all(relative_error(each * SCALE, in_frames(expected)) > 2e-4 for each in (without, uniform))
    # And so are the texts.
    swapped = run(model(), noise, steps, sampler=sampler, cond=uncond, uncond=cond)
    assert relative_error(swapped * SCALE, in_frames(expected)) > 0.01


def test_unet3d_with_cfg_9_in_25_steps(tmp_path):
    """Nothing shared but the file: their network in their sampler, ours in ours."""
    theirs = modelscope_unet(**SMALL)
    noise, (cond, uncond) = noise_of(4, 2), texts(MODELSCOPE_CONTEXT)
    expected = modelscope_ddim(theirs, in_clips(noise), [{"y": cond}, {"y": uncond}], 25, CFG)
    ours = read_model(write(theirs, tmp_path / "unet.safetensors")).video_model(torch.float32)
    result = run(ours.patched(NetworkScale()), noise, 25, cond=cond, uncond=uncond)
    assert relative_error(result * SCALE, in_frames(expected)) <= 2e-5


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_noise_that_modelscope_adds(eta):
    noise, (cond, uncond) = in_clips(noise_of()), texts()
    torch.manual_seed(4)
    expected = modelscope_ddim(NETWORK, noise, [{"context": cond}, {"context": uncond}], 25, CFG, eta)
    for name in ("ddim", "euler_ancestral"):
        ours = walk(NETWORK, MODELSCOPE, noise, cond, uncond, 25, BoundSampler(name, eta), seed=4)
        assert relative_error(ours, expected) <= 2e-5, name


@torch.no_grad()
def walk(network, noise_schedule: NoiseSchedule, noise: Tensor, cond: Tensor, uncond: Tensor, steps: int,
         sampler: BoundSampler, seed: int) -> Tensor:  # fmt: skip
    """A clip of the core's sampler with the fresh noise of torch's generator, in the scale of the network."""
    sigmas, generator = sigmas_for("ddim_original", noise_schedule, steps), torch.Generator().manual_seed(seed)
    denoise = guide(Denoiser(network, noise_schedule, "eps"), cond, uncond, CFG)
    x = noise * noise_schedule.x_scale(sigmas[0])
    fresh = {"noise": lambda sigma, sigma_next: torch.randn(noise.shape, generator=generator)}
    x = sampler(denoise, x, sigmas, **fresh, unscaled=noise_schedule.unscaled)
    return x / noise_schedule.x_scale(sigmas[-1])


def test_a_clip_that_is_given_starts_with_its_noise_and_no_more():
    """x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise, which a network that knows the noise undoes, but for what is
    left of it at timestep 0."""
    noise, latents = noise_of(), noise_of(seed=5) * 4
    known = in_clips(noise)
    perfect = model(lambda x, timesteps, context: known)
    sigmas = sigmas_for("ddim_original", MODELSCOPE, 15, denoise=0.6)
    result = run(perfect, noise, 15, latents=latents, sigmas=sigmas, cfg=1.0)
    alpha_bar = 1 - 0.00085
    expected = alpha_bar**0.5 * latents + (1 - alpha_bar) ** 0.5 * noise / SCALE
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_sigmas_that_begin_at_the_largest_and_end_at_0_are_left_alone():
    sigmas = sigmas_for("normal", MODELSCOPE, 5)
    for latents in (torch.zeros_like(noise_of()), noise_of(seed=5)):
        given = {"sigmas": sigmas, "latents": latents}
        assert torch.equal(
            run(model(), noise_of(), 5, **given), run(replace(model(), modifiers=()), noise_of(), 5, **given)
        )


def test_frames_that_are_kept_come_back_bit_for_bit():
    latents = noise_of(seed=5)
    strengths = StrengthSchedule((0.0, 0.5, 1.0, 1.0))
    result = run(model(NETWORK, MODELSCOPE, strengths), noise_of(), 10, latents=latents)
    assert torch.equal(result[0], latents[0])
    assert all(relative_error(mine, given) > 0.1 for mine, given in zip(result[1:], latents[1:], strict=True))


# --- VideoCrafter2 ---


def lvdm() -> SimpleNamespace:
    """alpha_bar and scale_arr of lvdm's LatentDiffusion under VideoCrafter2's configuration, fp64."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    scale = np.concatenate([np.linspace(1.0, 0.7, 400), np.full(600, 0.7)])
    return SimpleNamespace(alpha_bar=np.cumprod(1 - betas), scale=scale)


@torch.no_grad()
def videocrafter_ddim(predict: Callable[[Tensor, Tensor, Tensor], Tensor], noise: Tensor, cond: Tensor, uncond: Tensor,
                      steps: int, eta: float, seed: int = 0) -> Tensor:  # fmt: skip
    """lvdm's DDIMSampler with use_scale, as formulas: `p_sample_ddim` of `lvdm/models/samplers/ddim.py`."""
    trained, x = lvdm(), noise
    generator = torch.Generator().manual_seed(seed)
    timesteps = [*range(1, 1000, 1000 // steps)]
    for t, t_next in zip(timesteps[::-1], [*timesteps[-2::-1], 0], strict=True):
        a, a_next, s, s_next = (float(each[k]) for each in (trained.alpha_bar, trained.scale) for k in (t, t_next))
        given = torch.full((len(x),), t)
        e_uncond, e_cond = (predict(x, given, text) for text in (uncond, cond))
        eps = e_uncond + CFG * (e_cond - e_uncond)
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5 / s
        sigma = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)) ** 0.5
        fresh = torch.randn(x.shape, generator=generator)
        x = a_next**0.5 * s_next * x0 + (1 - a_next - sigma**2) ** 0.5 * eps + sigma * fresh
    return x


def test_the_scaled_noise_schedule():
    """What the network is shown at a sigma is what lvdm's q_sample makes of x0 and noise."""
    trained, x0, noise = lvdm(), noise_of(seed=1), noise_of(seed=2)
    expected = np.sqrt((1 - trained.alpha_bar) / trained.alpha_bar)
    sigmas = VIDEOCRAFTER.sigmas
    np.testing.assert_allclose(sigmas, expected / trained.scale, rtol=1e-5)
    np.testing.assert_allclose(VIDEOCRAFTER.unscaled(sigmas), expected, rtol=1e-5)
    assert torch.equal(MODELSCOPE.unscaled(sigmas), sigmas)
    for t in (0, 1, 200, 399, 400, 981, 999):
        a, s = trained.alpha_bar[t], trained.scale[t]
        shown = float(a**0.5 * s) * x0 + float((1 - a) ** 0.5) * noise
        x = x0 + sigmas[t] * noise
        torch.testing.assert_close(x / VIDEOCRAFTER.x_scale(sigmas[t]), shown, rtol=1e-4, atol=1e-5)
        assert VIDEOCRAFTER.timestep(sigmas[t]) == t
    one_by_one = torch.stack([VIDEOCRAFTER.x_scale(sigmas[t]) for t in (3, 500)])
    assert torch.equal(VIDEOCRAFTER.x_scale(sigmas[[3, 500]]), one_by_one)
    assert float(VIDEOCRAFTER.x_scale(torch.tensor(0.0))) == 1.0


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [10, 25])
def test_videocrafter2s_sampler(steps, eta):
    noise, (cond, uncond) = in_clips(noise_of()), texts()
    expected = videocrafter_ddim(NETWORK, noise, cond, uncond, steps, eta, seed=6)
    for name in ("ddim", "euler_ancestral"):
        ours = walk(NETWORK, VIDEOCRAFTER, noise, cond, uncond, steps, BoundSampler(name, eta), seed=6)
        assert relative_error(ours, expected) <= 2e-5, name
    assert (
        relative_error(walk(NETWORK, MODELSCOPE, noise, cond, uncond, steps, BoundSampler("ddim", eta), 6), expected)
        > 0.01
    )


@pytest.fixture(scope="module")
def videocrafter(tmp_path_factory):
    """Their network (ModelScope's with fps, which is the same), and ours from a file in VideoCrafter2's layout."""
    theirs, folder = modelscope_unet(**SMALL, fps=True), tmp_path_factory.mktemp("videocrafter")
    weights = {f"model.diffusion_model.{key}": tensor for key, tensor in as_videocrafter(theirs.state_dict()).items()}
    torch.save({"state_dict": weights}, folder / "model.ckpt")
    return theirs, read_model(folder / "model.ckpt")


@pytest.mark.parametrize("fps", [None, 8.0])
def test_videocrafter2_from_noise_to_latents(videocrafter, fps):
    theirs, file = videocrafter
    ours = file.video_model(torch.float32).patched(NetworkScale())
    told = 28.0 if fps is None else fps
    ours = ours if fps is None else ours.patched(FrameRate(fps))
    noise, (cond, uncond) = noise_of(4, 4), texts(MODELSCOPE_CONTEXT)

    def predict(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return theirs(x, t, text, fps=torch.full_like(t, int(told)))

    expected = videocrafter_ddim(predict, in_clips(noise), cond, uncond, 10, 0.0)
    result = run(ours, noise, 10, cond=cond, uncond=uncond)
    assert relative_error(result * SCALE, in_frames(expected)) <= 2e-5
    other = run(ours.patched(FrameRate(told + 20)), noise, 10, cond=cond, uncond=uncond)
    assert relative_error(other, result) > 1e-3


def test_the_frame_rate_beside_other_modifiers(videocrafter):
    noise, (cond, uncond) = noise_of(4, 4), texts(MODELSCOPE_CONTEXT)
    ours = videocrafter[1].video_model(torch.float32)
    as_trained = TemporalStrength(attention=[1.0] * FRAMES)
    plain, both = (run(each, noise, 2, cond=cond, uncond=uncond) for each in (ours, ours.patched(as_trained)))
    assert relative_error(both, plain) <= 1e-6


def test_what_a_file_tells_of_its_signal(videocrafter, tmp_path):
    file = videocrafter[1]
    assert file.settings.signal_scale == 0.7 and file.noise_schedule().sigma_max == pytest.approx(
        14.61464 / 0.7, rel=1e-5
    )
    assert file.settings_entry() == {}  # the layout says it
    modelscope = read_model(write(modelscope_unet(**SMALL), tmp_path / "unet.safetensors"))
    assert modelscope.settings.signal_scale == 1.0 and modelscope.noise_schedule().signal is None
    # A file that says otherwise is believed, and keeps saying it.
    plain = replace(file, settings=replace(file.settings, signal_scale=1.0))
    weights = plain.to_file(dict(plain.unet.state_dict)) | plain.settings_entry()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "vc.safetensors")
    again = read_model(tmp_path / "vc.safetensors")
    assert again.settings.signal_scale == 1.0 and again.settings_entry().keys() == plain.settings_entry().keys()


@pytest.mark.parametrize(("signal_scale", "prediction"), [(0.0, "eps"), (1.5, "eps"), (0.7, "v")])
def test_a_file_with_a_wrong_signal_is_refused(videocrafter, tmp_path, signal_scale, prediction):
    file = videocrafter[1]
    wrong = replace(file, settings=replace(file.settings, signal_scale=signal_scale, prediction=prediction),
                    stored={"signal_scale": signal_scale, "prediction": prediction})  # fmt: skip
    weights = wrong.to_file(dict(wrong.unet.state_dict)) | wrong.settings_entry()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "vc.safetensors")
    with pytest.raises(CheckpointError, match="vc.safetensors.*signal_scale should be above 0 and up to 1"):
        read_model(tmp_path / "vc.safetensors")


BETAS = torch.linspace(0.001, 0.01, 4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: NoiseSchedule.from_betas(BETAS, signal=torch.ones(3)), "the signal is 4 numbers"),
        (lambda: NoiseSchedule.from_betas(BETAS, signal=torch.tensor([1.0, 0.9, 0.0, 0.0])), "above 0 and up to 1"),
        (lambda: NoiseSchedule.from_betas(BETAS, signal=torch.tensor([1.0, 0.8, 0.9, 0.7])), "never rise"),
        (lambda: NoiseSchedule.scaled_linear(signal_scale=float("nan")), "the signal is 1000 numbers"),
        (lambda: Denoiser(NETWORK, VIDEOCRAFTER, "v"), "predicts eps"),
        (lambda: FrameRate(0.0), "fps is 0.0.*above 0"),
        (lambda: FrameRate(float("inf")), "fps is inf"),
        (lambda: model().patched(FrameRate(8.0)), "does not take a frame rate, as VideoCrafter2 does"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(T2VError, match=says):
        call()
