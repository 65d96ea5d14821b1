"""The evaluation's report: Markdown for the model card, a line a clip as CSV, and contact sheets."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import T2VError
from ..clips.captions import plain_caption
from ..clips.scenes import Scene
from .changing import Blend, Change, Switch, blends, switches
from .evaluate import Result, Settings, evaluate
from .plot import plot_csv
from .prompts import load_prompts
from .sheets import Row, contact_sheet, sheet_png
from .tables import (
    by_set,
    change_table,
    confusion_table,
    sensitivity_table,
    set_table,
    side_table,
    steadiness_table,
    value_table,
)

__all__ = ["contact_sheet", "plot_csv", "report", "run", "write_report"]

ROWS = 50  # of a contact sheet
CHANGES = ("switches", "blends")
COLUMNS = (
    "set",
    "seed",
    "frames",
    "prompt",
    "asked",
    "seen",
    "all right",
    "wrong",
    "shape IoU",
    "colour drift",
    "jitter",
)


def run(file: Path, settings: Settings, out: Path, sets: Sequence[str] | None = None, limit: int | None = None,
        workers: int = 2, run_folder: Path | None = None) -> None:  # fmt: skip
    """Evaluate the model in `file`, write the report to `out` and print it.

    sets: of `load_prompts`, or "switches" or "blends"; None or none for all. limit: only the first prompts of each.
    run_folder: where the training's logs are, if they are anywhere.
    Raises T2VError for a set that there is not, CheckpointError where there is no model in `file`.
    """
    prompts = load_prompts()
    chosen = list(sets or (*prompts, *CHANGES))
    unknown = [name for name in chosen if name not in (*prompts, *CHANGES)]
    if unknown:
        raise T2VError(f"there is no set {unknown[0]!r}; there are {', '.join((*prompts, *CHANGES))}")
    wanted = [prompt for name in chosen for prompt in prompts.get(name, [])[:limit]]
    results = list(evaluate(file, wanted, settings, workers))
    switched = list(switches(file, settings, workers, limit)) if "switches" in chosen else []
    blended = list(blends(file, settings, workers, limit)) if "blends" in chosen else []
    print(write_report(results, out, run_folder, switched, blended, heading=str(settings)))


def report(results: Sequence[Result], switched: Sequence[Switch] = (), blended: Sequence[Blend] = (),
           run_folder: Path | None = None) -> str:  # fmt: skip
    """All tables that there is something for, as Markdown."""
    sets = by_set(results)
    words = run_folder / "words.csv" if run_folder else None
    parts: list[tuple[str, str]] = []
    if results:
        parts += [("How often it is right", set_table(results)), ("Two things, by side", side_table(results))]
    if "held out" in sets:
        parts.append(("Held out, by value", value_table(sets["held out"])))
    if "camera" in sets:
        parts.append(("Camera, by move", value_table(sets["camera"], ("camera",))))
    if results:
        parts += [(f"All sets, {name}: asked and seen", confusion_table(results, name))
                  for name in ("shape", "motion", "colour")]  # fmt: skip
        parts.append(("How steady it is", steadiness_table(results)))
    parts.append(("Prompts that change", change_table(switched, blended)))
    if words and words.is_file():
        parts.append(("Which words it reads", sensitivity_table(words)))
    return "\n\n".join(f"### {title}\n\n{content}" for title, content in parts if content) + "\n"


def write_report(results: Sequence[Result], folder: Path, run_folder: Path | None = None,
                 switched: Sequence[Switch] = (), blended: Sequence[Blend] = (), heading: str = "") -> str:  # fmt: skip
    """Write report.md, results.csv and contact sheets of each set under `folder`; returns the text of report.md.

    heading: a line above the tables, if any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = (f"{heading}\n\n" if heading else "") + report(results, switched, blended, run_folder)
    (folder / "report.md").write_text(text, encoding="utf-8")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(map(_csv_row, results))
    for name, members in by_set(results).items():
        _write_sheets(folder, name, members, _result_row)
    _write_sheets(folder, "switches", switched, _switch_row)
    _write_sheets(folder, "blends", blended, _blend_row)
    return text


def _write_sheets(folder: Path, name: str, members: Sequence, row: Callable[..., Row]) -> None:
    """Pages of one set; those of an earlier report go."""
    name = name.replace(" ", "-")
    for old in folder.glob(f"{name}-[0-9]*.png"):
        old.unlink()
    for first in range(0, len(members), ROWS):
        rows = [row(member) for member in members[first : first + ROWS]]
        (folder / f"{name}-{first // ROWS + 1}.png").write_bytes(sheet_png(rows))


def described(scene: Scene) -> str:
    """A scene, or what was seen of one, in the plain wording."""
    return plain_caption(scene) if scene.things else f"nothing on a {scene.background} background"


def _csv_row(result: Result) -> list[str]:
    prompt, steady = result.prompt, result.steady
    figures = (steady.shape_iou, steady.colour_drift, steady.jitter) if steady else (None, None, None)
    return [
        prompt.set, str(prompt.seed), str(prompt.frames), prompt.text, described(prompt.scene), described(result.seen),
        "yes" if result.all_right else "no", _wrong(result.right),
        *("" if figure is None else f"{figure:.4f}" for figure in figures),
    ]  # fmt: skip


def _wrong(right: dict[str, bool]) -> str:
    return ", ".join(name for name, value in right.items() if not value)


def _result_row(result: Result) -> Row:
    wrong = _wrong(result.right)
    return Row(
        result.prompt.text, result.strip, result.all_right, f"{wrong}: {described(result.seen)}" if wrong else ""
    )


def _change_label(change: Change) -> str:
    return f"{plain_caption(change.before)} … {plain_caption(change.after)}"


def _switch_row(switch: Switch) -> Row:
    return Row(_change_label(switch.change), switch.strip, switch.all_right, _wrong(switch.right))


def _blend_row(blend: Blend) -> Row:
    return Row(f"{_change_label(blend.change)}: {blend.correlation:.3f}", blend.strip)
