"""The clips that the denoiser learns from, drawn and encoded once, and the captions that go with them."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..errors import T2VError
from ..models.autoencoder import Autoencoder
from ..models.text_encoder import TextEncoder
from .autoencoder import trained as trained_autoencoder
from .clips.captions import everything, free_caption
from .clips.mixture import Change, chance, draw_change, random_change, random_scene
from .clips.scenes import FRAMES, LONGER, SIZE, Scene, Thing, draw, sample_clip
from .loop import load, save
from .text import EMPTY, token_ids
from .workers import worker_pool

DROPPED = 0.1  # share of clips without a caption, for classifier-free guidance
PLAIN = 0.25  # share of captions in the plain wording
SAME_WORDING = 0.7  # of the two captions of a change
PACED_TWICE = 2.0  # how often what says a pace is drawn, against the rest: pace is the last that is learnt
CHUNK = 200  # clips of one seed


@dataclass(frozen=True)
class Run:
    """How many clips there are, and their size in pixels. changes: the share of those whose caption changes midway."""

    size: int = SIZE
    short: int = 14_000
    longer: int = 1800
    changes: float = 0.16
    seed: int = 11


def _scene(fields: dict) -> Scene:
    return Scene(tuple(Thing(**each) for each in fields["things"]), fields["background"], fields["camera"])


def to_text(shown: Scene | Change) -> str:
    """What a clip shows as JSON; `from_text` reads it back."""
    return json.dumps(asdict(shown))


def from_text(text: str) -> Scene | Change:
    """What `to_text` wrote."""
    fields = json.loads(text)
    if "before" in fields:
        return Change(_scene(fields["before"]), _scene(fields["after"]), tuple(fields["weights"]))
    return _scene(fields)


def draw_one(frames: int, size: int, changes: float, generator: torch.Generator) -> tuple[Scene | Change, Tensor]:
    """What a clip shows, and its frames `[f, 3, size, size]` in 0..1."""
    if chance(changes, generator):
        change = random_change(generator, frames)
        return change, draw_change(change, generator, size)
    scene = random_scene(generator)
    return scene, draw(sample_clip(scene, generator, frames), size)


@lru_cache(maxsize=1)
def _network(path: Path, scale: float) -> Autoencoder:
    """Read once by each process."""
    return trained_autoencoder(path, scale)


@torch.no_grad()
def _chunk(autoencoder_path: Path, scale: float, run: Run, frames: int, index: int,
           count: int) -> tuple[Tensor, list[str]]:  # fmt: skip
    """Clips that depend on nothing but their seed, whichever process draws them."""
    generator = torch.Generator().manual_seed(run.seed + 1000 * frames + index)
    network = _network(autoencoder_path, scale)
    latents, texts = [], []
    for _ in range(count):
        shown, pixels = draw_one(frames, run.size, run.changes, generator)
        encoded = network.encode((pixels * 2 - 1).contiguous(memory_format=torch.channels_last)) * scale
        latents.append(encoded.transpose(0, 1).half())
        texts.append(to_text(shown))
    return torch.stack(latents), texts


def cache(autoencoder_path: Path, scale: float, out: Path, run: Run = Run(), workers: int = 2) -> Path:  # noqa: B008
    """Draw and encode the clips; latents fp16 `[n, 4, f, h, w]`, unit variance, and what they show, to `latents.pt`.

    The file does not depend on `workers`, processes of one thread each.
    Raises T2VError for less than one worker.
    """
    state: dict = {}
    started, total, done = time.monotonic(), run.short + run.longer, 0
    with worker_pool(workers) as pool:
        for frames, clips in ((FRAMES, run.short), (LONGER, run.longer)):
            sizes = [min(CHUNK, clips - first) for first in range(0, clips, CHUNK)]
            chunks = [
                pool.submit(_chunk, autoencoder_path, scale, run, frames, index, count)
                for index, count in enumerate(sizes)
            ]
            latents, texts = [], []
            for chunk in chunks:
                encoded, shown = chunk.result()
                latents.append(encoded)
                texts += shown
                done += len(shown)
                elapsed = time.monotonic() - started
                left = elapsed / done * (total - done)
                print(f"{done}/{total} clips  {elapsed:.0f}s, {left:.0f}s left", flush=True)
            if clips:
                state |= {f"latents {frames}": torch.cat(latents), f"shown {frames}": texts}
    save(state, out / "latents.pt")
    return out / "latents.pt"


def _weight(shown: Scene | Change) -> float:
    """How often a clip is drawn, in proportion."""
    paced = isinstance(shown, Scene) and len(shown.things) == 1 and shown.things[0].speed != "medium"
    return PACED_TWICE if paced else 1.0


class Clips:
    """Random clips of one length with captions: backwards half of the time where that shows a scene too, without a
    caption in one of ten, and what says a pace twice as often as the rest."""

    def __init__(self, latents: Tensor, shown: list[str], encoder: TextEncoder):
        self.latents, self.encoder = latents, encoder
        self.shown = [from_text(text) for text in shown]
        self.frames = latents.shape[2]
        self.places = list(range(len(self.shown)))  # what is drawn from

    @cached_property
    def weights(self) -> Tensor:
        """How often each of `places` is drawn, in proportion: `[n]`."""
        return torch.tensor([_weight(self.shown[place]) for place in self.places])

    @cached_property
    def alone(self) -> Clips:
        """Of the same clips those of one thing, before a camera that does not move, with one caption."""
        part = copy.copy(self)
        part.__dict__.pop("weights", None)  # those of all places
        part.places = [
            place
            for place, shown in enumerate(self.shown)
            if isinstance(shown, Scene) and len(shown.things) == 1 and shown.camera == "fixed"
        ]
        if not part.places:
            raise T2VError(f"none of these {len(self.shown)} clips shows one thing alone: draw more of them")
        return part

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents `[size, 4, f, h, w]` and text features, `[size, tokens, dim]` or, if a caption changes midway in
        any of them, `[size*f, tokens, dim]`."""
        drawn = torch.multinomial(self.weights, size, replacement=True, generator=generator).tolist()
        chosen = [self.places[place] for place in drawn]
        latents = self.latents[chosen].float()
        captions, weights = [], torch.zeros(size, self.frames)
        for row, index in enumerate(chosen):
            shown = self.shown[index]
            if chance(0.5, generator) and shown.reversible and not shown.backwards().held_out:
                shown, latents[row] = shown.backwards(), latents[row].flip(1)
            if isinstance(shown, Change):
                weights[row] = torch.tensor(shown.weights)
            captions += self._captions(shown, generator)
        with torch.no_grad():
            before, after = self.encoder(token_ids(captions))[0].unflatten(0, (size, 2)).unbind(1)
        if not weights.any():
            return latents, before
        return latents, torch.lerp(before[:, None], after[:, None], weights[:, :, None, None]).flatten(0, 1)

    @staticmethod
    def _captions(shown: Scene | Change, generator: torch.Generator) -> list:
        """The captions of the first and of the last frame, which are one for a clip without a change."""
        dropped, plain, same = (chance(p, generator) for p in (DROPPED, PLAIN, SAME_WORDING))
        scenes = (shown.before, shown.after) if isinstance(shown, Change) else (shown, shown)
        if dropped:
            return [EMPTY, EMPTY]
        if plain:
            return [everything(scene) for scene in scenes]
        state = generator.get_state()
        first = free_caption(scenes[0], generator)
        if scenes[1] is scenes[0]:
            return [first, first]
        if same:
            generator.set_state(state)
        return [first, free_caption(scenes[1], generator)]


def read_cache(path: Path, encoder: TextEncoder) -> list[Clips]:
    """The clips of `path`, those of 16 frames first; then, if there are any, the longer ones."""
    state = load(path, mapped=True)
    return [Clips(state[f"latents {frames}"], state[f"shown {frames}"], encoder)
            for frames in (FRAMES, LONGER) if f"latents {frames}" in state]  # fmt: skip
