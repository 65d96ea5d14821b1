"""Decoding in tiles against decoding whole: equal wherever no layer sees past a tile's edge, close where one does."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from t2v_core.models.autoencoder import Autoencoder, AutoencoderConfig
from t2v_core.models.tiled import decode_tiled, starts, weights

SIZES = [(1, 1), (1, 17), (9, 8), (16, 16), (17, 40), (33, 9), (40, 23)]


def autoencoder(**sizes):
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(**{"widths": (8, 8, 8), "deep_blocks": 1, **sizes})).eval()


@torch.no_grad()
@pytest.mark.parametrize("tile", [1, 2, 3, 8, 12, 64])
@pytest.mark.parametrize("size", SIZES)
def test_what_sees_no_neighbour_is_decoded_the_same_everywhere(size, tile):
    latents = torch.randn(2, 4, *size)

    def decode(part):
        return F.interpolate(part[:, :3], scale_factor=8) + 5

    torch.testing.assert_close(decode_tiled(decode, latents, tile), decode(latents), atol=2e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(40, 56), (64, 33)])
def test_what_sees_one_latent_far_is_decoded_the_same_everywhere(size):
    """The margin of a tile of 16 latents is one latent wide: all that a convolution of 3 x 3 misses at its edge."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 3, 3, padding=1)
    latents = torch.randn(2, 4, *size)

    def decode(part):
        return F.interpolate(convolution(part), scale_factor=8)

    torch.testing.assert_close(decode_tiled(decode, latents, 16), decode(latents), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_autoencoder_s_own_decode_away_from_the_seams():
    vae, latents = autoencoder(), torch.randn(1, 4, 48, 48)
    whole, tiled = vae.decode(latents), decode_tiled(vae.decode, latents, 32)
    reach = 8 * 8  # pixels that the decoder sees: 3 convolutions of 8 pixels, 3 of 4, 3 of 2, all of them 3 wide, and 8
    begins, ends = starts(48, 32)[1] * 8, 32 * 8
    far = [i for i in range(48 * 8) if i < begins or i >= ends or (i >= begins + reach and i < ends - reach)]
    difference = (whole - tiled).abs().amax((0, 1))
    assert difference[far][:, far].max() < 1e-5
    assert difference.max() > 1e-4  # else the whole frame was decoded at once


@torch.no_grad()
def test_stable_diffusion_s_kind_which_sees_the_whole_frame_is_close_and_has_no_seam():
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(**kinds, block_out_channels=(16,) * 4, latent_channels=4, norm_num_groups=4).eval()
    smooth = F.interpolate(torch.randn(1, 4, 6, 6), size=(32, 48), mode="bicubic")

    def decode(part):
        return vae.decode(part).sample

    whole, tiled = decode(smooth), decode_tiled(decode, smooth, 32)
    psnr = 20 * torch.log10((whole.max() - whole.min()) / (whole - tiled).square().mean().sqrt())
    assert 25 < psnr < 80

    def seam(images):
        """The largest jump between two columns in how far the images are off the whole decode."""
        return float((images - whole).diff(dim=3).abs().mean((0, 1, 2)).max())

    cut = torch.cat([decode(smooth[..., :24]), decode(smooth[..., 24:])], dim=3)  # tiles without any overlap
    assert seam(tiled) < seam(cut) / 3


@torch.no_grad()
def test_no_more_than_a_tile_is_decoded_at_once():
    vae, sizes = autoencoder(), []

    def decode(part):
        sizes.append(tuple(part.shape[2:]))
        return vae.decode(part)

    images = decode_tiled(decode, torch.zeros(3, 4, 20, 40), 16)
    assert images.shape == (3, 3, 160, 320) and images.dtype == torch.float32
    assert set(sizes) == {(16, 16)} and len(sizes) == 2 * 3
    sizes.clear()
    decode_tiled(decode, torch.zeros(1, 4, 8, 40), 16)  # less high than a tile
    assert set(sizes) == {(8, 16)}
    sizes.clear()
    decode_tiled(decode, torch.zeros(1, 4, 16, 16), 16)
    assert sizes == [(16, 16)]


@torch.no_grad()
def test_half_precision_is_blended_in_single():
    latents = torch.randn(1, 4, 24, 24).bfloat16()
    images = decode_tiled(lambda part: F.interpolate(part[:, :3], scale_factor=8), latents, 16)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, F.interpolate(latents[:, :3].float(), scale_factor=8), atol=1e-6, rtol=0)


def test_tiles_cover_the_side_overlap_enough_and_go_smoothly_over_into_each_other():
    for length in range(1, 70):
        for tile in (1, 2, 3, 4, 5, 8, 13, 16, 32):
            begins, counts = starts(length, tile), weights(length, tile, 8)
            assert begins[0] == 0 and begins[-1] == max(0, length - tile)
            assert all(0 < b - a <= max(1, tile - tile // 4) for a, b in zip(begins, begins[1:], strict=False))
            assert counts.shape == (len(begins), length * 8)
            torch.testing.assert_close(counts.sum(0), torch.ones(length * 8))
            for row, begin in zip(counts, begins, strict=True):
                assert not row[: begin * 8].any() and not row[(begin + tile) * 8 :].any()
            if tile >= 8:
                assert counts.diff(dim=1).abs().max() <= 1 / (tile // 4 * 8 / 2) + 1e-6  # no step, a ramp
