"""Windows of the attention over time alone: against a plain loop over them, and as nothing where they are nothing."""

from __future__ import annotations

import math

import pytest
import torch
from core.references import clip, randomise, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from t2v_core.errors import T2VError
from t2v_core.models import pieces, transformers
from t2v_core.models import temporal_windows as windowed
from t2v_core.models.blocks import TemporalConv
from t2v_core.models.hooks import NO_HOOKS
from t2v_core.models.temporal_windows import TemporalWindows, closed
from t2v_core.models.transformers import Attention, TemporalTransformer, scaled_dot_product_attention
from t2v_core.models.unet3d import UNet3D, UNet3DConfig
from t2v_core.windows import FUSES, PLANS, ContextWindows, temporal_windows

FACTORY = {"operations": torch.nn, "dtype": torch.float64, "device": None}
PLACE = ("middle", 0)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def random_windows(frames: int, length: int, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Windows that are of any frames in any order, but hold each at least once, and any weights that sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(frames, generator=generator)[:length].tolist() for _ in range(number)]
    for first in range(0, frames, length):
        rows.append([min(first, frames - length) + i for i in range(length)])
    weights = torch.rand(len(rows), length, generator=generator, dtype=torch.float64) + 0.05
    total = torch.zeros(frames, dtype=torch.float64)
    for row, its in zip(rows, weights, strict=True):
        for frame, weight in zip(row, its, strict=True):
            total[frame] += weight
    return torch.tensor(rows), torch.stack([its / total[row] for row, its in zip(rows, weights, strict=True)])


def slow_attention(x: Tensor, attention: Attention, rows: Tensor, weights: Tensor) -> Tensor:
    """Out of the definition: each window's own attention, one head and one frame at a time, and the weighted sum."""
    w_q, w_k, w_v = (layer.weight.T for layer in (attention.to_q, attention.to_k, attention.to_v))
    out_layer = attention.to_out[0]
    total = torch.zeros_like(x)
    for row, its in zip(rows, weights.to(x), strict=True):
        tokens = x[:, row]
        heads = []
        for head in range(attention.heads):
            part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            q, k, v = ((tokens @ w)[..., part] for w in (w_q, w_k, w_v))
            scores = q @ k.transpose(1, 2) / math.sqrt(attention.head_dim)
            heads.append(torch.exp(scores) / torch.exp(scores).sum(2, keepdim=True) @ v)
        given = torch.cat(heads, dim=2) @ out_layer.weight.T + out_layer.bias
        for place, (frame, weight) in enumerate(zip(row, its, strict=True)):
            total[:, frame] += weight * given[:, place]
    return total


def transformer(dim: int = 8, heads: int = 3) -> TemporalTransformer:
    return randomise(TemporalTransformer(dim, heads, 4, 4, 2, scaled_dot_product_attention, FACTORY))


def slow_transformer(part: TemporalTransformer, x: Tensor, frames: int, rows: Tensor, weights: Tensor) -> Tensor:
    clips = x.unflatten(0, (-1, frames)).movedim(1, 2)  # b c f h w
    tokens = part.proj_in(part.norm(clips).permute(0, 3, 4, 2, 1).flatten(0, 2))
    (block,) = part.transformer_blocks
    tokens = tokens + slow_attention(block.norm1(tokens), block.attn1, rows, weights)
    tokens = tokens + slow_attention(block.norm2(tokens), block.attn2, rows, weights)
    tokens = tokens + block.ff(block.norm3(tokens))
    change = part.proj_out(tokens).unflatten(0, (len(clips), *x.shape[2:])).permute(0, 3, 4, 1, 2)  # b f c h w
    return x + change.flatten(0, 1)


@pytest.mark.parametrize("most", [None, 3, 3000])
def test_it_is_a_loop_over_windows(monkeypatch, most):
    """Whatever the pieces are that it goes through in, by memory and by sequences."""
    frames, part = 11, transformer()
    rows, weights = random_windows(frames, 4, 5, seed=1)
    x = torch.randn(2 * frames, 8, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = slow_transformer(part, x, frames, rows, weights)
    if most is not None:
        monkeypatch.setattr(pieces, "CPU_BYTES", most)
        monkeypatch.setattr(transformers, "MOST_SEQUENCES", most)
        monkeypatch.setattr(windowed, "MOST_SEQUENCES", most)
    windows = TemporalWindows.of(rows, weights)
    assert relative_error(part(x, frames, NO_HOOKS, PLACE, windows), expected) <= 1e-6
    assert relative_error(part(x, frames, NO_HOOKS, PLACE), expected) >= 1e-2


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_windows(data):
    frames = data.draw(st.integers(1, 20))
    length = data.draw(st.integers(1, frames))
    number, seed = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 99))
    rows, weights = random_windows(frames, length, number, seed)
    attention = randomise(Attention(8, 8, 2, 4, scaled_dot_product_attention, FACTORY), seed)
    x = torch.randn(3, frames, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    within = transformers.WindowedAttention(attention, TemporalWindows.of(rows, weights))
    assert relative_error(within(x, x), slow_attention(x, attention, rows, weights)) <= 1e-6


def test_a_window_has_no_more_sequences_than_a_grid(monkeypatch):
    monkeypatch.setattr(transformers, "MOST_SEQUENCES", 40)
    monkeypatch.setattr(windowed, "MOST_SEQUENCES", 40)
    sizes = []

    def attention(q, k, v, heads):
        sizes.append(len(q) * heads)
        return scaled_dot_product_attention(q, k, v, heads)

    part = TemporalTransformer(8, 3, 4, 4, 2, attention, FACTORY)
    rows, weights = random_windows(9, 3, 20, seed=3)  # 23 windows of 3 heads are more than 40 for one pixel alone
    part(torch.randn(9, 8, 2, 2, dtype=torch.float64), 9, NO_HOOKS, PLACE, TemporalWindows.of(rows, weights))
    assert max(sizes) == 39 and sum(sizes) == 2 * 4 * 23 * 3


def test_a_frame_in_no_window_is_refused():
    with pytest.raises(T2VError, match="frame 2 is in none"):
        TemporalWindows.of(torch.tensor([[0, 1], [3, 4]]), torch.ones(2, 2))


@pytest.mark.parametrize("frames", [2, 3, 9])
def test_a_closed_convolution_is_pytorchs_circular_one(frames):
    ours = torch.nn.Conv2d(3, 5, (3, 1), padding=(1, 0), dtype=torch.float64)
    theirs = torch.nn.Conv2d(3, 5, (3, 1), padding=(1, 0), padding_mode="circular", dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, frames, 7, dtype=torch.float64)
    assert relative_error(closed(ours, x), theirs(x)) <= 1e-14


def unet(dtype: torch.dtype | None = None, **more) -> UNet3D:
    sizes = {"blocks_per_level": 1, "context_dim": 12, "head_dim": 4, "input_heads": 3, "norm_groups": 4}
    return randomise(UNet3D(UNet3DConfig(widths=(8, 16), attention=(True, False), **sizes, **more), dtype=dtype))


def ring(frames: int, length: int, step: int) -> tuple[Tensor, Tensor]:
    """Windows all round a loop, each `step` on; all count alike."""
    rows = [[(first + i) % frames for i in range(length)] for first in range(0, frames, step)]
    return torch.tensor(rows), torch.full((len(rows), length), step / length)


def test_a_loop_has_no_seam():
    """Turned by a step of its windows, it is the same, turned; a clip with ends is not."""
    network = unet(dtype=torch.float64)
    x, t, context = (each.double() for each in clip(1, 12, 6, 5, 12))
    texts = context + torch.randn(12, 1, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    errors = {}
    for looped in (True, False):
        windows = TemporalWindows.of(*ring(12, 6, 3), looped)
        whole = network(x, t, texts, windows=windows)
        turned = network(x.roll(3, 2), t, texts.roll(3, 0), windows=windows)
        errors[looped] = relative_error(turned, whole.roll(3, 2))
    assert errors[True] <= 1e-12 and errors[False] >= 1e-3


@pytest.mark.parametrize(("frames", "plan"), [(23, "static"), (24, "looped"), (200, "looped"), (8, "looped")])
def test_positions_are_those_of_a_window_and_never_jump(frames, plan):
    positions = temporal_windows(ContextWindows(7, 3, plan=plan), frames, 0.0).positions
    assert positions.shape == (frames,) and positions[0] == 0
    if plan == "static":
        torch.testing.assert_close(positions, torch.linspace(0, 6, frames))
        return
    steps = (positions.roll(-1) - positions).abs()
    assert 0 <= positions.min() and 5 <= positions.max() <= 6 and steps.max() <= 1.51
    torch.testing.assert_close(positions[1:], positions[1:].flip(0))  # there as back
    if frames == 24:
        torch.testing.assert_close(positions, torch.tensor([*range(6), *range(6, 0, -1)] * 2, dtype=torch.float32))


def test_a_model_with_positions_is_told_them():
    network = unet(frame_position=True)
    network.frame_embed.weight *= 5
    x, t, context = clip(1, 12, 6, 5, 12)
    windows = TemporalWindows.of(*ring(12, 6, 3), True)
    given = network(x, t, context, windows=windows)
    turned = network(x.roll(6, 2), t, context, windows=windows)
    # A trip there and back takes all 12 frames, so half a turn is another clip; as without positions it would not be.
    assert relative_error(turned, given.roll(6, 2)) >= 1e-3
    network.frame_embed.weight.zero_()
    given, turned = (network(each, t, context, windows=windows) for each in (x, x.roll(6, 2)))
    assert relative_error(turned, given.roll(6, 2)) <= 1e-5


def silence(network: UNet3D) -> None:
    """What the temporal layers add is made 0."""
    for module in network.modules():
        last = module.proj_out if isinstance(module, TemporalTransformer) else None
        last = module.conv4[-1] if isinstance(module, TemporalConv) else last
        if last is not None:
            last.weight.zero_()
            last.bias.zero_()


def test_without_its_temporal_layers_a_network_has_no_windows():
    network = unet()
    silence(network)
    x, t, context = clip(2, 12, 6, 5, 12)
    plain = network(x, t, context)
    for windows in (random_windows(12, 5, 4, seed=5), ring(12, 6, 2)):
        for looped in (False, True):
            assert torch.equal(network(x, t, context, windows=TemporalWindows.of(*windows, looped)), plain)


def test_one_window_of_the_whole_clip_is_the_plain_clip():
    network = unet()
    x, t, context = clip(2, 12, 6, 5, 12)
    whole = TemporalWindows.of(torch.arange(12)[None], torch.ones(1, 12))
    assert relative_error(network(x, t, context, windows=whole), network(x, t, context)) <= 1e-6


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("fuse", FUSES)
def test_frames_by_themselves_do_not_notice_any_plan(plan, fuse):
    network = unet()
    silence(network)
    x, t, context = clip(1, 23, 3, 3, 12)
    windows = temporal_windows(ContextWindows(7, 3, 2, plan, fuse, "attention"), 23, 0.3)
    assert relative_error(network(x, t, context, windows=windows), network(x, t, context)) <= 1e-6


def test_windows_of_another_clip_are_refused():
    with pytest.raises(T2VError, match="windows are of 9 frames and the clips have 12"):
        unet()(*clip(1, 12, 6, 5, 12), windows=TemporalWindows.of(torch.arange(9)[None], torch.ones(1, 9)))
