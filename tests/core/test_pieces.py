"""Layers in pieces: the same numbers as all at once, and no piece above what a device takes."""

from __future__ import annotations

import pytest
import torch
from core.references import clip, relative_error
from hypothesis import given
from hypothesis import strategies as st

from t2v_core.models import pieces, transformers
from t2v_core.models.pieces import in_pieces
from t2v_core.models.transformers import scaled_dot_product_attention
from t2v_core.models.unet3d import UNet3D, UNet3DConfig


@given(
    rows=st.integers(1, 300),
    row_bytes=st.integers(1, 2 * pieces.CPU_BYTES),
    most_rows=st.none() | st.integers(1, 400),
)
def test_every_row_once_in_order_in_pieces_of_about_one_size(rows, row_bytes, most_rows):
    seen = []

    def run(piece: torch.Tensor) -> torch.Tensor:
        seen.append(len(piece))
        return piece * 2

    x = torch.arange(rows)
    with torch.no_grad():
        assert torch.equal(in_pieces(run, x, row_bytes, most_rows), x * 2)
    assert max(seen) - min(seen) <= 1 and max(seen) <= (most_rows or rows)
    assert max(seen) == 1 or max(seen) * row_bytes <= pieces.CPU_BYTES
    # No more pieces than that needs.
    at_once = max(1, min(rows, pieces.CPU_BYTES // row_bytes, most_rows or rows))
    assert len(seen) == -(-rows // at_once)


def test_gradients_need_all_of_it_so_it_goes_through_at_once():
    seen = []
    in_pieces(lambda piece: seen.append(len(piece)) or piece, torch.ones(100, requires_grad=True), pieces.CPU_BYTES)
    in_pieces(lambda piece: seen.append(len(piece)) or piece, torch.ones(100, requires_grad=True), 1, most_rows=50)
    assert seen == [100, 50, 50]


def small(widths=(8, 16), attended=(True, False), **more) -> UNet3D:
    torch.manual_seed(3)
    config = UNet3DConfig(
        widths=widths, attention=attended, blocks_per_level=1, context_dim=12, head_dim=4, input_heads=3, norm_groups=4
    )
    return UNet3D(config, **more)


@pytest.mark.parametrize("most", [1, 1 << 10, 1 << 14])
def test_a_network_in_pieces_gives_what_it_gives_at_once(monkeypatch, most):
    unet = small(dtype=torch.float64)
    x, t, context = (tensor.double() for tensor in clip(2, 5, 6, 7, 12))
    with torch.no_grad():
        whole = unet(x, t, context)
        monkeypatch.setattr(pieces, "CPU_BYTES", most)
        calls = []
        for module in unet.modules():
            if isinstance(module, transformers.GEGLU):
                module.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape))
        in_pieces_ = unet(x, t, context)
    assert relative_error(in_pieces_, whole) <= 1e-14
    assert len(calls) > sum(isinstance(module, transformers.GEGLU) for module in unet.modules())


def test_no_attention_over_time_has_more_sequences_than_a_grid(monkeypatch):
    sizes = []

    def attention(q, k, v, heads):
        sizes.append(len(q) * heads)
        return scaled_dot_product_attention(q, k, v, heads)

    unet = small((8,), (False,), attention=attention)
    x, t, context = clip(1, 1, 16, 2048, 12)  # 32,768 pixels times the first transformer's 3 heads
    monkeypatch.setattr(pieces, "CPU_BYTES", 1 << 40)
    with torch.no_grad():
        within = unet(x, t, context)
        assert max(sizes) <= 65_535 and 49_152 in sizes
        monkeypatch.setattr(transformers, "MOST_SEQUENCES", 1 << 40)
        at_once = unet(x, t, context)
    assert 98_304 in sizes
    assert relative_error(within, at_once) <= 1e-6
