"""T2VSampler and T2VSamplerSelect against the core they stand on."""

from dataclasses import replace

import pytest
import torch


class FixedNoise:
    """What ComfyUI's RandomNoise puts on a NOISE socket."""

    seed = 3

    def generate_noise(self, latent):
        return torch.full_like(latent["samples"], 0.5)


@pytest.fixture
def run(part, host, tiny):
    """Runs T2VSampler with KSampler's inputs; keywords change one of them."""

    def run(**changes):
        encode = host.encode
        arguments = {
            "model": tiny.model,
            "seed": 5,
            "steps": 3,
            "cfg": 2.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "positive": encode(tiny.clip, "a red circle"),
            "negative": encode(tiny.clip, ""),
            "latent_image": {"samples": torch.zeros(2, 4, 4, 6)},
            "denoise": 1.0,
            "guidance_rescale": 0.0,
        }
        return part("nodes").T2VSampler().sample(**{**arguments, **changes})[0]

    return run


def test_it_is_the_core_s_sampling_with_comfyui_s_noise(run, part, tiny):
    diffusion = part("t2v_core.diffusion")
    noise = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(5))
    expected = diffusion.sample(
        tiny.model,
        torch.zeros(2, 4, 4, 6),
        tiny.clip.encode("a red circle")[0],
        tiny.clip.encode("")[0],
        noise=noise,
        sampler="euler",
        sigmas=diffusion.sigmas_for("normal", tiny.model.denoiser.noise_schedule, 3),
        cfg=2.5,
        seed=5,
    )
    assert torch.equal(run()["samples"], expected)


def test_every_setting_reaches_the_sampler(run):
    base = run()["samples"]
    changes = {
        "seed": 6,
        "steps": 4,
        "cfg": 4.0,
        "sampler_name": "heun",
        "scheduler": "karras",
        "denoise": 0.5,
        "guidance_rescale": 0.7,
        "noise": FixedNoise(),
        "latent_image": {"samples": torch.zeros(2, 4, 4, 6), "batch_index": [1, 0]},
    }
    for name, value in changes.items():
        assert not torch.allclose(base, run(**{name: value})["samples"]), name


def test_cfg_1_leaves_the_negative_prompt_out(run, host, tiny):
    other = host.encode(tiny.clip, "a blue square")
    assert torch.equal(run(cfg=1.0)["samples"], run(cfg=1.0, negative=other)["samples"])


def test_the_model_on_the_wire_is_never_changed(run, tiny):
    run(guidance_rescale=0.7)
    assert tiny.model.modifiers == ()


def test_the_rest_of_the_latent_is_handed_on(run):
    given = {"samples": torch.zeros(2, 4, 4, 6), "batch_index": [4, 5]}
    out = run(latent_image=given)
    assert out["batch_index"] == [4, 5] and not given["samples"].any()


def test_denoise_0_changes_nothing(run):
    samples = torch.randn(2, 4, 4, 6)
    assert torch.equal(run(latent_image={"samples": samples}, denoise=0.0)["samples"], samples)


def test_the_steps_are_reported(run, host, monkeypatch):
    seen = []
    monkeypatch.setattr(host, "progress", lambda total, label: lambda done: seen.append((done, total)))
    run(steps=3)
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"latent_image": {"samples": torch.zeros(1, 4, 2, 4, 6)}}, "latent_image: the latent has 5 dimensions"),
        ({"latent_image": {"samples": torch.zeros(0, 4, 4, 6)}}, "latent_image: the latent [0, 4, 4, 6] is empty"),
        ({"latent_image": {}}, "latent_image: not a LATENT"),
        ({"latent_image": {"samples": torch.zeros(2, 16, 4, 6)}}, "16 channels"),
        ({"positive": [[torch.zeros(3, 24, 16), {}]]}, "positive: the conditioning has 3 rows and the latent 2 frames"),
        ({"negative": [[torch.zeros(24, 16), {}]]}, "negative: an entry"),
        ({"negative": []}, "negative: not a CONDITIONING"),
        ({"positive": [[torch.zeros(1, 24, 16), {"area": (1, 1, 0, 0)}]]}, "positive: conditioning"),
        ({"latent_image": {"samples": torch.zeros(2, 4, 4, 6), "noise_mask": torch.ones(1, 8, 8)}}, "noise mask"),
        ({"latent_image": {"samples": torch.full((2, 4, 4, 6), float("nan"))}}, "NaN"),
        ({"sampler_name": "no_such"}, "no_such"),
        ({"scheduler": "no_such"}, "no_such"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(run, part, change, says):
    with pytest.raises(part("t2v_core.errors").T2VError) as caught:
        run(**change)
    assert says in str(caught.value)


def test_sampler_select_carries_name_and_eta(part, host):
    (bound,) = part("nodes").T2VSamplerSelect().select("euler_ancestral", 0.5)
    assert (bound.name, bound.eta) == ("euler_ancestral", 0.5)
    with pytest.raises(part("t2v_core.errors").T2VError, match="eta"):
        part("nodes").T2VSamplerSelect().select("euler_ancestral", -0.5)


@pytest.mark.parametrize(("frames", "windows", "told"), [(32, None, False), (33, None, True), (33, 16, False)])
def test_a_clip_much_longer_than_the_model_was_made_for_is_told(run, part, tiny, caplog, frames, windows, told):
    diffusion = part("t2v_core.diffusion")
    model = replace(tiny.model, native=replace(tiny.model.native, num_frames=16))
    if windows:
        model = model.patched(diffusion.ContextWindows(windows))
    run(model=model, steps=1, latent_image={"samples": torch.zeros(frames, 4, 2, 2)})
    assert ("T2V Context Windows" in caplog.text) == told
    assert not told or "33 frames and the model was made for 16" in caplog.text
