"""Every stage of the training runs, goes on where it stopped, and ends in a file that loads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from t2v_core.checkpoints import load_bundled
from t2v_core.errors import T2VError
from t2v_core.training import autoencoder, config, denoiser, latents, text
from t2v_core.training.evaluation.evaluate import Settings, generate
from t2v_core.training.loop import Log, load, save
from t2v_core.training.muon import Muon, orthogonalise, orthogonalise_all
from t2v_core.training.pack import LATENT_SCALE, pack
from t2v_core.training.probes import PROBES
from t2v_core.training.workers import process_group

ONE = denoiser.Run(steps=3, batch=2, workers=1, alone=1, outlined=2, longer=0.4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    autoencoder.train(folder, autoencoder.Run(steps=3, frames=12, crops=2, wholes=2))
    text.train(folder, text.Run(steps=3, batch=8, checks=60))
    sizes = latents.Run(short=12, longer=3, changes=0.5)
    latents.cache(folder / "autoencoder.pt", LATENT_SCALE, folder, sizes, workers=2)
    denoiser.train(folder, folder / "latents.pt", folder / "text.pt", ONE)
    return folder


@pytest.fixture
def clips(run):
    return latents.read_cache(run / "latents.pt", text.trained(run / "text.pt").encoder)


def test_the_stages_end_in_a_file_that_loads_and_samples(run, tmp_path):
    bundled = load_bundled(path=pack(run, tmp_path / "packed.safetensors"))
    frames = generate(bundled, "a red circle", 0, Settings(steps=2))
    assert frames.shape == (16, 96, 96, 3) and frames.isfinite().all()


def test_cached_latents_have_unit_variance(clips):
    short, longer = clips
    assert short.latents.shape == (12, 4, 16, 12, 12) and longer.latents.shape == (3, 4, 24, 12, 12)
    assert short.latents.float().std((0, 2, 3, 4)).sub(1).abs().max() < 0.6


def test_the_cache_is_the_same_with_one_process(run, clips, tmp_path):
    sizes = latents.Run(short=12, longer=3, changes=0.5)
    path = latents.cache(run / "autoencoder.pt", LATENT_SCALE, tmp_path, sizes, workers=1)
    assert torch.equal(load(path)["latents 16"], clips[0].latents)


def test_a_caption_that_changes_gives_each_frame_its_own_text(clips):
    """Frames before a hard change read the first caption, those after it the second; so do the latents' halves."""
    short = clips[0]
    changing = [i for i, shown in enumerate(short.shown) if not isinstance(shown, latents.Scene)]
    assert 0 < len(changing) < len(short.shown)
    only = latents.Clips(short.latents[changing], [latents.to_text(short.shown[i]) for i in changing], short.encoder)
    for seed in range(6):
        x0, features = only.draw(3, torch.Generator().manual_seed(seed))
        assert x0.shape == (3, 4, 16, 12, 12)
        if features.shape[0] == 3:  # captions of all three dropped, or none changes its text
            continue
        rows = features.unflatten(0, (3, 16))
        assert features.shape == (48, text.LENGTH, 96)
        assert any(not torch.equal(row[0], row[-1]) for row in rows)


def test_only_what_is_reversible_is_played_backwards(clips):
    """Two clips whose frames are numbered: hops always come as they are, what goes to the right also as leftwards."""
    short = clips[0]
    latents_of = torch.arange(16.0).view(1, 1, 16, 1, 1).expand(1, 4, 16, 12, 12)
    ways = {}
    for motion in ("bouncing", "right"):
        scene = latents.Scene((latents.Thing("red", "circle", motion),), "white")
        only = latents.Clips(latents_of, [latents.to_text(scene)], short.encoder)
        drawn, _ = only.draw(40, torch.Generator().manual_seed(0))
        ways[motion] = {float(clip[0, 0, 0, 0]) for clip in drawn}
    assert ways == {"bouncing": {0.0}, "right": {0.0, 15.0}}


def test_a_pace_that_is_said_is_drawn_twice_as_often(clips):
    short = clips[0]
    things = [latents.Thing("red", "circle", "bouncing", speed=speed) for speed in ("slow", "medium")]
    texts = [latents.to_text(latents.Scene((thing,), "white")) for thing in things]
    numbered = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1, 1).expand(2, 4, 16, 12, 12)
    drawn, _ = latents.Clips(numbered, texts, short.encoder).draw(3000, torch.Generator().manual_seed(0))
    assert abs(float(drawn[:, 0, 0, 0, 0].mean()) - 2 / 3) < 0.03


def test_what_a_clip_shows_survives_being_written():
    numbers = torch.Generator().manual_seed(0)
    for _ in range(40):
        for shown in (latents.random_scene(numbers), latents.random_change(numbers)):
            assert latents.from_text(latents.to_text(shown)) == shown


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_resumed_run_equals_the_uninterrupted_one(run, tmp_path, workers):
    settings = denoiser.Run(steps=3, batch=2, workers=workers, alone=1, outlined=2, longer=0.4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    denoiser.train(whole, run / "latents.pt", run / "text.pt", settings)
    for steps in (2, 3):  # stopped once; the learning rate is a function of the whole, so it is given whole
        denoiser.train(parts, run / "latents.pt", run / "text.pt", settings, last=steps)
    there, here = load(whole / "denoiser.pt"), load(parts / "denoiser.pt")
    for kind in ("weights", "average"):
        assert all(torch.equal(there[kind][name], value) for name, value in here[kind].items()), kind


def _words(folder: Path) -> list[list[str]]:
    with (folder / "words.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_which_words_are_read_is_logged(run, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(denoiser, "PROBED", 2)
    denoiser.train(tmp_path, run / "latents.pt", run / "text.pt", ONE)
    header, *rows = _words(tmp_path)
    scenes = [shown for shown in clips[0].shown if isinstance(shown, latents.Scene)]
    suited = [name for name, probe in PROBES.items() if any(map(probe.applies, scenes))]
    assert header == ["step", "seconds", *suited] and len(suited) > 3
    assert [row[0] for row in rows] == ["2"] and all(0.5 < float(value) < 2 for value in rows[0][2:])


def _probe_as(number: int, run: Path, out: Path) -> None:
    settings = denoiser.Run(steps=3, batch=2, workers=2)
    with process_group(number, 2, str(out / "rendezvous")):
        denoiser._Worker(number, out, run / "latents.pt", run / "text.pt", settings)._probe(1)


def test_two_processes_share_the_probes_and_log_what_one_does(run, tmp_path):
    state = load(run / "denoiser.pt")
    numbers = torch.Generator().manual_seed(0)
    for value in state["weights"].values():  # three steps have taught it nothing: it answers 0 to every text
        value += 0.05 * torch.randn(value.shape, generator=numbers)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for out in (alone, shared):
        out.mkdir()
        save(state, out / "denoiser.pt")
    denoiser._Worker(0, alone, run / "latents.pt", run / "text.pt", ONE)._probe(1)
    torch.multiprocessing.spawn(_probe_as, (run, shared), nprocs=2)
    (names, wanted), (same_names, found) = _words(alone), _words(shared)
    assert names == same_names and len(set(wanted[2:])) > 5
    assert [float(value) for value in found[2:]] == pytest.approx([float(value) for value in wanted[2:]], rel=1e-4)


def test_a_run_starts_on_one_thing_alone_and_nearly_all_noise(clips):
    short = clips[0]
    assert 0 < len(short.alone.places) < len(short.places)
    for place in short.alone.places:
        shown = short.shown[place]
        assert isinstance(shown, latents.Scene) and len(shown.things) == 1 and shown.camera == "fixed"
    settings = denoiser.Run()
    floors = [denoiser.least_timestep(settings, step) for step in range(0, settings.steps, 50)]
    assert floors[0] == 900 and floors == sorted(floors, reverse=True)
    assert (
        denoiser.least_timestep(settings, settings.alone) == 900 > denoiser.least_timestep(settings, settings.alone + 1)
    )
    assert (
        denoiser.least_timestep(settings, settings.outlined - 1)
        > 0
        == denoiser.least_timestep(settings, settings.outlined)
    )


def test_what_is_frozen_stays(run):
    pool = text.trained(run / "text.pt").pool.state_dict()
    trained = load(run / "denoiser.pt")["weights"]
    assert all(torch.equal(trained[f"text_pool.{name}"], value) for name, value in pool.items())


@pytest.mark.parametrize("workers", [0, 5, 24])
def test_a_batch_that_cannot_be_shared_out_is_refused(workers):
    with pytest.raises(T2VError, match="shared out"):
        denoiser.Run(workers=workers)


def test_orthogonalise_lifts_every_singular_value_to_about_one():
    """Against torch's own singular value decomposition: the same directions, lengths near 1 (0.68 to 1.14)."""
    for shape in ((2, 16, 40), (2, 40, 16), (1, 24, 24)):
        matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        found = orthogonalise(matrices)
        lengths = torch.diagonal(u.mT @ found @ v.mT, dim1=1, dim2=2)
        assert 0.5 < lengths.min() and lengths.max() < 1.2
        assert torch.linalg.svdvals(found).max() < 1.2


def _matrices() -> list[torch.Tensor]:
    """Of more shapes than one, an odd number of them."""
    numbers = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=numbers) for shape in ((8, 4), (4, 4), (8, 4), (3, 9), (8, 4))]


def _orthogonalise_as(rank: int, folder: str) -> None:
    with process_group(rank, 2, f"{folder}/rendezvous"):
        torch.save(orthogonalise_all(_matrices()), f"{folder}/{rank}.pt")


def test_two_processes_share_the_work_and_have_what_one_has(tmp_path):
    torch.multiprocessing.spawn(_orthogonalise_as, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = [orthogonalise(matrix[None])[0] for matrix in _matrices()]
    for one, other, wanted in zip(first, second, alone, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, wanted)


def test_muon_finds_the_least_squares_solution():
    numbers = torch.Generator().manual_seed(2)
    wanted, inputs = torch.randn(8, 6, generator=numbers), torch.randn(64, 6, generator=numbers)
    weight = torch.zeros(8, 6, requires_grad=True)
    optimiser = Muon([weight], lr=0.05, weight_decay=0.0)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        optimiser.zero_grad()
        (inputs @ (weight - wanted).mT).square().mean().backward()
        optimiser.step()
    assert (weight - wanted).abs().max() < 0.02


def test_a_log_that_goes_on_keeps_what_was_and_drops_what_is_done_again(tmp_path):
    path = tmp_path / "run.csv"
    log = Log(path, 6, 1)
    for step in range(4):
        log.add(step, loss=step)
    again = Log(path, 6, 1, first=2)
    for step in range(2, 6):
        again.add(step, loss=10 + step)
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "seconds", "loss"]
    assert [(row[0], row[2]) for row in rows] == [(str(i + 1), str(i if i < 2 else 10 + i)) for i in range(6)]


def test_the_shipped_settings_are_read():
    settings = config.read_config()
    assert settings.denoiser.steps > 1000 and settings.latents.short > 1000


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "Expecting"),
        ("[]", "an object a stage"),
        ({"painter": {}}, "there is no stage 'painter'"),
        ({"text": {"step": 3}}, "text has no setting 'step', only steps"),
        ({"denoiser": {"steps": "many"}}, "denoiser.steps should be int, got 'many'"),
        ({"denoiser": {"steps": True}}, "denoiser.steps should be int, got True"),
        ({"denoiser": {"batch": 3, "workers": 2}}, "shared out"),
    ],
)
def test_settings_that_cannot_be(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(T2VError, match=message):
        config.read_config(path)
