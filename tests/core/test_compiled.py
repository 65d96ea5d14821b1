"""torch.compile of the repeated parts: the same numbers, few compilations, and none where it does not work."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from core.references import clip, randomise, relative_error

from t2v_core.diffusion import Compiled, Denoiser, NativeSize, NoiseSchedule, VideoModel, sample
from t2v_core.models.compiled import CompiledParts
from t2v_core.models.hooks import TemporalScale
from t2v_core.models.unet3d import UNet3D, UNet3DConfig


@pytest.fixture(autouse=True)
def fresh():
    """Whatever other tests had compiled is forgotten."""
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def unet() -> UNet3D:
    config = UNet3DConfig(widths=(8,), attention=(True,), context_dim=12, head_dim=4, input_heads=2, norm_groups=4)
    return randomise(UNet3D(config)).eval()


class Counting:
    """A backend that runs what it is given as it is, and counts it."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, examples):
        self.graphs += 1
        return graph.forward


def test_parts_of_one_kind_are_compiled_once_and_give_the_same(unet):
    x, t, context = clip(2, 3, 8, 12, 12)
    backend = Counting()
    parts = CompiledParts(backend)
    plain, compiled = unet(x, t, context), unet(x, t, context, compiled=parts)
    assert parts.failure is None
    assert relative_error(compiled, plain) <= 1e-6
    kinds = backend.graphs
    repeated = sum(
        type(m).__name__ in ("ResBlock", "SpatialTransformer", "TemporalTransformer") for m in unet.modules()
    )
    assert 3 < kinds < repeated * 0.6
    unet(x * 2, t, context, compiled=copy.deepcopy(parts))
    assert backend.graphs == kinds


def test_a_compiler_that_fails_is_done_without(unet, caplog):
    asked = []

    def broken(graph, examples):
        asked.append(graph)
        raise OSError("no C++ compiler\nin this place")

    x, t, context = clip(1, 3, 8, 8, 12)
    parts = CompiledParts(broken)
    with caplog.at_level(logging.WARNING, logger="t2v_core"):
        compiled = unet(x, t, context, compiled=parts)
        unet(x, t, context, compiled=parts)
    assert torch.equal(compiled, unet(x, t, context))
    assert len(asked) == 1
    (record,) = caplog.records
    assert "runs without it" in record.getMessage() and "no C++ compiler in this place" in record.getMessage()


def test_too_little_memory_is_no_failure_of_the_compiler(unet):
    def full(graph, examples):
        def run(*arguments):
            raise torch.OutOfMemoryError("full")

        return run

    parts = CompiledParts(full)
    with pytest.raises(torch.OutOfMemoryError):
        unet(*clip(1, 2, 8, 8, 12), compiled=parts)
    assert parts.failure is None


def test_parts_that_a_hook_reaches_into_run_as_they_are(unet):
    x, t, context = clip(1, 3, 8, 8, 12)
    backend, scale = Counting(), TemporalScale([0.0, 0.5, 1.0], None)
    hooked = unet(x, t, context, hooks=scale, compiled=CompiledParts(backend))
    assert backend.graphs == 0
    assert torch.equal(hooked, unet(x, t, context, hooks=scale))


def test_a_model_that_is_patched_samples_by_it(unet):
    backend = Counting()
    model = VideoModel(Denoiser(unet, NoiseSchedule.scaled_linear(), "eps"), 1.0, NativeSize(64, 64, 3, 8.0))
    text, latents = torch.randn(1, 5, 12), torch.zeros(3, 4, 8, 8)
    told = {"noise": torch.randn(3, 4, 8, 8), "sampler": "euler", "cfg": 3.0, "seed": 0}
    sigmas = torch.tensor([3.0, 1.0, 0.0])
    plain, compiled = (
        sample(each, latents, text, -text, sigmas=sigmas, **told)
        for each in (model, model.patched(Compiled(CompiledParts(backend))))
    )
    assert backend.graphs > 3
    assert relative_error(compiled, plain) <= 1e-5


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_inductor_gives_the_same(unet):
    x, t, context = clip(2, 3, 8, 12, 12)
    parts = CompiledParts()
    compiled = unet(x, t, context, compiled=parts)
    assert parts.failure is None
    assert relative_error(compiled, unet(x, t, context)) <= 1e-5
