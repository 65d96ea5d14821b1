"""The evaluation's figures as Markdown tables."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median

from ..clips.scenes import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, SIZES, SPEEDS, Scene
from ..clips.shapes import SHAPES
from .changing import Blend, Switch
from .evaluate import Result
from .measures import Steadiness, wilson

VALUES = {"colour": tuple(COLOURS), "shape": SHAPES, "motion": MOTIONS, "size": SIZES, "speed": SPEEDS,
          "background": tuple(BACKGROUNDS), "camera": CAMERAS}  # fmt: skip
ATTRIBUTES = ("count", *VALUES)
SIDES = tuple(f"{side} {name}" for side in ("left", "right") for name in ("colour", "shape", "motion"))
OTHER_COUNT = "other count"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(right: Sequence[bool]) -> str:
    """The share that is true; a dash of none."""
    return f"{100 * sum(right) / len(right):.1f}%" if right else "–"


def by_set(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each set, in the order in which the sets come."""
    sets: dict[str, list[Result]] = {}
    for result in results:
        sets.setdefault(result.prompt.set, []).append(result)
    return sets


def plain_name(name: str) -> str:
    """The attribute without the side that it is on."""
    return name.removeprefix("left ").removeprefix("right ")


def asked(scene: Scene, name: str) -> str:
    """The value of an attribute of `Reading.matches`, other than the count."""
    if plain_name(name) in ("background", "camera"):
        return getattr(scene, name)
    return getattr(scene.things[-1 if name.startswith("right ") else 0], plain_name(name))


def set_table(results: Sequence[Result]) -> str:
    """Of each set how many prompts there are, how many are all right, with the 95% interval, and each attribute.

    Of two things both count.
    """
    rows = []
    for name, members in by_set(results).items():
        right = sum(result.all_right for result in members)
        low, high = wilson(right, len(members))
        judged = [item for result in members for item in result.right.items()]
        each = [percent([value for key, value in judged if plain_name(key) == attribute]) for attribute in ATTRIBUTES]
        share = percent([result.all_right for result in members])
        rows.append([name, str(len(members)), share, f"{100 * low:.1f}–{100 * high:.1f}%", *each])
    return table(["set", "prompts", "all right", "95% interval", *ATTRIBUTES], rows)


def side_table(results: Sequence[Result]) -> str:
    """The attributes of the left thing and of the right one, in prompts for two; empty where there are none."""
    rows = []
    for name, members in by_set(result for result in results if len(result.prompt.scene.things) == 2).items():
        each = [percent([result.right[side] for result in members if side in result.right]) for side in SIDES]
        rows.append([name, str(len(members)), *each])
    return table(["set", "prompts for two", *SIDES], rows) if rows else ""


def value_table(results: Sequence[Result], attributes: Sequence[str] = tuple(VALUES)) -> str:
    """Each value of these attributes: in how many prompts it is said, how often it is right, and all with it."""
    rows = []
    for attribute in attributes:
        for value in VALUES[attribute]:
            right = [(result.right[name], result.all_right) for result, name in _said(results, attribute)
                     if asked(result.prompt.scene, name) == value]  # fmt: skip
            if right:
                own, whole = zip(*right, strict=True)
                rows.append([attribute, value, str(len(right)), percent(own), percent(whole)])
    return table(["attribute", "value", "said", "right", "all right"], rows)


def _said(results: Iterable[Result], attribute: str) -> Iterator[tuple[Result, str]]:
    """Each time that the attribute is judged: the result, and the name with its side."""
    for result in results:
        for name in result.right:
            if plain_name(name) == attribute:
                yield result, name


def confusion_table(results: Sequence[Result], attribute: str) -> str:
    """What was asked for, a row a value, against what was seen; where another number of things was, they are counted
    in a column of their own."""
    counts: Counter[tuple[str, str]] = Counter()
    for result, name in _said(results, attribute):
        same = len(result.seen.things) == len(result.prompt.scene.things)
        seen = asked(result.seen, name) if same or attribute in ("background", "camera") else OTHER_COUNT
        counts[asked(result.prompt.scene, name), seen] += 1
    columns = [*VALUES[attribute], *([OTHER_COUNT] if any(seen == OTHER_COUNT for _, seen in counts) else [])]
    rows = [[value, *(str(counts[value, seen] or "·") for seen in columns)] for value in VALUES[attribute]]
    return table([f"{attribute} asked \\ seen", *columns], rows)


def sensitivity_table(path: Path) -> str:
    """The last row of a log of `probes.sensitivity`: the error with a false caption over that with the true one."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return ""
    figures = [(name, f"{float(value):.3f}") for name, value in rows[-1].items() if name not in ("step", "seconds")]
    return table([f"word (step {rows[-1]['step']})", "error, false over true caption"], figures)


def steadiness_table(results: Sequence[Result]) -> str:
    """Of each set the means of `Steadiness` over the clips with as many things as asked for, each beside the mean of
    the same scenes as training draws them."""
    rows = []
    for name, members in by_set(results).items():
        pairs = [(result.steady, result.drawn) for result in members if result.steady and result.drawn]
        if pairs:
            cells = [_figures(side) for side in zip(*pairs, strict=True)]
            rows.append([name, str(len(pairs)), *(f"{own} ({drawn})" for own, drawn in zip(*cells, strict=True))])
    return table(
        ["set", "clips", "shape IoU (drawn)", "colour drift, % (drawn)", "jitter, % of the side (drawn)"], rows
    )


def _figures(clips: Sequence[Steadiness]) -> list[str]:
    overlaps = [clip.shape_iou for clip in clips if clip.shape_iou is not None]
    return [
        f"{mean(overlaps):.3f}" if overlaps else "–",
        f"{100 * mean(clip.colour_drift for clip in clips):.2f}",
        f"{mean(clip.jitter for clip in clips):.3f}",
    ]


def change_table(switches: Sequence[Switch], blends: Sequence[Blend]) -> str:
    """Prompts that change: at once, how often it is seen within a frame; evenly, the median rank correlation."""
    kinds: dict[str, list[Switch]] = {}
    for switch in switches:
        changed = switch.change.changed
        kinds.setdefault(changed[0] if len(changed) == 1 else "two at once", []).append(switch)
    rows = [[f"switch of {name}", str(len(members)), percent([switch.all_right for switch in members])]
            for name, members in kinds.items()]  # fmt: skip
    if switches:
        rows.append(["all switches", str(len(switches)), percent([switch.all_right for switch in switches])])
    for name in ("colour", "background"):
        found = [blend.correlation for blend in blends if blend.change.changed == (name,)]
        rows += [[f"blend of {name}", str(len(found)), f"{median(found):.3f}"]] if found else []
    if blends:
        found = [blend.correlation for blend in blends]
        rows.append(["all blends", str(len(found)), f"{median(found):.3f} (least {min(found):.3f})"])
    return table(["change", "clips", "seen within a frame / median rank correlation"], rows) if rows else ""
