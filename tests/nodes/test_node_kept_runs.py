"""Clips whose latents lie in a run folder: T2VSampler leaves them there, T2VDecodeAndSave reads a few at a time."""

from pathlib import Path

import pytest
import torch

FRAMES = 70


@pytest.fixture
def keeping(part, models, tmp_path):
    """A headless host that keeps clips of 70 frames and more."""
    nodes_host, progress = part("nodes.host"), part("headless.progress").Progress(None, "none")
    runs = part("t2v_core.runs").RunsFolder(tmp_path / "runs", FRAMES)
    running = part("headless.host").HeadlessHost(models, tmp_path / "out", progress, runs=runs)
    nodes_host.use(running)
    yield running
    nodes_host.use(None)


def sampled(part, num_frames: int = FRAMES, **changes) -> dict:
    nodes = part("nodes")
    with torch.inference_mode():
        model, clip, _ = nodes.T2VLoadModel().load("tiny.safetensors", "auto")["result"]
        (cond,) = nodes.T2VTextEncode().encode(clip, "red")
        (latent,) = nodes.T2VEmptyLatent().make(16, 24, num_frames)
        settings = {"seed": 1, "steps": 3, "cfg": 2.0, "sampler_name": "lcm", "scheduler": "normal", "denoise": 1.0}
        settings |= {"positive": cond, "negative": cond, "latent_image": latent, "guidance_rescale": 0.0, **changes}
        return nodes.T2VSampler().sample(model, **settings)[0]


def mapped(tensor: torch.Tensor) -> str:
    """The file that a tensor's memory is mapped from."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, *_, name = line.split(maxsplit=5)
        first, last = (int(end, 16) for end in place.split("-"))
        if first <= tensor.data_ptr() < last:
            return name
    return ""


def anonymous_bytes() -> int:
    """Memory of this process that lies in no file."""
    return next(
        1024 * int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_latent_lies_in_its_run_folder_and_makes_the_same_video(part, keeping, host, tiny, tmp_path):
    part("nodes.host").use(keeping)
    kept = sampled(part)["samples"]
    assert mapped(kept).startswith(str(tmp_path / "runs")) and mapped(kept).endswith("/latents.safetensors")
    assert not mapped(sampled(part, FRAMES - 1)["samples"]).startswith(str(tmp_path))
    assert "/latents.safetensors" not in mapped(sampled(part, denoise=0.0)["samples"])  # nothing was sampled
    part("nodes.host").use(host)
    plain = sampled(part)["samples"]
    assert torch.equal(kept, plain) and not mapped(plain).startswith(str(tmp_path))
    boomerang = part("t2v_core.video").VideoOptions(pingpong=True)
    for name, samples in (("a", kept), ("b", plain)):
        with torch.inference_mode():
            part("nodes").T2VDecodeAndSave().save(
                {"samples": samples}, tiny.vae, 8.0, name, "h264-mp4", "high", 0, 0, options=boomerang
            )
    first, second = sorted((tmp_path / "out").iterdir())
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_frames_are_read_from_a_file_without_a_copy_of_the_clip(part, host, tiny, tmp_path):
    """128 MB of latents, the first and the last few frames of them decoded, forward and backward."""
    shape = (8192, 4, 32, 32)
    with part("t2v_core.runs").RunsFolder(tmp_path / "runs").open("a" * 64, shape, 1, "euler") as run:
        latents = run.deliver(torch.linspace(-1, 1, shape[0]).reshape(-1, 1, 1, 1).expand(shape))
    decoded = part("nodes.decode_and_save")._Decoded(tiny.vae, latents, 1, 0)
    with torch.inference_mode():
        next(iter(decoded))  # what the first frame costs for itself
        before = anonymous_bytes()
        forward, backward = iter(decoded), reversed(decoded)
        first, last = next(forward), next(backward)
        assert anonymous_bytes() - before < 40e6
        expected = list(keeping_order(host, tiny, latents))
    assert torch.equal(first, expected[0]) and torch.allclose(last, expected[1], atol=1e-5)


def keeping_order(host, tiny, latents):
    for end in (latents[:1], latents[-1:]):
        yield next(iter(host.decode_frames(tiny.vae, end.clone(), 0)))


@pytest.mark.parametrize("frames", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("at_once", [0, 3, 100])
def test_backward_is_forward_backward(part, host, tiny, frames, at_once):
    latents = torch.randn(frames, 4, 2, 2, generator=torch.Generator().manual_seed(frames))
    decoded = part("nodes.decode_and_save")._Decoded(tiny.vae, latents, at_once, 0)
    with torch.inference_mode():
        forward, backward = list(decoded), list(reversed(decoded))
    assert len(forward) == len(backward) == frames
    for frame, other in zip(forward, reversed(backward), strict=True):
        assert torch.allclose(frame, other, atol=1e-5)
