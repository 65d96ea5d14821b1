"""ComfyUI's own nodes that change how our MODEL computes: guidance, features, attentions (see `table`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from table import CFG, EQUAL, RANDOM_UNET, Clip, check_row, core, nothing, random_core, relative_error

from t2v_core.models.hooks import UNetHooks

# From here on noise is of the clip's own size. Where it dwarfs the clip, a node that computes on x - denoised loses
# the last digits of denoised, and so do the sampler's steps of what a Fourier transform and its inverse rounded.
PARTIAL = {"denoise": 0.6}
# Pixels and frames of a clip whose middle block has 4x4 tokens.
LARGE = {"width": 256, "height": 256, "frames": 2}


def rows_of(clip: Clip, node: str, off: dict, on: dict, **sampling) -> list:
    """The plain clip, and that of the MODEL through a node with either setting."""
    models = [clip.add(node, model=clip.model, **setting) for setting in (off, on)]
    return [clip.sample(**sampling), *(clip.sample(model=model, **sampling) for model in models)]


# --- guidance ---


def test_rescale_cfg(comfy):
    """Each frame's velocity gets the conditioned one's spread: Lin et al. (arXiv 2305.08891), section 3.4."""
    clip, multiplier = Clip(), 0.7
    rows = rows_of(clip, "RescaleCFG", {"multiplier": 0.0}, {"multiplier": multiplier}, **PARTIAL)

    def spread(velocity):
        return velocity.std(dim=(1, 2, 3), keepdim=True)

    def rescaled(x, sigma):
        root = (sigma**2 + 1).sqrt()
        cond, uncond = (
            (x / root**2 - core().denoise(x, sigma, text)) * root / sigma for text in (core().positive, core().negative)
        )
        guided = uncond + CFG * (cond - uncond)
        guided = multiplier * guided * spread(cond) / spread(guided) + (1 - multiplier) * guided
        return x / root**2 - guided * sigma / root

    check_row(*clip.latents(comfy, *rows), core().sample(rescaled, sigmas=core().sigmas(**PARTIAL)))


class WithoutSelfAttention(UNetHooks):
    """Tokens of the middle block see themselves alone: the attention map is the identity."""

    def attention(self, site, attend, x, context):
        if (site.block, site.kind) == ("middle", "spatial_self"):
            return attend.to_out(attend.to_v(context))
        return super().attention(site, attend, x, context)


def test_perturbed_attention_guidance(comfy):
    """Away from what is drawn without self-attention: Ahn et al. (arXiv 2403.17377), section 4."""
    clip, scale = Clip(**LARGE), 4.0
    rows = rows_of(clip, "PerturbedAttentionGuidance", {"scale": 0.0}, {"scale": scale}, **PARTIAL)

    def perturbed(x, sigma):
        whole, blind = (core().denoise(x, sigma, core().positive, hooks) for hooks in (None, WithoutSelfAttention()))
        return core().guided()(x, sigma) + scale * (whole - blind)

    check_row(*clip.latents(comfy, *rows), core().sample(perturbed, nothing(**LARGE), core().sigmas(**PARTIAL)))


class RecordedScores(UNetHooks):
    """Keeps how much attention each token of the middle block receives, as mean over heads `[f, tokens]`."""

    def attention(self, site, attend, x, context):
        if (site.block, site.kind) == ("middle", "spatial_self"):
            q, k = (
                rearrange(project(x), "f l (heads d) -> f heads l d", heads=attend.heads)
                for project in (attend.to_q, attend.to_k)
            )
            scores = (q @ k.mT * attend.head_dim**-0.5).softmax(dim=-1)
            self.received = scores.mean(dim=1).sum(dim=1)
        return super().attention(site, attend, x, context)


def test_self_attention_guidance(comfy):
    """Away from what is drawn of a clip blurred where the model looks: Hong et al. (arXiv 2210.00939), Algorithm 1."""
    clip, scale, width = Clip(**LARGE), 0.75, 2.0
    off, on = ({"scale": strength, "blur_sigma": width} for strength in (0.0, scale))
    rows = rows_of(clip, "SelfAttentionGuidance", off, on, **PARTIAL)
    bell = torch.exp(-0.5 * (torch.arange(-4.0, 5.0) / width) ** 2)
    bell /= bell.sum()

    def blur(frames):
        for kernel in (bell.reshape(1, 1, 9, 1), bell.reshape(1, 1, 1, 9)):
            margin = (4, 4, 0, 0) if kernel.shape[-1] == 9 else (0, 0, 4, 4)
            kernel = kernel.expand(4, 1, -1, -1)
            frames = F.conv2d(F.pad(frames, margin, mode="reflect"), kernel, groups=4)
        return frames

    def guided(x, sigma):
        seen = RecordedScores()
        uncond = core().denoise(x, sigma, core().negative, seen)
        looked_at = rearrange((seen.received > 1).float(), "f (h w) -> f 1 h w", h=4)
        looked_at = F.interpolate(looked_at, size=x.shape[2:])
        degraded = looked_at * blur(uncond) + (1 - looked_at) * uncond
        redrawn = core().denoise(degraded + (x - uncond), sigma, core().negative)
        return core().guided()(x, sigma) + scale * (degraded - redrawn)

    check_row(*clip.latents(comfy, *rows), core().sample(guided, nothing(**LARGE), core().sigmas(**PARTIAL)))


# --- features ---


class FreeU(UNetHooks):
    """Si et al. (arXiv 2309.11497), section 3.2, on the deepest level: backbone stronger where it is strong on the
    average over channels, low frequencies of the skip connection weaker."""

    def __init__(self, backbone, skip, width):
        self.backbone, self.skip, self.width = backbone, skip, width

    def output_block(self, index, h, skip):
        if h.shape[1] != self.width:
            return h, skip
        mean = h.mean(dim=1, keepdim=True)
        least, most = mean.amin(dim=(2, 3), keepdim=True), mean.amax(dim=(2, 3), keepdim=True)
        gain = 1 + (self.backbone - 1) * (mean - least) / (most - least)
        strong, rest = h.chunk(2, dim=1)
        spectrum = torch.fft.fft2(skip)
        low = torch.zeros(skip.shape[2:])
        low[-1:, -1:] = low[-1:, :1] = low[:1, -1:] = low[:1, :1] = 1
        spectrum = spectrum * (1 + (self.skip - 1) * low)
        return torch.cat([strong * gain, rest], dim=1), torch.fft.ifft2(spectrum).real


def test_free_u_v2(comfy):
    clip, one = Clip(**LARGE), {"b1": 1.0, "b2": 1.0, "s1": 1.0, "s2": 1.0}
    rows = rows_of(clip, "FreeU_V2", one, {"b1": 1.4, "b2": 1.2, "s1": 0.5, "s2": 0.7}, cfg=1.0, **PARTIAL)
    guided = core().guided(FreeU(1.4, 0.5, max(core().unet.config.widths)), cfg=1.0)
    check_row(*clip.latents(comfy, *rows), core().sample(guided, nothing(**LARGE), core().sigmas(**PARTIAL)))


class DeepShrink(UNetHooks):
    """One input block hands on half the size; the output blocks go back to their skip connections' size."""

    def __init__(self, block):
        self.block = block

    def input_block(self, index, h):
        if index != self.block:
            return h, h
        return F.interpolate(h, size=[round(side / 2) for side in h.shape[2:]], mode="bicubic"), h

    def output_block(self, index, h, skip):
        if h.shape[2:] != skip.shape[2:]:
            h = F.interpolate(h, size=skip.shape[2:], mode="bilinear")
        return h, skip


def test_patch_model_add_downscale(comfy):
    clip, until, block = Clip(), 0.5, 2  # half the size, where a later block has a skip connection of the whole
    setting = {"block_number": block, "start_percent": 0.0, "end_percent": until, "downscale_after_skip": True}
    setting |= {"downscale_method": "bicubic", "upscale_method": "bilinear"}
    off, on = ({**setting, "downscale_factor": factor} for factor in (1.0, 2.0))
    rows = rows_of(clip, "PatchModelAddDownscale", off, on)
    border = core().noise_schedule.percent_to_sigma(until)

    def denoise(x, sigma):
        return core().guided(DeepShrink(block) if sigma > border else None)(x, sigma)

    check_row(*clip.latents(comfy, *rows), core().sample(denoise))


# --- attentions ---


def test_hyper_tile(comfy):
    """Attention of the middle level, here 8x8 tokens, in tiles of 4x4, or in one as large as the frame."""
    clip = Clip(**LARGE)
    setting = {"swap_size": 1, "max_depth": 1, "scale_depth": False}
    off, on = ({**setting, "tile_size": size} for size in (256, 32))
    check_row(*clip.latents(comfy, *rows_of(clip, "HyperTile", off, on)))


def test_token_merging(comfy):
    random_unet = random_core(comfy.models)
    clip = Clip(RANDOM_UNET)
    plain, *rows = clip.latents(comfy, *rows_of(clip, "TomePatchModel", {"ratio": 0.0}, {"ratio": 0.5}))
    assert relative_error(plain, random_unet.sample(random_unet.guided())) <= EQUAL
    check_row(plain, *rows)
