"""Public models without ComfyUI: their other parts against transformers, diffusers, OpenCLIP and ModelScope."""

from __future__ import annotations

import shutil
import socket
import sys
from types import ModuleType, SimpleNamespace

import public_models
import pytest
import torch
from core.references import (
    as_videocrafter,
    diffusers_autoencoder,
    modelscope_autoencoder,
    modelscope_unet,
    randomise,
    relative_error,
)
from safetensors.torch import load_file, save_file

PROMPT = "a red circle, moving!"
CLOSE = 1e-5


@pytest.fixture(scope="module")
def zoo(part, tmp_path_factory):
    """A folder of models, and the networks whose weights are in it: `zero` in diffusers' folder, `ms` in ModelScope's
    with the autoencoder one level up, `model.ckpt` in VideoCrafter2's one file."""
    root = tmp_path_factory.mktemp("zoo")
    public_models.write_diffusers(root / "zero")
    tower, autoencoder = randomise(public_models.OpenClipText()), modelscope_autoencoder()
    first_stage = {f"first_stage_model.{key}": tensor for key, tensor in autoencoder.state_dict().items()}
    torch.save({"state_dict": first_stage}, root / "VQGAN_autoencoder.pth")
    unet = modelscope_unet((1, 1), (True, False), 1, fps=True).state_dict()
    whole = {f"model.diffusion_model.{key}": tensor for key, tensor in as_videocrafter(unet).items()} | first_stage
    whole |= {f"cond_stage_model.model.{key}": tensor for key, tensor in tower.state_dict().items()}
    torch.save({"state_dict": whole}, root / "model.ckpt")
    (root / "ms").mkdir()
    torch.save({**tower.state_dict(), "visual.proj": torch.zeros(2, 2)}, root / "ms/open_clip_pytorch_model.bin")
    unet3d = part("t2v_core.models.unet3d")
    config = unet3d.UNet3DConfig(widths=(32,), attention=(True,), blocks_per_level=1, context_dim=128, head_dim=8)
    save = part("t2v_core.checkpoints").save_unet
    save(unet3d.UNet3D(config), root / "ms/text2video_pytorch_model.safetensors", "modelscope")
    public_models.write_tokenizer(root / "tokenizer")
    return SimpleNamespace(root=root, tower=tower, autoencoder=autoencoder)


@pytest.fixture
def make(part, tmp_path):
    """make(FOLDER) is a host on a folder of models, in use until the test ends."""

    def make(folder):
        progress = part("headless.progress").Progress(None, "none")
        running = part("headless.host").HeadlessHost(folder, tmp_path / "out", progress)
        part("nodes.host").use(running)
        return running

    yield make
    part("nodes.host").use(None)


@pytest.fixture
def load(part, make):
    """load(FOLDER, NAME) is what T2VLoadModel gives: MODEL, CLIP, VAE."""

    def load(folder, name, weight_dtype="auto"):
        make(folder)
        return part("nodes").T2VLoadModel().load(name, weight_dtype)["result"]

    return load


def ids_of(text: str) -> torch.Tensor:
    """One chunk, by transformers' own tokenizer."""
    ids = public_models.tokenizer()(text)["input_ids"]
    return torch.tensor([ids + [0] * (77 - len(ids))])


@torch.no_grad()
def test_diffusers_folder_gives_what_transformers_and_diffusers_give(part, load, zoo):
    nodes = part("nodes")
    model, clip, vae = load(zoo.root, "zero")
    [[cond, extra]] = nodes.T2VTextEncode().encode(clip, PROMPT)[0]
    expected = public_models.text_model()(input_ids=ids_of(PROMPT))
    assert cond.shape == (1, 77, 32) and relative_error(cond, expected.last_hidden_state) <= CLOSE
    assert relative_error(extra["pooled_output"], expected.pooler_output) <= CLOSE

    reference = public_models.image_autoencoder()
    generator = torch.Generator().manual_seed(0)
    latents, frames = torch.randn(3, 4, 2, 5, generator=generator), torch.rand(3, 16, 40, 3, generator=generator)
    decoded = reference.decode(latents).sample
    assert relative_error(vae.decode(latents), decoded) <= CLOSE
    (images,) = nodes.T2VDecode().decode({"samples": latents}, vae, 2)
    assert relative_error(images, (decoded.movedim(1, -1) / 2 + 0.5).clamp(0, 1)) <= CLOSE
    (encoded,) = nodes.T2VEncode().encode(frames, vae, 0, 0, "bicubic", 2)
    mean = reference.encode(frames.movedim(-1, 1) * 2 - 1).latent_dist.mean
    assert encoded["samples"].shape == (3, 4, 2, 5) and relative_error(encoded["samples"], mean) <= CLOSE

    conditioning = [[cond, extra]]
    (sampled,) = nodes.T2VSampler().sample(
        model, 1, 2, 3.0, "euler", "normal", conditioning, conditioning, encoded, 0.7, 0.0
    )
    assert sampled["samples"].shape == (3, 4, 2, 5) and sampled["samples"].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["ms", "model.ckpt"])
def test_original_files_give_what_open_clip_and_modelscope_give(part, load, zoo, name):
    """The last layer but one; the tokenizer is one level up, or in the folder of models itself."""
    _, clip, vae = load(zoo.root, name)
    [[cond, _]] = part("nodes").T2VTextEncode().encode(clip, PROMPT)[0]
    assert relative_error(cond, zoo.tower(ids_of(PROMPT))) <= CLOSE
    generator = torch.Generator().manual_seed(0)
    latents, images = torch.randn(2, 4, 3, 5, generator=generator), torch.randn(2, 3, 6, 8, generator=generator)
    assert relative_error(vae.decode(latents), zoo.autoencoder.decode(latents)) <= CLOSE
    assert relative_error(vae.encode(images), zoo.autoencoder.encode(images).mode()) <= CLOSE


@torch.no_grad()
def test_emphasis_escapes_and_chunks_are_comfyuis(part, load, zoo):
    """z = (z - z_empty) * weight + z_empty; a text too long for one chunk goes on in the next, which starts anew."""
    _, clip, _ = load(zoo.root, "zero")
    text = r"(red:1.3) \(blue\) " + "circle " * 100
    [[cond, _]] = part("nodes").T2VTextEncode().encode(clip, text)[0]
    tokenizer, model = public_models.tokenizer(), public_models.text_model()
    red, rest = (tokenizer(words)["input_ids"][1:-1] for words in ("red", " (blue) " + "circle " * 100))
    ids, weights = red + rest, [1.3] * len(red) + [1.0] * len(rest)
    assert 75 < len(ids) <= 150
    start, end = tokenizer("")["input_ids"]
    chunks = [[start, *ids[at : at + 75], end] for at in (0, 75)]
    features = model(input_ids=torch.tensor([chunk + [0] * (77 - len(chunk)) for chunk in chunks])).last_hidden_state
    empty = model(input_ids=ids_of("")).last_hidden_state
    weights = torch.tensor([1.0, *weights[:75], 1.0] + [1.0] * 77)[None, :, None]
    expected = (features.flatten(0, 1)[None] - empty.repeat(1, 2, 1)) * weights + empty.repeat(1, 2, 1)
    assert cond.shape == (1, 154, 32) and relative_error(cond, expected) <= CLOSE


@torch.no_grad()
@pytest.mark.parametrize("layers", [23, 24])
def test_transformers_tower_is_cut_only_if_it_is_whole(part, load, zoo, tmp_path, layers):
    folder = shutil.copytree(zoo.root / "zero", tmp_path / "zero")
    network = public_models.text_model(layers=layers, width=16, heads=2)
    network.save_pretrained(folder / "text_encoder")
    _, clip, _ = load(tmp_path, "zero")
    features = clip.network(ids_of(PROMPT))[0]
    expected = network(input_ids=ids_of(PROMPT), output_hidden_states=True)
    last = expected.hidden_states[23]  # the first is what the embeddings give
    inner = getattr(network, "text_model", network)
    assert relative_error(features, inner.final_layer_norm(last)) <= CLOSE


@torch.no_grad()
@pytest.mark.parametrize("names", ["old", "convolutions"])
def test_older_names_and_shapes_of_the_attention(load, zoo, tmp_path, names):
    """diffusers before 0.17 wrote others; in some files the projections are convolutions still."""
    folder = shutil.copytree(zoo.root / "zero", tmp_path / "zero")
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for side in ("encoder", "decoder"):
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            for kind in ("weight", "bias"):
                tensor = weights.pop(f"{side}.mid_block.attentions.0.{new}.{kind}")
                name = old if names == "old" else new
                shape = (*tensor.shape, 1, 1) if names == "convolutions" and kind == "weight" else tensor.shape
                weights[f"{side}.mid_block.attentions.0.{name}.{kind}"] = tensor.reshape(shape)
    save_file(weights, path)
    _, _, vae = load(tmp_path, "zero")
    latents = torch.randn(1, 4, 3, 4, generator=torch.Generator().manual_seed(0))
    assert relative_error(vae.decode(latents), public_models.image_autoencoder().decode(latents).sample) <= CLOSE


def test_parts_are_of_the_wanted_precision(load, zoo):
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        _, clip, vae = load(zoo.root, "zero", name)
        assert {weight.dtype for part in (clip.network, vae) for weight in part.parameters()} == {dtype}


def test_nothing_is_downloaded_and_nothing_is_left_in_the_temporary_folder(load, zoo, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, clip, vae = load(zoo.root, "zero")
    assert clip and vae and [path.name for path in tmp_path.iterdir()] == []


@torch.no_grad()
def test_a_lora_changes_the_text_encoder(part, load, zoo, tmp_path):
    """Strength 1 is the merged weights; the encoder that came in stays as it was."""
    shutil.copytree(zoo.root / "zero", tmp_path / "zero")
    (tmp_path / "loras").mkdir()
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(shape, generator=generator) for shape in ((32, 2), (2, 32)))
    key = "text_model.encoder.layers.1.self_attn.q_proj"
    pairs = {"lora_A": down, "lora_B": up}
    save_file(
        {f"text_encoder.{key}.{kind}.weight": tensor for kind, tensor in pairs.items()},
        tmp_path / "loras/text.safetensors",
    )
    model, clip, _ = load(tmp_path, "zero")
    nodes, network = part("nodes"), public_models.text_model()
    before = clip.encode(PROMPT)[0]
    _, changed, info = nodes.T2VLoadLora().load(model, "text.safetensors", 1.0, 1.0, clip)["result"]
    assert "text encoder: 1 weights" in info
    weight = getattr(network, "text_model", network).encoder.layers[1].self_attn.q_proj.weight
    weight += up @ down
    expected = network(input_ids=ids_of(PROMPT)).last_hidden_state
    assert relative_error(changed.encode(PROMPT)[0], expected) <= CLOSE < relative_error(before, expected)
    assert torch.equal(clip.encode(PROMPT)[0], before)


@pytest.mark.parametrize(
    ("package", "part_name", "says"),
    [
        ("transformers", "clip", r"the text encoder \(model.safetensors\) needs the Python package transformers"),
        ("diffusers", "vae", r"the VAE \(diffusion_pytorch_model.safetensors\) needs the Python package diffusers"),
    ],
)
def test_a_missing_package_is_named_with_its_part_and_the_command(
    part, make, zoo, monkeypatch, package, part_name, says
):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    host, error = make(zoo.root), part("t2v_core.errors").T2VError
    with pytest.raises(error, match=rf'{says}, which is not installed; .*: pip install "\.\[full\]"$'):
        host.load_model("zero", "auto", [part_name])
    others = [name for name in ("model", "clip", "vae") if name != part_name]
    loaded = host.load_model("zero", "auto", others)
    assert all(getattr(loaded, name) is not None for name in others)


def test_a_package_that_cannot_be_used_is_reported_as_it_reports(part, make, zoo, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", ModuleType("diffusers"))  # one without what is wanted of it
    says = r"needs Python packages that cannot be imported \(cannot import name 'AutoencoderKL' .*\); .*: pip install"
    with pytest.raises(part("t2v_core.errors").T2VError, match=says):
        make(zoo.root).load_model("zero", "auto", ["vae"])


def spoilt(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def without(*keys):
    return lambda weights: [weights.pop(key) for key in keys]


def shorter(end):
    return lambda weights: weights.update({key: weights[key][:-1].clone() for key in weights if key.endswith(end)})


TEXT, IMAGE = "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"
SPOILT = [
    (
        TEXT,
        shorter("layers.1.mlp.fc1.weight"),
        "1 weights of the wrong shape: text_model.encoder.layers.1.mlp.fc1.weight is",
    ),
    (TEXT, shorter("token_embedding.weight"), "has 524 entries, and the tokenizer 525: they are of two models"),
    (IMAGE, without("decoder.mid_block.resnets.1.conv2.weight", "decoder.mid_block.resnets.1.conv2.bias"), "2 of"),
    (IMAGE, lambda weights: weights.update({"decoder.extra.weight": torch.zeros(1)}), "1 keys are not of this network"),
    (
        IMAGE,
        shorter("encoder.down_blocks.0.resnets.0.conv1.weight"),
        "of the widths .7, 16, 16, 16. with 4 norm groups",
    ),
]


@pytest.mark.parametrize(("file", "change", "says"), SPOILT, ids=range(len(SPOILT)))
def test_weights_that_do_not_fit_are_named_with_their_file(part, make, zoo, tmp_path, file, change, says):
    folder = shutil.copytree(zoo.root / "zero", tmp_path / "zero")
    spoilt(folder / file, change)
    with pytest.raises(part("t2v_core.errors").CheckpointError, match=f"{file}: .*{says}"):
        make(tmp_path).load_model("zero", "auto", ["clip" if file is TEXT else "vae"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ('{"num_attention_heads": 5}', "is 32 wide and would have 5 heads"),
        ("{}", "is 32 wide and would have 0 heads"),
        (
            '{"num_attention_heads": 4, "hidden_act": "__import__"}',
            "has hidden_act '__import__', not gelu or quick_gelu",
        ),
    ],
)
def test_settings_of_the_text_encoder_that_cannot_be(part, make, zoo, tmp_path, setting, says):
    folder = shutil.copytree(zoo.root / "zero", tmp_path / "zero")
    (folder / "text_encoder/config.json").write_text(setting)
    with pytest.raises(part("t2v_core.errors").CheckpointError, match=f"{TEXT}: .*{says}"):
        make(tmp_path).load_model("zero", "auto", ["clip"])


def test_latents_and_images_of_another_shape_are_refused(part, load, zoo):
    _, _, vae = load(zoo.root, "zero")
    error = part("t2v_core.errors").T2VError
    with pytest.raises(error, match=r"latents are \[n, 4, h, w\], got \[1, 16, 2, 2\]: they come from another"):
        vae.decode(torch.zeros(1, 16, 2, 2))
    with pytest.raises(error, match=r"H and W divisible by 8, got \[1, 3, 12, 16\]"):
        vae.encode(torch.zeros(1, 3, 12, 16))


@pytest.fixture
def one_thread():
    """Of pictures as small as in tests, each thread's own buffers would be a good part of the memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_frames_at_once_are_what_memory_was_measured_for(part, one_thread):
    """What is alive at the most in decoding and encoding is below the estimate, and not far."""
    vae = part("headless.public_vae").PublicAutoencoder(diffusers_autoencoder())
    estimate = vae.bytes_per_pixel * 64 * 64
    for run in (lambda: vae.decode(torch.randn(1, 4, 32, 32)), lambda: vae.encode(torch.randn(1, 3, 64, 64))):
        assert 0.5 * estimate < peak_of(run) <= estimate


@torch.no_grad()
def peak_of(run) -> int:
    """Bytes alive at once at most, above those before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    alive = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak
