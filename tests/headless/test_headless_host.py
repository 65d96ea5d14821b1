"""Which models the headless host finds and how it loads them."""

import inspect
import os

import pytest
import torch


@pytest.fixture
def make(part, tmp_path):
    """A host on a models folder of this test's own, which need not exist."""

    def make(folder=tmp_path / "models"):
        progress = part("headless.progress").Progress(None, "none")
        return part("headless.host").HeadlessHost(folder, tmp_path / "out", progress)

    return make


def test_bundled_comes_first_and_weight_files_follow_by_name(make, tmp_path):
    (tmp_path / "models/folder.ckpt").mkdir(parents=True)
    for name in ("b.safetensors", "A.PTH", "c.ckpt", "readme.txt", ".hidden"):
        (tmp_path / "models" / name).touch()
    os.symlink("nowhere", tmp_path / "models/broken.safetensors")
    assert make().model_names() == ["bundled", "A.PTH", "b.safetensors", "c.ckpt"]


def test_a_folder_that_is_not_there_or_not_a_folder_holds_no_models(make, tmp_path):
    assert make().model_names() == ["bundled"]
    (tmp_path / "file").touch()
    assert make(tmp_path / "file").model_names() == ["bundled"]


def test_a_whole_model_file_gives_all_three_parts(make, models, tiny):
    model, clip, vae = make(models).load_model("tiny.safetensors", "auto")
    weights = dict(tiny.model.denoiser.network.named_parameters())
    for name, loaded in model.denoiser.network.named_parameters():
        assert torch.equal(loaded, weights[name].half().float()), name
    assert model.native == tiny.model.native and model.denoiser.prediction == "v"
    assert clip.chunks("a red circle") == tiny.clip.chunks("a red circle")
    assert vae.decode(torch.zeros(1, 4, 1, 1)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("auto", torch.float32), ("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_weight_dtype_is_that_of_every_weight_and_the_model_still_samples(make, models, part, name, dtype):
    host = make(models)
    model, clip, vae = host.load_model("tiny.safetensors", name)
    for network in (model.denoiser.network, clip.network, vae):
        assert {weight.dtype for weight in network.parameters()} == {dtype}
    settings = part("nodes.host").Sampling(1, 2, 2.0, "euler", "normal", 1.0)
    positive, negative = host.encode(clip, "a (red:1.2) circle"), host.encode(clip, "")
    latents = host.sample(model, positive, negative, {"samples": torch.zeros(2, 4, 2, 2)}, settings, None)
    images = host.decode(vae, latents, 0)
    assert latents.dtype == images.dtype == torch.float32 and images.isfinite().all()


def test_a_file_with_only_the_unet_gives_a_model_and_two_empty_sockets(make, part, tiny, tmp_path):
    unet = part("t2v_core.models.unet3d")
    config = unet.UNet3DConfig(
        widths=(32, 32), attention=(True, False), blocks_per_level=1, context_dim=16, head_dim=8, input_heads=1
    )
    (tmp_path / "models").mkdir()
    part("t2v_core.checkpoints").save_unet(unet.UNet3D(config), tmp_path / "models/ms.safetensors", "modelscope")
    model, clip, vae = make().load_model("ms.safetensors", "auto")
    assert (model.denoiser.prediction, model.latent_scale, clip, vae) == ("eps", 0.18215, None, None)
    assert model.denoiser.noise_schedule.sigma_max == pytest.approx(14.6146, abs=1e-3)
    assert model.native.num_frames == 16


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "none.safetensors", ""])
def test_a_name_that_is_not_listed_is_never_a_path(make, part, tmp_path, name):
    (tmp_path / "models/sub").mkdir(parents=True)
    for path in ("secret.safetensors", "models/sub/x.safetensors"):
        (tmp_path / path).write_text("opened")
    with pytest.raises(part("t2v_core.errors").CheckpointError, match="there is no model .*; there are bundled$"):
        make().load_model(name, "auto")


def test_the_stamp_changes_with_the_file(make, tmp_path):
    (tmp_path / "models").mkdir()
    path = tmp_path / "models/a.safetensors"
    path.write_text("1")
    host = make()
    first = host.model_stamp("a.safetensors")
    assert host.model_stamp("a.safetensors") == first
    path.write_text("12")
    assert host.model_stamp("a.safetensors") != first


def test_it_is_a_host_method_by_method(part):
    protocol, host = part("nodes.host").Host, part("headless.host").HeadlessHost
    methods = [name for name in vars(protocol) if not name.startswith("_")]
    assert len(methods) >= 12
    for name in methods:
        assert list(inspect.signature(getattr(host, name)).parameters) == list(
            inspect.signature(getattr(protocol, name)).parameters
        ), name
