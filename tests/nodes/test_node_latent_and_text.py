"""T2VLoadModel, T2VTextEncode and T2VEmptyLatent."""

import pytest
import torch


def test_an_empty_latent_is_zeros_with_the_frames_first(part):
    (latent,) = part("nodes").T2VEmptyLatent().make(96, 64, 5)
    assert latent["samples"].shape == (5, 4, 8, 12)
    assert latent["samples"].dtype == torch.float32 and not latent["samples"].any()


def test_zero_frames_are_the_model_s_own_number(part, host, tiny):
    (latent,) = part("nodes").T2VEmptyLatent().make(64, 64, 0, model=tiny.model)
    assert latent["samples"].shape[0] == tiny.model.native.num_frames == 16


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((63, 64, 16), "width: 63 is not a multiple of 8"),
        ((64, 4, 16), "height: 4 is outside 8 to 8192"),
        ((1_000_000, 64, 16), "width: 1000000 is outside"),
        ((64, 64, -1), "num_frames: -1 is outside 0"),
        ((64, 64, 10**9), "num_frames: 1000000000 is outside"),
        ((8192, 8192, 1000), "num_frames: 1000 frames of 8192 x 8192"),
        ((64, 64, 0), "num_frames: 0 means the model's own"),
    ],
)
def test_bad_sizes_are_refused_by_name(part, sizes, says):
    with pytest.raises(part("t2v_core.errors").T2VError) as caught:
        part("nodes").T2VEmptyLatent().make(*sizes)
    assert says in str(caught.value)


def test_sizes_are_checked_before_the_run_as_far_as_they_are_known(part):
    check = part("nodes").T2VEmptyLatent.VALIDATE_INPUTS
    assert check(width=64, height=64, num_frames=16) is True
    assert check(width=64, height=64, num_frames=0) is True
    assert check(width=None, height=64, num_frames=None) is True  # these two come over links
    assert "height: 65" in check(width=None, height=65, num_frames=None)
    assert "at most 4,294,967,296" in check(width=8192, height=8192, num_frames=65)


def test_text_becomes_one_row_and_a_pooled_vector(part, host, tiny):
    (conditioning,) = part("nodes").T2VTextEncode().encode(tiny.clip, "a (red:1.3) circle")
    [[cond, extra]] = conditioning
    expected, pooled = tiny.clip.encode("a (red:1.3) circle")
    assert torch.equal(cond, expected) and torch.equal(extra["pooled_output"], pooled)
    assert cond.shape == (1, 24, 16)


def test_a_file_without_a_text_encoder_is_named_as_the_cause(part, host):
    with pytest.raises(part("t2v_core.errors").T2VError, match="clip: .*holds no text encoder"):
        part("nodes").T2VTextEncode().encode(None, "a red circle")
