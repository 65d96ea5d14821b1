"""UNet3D against the networks it has to equal: ModelScope's UNetSD and diffusers' UNet3DConditionModel.

Each network of ours is loaded from a file the reference wrote, so loading is under test as well.
"""

import pytest
import torch
from core.references import (
    MODELSCOPE_CONTEXT,
    clip,
    diffusers_unet,
    modelscope_module,
    modelscope_unet,
    randomise,
    relative_error,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from t2v_core.checkpoints import load_unet
from t2v_core.errors import T2VError
from t2v_core.models.embeddings import sinusoid
from t2v_core.models.hooks import UNetHooks
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

DIFFUSERS = {
    "1 level": ((8,), (True,), 1),
    "1 level without attention": ((8,), (False,), 2),
    "2 levels": ((8, 16), (True, False), 2),
    "3 levels, attention amid": ((8, 16, 24), (False, True, False), 1),
    "4 levels as published": ((8, 16, 24, 24), (True, True, True, False), 2),
    "4 levels, attention at the ends": ((8, 8, 16, 24), (True, False, False, True), 1),
}
MODELSCOPE = {
    "1 level": ((1,), (True,), 1),
    "2 levels": ((1, 2), (False, True), 2),
    "3 levels": ((1, 1, 2), (True, False, True), 1),
    "4 levels as published": ((1, 2, 4, 4), (True, True, True, False), 2),
}
CLIPS = [(clips, frames) for clips in (1, 2) for frames in (1, 5, 16)]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def assert_parity(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert relative_error(ours, theirs) <= 1e-5
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """UNetSD with all levels and blocks of the published files, and ours from the file it wrote."""
    reference = modelscope_unet()
    return reference, load_unet(write(reference, tmp_path_factory.mktemp("published") / "unet.safetensors"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A two-level network of diffusers, and ours from the file it wrote."""
    reference = diffusers_unet()
    path = write(reference, tmp_path_factory.mktemp("small") / "unet.safetensors")
    return reference, load_unet(path, norm_groups=4)


@pytest.mark.parametrize("sizes", DIFFUSERS.values(), ids=DIFFUSERS)
def test_equals_diffusers(sizes, tmp_path):
    reference = diffusers_unet(*sizes)
    ours = load_unet(write(reference, tmp_path / "unet.safetensors"), norm_groups=4)
    for (batch, frames), (height, width) in zip(CLIPS, [(5, 7), (9, 6), (8, 11), (7, 5), (3, 8), (1, 9)], strict=True):
        x, t, context = clip(batch, frames, height, width, 12)
        assert_parity(ours(x, t, context), reference(x, t, context).sample)


@pytest.mark.parametrize("sizes", list(MODELSCOPE.values())[:-1], ids=list(MODELSCOPE)[:-1])
def test_equals_modelscope(sizes, tmp_path):
    reference = modelscope_unet(*sizes)
    ours = load_unet(write(reference, tmp_path / "unet.safetensors"))
    for batch, frames in CLIPS:
        x, t, context = clip(batch, frames, 4, 8, MODELSCOPE_CONTEXT)
        assert_parity(ours(x, t, context), reference(x, t, context))


@pytest.mark.parametrize(("batch", "frames"), CLIPS)
def test_equals_modelscope_as_published(published, batch, frames):
    reference, ours = published
    x, t, context = clip(batch, frames, 8, 16, MODELSCOPE_CONTEXT, tokens=77)
    assert_parity(ours(x, t, context), reference(x, t, context))


@pytest.mark.parametrize("sizes", DIFFUSERS.values(), ids=DIFFUSERS)
def test_equals_diffusers_in_double_precision(sizes, tmp_path):
    reference = diffusers_unet(*sizes).double()
    ours = load_unet(write(reference, tmp_path / "unet.safetensors"), norm_groups=4)
    for batch, frames in CLIPS:
        x, t, context = clip(batch, frames, 9, 6, 12)
        theirs = reference(x.double(), t, context.double()).sample
        assert relative_error(ours(x.double(), t, context.double()), theirs) <= 1e-12


@pytest.mark.parametrize("sizes", MODELSCOPE.values(), ids=MODELSCOPE)
def test_equals_modelscope_in_double_precision(sizes, tmp_path, monkeypatch):
    # ModelScope's frequencies are powers, ours and diffusers' exponentials: equal to the rounding of float32.
    monkeypatch.setattr(modelscope_module(), "sinusoidal_embedding", lambda t, dim: sinusoid(t, dim).double())
    reference = modelscope_unet(*sizes).double()
    ours = load_unet(write(reference, tmp_path / "unet.safetensors"))
    for batch, frames in ((1, 1), (2, 5)):
        x, t, context = clip(batch, frames, 8, 16, MODELSCOPE_CONTEXT)
        theirs = reference(x.double(), t, context.double())
        assert relative_error(ours(x.double(), t, context.double()), theirs) <= 1e-12


def test_sinusoid_equals_both_references():
    t = torch.tensor([0, 1, 20, 500, 981, 999])
    assert torch.allclose(sinusoid(t, 320), modelscope_module().sinusoidal_embedding(t, 320), atol=1e-4)
    diffusers = diffusers_unet((8,), (False,)).time_proj
    assert torch.equal(sinusoid(t, 8), diffusers(t))


def test_frame_rate_embedding_equals_modelscope(tmp_path):
    reference = modelscope_unet((1, 1), (True, False), 1, fps=True)
    ours = load_unet(write(reference, tmp_path / "unet.safetensors"))
    assert ours.config.fps_embedding
    x, t, context = clip(2, 3, 8, 8, MODELSCOPE_CONTEXT)
    slow, fast = torch.tensor([8, 8]), torch.tensor([8, 28])
    for fps in (slow, fast):
        assert_parity(ours(x, t, context, fps=fps), reference(x, t, context, fps=fps))
    assert relative_error(ours(x, t, context, fps=slow)[1], ours(x, t, context, fps=fast)[1]) > 1e-3
    with pytest.raises(T2VError, match="needs fps"):
        ours(x, t, context)


def test_one_text_for_each_frame_equals_one_for_all(small):
    _, ours = small
    x, t, context = clip(2, 5, 6, 7, 12)
    assert relative_error(ours(x, t, context.repeat_interleave(5, dim=0)), ours(x, t, context)) <= 1e-6


def test_without_temporal_modules_each_frame_is_on_its_own(tmp_path):
    reference = diffusers_unet()
    for name, module in reference.named_modules():
        temporal = name.startswith("transformer_in") or ".temp_attentions." in name
        if name.endswith("conv4.3") or (temporal and name.endswith("proj_out")):
            module.weight.zero_()
            module.bias.zero_()
    ours = load_unet(write(reference.double(), tmp_path / "unet.safetensors"), norm_groups=4)
    x, t, _ = clip(2, 4, 6, 7, 12)
    x, contexts = x.double(), torch.randn(2, 4, 7, 12, dtype=torch.float64)  # clip, frame, tokens, features
    whole = ours(x, t, contexts.flatten(0, 1))
    for frame in range(4):
        alone = reference(x[:, :, frame : frame + 1], t, contexts[:, frame]).sample
        assert relative_error(whole[:, :, frame : frame + 1], alone) <= 1e-12


def test_frames_see_each_other(small):
    _, ours = small
    x, t, context = clip(1, 5, 6, 7, 12)
    changed = x.clone()
    changed[:, :, 4] += 1
    assert relative_error(ours(changed, t, context)[:, :, 0], ours(x, t, context)[:, :, 0]) > 1e-3


class Recorder(UNetHooks):
    """Notes where it is called, and changes nothing."""

    def __init__(self):
        self.blocks, self.attentions = [], []

    def enter(self, block, index):
        self.blocks.append((block, index))

    def attention(self, site, attend, x, context):
        self.attentions.append((site.block, site.index, site.kind))
        return attend(x, context)


def test_hooks_that_change_nothing_change_nothing(published):
    reference, ours = published
    x, t, context = clip(1, 2, 8, 8, MODELSCOPE_CONTEXT)
    recorder = Recorder()
    assert torch.equal(ours(x, t, context, hooks=recorder), ours(x, t, context))
    assert recorder.blocks == [
        *(("input", index) for index in range(len(reference.input_blocks))),
        ("middle", 0),
        *(("output", index) for index in range(len(reference.output_blocks))),
    ]
    # 16 spatial transformers of two attentions, 17 temporal ones (one of them after the first convolution) of two.
    kinds = [kind for _, _, kind in recorder.attentions]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "spatial_self": 16,
        "spatial_cross": 16,
        "temporal_first": 17,
        "temporal_second": 17,
    }
    assert recorder.attentions[:4] == [
        ("input", 0, "temporal_first"),
        ("input", 0, "temporal_second"),
        ("input", 1, "spatial_self"),
        ("input", 1, "spatial_cross"),
    ]


def test_residuals_at_skips_and_middle_equal_diffusers(small):
    reference, ours = small
    x, t, context = clip(2, 3, 7, 9, 12)
    sizes = [(8, 7, 9), (8, 7, 9), (8, 4, 5), (16, 4, 5)]  # conv_in, block, downsampling, block
    skips = [torch.randn(6, *size) for size in sizes]
    middle = torch.randn(6, 16, 4, 5)

    class Residuals(UNetHooks):
        def middle_block(self, h):
            return h + middle

        def output_block(self, index, h, skip):
            return h, skip + skips[len(skips) - 1 - index]

    theirs = reference(
        x, t, context, down_block_additional_residuals=skips, mid_block_additional_residual=middle
    ).sample
    changed = ours(x, t, context, hooks=Residuals())
    assert_parity(changed, theirs)
    assert relative_error(changed, ours(x, t, context)) > 0.01


def test_change_after_a_block_goes_on_and_into_its_skip_as_in_diffusers(small):
    reference, ours = small
    x, t, context = clip(2, 3, 7, 9, 12)
    at_conv, at_block = torch.randn(2, 6, 8, 7, 9)

    class Additions(UNetHooks):
        def conv_in(self, h):
            return h + at_conv

        def input_block(self, index, h):
            changed = h + at_block if index == 1 else h
            return changed, changed

    handles = [
        reference.conv_in.register_forward_hook(lambda module, args, out: out + at_conv),
        reference.down_blocks[0]
        .temp_attentions[0]
        .register_forward_hook(lambda module, args, out: (out[0] + at_block,)),
    ]
    theirs = reference(x, t, context).sample
    for handle in handles:
        handle.remove()
    assert_parity(ours(x, t, context, hooks=Additions()), theirs)


@pytest.mark.parametrize(
    ("kind", "modules", "attention"),
    [
        ("spatial_self", "attentions", "attn1"),
        ("spatial_cross", "attentions", "attn2"),
        ("temporal_first", "temp_attentions", "attn1"),
        ("temporal_second", "temp_attentions", "attn2"),
    ],
)
def test_replaced_attention_equals_diffusers_with_that_one_replaced(small, kind, modules, attention):
    reference, ours = small
    x, t, context = clip(1, 3, 7, 9, 12)

    class Silence(UNetHooks):
        def attention(self, site, attend, x, context):
            first = (site.block, site.index) == ("input", 0)
            return attend(x, context) * (first or site.kind != kind)

    handles = [
        module.register_forward_hook(lambda module, args, out: out * 0)
        for name, module in reference.named_modules()
        if f".{modules}." in name and name.endswith(attention)
    ]
    theirs = reference(x, t, context).sample
    for handle in handles:
        handle.remove()
    assert len(handles) == 4
    changed = ours(x, t, context, hooks=Silence())
    assert_parity(changed, theirs)
    assert relative_error(changed, ours(x, t, context)) > 1e-3


def test_raising_in_a_hook_ends_the_pass(small):
    _, ours = small

    class Cancelled(Exception):
        pass

    class Stop(UNetHooks):
        entered = 0

        def enter(self, block, index):
            self.entered += 1
            if block == "middle":
                raise Cancelled

    stop = Stop()
    with pytest.raises(Cancelled):
        ours(*clip(1, 1, 4, 4, 12), hooks=stop)
    assert stop.entered == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 4, 8, 8)}, r"x is \[b, 4, f, h, w\]"),
        ({"x": torch.zeros(2, 3, 5, 8, 8)}, r"x is \[b, 4, f, h, w\]"),
        ({"x": torch.zeros(2, 4, 0, 8, 8)}, "not empty"),
        ({"x": torch.zeros(2, 4, 5, 0, 8)}, "not empty"),
        ({"timesteps": torch.zeros(3)}, r"timesteps \[2\], got \[3\]"),
        ({"timesteps": torch.tensor(1.0)}, r"timesteps \[2\], got \[\]"),
        ({"context": torch.zeros(2, 7, 13)}, "text encoder belongs to another model"),
        ({"context": torch.zeros(7, 12)}, r"text features \[n, tokens, 12\]"),
        ({"context": torch.zeros(5, 7, 12)}, "text for 5 rows, but 2 clips of 5 frames need 2 .* or 10"),
        ({"fps": torch.tensor([8.0, 8.0])}, "takes no fps"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(small, change, message):
    x, t, context = clip(2, 5, 8, 8, 12)
    given = {"x": x, "timesteps": t, "context": context, **change}
    with pytest.raises(T2VError, match=message):
        small[1](**given)


THREE_LEVELS = randomise(
    UNet3D(
        UNet3DConfig(
            widths=(4, 8, 8),
            attention=(True, False, True),
            blocks_per_level=1,
            context_dim=6,
            head_dim=4,
            input_heads=2,
            norm_groups=2,
        )
    )
)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2),
    frames=st.integers(1, 6),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    each_frame=st.booleans(),
    tokens=st.integers(1, 4),
)
def test_any_clip_from_one_pixel_up(batch, frames, height, width, each_frame, tokens):
    x = torch.randn(batch, 4, frames, height, width)
    context = torch.randn(batch * frames if each_frame else batch, tokens, 6)
    out = THREE_LEVELS(x, torch.rand(batch) * 999, context)
    assert out.shape == x.shape and out.isfinite().all()


def test_between_the_attentions_is_where_the_first_was_added(small):
    _, ours = small
    x, t, context = clip(1, 3, 7, 9, 12)

    class Between(UNetHooks):
        def between_attentions(self, site, x):
            return x + (site.kind == "spatial_self") * 0.5

    class First(UNetHooks):
        def attention(self, site, attend, x, context):
            return attend(x, context) + (site.kind == "spatial_self") * 0.5

    changed = ours(x, t, context, hooks=Between())
    assert relative_error(changed, ours(x, t, context, hooks=First())) <= 1e-5
    assert relative_error(changed, ours(x, t, context)) > 1e-3
