"""T2VFreeInit on T2VSampler's socket, against the library's loop."""

import pytest
import torch


@pytest.fixture
def make(part):
    """The node's output; keywords change one of its inputs."""

    def make(**changes):
        stops = {"spatial_stop_frequency": 0.5, "temporal_stop_frequency": 0.5}
        inputs = {"rounds": 3, "filter_type": "butterworth", "order": 4, **stops, "fast_sampling": False}
        return part("nodes").T2VFreeInit().make(**{**inputs, **changes})[0]

    return make


@pytest.fixture
def run(part, host, tiny):
    """Runs T2VSampler on an empty clip; keywords change its inputs."""

    def run(**changes):
        inputs = {
            "model": tiny.model,
            "seed": 5,
            "steps": 4,
            "cfg": 2.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "positive": host.encode(tiny.clip, "a red circle"),
            "negative": host.encode(tiny.clip, ""),
            "latent_image": {"samples": torch.zeros(6, 4, 4, 6)},
            "denoise": 1.0,
            "guidance_rescale": 0.0,
        }
        return part("nodes").T2VSampler().sample(**{**inputs, **changes})[0]["samples"]

    return run


def test_it_is_the_library_s_loop(run, make, part, tiny):
    diffusion = part("t2v_core.diffusion")
    given = make(fast_sampling=True)
    rows = [diffusion.sigmas_for("normal", tiny.model.denoiser.noise_schedule, steps) for steps in (1, 2, 4)]
    noise = torch.randn(6, 4, 4, 6, generator=torch.Generator().manual_seed(5))
    expected = diffusion.sample_with_free_init(
        tiny.model,
        torch.zeros(6, 4, 4, 6),
        tiny.clip.encode("a red circle")[0],
        tiny.clip.encode("")[0],
        free_init=diffusion.FreeInit(3, "butterworth", 4, 0.5, 0.5, True),
        noise=noise,
        sampler="euler",
        sigmas=rows,
        cfg=2.5,
        seed=5,
    )
    assert torch.equal(run(free_init=given), expected)


@pytest.fixture
def unhurried(tiny, part):
    """The tiny model with a noise schedule that leaves something of the clip at its largest noise level."""
    from dataclasses import replace

    diffusion = part("t2v_core.diffusion")
    denoiser = diffusion.Denoiser(tiny.model.denoiser.network, diffusion.NoiseSchedule.scaled_linear(), "v")
    return replace(tiny.model, denoiser=denoiser)


def test_every_input_reaches_the_loop(run, make, unhurried):
    base = run(model=unhurried, free_init=make())
    changes = {
        "rounds": 2,
        "filter_type": "gaussian",
        "order": 1,
        "spatial_stop_frequency": 0.9,
        "temporal_stop_frequency": 0.9,
        "fast_sampling": True,
    }
    for name, value in changes.items():
        assert not torch.allclose(base, run(model=unhurried, free_init=make(**{name: value})), rtol=1e-3), name


def test_one_round_is_no_free_init_and_more_change_the_clip(run, make, unhurried):
    plain = run(model=unhurried)
    assert torch.equal(run(model=unhurried, free_init=make(rounds=1)), plain)
    assert not torch.allclose(run(model=unhurried, free_init=make(rounds=2)), plain, rtol=0.1)


def test_the_model_s_seeds_and_a_noise_go_with_it(run, make, part, unhurried):
    diffusion, nodes = part("t2v_core.diffusion"), part("nodes")
    seeds = unhurried.patched(diffusion.NoiseSeeds.per_frame([5] * 6))
    assert torch.equal(run(model=seeds, free_init=make()), run(model=unhurried, free_init=make()))
    assert seeds.modifier(diffusion.NoiseSeeds) is not None
    (noise,) = nodes.T2VLongNoise().make(5, "freenoise", 16, 4, 1.0)
    given = {"model": unhurried, "free_init": make()}
    assert torch.equal(run(seed=99, noise=noise, **given), run(**given))


def test_the_steps_of_all_rounds_are_one_progress(run, make, host, monkeypatch):
    seen = []
    monkeypatch.setattr(host, "progress", lambda total, label: lambda done: seen.append((done, total, label)))
    run(free_init=make(fast_sampling=True))
    assert seen == [(done, 7, "Sampling") for done in range(1, 8)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"denoise": 0.5}, "free_init: FreeInit makes clips out of noise alone, so denoise must be 1; it is 0.5"),
        ({"latent_image": {"samples": torch.ones(6, 4, 4, 6)}}, "free_init: latent_image is not empty"),
        ({"free_init": "three rounds"}, "free_init: not what T2V FreeInit gives"),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(run, make, part, change, says):
    with pytest.raises(part("t2v_core.errors").T2VError) as caught:
        run(**{"free_init": make(), **change})
    assert says in str(caught.value)


def test_strengths_by_frame_are_refused(run, make, part, tiny):
    strength = part("t2v_core.diffusion").StrengthSchedule((0.5,) * 6)
    with pytest.raises(part("t2v_core.errors").T2VError, match="free_init: the model has a strength for each frame"):
        run(model=tiny.model.patched(strength), free_init=make())


def test_numbers_out_of_range_are_refused_at_the_node(make, part):
    with pytest.raises(part("t2v_core.errors").T2VError, match="rounds is 0"):
        make(rounds=0)
