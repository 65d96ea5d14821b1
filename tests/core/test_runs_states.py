"""A walk that is stopped after any of its steps, and gone on with from what lies on the disk, is the walk in one."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
import torch
from torch import Tensor
from toy_models import CONTEXT, NETWORK, NOISE, SCHEDULE, on_network

from t2v_core.diffusion import SAMPLERS, BoundSampler, Denoiser, NativeSize, VideoModel, prepare_noise, sample
from t2v_core.diffusion import sigmas_for as sigmas_of
from t2v_core.diffusion.noise import step_noise
from t2v_core.diffusion.samplers import State
from t2v_core.runs import NOT_KEPT, RunsFolder, sample_kept
from t2v_core.runs.folder import MOST_KEPT
from t2v_core.windows import ContextWindows

KEY = "0123456789abcdef" * 4


class Cut(Exception):
    """What ends a run."""


class InMemory:
    """A keeper of the newest state, which ends the run after some steps."""

    def __init__(self, state: State | None = None, cut: int | None = None):
        self.state, self.cut = state, cut

    def keep(self, state: State) -> None:
        self.state = state
        if state.steps == self.cut:
            raise Cut


def walked(name: str, eta: float, sigmas: Tensor, keeper=None, dtype=torch.float32, callback=None) -> Tensor:
    x = NOISE.to(dtype) * sigmas[0]
    noise = step_noise(SAMPLERS[name].noise, x, 5)
    return BoundSampler(name, eta)(
        lambda x, sigma: on_network(x.float(), sigma.float()).to(x),
        x,
        sigmas.to(dtype),
        noise=noise,
        unscaled=SCHEDULE.unscaled,
        callback=callback,
        keeper=keeper,
    )


def sigmas_for(name: str, steps: int, scheduler: str = "normal") -> Tensor:
    return sigmas_of(scheduler, SCHEDULE, steps, discard_penultimate=SAMPLERS[name].discards_penultimate)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("eta", [-1.0, 0.6])
def test_a_run_cut_after_any_step_goes_on_bit_for_bit(tmp_path, name, eta):
    sigmas = sigmas_for(name, 7)
    steps = len(sigmas) - 1
    whole = walked(name, eta, sigmas)
    for cut in range(1, steps + 1):
        key, shape = str(cut).ljust(64, "0"), NOISE.shape
        cutting = InMemory(cut=cut)
        with pytest.raises(Cut):
            walked(name, eta, sigmas, cutting)
        with RunsFolder(tmp_path).open(key, shape, steps, name) as run:
            run.keep(cutting.state)
        seen = []
        with RunsFolder(tmp_path).open(key, shape, steps, name) as run:  # all from the disk, with new noise sources
            assert run.done == cut
            again = walked(name, eta, sigmas, run, callback=lambda step, *_, seen=seen: seen.append(step))
        assert torch.equal(again, whole), f"cut after step {cut}"
        assert seen == list(range(cut, steps))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_cut_after_every_step_goes_on_bit_for_bit(tmp_path, name):
    """Cut again and again, in double precision, over sigmas that end above 0."""
    sigmas = sigmas_for(name, 6, "karras")[:-1]
    whole = walked(name, 1.3, sigmas, dtype=torch.float64)
    steps, x = len(sigmas) - 1, None
    for _ in range(steps):
        with RunsFolder(tmp_path).open(KEY, NOISE.shape, steps, name) as run:
            keeper = InMemory(run.state, cut=run.done + 1)
            with pytest.raises(Cut):
                walked(name, 1.3, sigmas, keeper, torch.float64)
            run.keep(keeper.state)
    with RunsFolder(tmp_path).open(KEY, NOISE.shape, steps, name) as run:
        x = walked(name, 1.3, sigmas, run, torch.float64)
    assert torch.equal(x, whole)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_samplers_remember_is_bounded_and_not_kept_beyond_the_end(name):
    largest = 0

    class Measured(InMemory):
        def keep(self, state: State) -> None:
            nonlocal largest
            self.state = state
            largest = max(largest, sum(each.nbytes for each in state.kept.values()))

    keeper, sigmas = Measured(), sigmas_for(name, 8)
    x = walked(name, -1.0, sigmas, keeper)
    assert largest <= MOST_KEPT * NOISE.nbytes + 64
    assert torch.equal(keeper.state.x, x) and keeper.state.steps == len(sigmas) - 1
    assert keeper.state.kept == {} and keeper.state.draws == ()


def model() -> VideoModel:
    return VideoModel(Denoiser(NETWORK, SCHEDULE, "eps"), 0.18215, NativeSize(40, 48, 16, 8.0))


SHAPE = (9, 4, 5, 6)


def kept(runs: RunsFolder | None, callback=None, between=None, **changes) -> Tensor:
    settings = {
        "noise": prepare_noise(SHAPE, 3),
        "sampler": "dpmpp_2m_sde",
        "sigmas": sigmas_of("normal", SCHEDULE, 5),
        "cfg": 2.0,
        "seed": 3,
    }
    settings.update(changes)
    video_model = settings.pop("model", None) or model()
    texts = settings.pop("cond", CONTEXT), settings.pop("uncond", -CONTEXT)
    latents = settings.pop("latents", torch.zeros(SHAPE))
    if runs is None:
        return sample(video_model, latents, *texts, **settings)
    told = {"callback": callback, "between": between}
    return sample_kept(runs, video_model, latents, *texts, told=told, **settings)


def cut_at(cut: int):
    def callback(step: int, *_) -> None:
        if step == cut:
            raise Cut

    return callback


def test_sample_goes_on_where_it_was_cut_and_its_result_lies_in_the_folder(tmp_path):
    said = []
    runs = RunsFolder(tmp_path / "runs", kept_from=1, say=said.append)
    with pytest.raises(Cut):
        kept(runs, cut_at(3))
    [found] = runs.found()
    assert (found.done, found.steps, found.frames, found.delivered, found.problem) == (3, 5, 9, False, "")
    steps = []
    result = kept(runs, lambda step, *_: steps.append(step))
    assert torch.equal(result, kept(None)) and result.dtype == torch.float32 and steps == [3, 4]
    [found] = runs.found()
    assert (found.done, found.delivered) == (5, True)
    path = runs.path / found.name / "latents.safetensors"
    assert str(path) in open("/proc/self/maps").read()  # mapped, not read
    before = path.read_bytes()
    result += 1  # a node may do that
    again = kept(runs, lambda step, *_: steps.append(step))
    assert torch.equal(again, kept(None)) and steps == [3, 4] and path.read_bytes() == before
    begins, goes_on, ended = said
    assert "at most" in begins and "after step 3 of 5" in goes_on and "ended before" in ended


def test_a_run_in_windows_goes_on_bit_for_bit_and_with_as_many_at_once(tmp_path):
    windowed = model().patched(ContextWindows(length=4, overlap=2, plan="shifted"))
    runs, changes = RunsFolder(tmp_path, 1), {"model": windowed, "sampler": "dpmpp_sde"}
    for cut in (1, 3):
        with pytest.raises(Cut):
            kept(runs, cut_at(cut), **changes)
    assert torch.equal(kept(runs, **changes), kept(None, **changes))

    others, batches = RunsFolder(tmp_path / "others", 1), []
    with pytest.raises(Cut):
        kept(others, cut_at(2), **changes)
    [found] = others.found()
    about = others.path / found.name / "run.json"
    settings = json.loads(about.read_text())
    assert settings["settled"]["at_once"] > 1
    settings["settled"]["at_once"] = 1  # as if there had been less memory when it began
    about.write_text(json.dumps(settings))
    result = kept(others, between=lambda done, total: batches.append(done), **changes)
    assert batches[: max(batches)] == list(range(1, max(batches) + 1))  # one by one
    torch.testing.assert_close(result, kept(None, **changes), rtol=1e-5, atol=1e-5)


def test_shorter_clips_and_empty_sigmas_are_not_kept(tmp_path):
    runs = RunsFolder(tmp_path / "runs", kept_from=10)
    assert torch.equal(kept(runs), kept(None))
    assert torch.equal(kept(RunsFolder(tmp_path / "runs", 1), sigmas=torch.zeros(0)), torch.zeros(SHAPE))
    assert not runs.path.exists()


def test_what_cannot_be_told_from_another_run_is_not_kept_and_says_so(tmp_path):
    odd = copy.deepcopy(NETWORK)
    odd.told = torch.ones(2, 2).to_sparse()
    said = []
    runs = RunsFolder(tmp_path / "runs", 1, say=said.append)
    unlike = VideoModel(Denoiser(odd, SCHEDULE, "eps"), 0.18215, NativeSize(40, 48, 16, 8.0))
    assert torch.equal(kept(runs, model=unlike), kept(None))
    assert said == [NOT_KEPT] and not runs.path.exists()


def test_a_run_cut_in_its_first_step_leaves_nothing(tmp_path):
    runs = RunsFolder(tmp_path / "runs", 1)
    with pytest.raises(Cut):
        kept(runs, cut_at(0))
    assert not runs.path.exists()
    runs.path.mkdir()
    with pytest.raises(Cut):
        kept(runs, cut_at(0))
    assert list(runs.path.iterdir()) == []  # it was there before


def test_what_was_decided_by_free_memory_is_settled_for_the_whole_run(tmp_path):
    with RunsFolder(tmp_path).open(KEY, SHAPE, 3, "euler") as run:
        assert run.settled("apart", True) is True
        run.keep(State(1, torch.zeros(SHAPE)))
    with RunsFolder(tmp_path).open(KEY, SHAPE, 3, "euler") as run:
        assert run.settled("apart", False) is True
        assert run.settled("at_once", 4) == 4
    with RunsFolder(tmp_path).open(KEY, SHAPE, 3, "euler") as run:
        assert run.settled("at_once", 1) == 4


def test_two_things_at_once_are_two_runs(tmp_path):
    """Whatever decides the bits, changed by itself, begins a run of its own."""
    runs = RunsFolder(tmp_path, 1)
    noise = prepare_noise(SHAPE, 3)
    other = noise.clone()
    other[8, 3, 4, 5] = torch.nextafter(other[8, 3, 4, 5], torch.tensor(9.0))
    changes = [
        {},
        {"noise": other},
        {"sampler": BoundSampler("dpmpp_2m_sde", 0.5)},
        {"sigmas": sigmas_of("karras", SCHEDULE, 5)},
        {"cfg": 2.5},
        {"seed": 4},
        {"cond": CONTEXT * 1.01},
        {"uncond": CONTEXT},
        {"latents": torch.ones(SHAPE)},
        {"batch_index": list(range(9))},
    ]
    for change, cut in itertools.product(changes, (2, None)):
        if cut is None:
            assert torch.equal(kept(runs, **change), kept(None, **change)), change
        else:
            with pytest.raises(Cut):
                kept(runs, cut_at(cut), **change)
    assert len(runs.found()) == len(changes)
