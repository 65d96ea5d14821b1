"""DDIM with guidance, end to end, against the sampler that ModelScope's text-to-video ships with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from core.references import MODELSCOPE_CONTEXT, modelscope_unet, write
from torch import Tensor, nn

from t2v_core.checkpoints import load_unet
from t2v_core.diffusion import SAMPLERS, Denoiser, NoiseSchedule, guide

SCHEDULE = NoiseSchedule.scaled_linear()


def modelscope_diffusion():
    """The wheel's diffusion.py by itself: importing the package would want its whole pipeline stack."""
    folder = importlib.util.find_spec("modelscope").submodule_search_locations[0]
    path = Path(folder) / "models/multi_modal/video_synthesis/diffusion.py"
    spec = importlib.util.spec_from_file_location("modelscope_diffusion", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference_ddim(network: nn.Module, noise: Tensor, cond: Tensor, uncond: Tensor, steps: int, scale: float,
                   text: str = "context") -> Tensor:  # fmt: skip
    """ModelScope's loop; the latents at timestep 0, which still hold a little noise. text: the argument's name."""
    module = modelscope_diffusion()
    betas = module.beta_schedule("linear_sd", 1000, init_beta=0.00085, last_beta=0.0120)
    diffusion = module.GaussianDiffusion(betas, mean_type="eps", var_type="fixed_small")
    return diffusion.ddim_sample_loop(
        noise,
        network,
        model_kwargs=[{text: cond}, {text: uncond}],
        guide_scale=scale,
        ddim_timesteps=steps,
    )


@torch.no_grad()
def our_ddim(
    network: nn.Module, noise: Tensor, cond: Tensor, uncond: Tensor, steps: int, scale: float, sampler: str = "ddim"
) -> Tensor:
    """The same walk in sigmas: timesteps 1 + k * (1000 // steps) downwards, then 0; scaled to theirs at both ends."""
    timesteps = [*range(1, 1000, 1000 // steps)][::-1] + [0]
    sigmas = SCHEDULE.sigmas[timesteps]
    denoise = guide(Denoiser(network, SCHEDULE, "eps"), cond, uncond, scale)
    x = SAMPLERS[sampler](denoise, noise * (1 + sigmas[0] ** 2).sqrt(), sigmas)
    return x / (1 + sigmas[-1] ** 2).sqrt()


class SmallNetwork(nn.Module):
    """A fixed eps model that mixes space, frames, the timestep and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv3d(4, 16, 3, padding=1)
        self.text = nn.Linear(8, 16)
        self.time = nn.Linear(2, 16)
        self.conv_out = nn.Conv3d(16, 4, 3, padding=1)
        generator = torch.Generator().manual_seed(21)
        with torch.no_grad():
            for parameter in self.parameters():
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        phase = timesteps.to(x.dtype)[:, None] / 150
        features = self.time(torch.cat([phase.sin(), phase.cos()], 1)) + self.text(context.mean(1))
        return 0.8 * x + 0.2 * self.conv_out(torch.sin(self.conv_in(x) + features[:, :, None, None, None]))


def clip(dim: int = 8, frames: int = 5, height: int = 6, width: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, cond, uncond."""
    generator = torch.Generator().manual_seed(8)
    shapes = (1, 4, frames, height, width), (1, 11, dim), (1, 11, dim)
    noise, cond, uncond = (torch.randn(shape, generator=generator) for shape in shapes)
    return noise, cond, uncond


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@pytest.mark.parametrize("steps", [10, 25])
def test_ddim_with_cfg_9_equals_modelscope(steps, sampler):
    network = SmallNetwork().eval()
    inputs = clip()
    expected = reference_ddim(network, *inputs, steps, 9.0)
    assert relative(our_ddim(network, *inputs, steps, 9.0, sampler), expected) <= 2e-5
    # The network's say is felt: other texts give another clip.
    assert relative(our_ddim(network, inputs[0], inputs[2], inputs[1], steps, 9.0), expected) > 0.01


def test_unet3d_sampled_by_us_equals_unetsd_sampled_by_modelscope(tmp_path):
    """Nothing shared but the weights: their network in their sampler, ours in ours."""
    theirs = modelscope_unet((1, 2), (True, False), 1)
    ours = load_unet(write(theirs, tmp_path / "unet.safetensors"))
    inputs = clip(MODELSCOPE_CONTEXT, frames=4, height=8, width=4)
    expected = reference_ddim(theirs, *inputs, 25, 9.0, text="y")
    assert relative(our_ddim(ours, *inputs, 25, 9.0), expected) <= 2e-5
