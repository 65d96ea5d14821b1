"""Train the text encoder, with the queries that pool its features, to tell what a caption says; then both are frozen.

Trained on every combination: it sees no pixels, so what the denoiser must not see stays unseen by the denoiser.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.embeddings import TextPool
from ..models.text_encoder import TextEncoder, TextEncoderConfig
from ..text import PromptEncoder, WordTokenizer
from .clips.captions import DRAWN, HELD_OUT, LONGEST, Caption, Wording, everything, fields, free_caption, vocabulary
from .clips.mixture import chance, random_scene
from .clips.scenes import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, SIZES, SPEEDS, Scene
from .clips.shapes import SHAPES
from .loop import Log, decay_groups, load, save, warm_constant_linear

LENGTH = LONGEST + 2
CLASSES = {
    "count": ("1", "2"),
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "motion": MOTIONS,
    "size": SIZES,
    "speed": SPEEDS,
    "second colour": (*COLOURS, "none"),
    "second shape": (*SHAPES, "none"),
    "second motion": (*MOTIONS, "none"),
    "background": tuple(BACKGROUNDS),
    "camera": CAMERAS,
}
FIELDS = tuple(CLASSES)
EMPTY = Caption("", frozenset())


@dataclass(frozen=True)
class Run:
    """One training run. checks: captions that the finished encoder is tried on."""

    steps: int = 3000
    batch: int = 96
    seed: int = 0
    learning_rate: float = 2e-3
    checks: int = 4000


def tokenizer() -> WordTokenizer:
    """The tokenizer over every word the captions use."""
    return WordTokenizer(vocabulary())


class Reader(nn.Module):
    """Text encoder, one pooling query a field, and a linear classifier on each; the last class is "not said"."""

    def __init__(self):
        super().__init__()
        self.encoder = TextEncoder(TextEncoderConfig(tokenizer().size, LENGTH, layers=3))
        width = self.encoder.config.width
        self.pool = TextPool(width, len(FIELDS))
        self.pool.norm.requires_grad_(False)  # its affine part is set at the end, to standardise
        nn.init.normal_(self.pool.queries.weight)
        self.heads = nn.ModuleList(nn.Linear(width, len(CLASSES[name]) + 1) for name in FIELDS)

    def forward(self, ids: Tensor) -> list[Tensor]:
        pooled = self.pool(self.encoder(ids)[0]).chunk(len(FIELDS), dim=1)
        return [head(part) for head, part in zip(self.heads, pooled, strict=True)]


def token_ids(captions: list[Caption]) -> Tensor:
    """Ids `[n, LENGTH]` as the prompt encoder makes them; a caption is one chunk."""
    encoder = PromptEncoder(lambda ids: None, tokenizer(), LENGTH)
    return torch.tensor([[token for token, _ in encoder.chunks(caption.text)[0]] for caption in captions])


def _answer(scene: Scene, caption: Caption, field: str) -> int:
    """The class of a field. There is no second thing in what does not speak of one."""
    value = fields(scene)[field]
    if field in caption.said or (value == "none" and "count" in caption.said):
        return CLASSES[field].index(value)
    return len(CLASSES[field])


def targets(scenes: list[Scene], captions: list[Caption]) -> list[Tensor]:
    """Class of each field `[n]`, the last one where the caption leaves it out."""
    return [torch.tensor([_answer(*pair, name) for pair in zip(scenes, captions, strict=True)]) for name in FIELDS]


def draw_captions(count: int, generator: torch.Generator, plain: float,
                  wording: Wording = DRAWN) -> tuple[list[Scene], list[Caption]]:  # fmt: skip
    """Captions of random scenes, a third held out, a share `plain` in the fixed wording and 3% empty."""
    scenes = [random_scene(generator, chance(0.33, generator)) for _ in range(count)]
    captions = []
    for scene, draw in zip(scenes, torch.rand(count, generator=generator).tolist(), strict=True):
        if draw < 0.03:
            captions.append(EMPTY)
        elif draw < 0.03 + plain:
            captions.append(everything(scene))
        else:
            captions.append(free_caption(scene, generator, wording))
    return scenes, captions


@torch.no_grad()
def accuracy(reader: Reader, scenes: list[Scene], captions: list[Caption]) -> dict[str, float]:
    """Share of captions whose field, or its absence, is read right, and "all" of whose fields are."""
    answers, wanted = reader(token_ids(captions)), targets(scenes, captions)
    right = torch.stack([answer.argmax(1) == want for answer, want in zip(answers, wanted, strict=True)])
    table = dict(zip(FIELDS, right.float().mean(1).tolist(), strict=True))
    return {name: round(value, 4) for name, value in {**table, "all": right.all(0).float().mean().item()}.items()}


@torch.no_grad()
def standardise(reader: Reader, captions: list[Caption]) -> nn.Linear:
    """Set the pool's affine part so that every pooled feature has mean 0 and standard deviation 1 over `captions`.

    Returns the heads as one layer on what the pool then gives, all fields' answers in a row, each with mean 0 and
    standard deviation 1. Pooled features tell wordings apart as well as they do meanings; the answers hold the meaning
    alone, and the denoiser learns from them what it would be long in finding.
    """
    pooled = reader.pool(reader.encoder(token_ids(captions))[0])
    weight = torch.block_diag(*(head.weight for head in reader.heads))
    answers = pooled @ weight.mT + torch.cat([head.bias for head in reader.heads])
    mean, std = pooled.mean(0), pooled.std(0)
    reader.pool.norm.weight.copy_(1 / std)
    reader.pool.norm.bias.copy_(-mean / std)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.copy_(weight * std / answers.std(0)[:, None])
    layer.bias.zero_()  # where every feature is at its mean, so is every answer
    return layer


def train(out: Path, run: Run = Run()) -> Path:  # noqa: B008 (frozen)
    """Train, check on captions, and write `text.pt` under `out`: weights of the encoder, the pool and the answers."""
    torch.manual_seed(run.seed)
    generator = torch.Generator().manual_seed(run.seed + 1)
    reader = Reader()
    optimiser = torch.optim.AdamW(decay_groups(reader.parameters(), 0.01), lr=run.learning_rate, betas=(0.9, 0.99))
    log = Log(out / "text.csv", run.steps, 100)
    for step in range(run.steps):
        for group in optimiser.param_groups:
            group["lr"] = run.learning_rate * warm_constant_linear(step, run.steps, 50, 0.2)
        scenes, captions = draw_captions(run.batch, generator, plain=0.2)
        answers, wanted = reader(token_ids(captions)), targets(scenes, captions)
        loss = sum(F.cross_entropy(a, w, label_smoothing=0.02) for a, w in zip(answers, wanted, strict=True))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        log.add(step, loss=loss.item())
    reader.eval()
    for name, drawn in (
        ("plain wording", draw_captions(run.checks, generator, plain=1.0)),
        ("free wording", draw_captions(run.checks, generator, plain=0.0)),
        ("wordings kept out", draw_captions(run.checks, generator, plain=0.0, wording=HELD_OUT)),
    ):
        print(name, accuracy(reader, *drawn), flush=True)
    answers = standardise(reader, draw_captions(run.checks, generator, plain=0.2)[1])
    parts = {"encoder": reader.encoder, "pool": reader.pool, "answers": answers}
    save({name: part.state_dict() for name, part in parts.items()}, out / "text.pt")
    return out / "text.pt"


@dataclass(frozen=True)
class Trained:
    """The frozen parts of a finished run. answers: of the pool's features, see `standardise`."""

    encoder: TextEncoder
    pool: TextPool
    answers: nn.Linear


def trained(path: Path) -> Trained:
    """What `train` wrote to `path`."""
    state, reader = load(path), Reader()
    parts = Trained(reader.encoder, reader.pool, nn.Linear(*state["answers"]["weight"].shape[::-1]))
    for name, part in vars(parts).items():
        part.load_state_dict(state[name])
        part.eval().requires_grad_(False)
    return parts
