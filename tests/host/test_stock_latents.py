"""ComfyUI's own nodes on latents, masks, pixels and files, around our MODEL and VAE (see `table`)."""

from __future__ import annotations

import io

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from prompts import Node
from table import CHANGED, EQUAL, FRAMES, SEED, SIZE, UNCHANGED, Clip, bundled, check_row, core, relative_error

from t2v_core.diffusion import prepare_noise

LATENT = SIZE // 8


def test_latent_upscale_by_and_a_second_pass(comfy):
    clip = Clip()
    plain = clip.sample()

    def second(scale):
        larger = clip.add("LatentUpscaleBy", samples=plain, upscale_method="bilinear", scale_by=scale)
        return clip.sample(latent_image=larger, denoise=0.5)

    rows = clip.latents(comfy, plain, clip.sample(latent_image=plain, denoise=0.5), second(1.0), second(1.5))
    first, again, unscaled, scaled = rows
    assert relative_error(unscaled, again) <= UNCHANGED
    larger = F.interpolate(first, scale_factor=1.5, mode="bilinear")
    expected = core().sample(core().guided(), larger, core().sigmas(denoise=0.5))
    assert scaled.shape[-2:] == (12, 12) and relative_error(scaled, expected) <= EQUAL


def test_latent_from_batch(comfy):
    clip = Clip()
    plain = clip.sample()

    def frames(samples, start, length):
        return clip.add("LatentFromBatch", samples=samples, batch_index=start, length=length)

    cut = frames(plain, 1, 2)
    rows = (
        plain,
        clip.sample(latent_image=frames(clip.empty, 0, FRAMES)),
        cut,
        clip.sample(latent_image=cut, denoise=0.5),
    )
    plain, same, cut, again = clip.latents(comfy, *rows)
    assert relative_error(same, plain) <= UNCHANGED
    assert torch.equal(cut, plain[1:3])
    noise = prepare_noise(cut.shape, SEED, batch_index=[1, 2])
    expected = core().sample(core().guided(), cut, core().sigmas(denoise=0.5), noise)
    assert relative_error(again, expected) <= EQUAL


def grey(clip: Clip, levels) -> Node:
    """A MASK of one level, 0..255, a frame."""
    images = [clip.add("EmptyImage", width=SIZE, height=SIZE, batch_size=1, color=0x10101 * level) for level in levels]
    batch = images[0]
    for image in images[1:]:
        batch = clip.add("ImageBatch", image1=batch, image2=image)
    return clip.add("ImageToMask", image=batch, channel="red")


def masked(clip: Clip, samples, mask):
    return clip.add("SetLatentNoiseMask", samples=samples, mask=mask)


def sample_masked(latents, mask, sigmas, mask_at=None):
    """Where the mask is 0 the clip stays: at each step its noisy self goes in, itself comes out. Lugmayr et al.
    (arXiv 2201.09865), eq. 8, fractions blending."""
    noise, kept = prepare_noise(latents.shape, SEED), latents * core().scale

    def denoise(x, sigma):
        m = mask if mask_at is None else mask_at(sigma)
        x = m * x + (1 - m) * (kept + sigma * noise)
        return m * core().guided()(x, sigma) + (1 - m) * kept

    return core().sample(denoise, latents, sigmas)


@pytest.mark.parametrize("kind", ["one mask", "a mask per frame"])
def test_set_latent_noise_mask(comfy, kind):
    clip = Clip()
    first = clip.sample(seed=1)
    if kind == "one mask":
        black, white = (clip.add("SolidMask", value=v, width=w, height=SIZE) for v, w in ((0.0, SIZE), (1.0, 24)))
        node = clip.add("MaskComposite", destination=black, source=white, x=0, y=0, operation="add")
        mask = torch.zeros(1, 1, 1, LATENT)
        mask[..., :3] = 1
    else:
        node, mask = grey(clip, (255, 0, 51, 0)), torch.tensor([1, 0, 0.2, 0]).reshape(FRAMES, 1, 1, 1)
    everything = clip.add("SolidMask", value=1.0, width=SIZE, height=SIZE)
    plain, *rows = (first, *(masked(clip, first, each) for each in (everything, node)))
    rows = clip.latents(comfy, plain, *(clip.sample(latent_image=each, denoise=0.6) for each in (plain, *rows)))
    first, rows = rows[0], rows[1:]
    check_row(*rows, sample_masked(first, mask, core().sigmas(denoise=0.6)))
    kept = (mask == 0).expand_as(first)
    assert relative_error(rows[2][kept], first[kept]) <= UNCHANGED


def test_differential_diffusion(comfy):
    """A grey mask says from which timestep on a frame changes: Levin and Fried (arXiv 2306.00950), section 3."""
    clip = Clip()
    first = clip.sample(seed=1)
    model = clip.add("DifferentialDiffusion", model=clip.model, strength=1.0)
    levels = (255, 0, 204, 102)
    binary, graded = (masked(clip, first, grey(clip, each)) for each in ((255, 0, 255, 0), levels))
    # This noise schedule stops above the least sigma, where the node would let everything change.
    settings = {"denoise": 0.6, "scheduler": "sgm_uniform"}
    rows = (
        clip.sample(latent_image=binary, **settings),
        clip.sample(latent_image=binary, model=model, **settings),
        clip.sample(latent_image=graded, model=model, **settings),
    )
    first, *rows = clip.latents(comfy, first, *rows)
    sigmas, mask = core().sigmas(denoise=0.6, scheduler="sgm_uniform"), torch.tensor(levels) / 255
    timestep = core().noise_schedule.timestep

    def mask_at(sigma):
        passed = timestep(sigma) / timestep(sigmas[0])  # the least sigma's timestep is 0
        return (mask >= passed).float().reshape(FRAMES, 1, 1, 1)

    check_row(*rows, sample_masked(first, None, sigmas, mask_at))


# --- pixels ---


def pixels(images):
    return (rearrange(images, "f c h w -> f h w c") / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def test_vae_decode_and_encode(comfy):
    clip = Clip()
    plain = clip.sample()
    images = clip.add("VAEDecode", samples=plain, vae=clip.vae)
    latents = clip.add("VAEEncode", pixels=images, vae=clip.vae)
    saved = clip.tensors(comfy, plain, images, latents)
    plain, images, latents = saved[0]["samples"], saved[1]["value"], saved[2]["samples"]
    assert relative_error(images, pixels(bundled().autoencoder.decode(plain))) <= UNCHANGED
    assert images.shape == (FRAMES, SIZE, SIZE, 3) and images.std() > 0.1
    expected = bundled().autoencoder.encode(rearrange(images, "f h w c -> f c h w") * 2 - 1)
    assert relative_error(latents, expected) <= UNCHANGED


@pytest.mark.parametrize("way", ["VAEDecodeTiled", "VAEEncodeTiled"])
def test_tiles(comfy, way):
    """One tile is the whole frame; several differ at their seams, and a little."""
    clip = Clip(width=256, height=256, frames=2)
    latents = clip.sample()
    images = clip.add("VAEDecode", samples=latents, vae=clip.vae)
    whole = images if way == "VAEDecodeTiled" else clip.add("VAEEncode", pixels=images, vae=clip.vae)
    takes = {"samples": latents} if way == "VAEDecodeTiled" else {"pixels": images}
    tiled = [
        clip.add(way, vae=clip.vae, tile_size=size, overlap=32, temporal_size=64, temporal_overlap=8, **takes)
        for size in (512, 128)
    ]
    whole, one, several = (next(iter(each.values())) for each in clip.tensors(comfy, whole, *tiled))
    check_row(whole, one, several)
    assert relative_error(several, whole) <= 0.2


@torch.no_grad()
def test_vae_encode_for_inpaint(comfy):
    clip = Clip()
    images = clip.add("VAEDecode", samples=clip.sample(), vae=clip.vae)

    def encode(value):
        mask = clip.add("SolidMask", value=value, width=SIZE, height=SIZE)
        return clip.add("VAEEncodeForInpaint", pixels=images, vae=clip.vae, mask=mask, grow_mask_by=0)

    plain = clip.add("VAEEncode", pixels=images, vae=clip.vae)
    plain, kept, blank = clip.tensors(comfy, plain, encode(0.0), encode(1.0))
    grey = bundled().autoencoder.encode(torch.zeros(FRAMES, 3, SIZE, SIZE))
    check_row(plain["samples"], kept["samples"], blank["samples"], grey)
    assert kept["noise_mask"].max() == 0 and blank["noise_mask"].min() == 1


# --- files ---


def test_create_video_and_save_video(comfy, tmp_path):
    clip = Clip(frames=8)
    images = clip.add("VAEDecode", samples=clip.sample(), vae=clip.vae)
    saved = {}
    for fps in (8.0, 4.0):
        video = clip.add("CreateVideo", images=images, fps=fps)
        saved[fps] = clip.add("SaveVideo", video=video, filename_prefix="table", format="mp4", codec="h264")
    back = clip.add("ProbeTensor", value=clip.add("GetVideoComponents", video=video)[0])
    images = clip.add("ProbeTensor", value=images)
    run = comfy.run(clip)
    expected = run.tensors(images)["value"]
    assert torch.equal(run.tensors(back)["value"], expected)
    for fps, node in saved.items():
        file = tmp_path / f"{fps}.mp4"
        file.write_bytes(run.fetch(node))
        reader = imageio_ffmpeg.read_frames(file)
        about = next(reader)
        assert about["fps"] == fps and about["size"] == (SIZE, SIZE)
        frames = np.frombuffer(b"".join(reader), np.uint8).reshape(-1, SIZE, SIZE, 3) / 255
        assert frames.shape == tuple(expected.shape)
        assert np.abs(frames - expected.numpy()).mean() < 0.05


def test_save_animated_webp(comfy):
    clip = Clip()
    images = clip.add("VAEDecode", samples=clip.sample(), vae=clip.vae)
    settings = {"images": images, "filename_prefix": "table", "fps": 8.0, "method": "default"}
    exact = clip.add("SaveAnimatedWEBP", lossless=True, quality=80, **settings)
    lossy = clip.add("SaveAnimatedWEBP", lossless=False, quality=10, **settings)
    images = clip.add("ProbeTensor", value=images)
    run = comfy.run(clip)
    expected = (255 * run.tensors(images)["value"]).byte()

    def read(node):
        picture = Image.open(io.BytesIO(run.fetch(node)))
        frames = []
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(torch.from_numpy(np.array(picture.convert("RGB"))))
        return torch.stack(frames)

    assert torch.equal(read(exact), expected)
    assert CHANGED < relative_error(read(lossy), expected) < 0.2
