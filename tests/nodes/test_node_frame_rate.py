"""T2VModelFps and what becomes of the frame rate on the headless host; the original samplers by T2VSampler there."""

from dataclasses import replace

import pytest
import torch


@pytest.fixture(scope="module")
def told(part, tiny):
    """The tiny model as one that takes a frame rate; its own is 8."""
    diffusion, unet = part("t2v_core.diffusion"), part("t2v_core.models.unet3d")
    torch.manual_seed(1)
    network = unet.UNet3D(replace(tiny.model.denoiser.network.config, fps_embedding=True)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    schedule = diffusion.NoiseSchedule.scaled_linear(signal_scale=0.7)
    denoiser = diffusion.Denoiser(network, schedule, "eps")
    return diffusion.VideoModel(denoiser, 0.18215, tiny.model.native, fps_input=True)


@pytest.fixture
def run(part, host, tiny):
    def run(model, **changes):
        texts = (host.encode(tiny.clip, words) for words in ("a red circle", ""))
        given = dict(zip(("positive", "negative"), texts, strict=True))
        given |= {"seed": 5, "steps": 4, "cfg": 2.5, "sampler_name": "ddim", "scheduler": "ddim_original"}
        given |= {"latent_image": {"samples": torch.zeros(2, 4, 4, 6)}, "denoise": 1.0, "guidance_rescale": 0.0}
        return part("nodes").T2VSampler().sample(model, **{**given, **changes})[0]["samples"]

    return run


def test_the_rate_reaches_the_network(part, run, told):
    (as_it_is,), (slower,) = (part("nodes").T2VModelFps().patch(told, fps) for fps in (8.0, 4.0))
    assert torch.equal(run(as_it_is), run(told))
    assert not torch.allclose(run(slower), run(told), rtol=1e-3)
    (again,) = part("nodes").T2VModelFps().patch(slower, 8.0)
    assert torch.equal(run(again), run(told)) and told.modifiers == ()


def test_a_model_without_that_input_is_refused(part, host, tiny):
    with pytest.raises(part("t2v_core.errors").T2VError, match="does not take a frame rate, as VideoCrafter2 does"):
        part("nodes").T2VModelFps().patch(tiny.model, 8.0)


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
def test_the_sampler_node_begins_and_ends_in_the_networks_scale(part, run, told, tiny, host, sampler):
    diffusion = part("t2v_core.diffusion")
    expected = diffusion.sample(
        told.patched(diffusion.NetworkScale()),
        torch.zeros(2, 4, 4, 6),
        tiny.clip.encode("a red circle")[0],
        tiny.clip.encode("")[0],
        noise=torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(5)),
        sampler=sampler,
        sigmas=diffusion.sigmas_for("ddim_original", told.denoiser.noise_schedule, 4),
        cfg=2.5,
        seed=5,
    )
    assert torch.equal(run(told, sampler_name=sampler), expected)
