"""Contact sheets: a row a clip, its prompt beside frames of it, and whether it is right."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

SHOWN, THUMBNAIL = 8, 64  # frames that are shown of a clip, and their side in pixels
SMALLER = (64, 56, 48, 40, 32, 24)  # sides that are tried where a file would be too large
LABEL, LINE, GAP = 300, 12, 2  # width of the label, height of a line, pixels between pictures
BLACK, GREEN, RED = (0, 0, 0), (0, 150, 60), (205, 30, 30)


@dataclass(frozen=True)
class Row:
    """A clip on a sheet. strip: what `film_strip` made. right: None where nothing was judged. note: below the label."""

    label: str
    strip: bytes
    right: bool | None = None
    note: str = ""


def film_strip(frames: Tensor) -> bytes:
    """`SHOWN` frames of `[f, h, w, 3]` in 0..1 side by side as a PNG, evenly from the first to the last."""
    strip = Image.new("RGB", (SHOWN * THUMBNAIL, THUMBNAIL))
    for column, index in enumerate(torch.linspace(0, len(frames) - 1, SHOWN).round().int().tolist()):
        picture = Image.fromarray((frames[index] * 255).round().byte().numpy())
        strip.paste(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), (column * THUMBNAIL, 0))
    return _png(strip)


def contact_sheet(clips: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """A picture of clips: label and frames `[f, h, w, 3]` in 0..1 of each."""
    return sheet([Row(label, film_strip(frames)) for label, frames in clips])


def sheet(rows: Sequence[Row], thumbnail: int = THUMBNAIL) -> Image.Image:
    """A picture with a row a clip: a green or red mark, the label, the note in red, then the frames in order."""
    heights = [max(thumbnail, LINE * len(_lines(row)) + 4) + GAP for row in rows]
    picture = Image.new("RGB", (LABEL + SHOWN * (thumbnail + GAP), max(1, sum(heights))), "white")
    pen, top = ImageDraw.Draw(picture), 0
    for row, height in zip(rows, heights, strict=True):
        if row.right is not None:
            pen.ellipse((4, top + 5, 11, top + 12), fill=GREEN if row.right else RED)
        for place, (line, colour) in enumerate(_lines(row)):
            pen.text((18, top + 2 + LINE * place), line, fill=colour)
        strip = Image.open(io.BytesIO(row.strip))
        for column in range(SHOWN):
            frame = strip.crop((column * THUMBNAIL, 0, (column + 1) * THUMBNAIL, THUMBNAIL))
            if thumbnail != THUMBNAIL:
                frame = frame.resize((thumbnail, thumbnail), Image.Resampling.BOX)
            picture.paste(frame, (LABEL + column * (thumbnail + GAP), top))
        top += height
    return picture


def sheet_png(rows: Sequence[Row], limit: int = 1_000_000) -> bytes:
    """`sheet` as a PNG of 256 colours, its frames made smaller until the file is below `limit` bytes, or smallest."""
    for thumbnail in SMALLER:
        # An octree keeps rare hues, which a median cut gives to their neighbours.
        data = _png(sheet(rows, thumbnail).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
        if len(data) < limit:
            break
    return data


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _lines(row: Row) -> list[tuple[str, tuple[int, int, int]]]:
    return [*((line, BLACK) for line in _wrapped(row.label)), *((line, RED) for line in _wrapped(row.note))]


def _wrapped(text: str) -> list[str]:
    """The text in lines that fit beside the frames; letters that the font may lack become question marks."""
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    lines, line = [], ""
    for word in text.encode("latin-1", "replace").decode("latin-1").split():
        if line and pen.textlength(f"{line} {word}") > LABEL - 24:
            lines, line = [*lines, line], ""
        line = f"{line} {word}".strip()
    return [*lines, line] if line else lines
