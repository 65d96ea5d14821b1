"""Every example of docs/schedule-grammar.md is run, and every name it should list is there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from t2v_core.schedules import CURVES, DIALECTS, ScheduleError, parse_prompts, parse_values
from t2v_core.schedules.functions import CONSTANTS, FUNCTIONS, VARIABLES

PAGE = (Path(__file__).parents[2] / "docs/schedule-grammar.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(
    r"^```example (values|prompts) (\d+) frames(?: (\d+) fps)?(?: (\w+))?\n(.*?)^```$", PAGE, re.M | re.S
)


def split(body: str) -> tuple[str, list[str]]:
    lines = body.splitlines()
    text = "\n".join(line for line in lines if not line.startswith("=>"))
    return text, [line.removeprefix("=>").strip() for line in lines if line.startswith("=>")]


def shown_errors(parse, text: str, **options) -> list[str]:
    with pytest.raises(ScheduleError) as raised:
        parse(text, **options)
    return [f"error {problem.line}:{problem.column} {problem.message}" for problem in raised.value.problems]


def rows(lines: list[str], num_frames: int) -> list[tuple[str, str, float, bool]]:
    """`3..4: a | b 0.25 slerp` as (before, after, weight, slerp) for frames 3 and 4."""
    found: dict[int, tuple[str, str, float, bool]] = {}
    for line in lines:
        first, last, words = re.fullmatch(r"(\d+)(?:\.\.(\d+))?: ?(.*)", line).groups()
        blend = re.fullmatch(r"(.*) \| (.*) ([\d.]+)( slerp)?", words)
        row = (blend[1], blend[2], float(blend[3]), bool(blend[4])) if blend else (words, words, 0.0, False)
        found |= dict.fromkeys(range(int(first), int(last or first) + 1), row)
    assert sorted(found) == list(range(num_frames))
    return [found[frame] for frame in range(num_frames)]


def test_there_are_examples():
    assert len(EXAMPLES) == PAGE.count("```example") >= 15


@pytest.mark.parametrize(("kind", "num_frames", "fps", "dialect", "body"), EXAMPLES)
def test_example(kind, num_frames, fps, dialect, body):
    text, lines = split(body)
    parse = parse_values if kind == "values" else parse_prompts
    options, num_frames = {"dialect": dialect or "auto"}, int(num_frames)
    assert lines
    if lines[0].startswith("error"):
        assert shown_errors(parse, text, **options) == lines
        return
    result = parse(text, **options).evaluate(num_frames, float(fps or 8))
    if kind == "values" and lines[0].startswith('"'):
        assert result == re.findall(r'"(.*?)"', lines[0])
    elif kind == "values":
        np.testing.assert_allclose(result, [float(number) for number in lines[0].split()], atol=1e-9)
    else:
        negative = [line.removeprefix("not ") for line in lines if line.startswith("not ")]
        wanted = rows([line for line in lines if not line.startswith("not ")], num_frames)
        assert [result.positive[frame] for frame in range(num_frames)] == wanted
        if negative:
            assert [result.negative[frame] for frame in range(num_frames)] == rows(negative, num_frames)


@pytest.mark.parametrize("name", [*FUNCTIONS, *VARIABLES, *CONSTANTS, *CURVES, *DIALECTS, "bezier", "slerp"])
def test_every_name_is_on_the_page(name):
    if name in ("arccos", "arctan"):
        assert "arcsin ... arctan2" in PAGE
    else:
        assert re.search(rf"(?<![a-z]){name}(?![a-z0-9])", PAGE)
