"""T2VCompile through the stock KSampler in ComfyUI: compiled for real, and where there is no compiler."""

from __future__ import annotations

import pytest
from comfyui import Server
from table import EQUAL, Clip, relative_error

WITHOUT = "runs without it"


def plain_and_compiled(comfy: Server):
    """The small clip, the same from a compiled model, and the compiled one with a patch in each attention."""
    clip = Clip()
    compiled = clip.add("T2VCompile", model=clip.model)
    patched = [clip.add("PerturbedAttentionGuidance", model=model, scale=1.0) for model in (clip.model, compiled)]
    models = (clip.model, compiled, *patched)
    return clip.latents(comfy, *(clip.sample(model=model) for model in models))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_compiled_parts_give_the_same_clip(comfy_paths, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    with Server(comfy_paths, tmp_path / "comfyui") as comfy:
        plain, compiled, guided, compiled_guided = plain_and_compiled(comfy)
        assert WITHOUT not in comfy.log()
    assert any((tmp_path / "compiled").rglob("*.so"))
    assert 0 < relative_error(compiled, plain) <= EQUAL
    assert relative_error(compiled_guided, guided) <= EQUAL
    assert relative_error(guided, plain) > 1e-2


@pytest.mark.long
def test_without_a_compiler_the_model_runs_as_it_is(comfy_paths, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with Server(comfy_paths, tmp_path / "comfyui") as comfy:
        plain, compiled, *_ = plain_and_compiled(comfy)
        assert comfy.log().count(WITHOUT) == 1
    assert relative_error(compiled, plain) == 0
