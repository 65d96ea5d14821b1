"""Texts over frames as conditioning: each distinct text encoded once, then blended row by row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import T2VError
from .prompts import TextTrack

Encode = Callable[[str], tuple[Tensor, Tensor | None]]
"""A text to its features `[1, tokens, dim]` and its pooled vector `[1, dim]`, or None where there is none."""
LARGEST = 8 * 2**30  # bytes of conditioning; a longer clip is made in parts, each with a schedule of its own
_BLOCK = 64  # frames that are blended at a time: in double precision they take more room than the rows they become
PARALLEL = 0.9995  # cosine from which on the way on the sphere is as good as a straight line, and better conditioned


def scheduled_rows(encode: Encode, track: TextTrack) -> tuple[Tensor, Tensor | None]:
    """Conditioning for each frame of a track, `[f, tokens, dim]`, and pooled `[f, dim]` or None.

    Every text of `track.texts` is encoded, once; where they come out at different lengths, the empty prompt is encoded
    too, and its features fill up the shorter ones, as a prompt of several chunks ends in empty ones. The row of a frame
    is a pure function of the track's texts and of that frame's place in it: rows of some frames are the same rows in
    the whole.

    Raises T2VError where the encoder gives something else than one clip's features, or a pooled vector only sometimes,
    and where the rows would take more than LARGEST bytes.
    """
    encoded = [encode(text) for text in track.texts]
    _check(encoded)
    features = _equally_long([cond[0] for cond, _ in encoded], encode)
    size = len(track.weight) * features[0].numel() * features.element_size()
    if size > LARGEST:
        frames = len(track.weight) * LARGEST // size
        raise T2VError(
            f"the prompts of {len(track.weight)} frames would take {size / 2**30:.0f} GiB as conditioning; with this "
            f"text encoder a schedule may have up to {frames} frames, so make a longer clip in parts"
        )
    rows = _blended(features, track)
    if encoded[0][1] is None:
        return rows, None
    return rows, _blended(torch.cat([each for _, each in encoded]), track)


def _blended(of_texts: Tensor, track: TextTrack) -> Tensor:
    """What is `[texts, ...]` as a row for each frame.

    Where all are one text's, as a negative's mostly are, they are one row in memory: with a published text encoder a
    thousand of them would be 315 MB.
    """
    if len(of_texts) == 1:
        return of_texts.expand(len(track.weight), *of_texts.shape[1:])
    rows = of_texts.new_empty(len(track.weight), *of_texts.shape[1:])
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        before, after, weight, slerp = (
            torch.from_numpy(each[part]) for each in (track.before, track.after, track.weight, track.slerp)
        )
        rows[part] = blend(of_texts[before], of_texts[after], weight, slerp)
    return rows


def blend(first: Tensor, last: Tensor, weight: Tensor, slerp: Tensor) -> Tensor:
    """Rows `[f, ..., dim]` between `first` and `last`: weight `[f]` is the share of `last`, slerp `[f]` bool the way.

    A straight line is first + weight (last - first). On the sphere the direction of each vector of `dim` numbers turns
    evenly (Shoemake 1985) while its length goes on a straight line; vectors that point the same way, or opposite ways,
    where no turn is the shorter, or that are zero, take the straight line. Weights 0 and 1 give the ends exactly.
    """
    dtype, shape = first.dtype, (-1, *[1] * (first.ndim - 1))
    share, turned = weight.to(first.device).view(shape), slerp.to(first.device).view(shape)
    a, b = first.double(), last.double()
    mixed = a + share * (b - a)
    if bool(turned.any()):
        mixed = torch.where(turned, _turned(a, b, share, mixed), mixed)
    mixed = torch.where(share == 1, b, mixed)
    return mixed.to(dtype)


def _turned(a: Tensor, b: Tensor, share: Tensor, otherwise: Tensor) -> Tensor:
    lengths = [x.norm(dim=-1, keepdim=True) for x in (a, b)]
    units = [x / length.clamp(min=torch.finfo(x.dtype).tiny) for x, length in zip((a, b), lengths, strict=True)]
    cosine = (units[0] * units[1]).sum(-1, keepdim=True)
    usable = (cosine.abs() < PARALLEL) & (lengths[0] > 0) & (lengths[1] > 0)
    angle = torch.where(usable, cosine, torch.zeros_like(cosine)).arccos()
    direction = (((1 - share) * angle).sin() * units[0] + (share * angle).sin() * units[1]) / angle.sin()
    length = lengths[0] + share * (lengths[1] - lengths[0])
    return torch.where(usable, direction * length, otherwise)


def _check(encoded: list[tuple[Tensor, Tensor | None]]) -> None:
    for cond, pooled in encoded:
        if cond.ndim != 3 or cond.shape[0] != 1:
            raise T2VError(f"a text became conditioning of shape {list(cond.shape)}; one text is [1, tokens, dim]")
        if (pooled is None) != (encoded[0][1] is None):
            raise T2VError("the text encoder gives some texts a pooled output and others none")


def _equally_long(features: list[Tensor], encode: Encode) -> Tensor:
    """`[tokens, dim]` each, stacked; the shorter ones go on with the empty prompt's features."""
    longest = max(len(each) for each in features)
    if all(len(each) == longest for each in features):
        return torch.stack(features)
    empty = encode("")[0][0]
    filled = []
    for each in features:
        repeats = -(-(longest - len(each)) // len(empty))
        filled.append(torch.cat([each, *[empty] * repeats])[:longest])
    return torch.stack(filled)
