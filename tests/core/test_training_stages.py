"""Every stage of the training runs, goes on where it stopped, and ends in a file that loads."""

from __future__ import annotations

import pytest
import torch

from t2v_core.checkpoints import load_bundled
from t2v_core.errors import T2VError
from t2v_core.training import autoencoder, denoiser, text
from t2v_core.training.evaluate import Settings, generate
from t2v_core.training.loop import load
from t2v_core.training.pack import LATENT_SCALE, pack

ONE = denoiser.Run(steps=3, batch=2, workers=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    autoencoder.train(folder, steps=3, clips=4)
    text.train(folder, steps=3, batch=8, checks=60)
    denoiser.cache_latents(autoencoder.trained(folder / "autoencoder.pt", LATENT_SCALE, 4), LATENT_SCALE, 30, 0, folder)
    denoiser.train(folder, folder / "latents.pt", folder / "text.pt", ONE)
    return folder


def test_the_stages_end_in_a_file_that_loads_and_samples(run, tmp_path):
    bundled = load_bundled(path=pack(run, tmp_path / "packed.safetensors"))
    frames = generate(bundled, "a red circle", 0, Settings(steps=2))
    assert frames.shape == (16, 64, 64, 3) and frames.isfinite().all()


def test_cached_latents_have_unit_variance(run):
    latents = load(run / "latents.pt")["latents"].float()
    assert latents.shape == (30, 4, 16, 8, 8)
    assert latents.std((0, 2, 3, 4)).sub(1).abs().max() < 0.5


def test_a_resumed_run_equals_the_uninterrupted_one(run, tmp_path):
    for steps in (1, 2, 3):  # stopped twice; the learning rate is a function of the whole, so it is given whole
        settings = denoiser.Run(steps=3, batch=2, workers=1)
        denoiser._work(0, tmp_path, run / "latents.pt", run / "text.pt", settings, "", last=steps)
    there, here = load(run / "denoiser.pt"), load(tmp_path / "denoiser.pt")
    for kind in ("weights", "average"):
        assert all(torch.equal(there[kind][name], value) for name, value in here[kind].items()), kind


def test_what_is_frozen_stays(run):
    pool = text.trained(run / "text.pt")[1].state_dict()
    trained = load(run / "denoiser.pt")["weights"]
    assert all(torch.equal(trained[f"text_pool.{name}"], value) for name, value in pool.items())


@pytest.mark.parametrize("workers", [0, 5, 24])
def test_a_batch_that_cannot_be_shared_out_is_refused(workers):
    with pytest.raises(T2VError, match="shared out"):
        denoiser.Run(workers=workers)
