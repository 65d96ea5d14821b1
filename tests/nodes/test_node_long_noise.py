"""T2VLongNoise against the library, and on T2VSampler's noise socket."""

import inspect

import pytest
import torch


@pytest.fixture
def make(part):
    """The node's NOISE; keywords change one of its inputs."""

    def make(**changes):
        inputs = {"seed": 5, "kind": "freenoise", "window": 4, "stride": 2, "alpha": 1.0}
        return part("nodes").T2VLongNoise().make(**{**inputs, **changes})[0]

    return make


@pytest.fixture
def run(part, host, tiny):
    """Runs T2VSampler on an empty clip of 10 frames; keywords change its inputs."""

    def run(**changes):
        inputs = {
            "model": tiny.model,
            "seed": 1,
            "steps": 2,
            "cfg": 2.5,
            "sampler_name": "euler_ancestral",
            "scheduler": "normal",
            "positive": host.encode(tiny.clip, "a red circle"),
            "negative": host.encode(tiny.clip, ""),
            "latent_image": {"samples": torch.zeros(10, 4, 4, 6)},
            "denoise": 1.0,
            "guidance_rescale": 0.0,
        }
        return part("nodes").T2VSampler().sample(**{**inputs, **changes})[0]["samples"]

    return run


@pytest.mark.parametrize("kind", ["freenoise", "repeat", "mixed", "progressive"])
def test_it_is_the_library_s_noise_for_a_latent(make, part, kind):
    prior = part("t2v_core.diffusion").LongNoise(kind, 4, 2, 0.5)
    noise = make(kind=kind, alpha=0.5)
    samples = torch.zeros(10, 4, 4, 8)
    assert noise.seed == 5
    assert torch.equal(noise.generate_noise({"samples": samples}), prior.draw((10, 4, 4, 8), 5))
    cut = {"samples": samples[:2].half(), "batch_index": [7, 3]}
    assert torch.equal(noise.generate_noise(cut), prior.draw((10, 4, 4, 8), 5)[[7, 3]].half())


def test_the_sampler_starts_from_it_and_takes_its_seed(run, make, part):
    """euler_ancestral adds noise of the seed; in a clip of one window, freenoise is plain noise."""
    assert torch.equal(run(seed=99, noise=make(window=16)), run(seed=5))
    assert not torch.allclose(run(noise=make()), run(seed=5), rtol=0.1)


def test_every_input_reaches_the_noise(make):
    latent = {"samples": torch.zeros(10, 4, 4, 8)}
    changes = {"seed": 6, "kind": "mixed", "window": 6, "stride": 1}
    plain = make().generate_noise(latent)
    for name, value in changes.items():
        assert not torch.equal(make(**{name: value}).generate_noise(latent), plain), name
    mixed, other = (make(kind="mixed", alpha=alpha).generate_noise(latent) for alpha in (1.0, 2.0))
    assert not torch.equal(mixed, other)


def test_a_model_with_seeds_by_frame_is_refused(run, make, tiny, part):
    seeds = part("t2v_core.diffusion").NoiseSeeds.per_frame(range(10))
    with pytest.raises(part("t2v_core.errors").T2VError, match="noise: the model has a seed for each frame"):
        run(model=tiny.model.patched(seeds), noise=make())


@pytest.mark.parametrize(
    ("latent", "says"),
    [
        ({"samples": torch.zeros(1, 4, 10, 4, 6)}, "latent_image: the latent has 5 dimensions"),
        ({}, "latent_image: not a LATENT"),
        ({"samples": torch.zeros(2, 4, 4, 6), "batch_index": [1]}, "batch_index names 1 frames"),
    ],
)
def test_latents_it_is_not_for_are_refused(make, part, latent, says):
    with pytest.raises(part("t2v_core.errors").T2VError) as caught:
        make().generate_noise(latent)
    assert says in str(caught.value)


def test_numbers_that_do_not_fit_are_refused_at_the_node(make, part):
    with pytest.raises(part("t2v_core.errors").T2VError, match="stride is 5"):
        make(stride=5)


def test_comfyui_calls_it_as_its_own(make):
    assert list(inspect.signature(make().generate_noise).parameters) == ["input_latent"]
