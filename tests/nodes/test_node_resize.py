"""T2VUpscaleLatent and T2VEncode: a clip at another size."""

from __future__ import annotations

import pytest
import torch


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def upscale(part):
    return lambda *given: part("nodes").T2VUpscaleLatent().upscale(*given)[0]


@pytest.fixture
def encode(part, host):
    return lambda *given: part("nodes").T2VEncode().encode(*given)[0]["samples"]


def test_latents_get_the_size_in_pixels_and_what_is_beside_them_stays(part, upscale):
    samples, mask = rand(3, 4, 4, 6), torch.ones(1, 32, 48)
    given = {"samples": samples, "noise_mask": mask, "batch_index": [2, 3, 4]}
    resize, methods = part("t2v_core.resize").resize, part("t2v_core.resize").METHODS
    for method in methods:
        resized = upscale(given, method, 96, 56)
        assert resized["samples"].shape[2:] == (7, 12)
        assert torch.equal(resized["samples"], resize(samples, 7, 12, method))
        assert resized["noise_mask"] is mask and resized["batch_index"] == [2, 3, 4]
    assert given["samples"] is samples


def test_the_methods_are_comfyuis_in_its_order(part):
    declared = part("nodes").T2VUpscaleLatent.INPUT_TYPES()["required"]
    assert declared["upscale_method"][0] == ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
    declared = part("nodes").T2VEncode.INPUT_TYPES()["required"]
    assert declared["upscale_method"][0] == ["nearest-exact", "bilinear", "area", "bicubic"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (({"samples": torch.zeros(1, 4, 2, 2)}, "area", 65, 64), "width: 65 is not a multiple of 8"),
        (({"samples": torch.zeros(1, 4, 2, 2)}, "area", 64, 0), "height: 0 is outside 8 to 8192"),
        (({"samples": torch.zeros(65, 4, 1, 1)}, "area", 8192, 8192), "samples: 65 frames of 8192 x 8192"),
        (({"samples": torch.zeros(1, 4, 2, 2, 2)}, "area", 64, 64), "samples: the latent has 5 dimensions"),
        (({}, "area", 64, 64), "samples: not a LATENT"),
    ],
)
def test_bad_latents_and_sizes_are_refused_by_name(part, upscale, given, says):
    with pytest.raises(part("t2v_core.errors").T2VError, match=says):
        upscale(*given)


def test_sizes_are_checked_before_the_run(part):
    for node in (part("nodes").T2VUpscaleLatent, part("nodes").T2VEncode):
        assert node.VALIDATE_INPUTS(width=1024, height=576) is True and node.VALIDATE_INPUTS() is True
        assert "height: 12 is not a multiple of 8" in node.VALIDATE_INPUTS(width=None, height=12)
    assert part("nodes").T2VEncode.VALIDATE_INPUTS(width=0, height=0) is True


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_frames_are_resized_and_encoded_a_few_at_a_time(part, encode, tiny, batch):
    frames = rand(5, 16, 24, 3)
    for method in ("nearest-exact", "bilinear", "area", "bicubic"):
        pixels = torch.nn.functional.interpolate(frames.movedim(-1, 1), (32, 40), mode=method)
        expected = tiny.vae.encode(pixels * 2 - 1)
        torch.testing.assert_close(encode(frames, tiny.vae, 40, 32, method, batch), expected, atol=1e-5, rtol=1e-5)


def test_what_is_decoded_is_encoded_back(part, encode, host):
    """By the bundled autoencoder, which knows such pictures."""
    vae = host.load_model("bundled", "auto", ["vae"]).vae
    flat = torch.ones(2, 64, 64, 3)
    flat[:, 20:40, 20:40] = torch.tensor([0.9, 0.1, 0.1])
    latents = encode(flat, vae, 0, 0, "bicubic", 0)
    (images,) = part("nodes").T2VDecode().decode({"samples": latents}, vae, 0)
    assert (images - flat).abs().mean() < 0.05 and latents.shape == (2, 4, 8, 8)


def test_frames_of_odd_sizes_are_cut_in_the_middle(encode, tiny):
    frames = rand(2, 21, 30, 3)
    expected = tiny.vae.encode(frames[:, 2:18, 3:27].movedim(-1, 1) * 2 - 1)
    torch.testing.assert_close(encode(frames, tiny.vae, 0, 0, "bicubic", 0), expected)


@pytest.mark.parametrize(
    ("size", "expected"), [((48, 0), (48, 24)), ((0, 48), (88, 48)), ((8, 0), (8, 8)), ((64, 8), (64, 8))]
)
def test_a_side_of_zero_follows_the_other_in_proportion(encode, tiny, size, expected):
    """Rounded to whole latents, and never to none."""
    latents = encode(rand(1, 18, 32, 3), tiny.vae, *size, "bilinear", 0)
    assert (latents.shape[3] * 8, latents.shape[2] * 8) == expected


@pytest.mark.parametrize(
    ("frames", "size", "says"),
    [
        (torch.zeros(1, 7, 64, 3), (0, 0), "images: they are 64 x 7, and 8 x 8 is the least; give a width"),
        (torch.zeros(1, 16, 16, 4), (0, 0), r"images: the images are \[1, 16, 16, 4\]"),
        (torch.zeros(1, 16, 16, 3), (12, 0), "width: 12 is not a multiple of 8"),
        (torch.zeros(1, 8, 16, 3), (0, 8192), "width: 16384 is outside 8 to 8192"),
        (torch.zeros(65, 8, 8, 3), (8192, 8192), "images: 65 frames of 8192 x 8192"),
    ],
)
def test_frames_that_cannot_be_encoded_are_refused_by_name(part, encode, tiny, frames, size, says):
    with pytest.raises(part("t2v_core.errors").T2VError, match=says):
        encode(frames, tiny.vae, *size, "bicubic", 0)


def test_a_missing_or_foreign_autoencoder_is_named(part, encode, host, monkeypatch):
    error = part("t2v_core.errors").T2VError
    with pytest.raises(error, match="vae: the model file that was loaded holds no autoencoder"):
        encode(rand(1, 16, 16, 3), None, 0, 0, "bicubic", 0)
    # What a video VAE on ComfyUI's socket gives: one clip of latents.
    monkeypatch.setattr(host, "encode_frames", lambda vae, images: torch.zeros(1, 16, 1, 2, 2))
    with pytest.raises(error, match=r"vae: it makes latents \[1, 16, 1, 2, 2\] of 1 frames; here an auto"):
        encode(rand(1, 16, 16, 3), object(), 0, 0, "bicubic", 0)
