"""Train the text encoder, with the queries that pool its features, to tell what a caption says; then both are frozen.

Trained on every combination: it sees no pixels, so what the denoiser must not see stays unseen by the denoiser.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.embeddings import TextPool
from ..models.text_encoder import TextEncoder, TextEncoderConfig
from ..text import PromptEncoder, WordTokenizer
from .captions import NAMES, Caption, free_caption, plain_caption, vocabulary
from .loop import Log, decay_groups, load, save, warm_constant_linear
from .shapes import BACKGROUNDS, COLOURS, COMBINATIONS, MOTIONS, SHAPES, Attributes

LENGTH = 24
CLASSES = {"colour": tuple(COLOURS), "shape": SHAPES, "motion": MOTIONS, "background": tuple(BACKGROUNDS)}


def tokenizer() -> WordTokenizer:
    """The tokenizer over every word the captions use."""
    return WordTokenizer(vocabulary())


class Reader(nn.Module):
    """Text encoder, one pooling query an attribute, and a linear classifier on each; the last class is "not said"."""

    def __init__(self):
        super().__init__()
        self.encoder = TextEncoder(TextEncoderConfig(tokenizer().size, LENGTH))
        width = self.encoder.config.width
        self.pool = TextPool(width, len(NAMES))
        self.pool.norm.requires_grad_(False)  # its affine part is set at the end, to standardise
        nn.init.normal_(self.pool.queries.weight)
        self.heads = nn.ModuleList(nn.Linear(width, len(CLASSES[name]) + 1) for name in NAMES)

    def forward(self, ids: Tensor) -> list[Tensor]:
        pooled = self.pool(self.encoder(ids)[0]).chunk(len(NAMES), dim=1)
        return [head(part) for head, part in zip(self.heads, pooled, strict=True)]


def token_ids(captions: list[Caption]) -> Tensor:
    """Ids `[n, 24]` as the prompt encoder makes them; a caption is one chunk."""
    encoder = PromptEncoder(lambda ids: None, tokenizer(), LENGTH)
    return torch.tensor([[token for token, _ in encoder.chunks(caption.text)[0]] for caption in captions])


def targets(attributes: list[Attributes], captions: list[Caption]) -> list[Tensor]:
    """Class of each attribute `[n]`, the last one where the caption leaves it out."""
    return [
        torch.tensor([
            CLASSES[name].index(getattr(a, name)) if name in caption.said else len(CLASSES[name])
            for a, caption in zip(attributes, captions, strict=True)
        ])
        for name in NAMES
    ]  # fmt: skip


def draw_captions(count: int, generator: torch.Generator, plain: float) -> tuple[list[Attributes], list[Caption]]:
    """Captions of random combinations, a share `plain` in the fixed wording and 3% empty."""
    attributes = [COMBINATIONS[int(i)] for i in torch.randint(len(COMBINATIONS), (count,), generator=generator)]
    captions = []
    for each, draw in zip(attributes, torch.rand(count, generator=generator).tolist(), strict=True):
        if draw < 0.03:
            captions.append(Caption("", frozenset()))
        elif draw < 0.03 + plain:
            captions.append(Caption(plain_caption(each), frozenset(NAMES)))
        else:
            captions.append(free_caption(each, generator))
    return attributes, captions


@torch.no_grad()
def accuracy(reader: Reader, attributes: list[Attributes], captions: list[Caption]) -> dict[str, float]:
    """Share of captions whose attribute, or its absence, is read right."""
    answers = reader(token_ids(captions))
    wanted = targets(attributes, captions)
    return {n: (a.argmax(1) == w).float().mean().item() for n, a, w in zip(NAMES, answers, wanted, strict=True)}


@torch.no_grad()
def standardise(reader: Reader, captions: list[Caption]) -> None:
    """Set the pool's affine part so that every pooled feature has mean 0 and standard deviation 1 over `captions`."""
    pooled = reader.pool(reader.encoder(token_ids(captions))[0])
    mean, std = pooled.mean(0), pooled.std(0)
    reader.pool.norm.weight.copy_(1 / std)
    reader.pool.norm.bias.copy_(-mean / std)


def train(out: Path, steps: int = 1500, batch: int = 96, seed: int = 0, learning_rate: float = 2e-3,
          checks: int = 4000) -> Path:  # fmt: skip
    """Train, check on `checks` captions, and write `text.pt` under `out`: weights of the encoder and of the pool."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    reader = Reader()
    optimiser = torch.optim.AdamW(decay_groups(reader.parameters(), 0.01), lr=learning_rate, betas=(0.9, 0.99))
    log = Log(out / "text.csv", steps, 100)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * warm_constant_linear(step, steps, 50, 0.2)
        attributes, captions = draw_captions(batch, generator, plain=0.2)
        answers, wanted = reader(token_ids(captions)), targets(attributes, captions)
        loss = sum(F.cross_entropy(a, w, label_smoothing=0.02) for a, w in zip(answers, wanted, strict=True))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        log.add(step, loss=loss.item())
    reader.eval()
    print("free wording", accuracy(reader, *draw_captions(checks, generator, plain=0.0)))
    plain = [Caption(plain_caption(a), frozenset(NAMES)) for a in COMBINATIONS]
    print("plain", accuracy(reader, list(COMBINATIONS), plain))
    standardise(reader, draw_captions(checks, generator, plain=0.2)[1])
    save({"encoder": reader.encoder.state_dict(), "pool": reader.pool.state_dict()}, out / "text.pt")
    return out / "text.pt"


def trained(path: Path) -> tuple[TextEncoder, TextPool]:
    """The frozen encoder and pool of `path`."""
    reader = Reader()
    state = load(path)
    reader.encoder.load_state_dict(state["encoder"])
    reader.pool.load_state_dict(state["pool"])
    reader.eval().requires_grad_(False)
    return reader.encoder, reader.pool
