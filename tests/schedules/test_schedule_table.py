"""The table of a schedule: whole rows written out by hand, which texts are taken for what, rounding."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest

from t2v_core.schedules import NODE_LIMIT, PromptSchedule, ScheduleError, ValueSchedule, parse_prompts, parse_values
from t2v_core.schedules.table import key_frames, knots_of, read_schedule, summary, table, whole_numbers


def rows(text: str, num_frames: int, fps: float = 8.0, kind: str = "auto", **options) -> list[str]:
    return list(table(read_schedule(text, kind), num_frames, fps, **options))


def test_a_table_of_prompts():
    assert rows('0: "a red\ncircle --neg blurry", 4: "x" @slerp, 6: "a \\"blue\\" circle"', 7) == [
        'P1 "a red\\ncircle"',
        'P2 "x"',
        'P3 "a \\"blue\\" circle"',
        'N1 "blurry"',
        'N2 ""',
        "",
        "frame  seconds  key  positive             negative",
        "    0    0.000   *   P1                   N1",
        "    1    0.125       P1 0.750 + P2 0.250  N1 0.750 + N2 0.250",
        "    2    0.250       P1 0.500 + P2 0.500  N1 0.500 + N2 0.500",
        "    3    0.375       P1 0.250 + P2 0.750  N1 0.250 + N2 0.750",
        "    4    0.500   *   P2                   N2",
        "    5    0.625       P2 0.500 ~ P3 0.500  N2",
        "    6    0.750   *   P3                   N2",
    ]


def test_without_negatives_there_is_no_column_for_them():
    assert rows("a red circle", 2) == [
        'P1 "a red circle"',
        "",
        "frame  seconds  key  positive",
        "    0    0.000   *   P1",
        "    1    0.125       P1",
    ]


def test_a_table_of_values():
    assert rows("0:(1), 2:(2.5+t) @hold, 3:(-0.5)", 4, 24.0) == [
        "frame  seconds  key               value         int",
        "    0    0.000   *                    1           1",
        "    1    0.042                     2.75           3",
        "    2    0.083   *                  4.5           5",
        "    3    0.125   *                 -0.5          -1",
    ]


def test_a_table_of_texts():
    assert rows('0:("Euler a"), 1:("DDIM")', 2)[1:] == ['    0    0.000   *   "Euler a"', '    1    0.125   *   "DDIM"']


def test_every_kth_frame_is_that_row_of_the_whole():
    whole = rows("0:(sin(t)), 500:(3)", 1000)
    assert rows("0:(sin(t)), 500:(3)", 1000, every=7) == [whole[0], *whole[1::7]]


def test_what_is_wrong_is_said_before_the_first_line():
    with pytest.raises(ScheduleError, match="frame 2"):
        table(parse_values("1/(t-2)"), 4, 8.0)
    with pytest.raises(ScheduleError, match="no key lies in the clip"):
        table(parse_values("90:(1)"), 4, 8.0)


def test_a_range_is_one_key():
    schedule = parse_values('"1:3": 1, 6: 7, max_f: 0')
    assert key_frames(knots_of(schedule, 8, 8.0), 8) == [(1, 0), (6, 1), (7, 2)]
    assert [row[17] for row in rows('"1:3": 1, 6: 7, max_f: 0', 8)[1:]] == list(" *    **")


def test_a_key_past_the_end_is_blended_towards_and_not_marked():
    schedule = parse_prompts('"0": "a", "12": "b"')
    assert key_frames(knots_of(schedule, 8, 8.0), 8) == [(0, 0)]
    assert rows('"0": "a", "12": "b"', 8)[-1].endswith("P1 0.417 + P2 0.583")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"0": "a red circle"}', "prompts"),
        ("0: 'a red circle'", "prompts"),
        ('# comment\n{ # another\n "0": "a"}', "prompts"),
        ('0:2 = "day" @slerp, 3: = "dusk"', "prompts"),
        ('":8" = "a", "9" = "b"', None),
        ("a red circle", "prompts"),
        ("", "prompts"),
        ('\ufeff0: "a"', "prompts"),
        ("16 circles", "prompts"),
        ("0:(1.0), 30:(2.0)", "number"),
        ("0:1", "number"),
        ("{0: 1}", "number"),
        ("0:2 = 5, 3: = 6", "number"),
        ('{"0": "0.5", "3": "1"}', "number"),
        ("0.5*t", "number"),
        ("max_f/2: 1", "number"),
        ('0:("Euler a"), 3:("DDIM")', "text"),
    ],
)
def test_which_texts_are_taken_for_what(text, kind):
    if kind is None:
        with pytest.raises(ScheduleError):
            read_schedule(text)
        return
    schedule = read_schedule(text)
    if kind == "prompts":
        assert isinstance(schedule, PromptSchedule) and schedule == parse_prompts(text)
    else:
        assert isinstance(schedule, ValueSchedule) and schedule == parse_values(text) and schedule.kind == kind


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0:(1.0) 5:(2)", "line 1, column 9: expected `,`"),
        ('{"0": "a" "4": "b"}', "line 1, column 11: expected `,`"),
        ("“0”: “a”", "typographic quotes"),
        ("0:(sinn(t))", "unknown function `sinn`"),
        ("0: (red)", "unknown name `red`"),
    ],
)
def test_a_mistake_is_that_of_the_kind_it_looks_like(text, says):
    with pytest.raises(ScheduleError, match=re.escape(says)):
        read_schedule(text)


def test_the_kind_that_is_asked_for_counts():
    assert isinstance(read_schedule("0.5", "prompts"), PromptSchedule)
    assert read_schedule('0:"Euler a"', "values").kind == "text"
    with pytest.raises(ScheduleError):
        read_schedule("a red circle", "values")
    with pytest.raises(ValueError, match="known are auto, prompts, values"):
        read_schedule("1", "value")


def test_too_long_a_text_is_refused_before_it_is_looked_at():
    for kind in ("auto", "prompts", "values"):
        with pytest.raises(ScheduleError, match="262,144 bytes"):
            read_schedule("0:" * NODE_LIMIT, kind)


def test_the_summary_says_dialect_blend_and_warnings():
    lines = summary(parse_prompts('"0": "a", "90": "b", "99": "c"', dialect="fizz"), 16, 8.0).split("\n")
    assert lines[:3] == [
        "prompts: 3 keys, 16 frames at 8 fps, 2 s",
        "dialect: fizz (as asked for)",
        "blend: linear, where a key names none",
    ]
    assert "line 1, column 11: warning: this key is frame 90" in lines[3] and "frame 99" in "".join(lines[4:])
    assert summary(parse_values("1"), 1, 8.0).startswith(
        "values: 1 key, 1 frames at 8 fps, 0.125 s\ndialect: deforum ("
    )
    assert "blend: slerp," in summary(parse_prompts("a", blend="slerp"), 1, 8.0)


def test_halves_go_away_from_zero():
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999999999999994, 2.4, -2.6, 2.0**53 - 1, 1e300, 0.0])
    expected = [int(Decimal(value).quantize(0, ROUND_HALF_UP)) for value in values.tolist()[:-2]] + [int(1e300), 0]
    assert whole_numbers(values) == expected
