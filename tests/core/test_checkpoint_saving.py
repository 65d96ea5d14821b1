"""Saving a checkpoint: a refusal is one message, and what was on disk is as it was."""

from pathlib import Path

import pytest
import torch
from core.references import randomise

from t2v_core.checkpoints import load_unet, save_unet
from t2v_core.errors import CheckpointError
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

TINY = UNet3DConfig(widths=(32,), attention=(True,), blocks_per_level=1, context_dim=8, head_dim=8)
UNET = randomise(UNet3D(TINY))


def refusal(path: Path, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        save_unet(UNET, path, **options)
    return str(caught.value)


def test_existing_file_stays(tmp_path):
    path = tmp_path / "unet.safetensors"
    path.write_text("precious")
    assert "exists already" in refusal(path)
    assert path.read_text() == "precious" and len(list(tmp_path.iterdir())) == 1
    save_unet(UNET, path, overwrite=True)
    assert load_unet(path).config == TINY and len(list(tmp_path.iterdir())) == 1


def test_file_that_appears_meanwhile_stays(tmp_path, monkeypatch):
    from t2v_core.checkpoints import files

    path, save = tmp_path / "unet.safetensors", files.save_file

    def slow_save(tensors, part, metadata):
        save(tensors, part, metadata)
        path.write_text("precious")

    monkeypatch.setattr(files, "save_file", slow_save)
    assert "cannot be written" in refusal(path)
    assert path.read_text() == "precious" and len(list(tmp_path.iterdir())) == 1


def test_disk_that_fills_up(tmp_path):
    # A limit on the size of files fails as a full disk does: some is written, then no more.
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        message = refusal(tmp_path / "unet.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in message
    assert not any(tmp_path.iterdir())


def test_other_refusals(tmp_path):
    assert "saved as .safetensors" in refusal(tmp_path / "unet.pth")
    assert "cannot be written" in refusal(tmp_path / "none" / "unet.safetensors")
    assert "unknown layout 'lvdm'; known are bundled, videocrafter, modelscope, diffusers" in refusal(
        tmp_path / "unet.safetensors", layout="lvdm"
    )
    unet = UNet3D(TINY)
    with torch.no_grad():
        unet.out[2].weight[0] = 1e6
    with pytest.raises(CheckpointError, match="1 weights are not finite in torch.float16: out.2.weight"):
        save_unet(unet, tmp_path / "unet.safetensors", dtype=torch.float16)
    assert not any(tmp_path.iterdir())


def test_a_saved_file_can_be_read_by_whom_the_umask_lets(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    assert save_unet(UNET, tmp_path / "unet.safetensors").stat().st_mode == usual.stat().st_mode
