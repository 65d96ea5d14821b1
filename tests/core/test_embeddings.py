"""What the bundled model adds to ModelScope's network, against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from t2v_core.errors import T2VError
from t2v_core.models.autoencoder import Autoencoder
from t2v_core.models.blocks import ResBlock
from t2v_core.models.embeddings import TextPool, coordinates, sinusoid
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

SMALL = UNet3DConfig(
    widths=(8, 16), attention=(True, False), blocks_per_level=1, context_dim=6, head_dim=4, input_heads=2,
    norm_groups=4,
)  # fmt: skip


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module.eval().requires_grad_(False)


def test_sinusoid_is_cosines_then_sines():
    dim, position = 8, 37.0
    angles = [position * 10000 ** (-2 * i / dim) for i in range(dim // 2)]
    expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    assert sinusoid(torch.tensor([position]), dim)[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_coordinates_are_pixel_centres_x_then_y():
    grid = coordinates(4, 2, torch.zeros(1))
    assert grid.shape == (1, 2, 4, 2)
    assert grid[0, 0, 0].tolist() == [-0.5, 0.5]
    assert grid[0, 1, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_text_pool_is_attention_of_each_query_then_a_norm_of_its_own():
    pool = randomise(TextPool(6, 3))
    context = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    expected = []
    for query in pool.queries.weight:
        weights = (context @ query / math.sqrt(6)).softmax(1)
        mean = (weights[..., None] * context).sum(1)
        expected.append((mean - mean.mean(1, keepdim=True)) / (mean.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt())
    expected = torch.cat(expected, 1) * pool.norm.weight + pool.norm.bias
    assert torch.allclose(pool(context), expected, atol=1e-5)


def test_text_pool_reads_a_prompt_padded_with_zeros_as_one_without():
    pool = randomise(TextPool(6, 3))
    context = 5 * torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([context, torch.zeros(1, 40, 6)], dim=1)
    assert torch.allclose(pool(padded), pool(context), atol=5e-3)


def test_scale_shift_acts_between_the_second_norm_and_its_activation_frame_by_frame():
    block = randomise(ResBlock(8, 8, 12, 4, True, {"operations": torch.nn, "dtype": None, "device": None}))
    frames, generator = 3, torch.Generator().manual_seed(2)
    x, emb = torch.randn(frames, 8, 5, 4, generator=generator), torch.randn(1, frames, 12, generator=generator)
    scale, shift = block.emb_layers(emb[0])[:, :, None, None].chunk(2, dim=1)
    h = block.in_layers(x)
    h = F.silu(block.out_layers[0](h) * (1 + scale) + shift)
    expected = block.temporal_conv(x + block.out_layers[3](h), frames)
    assert torch.allclose(block(x, emb, frames), expected, atol=1e-5)


@pytest.mark.parametrize("extra", [{"text_queries": 2}, {"frame_position": True}, {"coordinates": True}])
def test_each_extra_changes_the_result_and_adds_its_own_weights(extra):
    from dataclasses import replace

    plain, richer = (randomise(UNet3D(config)) for config in (SMALL, replace(SMALL, **extra)))
    generator = torch.Generator().manual_seed(3)
    inputs = (torch.randn(1, 4, 3, 6, 5, generator=generator), torch.tensor([400]),
              torch.randn(1, 7, 6, generator=generator))  # fmt: skip
    richer.load_state_dict({k: v for k, v in plain.state_dict().items() if v.shape == richer.state_dict()[k].shape},
                           strict=False)  # fmt: skip
    assert richer(*inputs).shape == plain(*inputs).shape
    assert (richer(*inputs) - plain(*inputs)).abs().max() > 1e-4


def test_frame_position_tells_equal_frames_apart():
    from dataclasses import replace

    x = torch.randn(1, 4, 1, 6, 6, generator=torch.Generator().manual_seed(4)).expand(-1, -1, 3, -1, -1)
    network = randomise(UNet3D(replace(SMALL, frame_position=True)))
    for name, parameter in network.named_parameters():
        if "temporal" in name or "conv4" in name:
            parameter.data.zero_()  # no padding in time: what differs then is the position alone
    out = network(x, torch.tensor([10]), torch.zeros(1, 2, 6))
    assert (out[:, :, 0] - out[:, :, 2]).abs().max() > 1e-4


def test_folding_statistics_changes_the_latents_scale_and_no_picture():
    network = randomise(Autoencoder())
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    before, latents = network.decode(network.encode(images)), network.encode(images)
    network.fold_statistics(latents.mean((0, 2, 3)), latents.std((0, 2, 3)), 0.18215)
    folded = network.encode(images) * 0.18215
    assert torch.allclose(folded.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(folded.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    after = network.decode(network.encode(images))
    assert (after - before).norm() / before.norm() < 1e-4


def test_an_odd_first_width_is_refused():
    with pytest.raises(T2VError, match="even"):
        UNet3DConfig(widths=(15,), attention=(True,), head_dim=5, norm_groups=5)
