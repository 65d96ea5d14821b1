"""Fixtures for the tests of the adapters: the pack as ComfyUI imports it, and the command line as a person runs it.

Tests of the library (`tests/core`) say `import t2v_core` and use neither `pack` nor `part`: the pack has its own
`t2v_core` inside.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACK = "t2v_pack_under_test"
WORDS = ("a", "red", "blue", "circle", "square", "moving", "left", "right")


def _children() -> set[int]:
    """Process ids of this process's children, zombies included."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # ended since
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(entry.parent.name))
    return found


@pytest.fixture
def started():
    """started() lists the child processes that are there now and were not when the test began: other tests' servers and
    workers are not counted."""
    before = _children()
    return lambda: sorted(_children() - before)


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack's root, loaded from its folder as ComfyUI loads a custom node."""
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def part(pack):
    """part("headless.graph") is that module of the pack."""
    return lambda name: importlib.import_module(f"{pack.__name__}.{name}")


@pytest.fixture
def headless():
    """headless("run", FILE, ...) runs `python -m headless` and returns the finished process, output as text."""

    def run(*arguments: object, **options) -> subprocess.CompletedProcess:
        options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 240, **options}
        return subprocess.run([sys.executable, "-m", "headless", *map(str, arguments)], **options)

    return run


@pytest.fixture
def workflow() -> dict:
    """The shipped API workflow, parsed anew for each test: change it freely."""
    return json.loads((ROOT / "workflows/api/text_to_video.json").read_text())


@pytest.fixture(scope="session")
def tiny(part) -> SimpleNamespace:
    """A model, a prompt encoder and an autoencoder of a few thousand random weights each."""
    import torch

    diffusion, text = part("t2v_core.diffusion"), part("t2v_core.text")
    unet, encoder = part("t2v_core.models.unet3d"), part("t2v_core.models.text_encoder")
    autoencoder = part("t2v_core.models.autoencoder")
    torch.manual_seed(0)
    config = unet.UNet3DConfig(
        widths=(8, 16),
        attention=(True, False),
        blocks_per_level=1,
        context_dim=16,
        head_dim=8,
        input_heads=1,
        norm_groups=4,
    )
    network = unet.UNet3D(config).eval()
    for parameter in network.parameters():  # the zero-initialised ones too, or the prompt would change nothing
        torch.nn.init.normal_(parameter, std=0.2)
    schedule = diffusion.NoiseSchedule.scaled_linear(zero_terminal_snr=True)
    sizes = encoder.TextEncoderConfig(vocabulary_size=len(WORDS) + 4, length=24, width=16, layers=1, heads=2)
    return SimpleNamespace(
        model=diffusion.VideoModel(
            diffusion.Denoiser(network, schedule, "v"), 0.18215, diffusion.NativeSize(64, 64, 16, 8.0)
        ),
        clip=text.PromptEncoder(encoder.TextEncoder(sizes).eval(), text.WordTokenizer(WORDS)),
        vae=autoencoder.Autoencoder(autoencoder.AutoencoderConfig(widths=(8, 8, 8), deep_blocks=1)).eval(),
    )


@pytest.fixture(scope="session")
def models(part, tiny, tmp_path_factory) -> Path:
    """A folder with the tiny model in a file of the bundled model's kind, readable by everyone."""
    folder = tmp_path_factory.mktemp("models")
    part("t2v_core.checkpoints").save_bundled(
        folder / "tiny.safetensors",
        tiny.model.denoiser.network,
        tiny.clip.network,
        tiny.vae,
        {
            "vocabulary": WORDS,
            "prompt_length": 24,
            "prediction": "v",
            "zero_terminal_snr": True,
            "latent_scale": tiny.model.latent_scale,
            "native": {"width": 64, "height": 64, "num_frames": 16, "fps": 8.0},
        },
    )
    return folder


@pytest.fixture
def host(part, models, tmp_path):
    """The headless host in use, with `tiny.safetensors` beside `bundled`; it writes into tmp_path / "out"."""
    nodes_host, progress = part("nodes.host"), part("headless.progress").Progress(io.StringIO(), "none")
    running = part("headless.host").HeadlessHost(models, tmp_path / "out", progress)
    nodes_host.use(running)
    yield running
    nodes_host.use(None)
