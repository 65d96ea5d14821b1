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


def test_bundled_comes_first_and_models_follow_by_name(make, tmp_path):
    (tmp_path / "models/folder.ckpt/unet").mkdir(parents=True)
    (tmp_path / "models/below").mkdir()
    for name in ("b.safetensors", "A.PTH", "bundled", "readme.txt", ".hidden", "below/c.ckpt"):
        (tmp_path / "models" / name).touch()
    (tmp_path / "models/folder.ckpt/unet/diffusion_pytorch_model.bin").touch()
    os.symlink("nowhere", tmp_path / "models/broken.safetensors")
    assert make().model_names() == ["bundled", "A.PTH", "b.safetensors", "below/c.ckpt", "folder.ckpt"]


def test_a_folder_that_is_not_there_or_not_a_folder_holds_no_models(make, tmp_path):
    assert make().model_names() == ["bundled"]
    (tmp_path / "file").touch()
    assert make(tmp_path / "file").model_names() == ["bundled"]


def test_a_whole_model_file_gives_all_three_parts(make, models, tiny):
    loaded = make(models).load_model("tiny.safetensors", "auto")
    model, clip, vae = loaded.model, loaded.clip, loaded.vae
    assert "this pack's own kind" in loaded.text and "text encoder: in the same file" in loaded.text
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
    loaded = host.load_model("tiny.safetensors", name)
    model, clip, vae = loaded.model, loaded.clip, loaded.vae
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
    loaded = make().load_model("ms.safetensors", "auto")
    model = loaded.model
    assert (model.denoiser.prediction, model.latent_scale, loaded.clip, loaded.vae) == ("eps", 0.18215, None, None)
    assert "connect CLIPLoader, type stable_diffusion" in loaded.text and "connect VAELoader" in loaded.text
    assert model.denoiser.noise_schedule.sigma_max == pytest.approx(14.6146, abs=1e-3)
    assert model.native.num_frames == 16


NOT_LISTED = ["../secret.safetensors", "/etc/passwd", "sub/notes.txt", "sub/../sub/x.ckpt", "none.safetensors", ""]


@pytest.mark.parametrize("name", NOT_LISTED)
def test_a_name_that_is_not_listed_is_never_a_path(make, part, tmp_path, name):
    (tmp_path / "models/sub").mkdir(parents=True)
    for path in ("secret.safetensors", "models/sub/notes.txt", "models/sub/x.ckpt"):
        (tmp_path / path).write_text("opened")
    with pytest.raises(part("t2v_core.errors").CheckpointError, match="there is no model .* are bundled, sub/x.ckpt$"):
        make().load_model(name, "auto")


def test_only_the_parts_that_are_asked_for_are_loaded(make, part, models, tmp_path):
    def given(*parts):
        loaded = make(models).load_model("tiny.safetensors", "auto", parts)
        return [name for name in ("model", "clip", "vae") if getattr(loaded, name) is not None]

    assert given("clip") == ["clip"] and given("vae", "model") == ["model", "vae"] and given() == []
    # What is not asked for is not even looked at: a weight that would be refused is not.
    safetensors = pytest.importorskip("safetensors.torch")
    weights = safetensors.load_file(models / "tiny.safetensors")
    weights["model.diffusion_model.out.2.bias"][:] = float("nan")
    with safetensors.safe_open(models / "tiny.safetensors", "pt") as file:
        safetensors.save_file(weights, tmp_path / "nan.safetensors", file.metadata())
    host = make(tmp_path)
    assert host.load_model("nan.safetensors", "auto", ["clip", "vae"]).vae is not None
    with pytest.raises(part("t2v_core.errors").CheckpointError, match="NaN"):
        host.load_model("nan.safetensors", "auto")


def test_a_public_model_s_other_parts_are_named_and_read_only_when_asked_for(make, part, tmp_path):
    unet, folder = part("t2v_core.models.unet3d"), tmp_path / "models/zs2_576w"
    folder.mkdir(parents=True)
    config = unet.UNet3DConfig(widths=(32,), attention=(True,), blocks_per_level=1, context_dim=16, head_dim=8)
    save = part("t2v_core.checkpoints").save_unet
    save(unet.UNet3D(config), folder / "text2video_pytorch_model.safetensors", "modelscope")
    (folder / "open_clip_pytorch_model.bin").write_text("no weights")
    (tmp_path / "models/VQGAN_autoencoder.pth").write_text("no weights")
    loaded = make().load_model("zs2_576w", "auto", ["model"])
    assert loaded.clip is None and loaded.vae is None and loaded.model.native.width == 576
    assert "text encoder: open_clip_pytorch_model.bin" in loaded.text
    assert "VAE: ../VQGAN_autoencoder.pth" in loaded.text
    with pytest.raises(part("t2v_core.errors").CheckpointError, match="VQGAN_autoencoder.pth: this is a text file"):
        make().load_model("zs2_576w", "auto", ["vae"])


def test_the_stamp_changes_with_the_file(make, tmp_path):
    (tmp_path / "models").mkdir()
    path = tmp_path / "models/a.safetensors"
    path.write_text("1")
    host = make()
    first = host.model_stamp("a.safetensors")
    assert host.model_stamp("a.safetensors") == first
    path.write_text("12")
    assert host.model_stamp("a.safetensors") != first


def test_the_stamp_of_a_folder_changes_with_each_file_that_counts(make, tmp_path):
    files = ["unet/config.json", "unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.safetensors"]
    files += ["text_encoder/model.safetensors.index.json", "text_encoder/model-00001-of-00001.safetensors"]
    for name in files:
        (tmp_path / "models/zero" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models/zero" / name).touch()
    host = make()
    seen = {host.model_stamp("zero")}
    for name in files:
        (tmp_path / "models/zero" / name).write_text("x")
        seen.add(host.model_stamp("zero"))
    (tmp_path / "models/zero/unet/diffusion_pytorch_model.fp16.bin").touch()
    seen.add(host.model_stamp("zero"))
    assert len(seen) == len(files) + 2
    (tmp_path / "models/zero/readme.md").touch()
    assert host.model_stamp("zero") in seen


def test_it_is_a_host_method_by_method(part):
    protocol, host = part("nodes.host").Host, part("headless.host").HeadlessHost
    methods = [name for name in vars(protocol) if not name.startswith("_")]
    assert len(methods) >= 12
    for name in methods:
        assert list(inspect.signature(getattr(host, name)).parameters) == list(
            inspect.signature(getattr(protocol, name)).parameters
        ), name
