"""Does the model draw what the prompt says? Fixed prompts, fixed seeds, answers read by `detect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..checkpoints import Bundled
from ..diffusion import prepare_noise, sample, sigmas_for
from .captions import NAMES, plain_caption
from .detect import Reading, read
from .shapes import HELD_OUT, SEEN, Attributes


@dataclass(frozen=True)
class Settings:
    """How clips are sampled; the defaults are those of the shipped workflow."""

    steps: int = 25
    cfg: float = 2.5
    sampler: str = "euler"
    scheduler: str = "normal"


@dataclass(frozen=True)
class Result:
    """One generated clip, frames `[f, h, w, 3]` in 0..1, and what was read in it."""

    wanted: Attributes
    frames: Tensor
    reading: Reading

    @property
    def right(self) -> bool:
        """All four attributes as asked."""
        return all(self.reading.matches(self.wanted).values())


def spread(combinations: Sequence[Attributes], count: int) -> list[Attributes]:
    """`count` combinations, fixed for ever, that walk through all colours, shapes, motions and backgrounds."""
    stride = next(s for s in range(int(0.382 * len(combinations)), len(combinations)) if _coprime(s, len(combinations)))
    return [combinations[i * stride % len(combinations)] for i in range(count)]


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


def fixed_prompts(seen: int = 24, held_out: int = 16) -> list[Attributes]:
    """The evaluation list: combinations that were drawn in training, then combinations that never were."""
    return spread(SEEN, seen) + spread(HELD_OUT, held_out)


@torch.no_grad()
def generate(bundled: Bundled, text: str, seed: int, settings: Settings) -> Tensor:
    """One clip of the model's own size, `[f, h, w, 3]` in 0..1."""
    model, native = bundled.model, bundled.model.native
    step = bundled.autoencoder.config.downscale
    shape = (native.num_frames, 4, native.height // step, native.width // step)
    cond, uncond = (bundled.prompt_encoder.encode(each)[0] for each in (text, ""))
    sigmas = sigmas_for(settings.scheduler, model.denoiser.noise_schedule, settings.steps)
    noise = prepare_noise(shape, seed)
    latents = sample(model, torch.zeros(shape), cond, uncond, noise=noise, sampler=settings.sampler, sigmas=sigmas,
                     cfg=settings.cfg, seed=seed)  # fmt: skip
    return (bundled.autoencoder.decode(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def evaluate(bundled: Bundled, wanted: Sequence[Attributes], settings: Settings = Settings(),  # noqa: B008 (frozen)
             caption: Callable[[Attributes], str] = plain_caption,
             first_seed: int = 1000) -> Iterator[Result]:  # fmt: skip
    """Generate and read a clip for each combination, seeds counting up from `first_seed`; one result at a time."""
    for index, attributes in enumerate(wanted):
        frames = generate(bundled, caption(attributes), first_seed + index, settings)
        yield Result(attributes, frames, read(frames))


def summary(results: Sequence[Result]) -> dict[str, float]:
    """Share right of each attribute and of all four, and the mean fit of the asked shape."""
    matches = [result.reading.matches(result.wanted) for result in results]
    table = {name: sum(match[name] for match in matches) / len(matches) for name in NAMES}
    table["all"] = sum(result.right for result in results) / len(results)
    table["shape_iou"] = sum(r.reading.shape_iou[r.wanted.shape] for r in results) / len(results)
    return table


def contact_sheet(rows: Sequence[tuple[str, Tensor]], columns: int = 6, label_width: int = 190) -> Image.Image:
    """A picture with a row a clip: its caption, then `columns` of its frames in order."""
    height, width = rows[0][1].shape[1:3]
    sheet = Image.new("RGB", (label_width + columns * (width + 2), len(rows) * (height + 2)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (label, frames) in enumerate(rows):
        top = row * (height + 2)
        words, line, lines = label.split(), "", []
        for word in words:
            if pen.textlength(f"{line} {word}") > label_width - 10:
                lines, line = [*lines, line], ""
            line = f"{line} {word}".strip()
        pen.multiline_text((4, top + 4), "\n".join([*lines, line]), fill="black")
        for column, index in enumerate(torch.linspace(0, len(frames) - 1, columns).round().int().tolist()):
            picture = Image.fromarray((frames[index] * 255).round().byte().numpy())
            sheet.paste(picture, (label_width + column * (width + 2), top))
    return sheet
