"""Wrong schedules: each `¦` stands before the character that a message must point at, in reading order."""

from __future__ import annotations

import pickle

import pytest

from t2v_core.errors import T2VError
from t2v_core.schedules import Problem, ScheduleError, parse_prompts, parse_values
from t2v_core.schedules.source import show_line

VALUES = [
    ("0:(0)¦9:(1)", ["a comma is missing"]),
    ("0:(0) ¦9:(1)", ["expected `,` before the next key"]),
    ("0:(0)\n¦9:(1)", ["a comma is missing"]),
    ("0:(0) ¦9:(1) ¦12:(2)", ["comma", "comma"]),
    ("0:(0),¦,9:(1)", ["one comma too many"]),
    ("¦,0:(0)", ["expected a value, found `,`"]),
    ("0:(0)¦; 9:(1)", ["entries are separated by commas"]),
    ("0:¦", ["expected a value, found the end of the text"]),
    ("0:¦, 9:(1)", ["expected a value, found `,`"]),
    ("{0:¦}", ["expected a value, found `}`"]),
    ("0:(¦)", ["expected a number, a name or `(`, found `)`"]),
    ("0:¦(1", ["this bracket is never closed"]),
    ("0:¦((1), 3:(2)", ["this bracket is not closed before the comma"]),
    ("0:¦(sin(t), 3:(2)", ["this bracket is not closed before the comma"]),
    ("0:(sin¦(t, 3:(2)", ["this bracket is never closed"]),
    ("0:(1)¦), 3:(2)", ["this bracket was never opened"]),
    ("0:(1+¦)", ["expected a number, a name or `(`, found `)`"]),
    ("0:(1+¦*2)", ["expected a number, a name or `(`, found `*`"]),
    ("0:(2 ¦t)", ["is a `*` or a comma missing?"]),
    ("0:(2¦(t))", ["is a `*` or a comma missing?"]),
    ("2¦t", ["is a `*` missing?"]),
    ("0:(2¦^3)", ["powers are written **"]),
    ("0:(t ¦= 3)", ["equality is written =="]),
    ("0:(t>1 ¦&& t<3)", ["write: and"]),
    ("0:(t>1 ¦|| t<3)", ["write: or"]),
    ("0:(¦!t)", ["write: not"]),
    ("0:(t>3 & t¦<5)", ["write (t>3) & (t<9)"]),
    ("0:(t>3 ? 1¦)", ["expected `:` and the other value"]),
    ("0:(t>3 ? 1¦, 2)", ["expected `:` and the other value"]),
    ("0:(1 if t>3¦)", ["expected `else`"]),
    ("0:(¦else)", ["expected a number"]),
    ("0:(¦sinn(t))", ["did you mean `sin`?"]),
    ("0:(¦random(t))", ["did you mean `rand`?"]),
    ("0:(¦frame/2)", ["did you mean `t`?"]),
    ("0:(¦PI)", ["did you mean `pi`?"]),
    ("0:(¦qqqq)", ["known are: e, fps, max_f, pi, s, sec, t, tau"]),
    ("0:(¦sin)", ["a function needs brackets: sin(x)"]),
    ("0:(¦t(3))", ["is a `*` missing: t*(...)?"]),
    ("0:(¦clip(t,1))", ["expected clip(x, low, high), found `clip` with 2 values given"]),
    ("0:(¦sin(1,2))", ["expected sin(x), found `sin` with 2 values given"]),
    ("0:(¦min(1))", ["expected min(a, b, ...), found `min` with 1 value given"]),
    ("0:(¦foo + ¦bar)", ["unknown name `foo`", "unknown name `bar`"]),
    ("0:(¦aa), 5:(¦bb(t)), 9:¦(1", ["unknown name", "unknown function", "never closed"]),
    ("0:(1), ¦0:(2)", ["this key stands here twice"]),
    ("0:(1), ¦00:(2)", ["this key stands here twice"]),
    ("max_f:(1), ¦max_f:(2)", ["this key stands here twice"]),
    ("¦150%:(1)", ["key out of range: a percentage lies between 0% and 100%"]),
    ("¦-10%:(1)", ["key out of range"]),
    ("¦2.5:(1)", ["seconds are written 2.5s"]),
    ("¦-0.5:(1)", ["key out of range: a fraction"]),
    ("¦t+1:(1)", ["a key has no `t`"]),
    ("0:8¦:(1)", ["a range stands in quotes"]),
    ('"¦:8": 1', ["a range begins with its first frame"]),
    ('"¦": 1', ["found nothing between the quotes"]),
    ('"0:8¦:2": 1', ["expected the end of the key"]),
    ("0:(¦“DDIM”)", ["typographic quotes"]),
    ('0:(¦"DDIM)', ["closing quote missing"]),
    ('0:("a" ¦"b")', ["expected `)` after the text"]),
    ('0:("a"), 5:(¦2)', ["expected a text in quotes, as the other values are"]),
    ('0:¦("a") @smoothstep, 5:("b")', ["a text holds until the next key"]),
    ("0:(1) @¦smoth, 5:(2)", ["did you mean @smoothstep?"]),
    ("0:(1) @¦, 5:(2)", ["expected a blend after `@`"]),
    ("0:(1) ¦@slerp, 5:(2)", ["@slerp is for texts"]),
    ("0:(1) @hold ¦@linear, 5:(2)", ["this is its second"]),
    ("0:(1) @bezier(¦2,0,1,1), 5:(2)", ["x1 of @bezier(x1, y1, x2, y2) is a time"]),
    ("0:(1) @bezier(0,0,1¦), 5:(2)", ["expected `,` of @bezier"]),
    ("0:(1) @bezier¦, 5:(2)", ["expected `(` of @bezier"]),
    ("8: = 1 ¦@linear", ["a key such as 8: holds"]),
    ("{0:(1)¦", ["`{` has no `}`"]),
    ("0:(1)¦}", ["this brace was never opened"]),
    ("{0:(1)} ¦5", ["expected the end after `}`"]),
    ("{}¦", ["expected a key such as 0, found none"]),
    ("¦", ["expected a value, found nothing"]),
    ("1¦, 2", ["values at several frames have keys"]),
    ("0:(1) ¦/* why */", ["a comment is written: #"]),
    ("(" * 200 + "¦(1", ["more than 200 brackets inside each other"]),
    ("1+" * 1001 + "¦1" + "+1" * 2000, ["more than 2000 numbers and operators"]),
    ("0:(¦1e999)", ["this number is too large"]),
    ("0:(¦[1])", ["use round brackets"]),
    ("0:(1 ¦$ 2)", ["expected an operator"]),
    ("# 日本\n0:(1),\n\t9:(¦oops)", ["unknown name `oops`"]),
]
PROMPTS = [
    ('{"0": "a" ¦"5": "b"}', ["a comma is missing"]),
    ('{"0": "a"\n¦"5": "b"}', ["a comma is missing"]),
    ('{"0": "a",¦, "5": "b"}', ["one comma too many"]),
    ('{"0" ¦"a"}', ["expected `:` after the key"]),
    ('{"0": "a "¦red" circle", "5": "b"}', ['A quote inside a text is written \\"']),
    ('{"0": "a, "¦5": "b"}', ["is a closing quote missing before?"]),
    ('{"0": "a\n"¦5": "b", "7": ¦“b”}', ["is a closing quote missing before?", "typographic"]),
    ('{"0": ¦"a}', ["closing quote missing"]),
    ('{"0": "a", "5": ¦b}', ["expected a text in quotes, found `b`"]),
    ('{"0": "a", "5": ¦5}', ["expected a text in quotes, found `5`"]),
    ('{"0": ¦“a”, "5": ¦“b”}', ["typographic quotes", "typographic quotes"]),
    ("{¦“0”: “a”}", ["typographic quotes"]),
    ('{"¦x": "a"}', ["unknown name `x`"]),
    ('{"0": "a", ¦"0": "b"}', ["this key stands here twice"]),
    ('{"0": "a"¦', ["`{` has no `}`"]),
    ('"0": "a"¦}', ["this brace was never opened"]),
    ('{"0": "a"} ¦x', ["expected the end after `}`"]),
    ('"0": "¦`t", "5": "b"', ["this backtick is never closed"]),
    ('"0": "`¦foo+1`"', ["unknown name `foo`"]),
    ('"0": "\\"é\\u00e9 `1+¦`"', ["expected a number, a name or `(`, found the end"]),
    ('"0": "`1 ¦t`"', ["is a `*` missing?"]),
    ("a `2¦^t` b", ["expected an operator or the closing backtick"]),
    ("a --neg b ¦--neg c", ["a second --neg"]),
    ('"0": "a" @¦curvy, "5": "b"', ["expected a blend after `@`"]),
    ('"0": "a" @hold ¦@slerp, "5": "b"', ["exclude each other"]),
    ('0: ¦a cat, 5: "b"', ["expected a text in quotes, found `a`"]),
    ('¦:8 = "a"', ["a range begins with its first frame"]),
    ('{"0": "¦\\ud83d"}', ["half of a surrogate pair"]),
    ('\t"0": "a",\n\t"¦150%": "b"', ["key out of range"]),
]


def expected_places(text: str) -> list[tuple[int, int]]:
    places, line, column = [], 1, 1
    for character in text:
        if character == "¦":
            places.append((line, column))
        elif character == "\n":
            line, column = line + 1, 1
        else:
            column += 1
    return places


def check_places(parse, text: str, messages: list[str]) -> None:
    written = text.replace("¦", "")
    with pytest.raises(ScheduleError) as raised:
        parse(written)
    problems = raised.value.problems
    found = [(problem.line, problem.column) for problem in problems]
    assert found == expected_places(text)[: len(messages)], str(raised.value)
    for problem, message in zip(problems, messages, strict=True):
        assert message in f"{problem.message} {problem.hint}"
        assert problem.text == written.split("\n")[problem.line - 1]


def test_there_are_enough_of_them():
    assert len(VALUES) + len(PROMPTS) >= 60


@pytest.mark.parametrize(("text", "messages"), VALUES, ids=lambda case: ascii(case)[:40])
def test_values_point_at_the_mistake(text, messages):
    check_places(parse_values, text, messages)


@pytest.mark.parametrize(("text", "messages"), PROMPTS, ids=lambda case: ascii(case)[:40])
def test_prompts_point_at_the_mistake(text, messages):
    check_places(parse_prompts, text, messages)


def test_the_whole_message():
    with pytest.raises(ScheduleError) as raised:
        parse_values("0:(1),\n\t30:(sinn(t))")
    assert str(raised.value) == (
        "line 2, column 6: unknown function `sinn`\n      30:(sinn(t))\n          ^\n  hint: did you mean `sin`?"
    )
    assert isinstance(raised.value, T2VError)
    assert pickle.loads(pickle.dumps(raised.value)).problems == raised.value.problems


@pytest.mark.parametrize(
    ("text", "column", "shown", "caret"),
    [
        ("abc", 2, "abc", 1),
        ("abc", 4, "abc", 3),
        ("\tabc", 2, "    abc", 4),
        ("日本x", 3, "日本x", 4),  # each takes two columns
        ("e\u0301x", 3, "e\u0301x", 1),  # the accent takes none
        ("a\x1bb", 3, "a\N{REPLACEMENT CHARACTER}b", 2),
        ("", 1, "", 0),
    ],
)
def test_the_caret_stands_below_the_character(text, column, shown, caret):
    assert show_line(text, column) == (shown, " " * caret + "^")


@pytest.mark.parametrize("column", [1, 40, 5000, 9999, 10_000])
def test_long_lines_are_cut_around_the_caret(column):
    text = "".join(chr(97 + i % 26) for i in range(9999))
    shown, caret = show_line(text, column)
    assert len(shown) <= 98 and len(caret) <= 98
    if column < 10_000:
        assert shown[len(caret) - 1] == text[column - 1]
    assert shown.startswith("…") == (column > 65) and shown.endswith("…") == (column < 9968)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:(1.0), 8:(1/0)", [(12, 8, "inf")]),  # what leads there is no mistake
        ("0:(1.0), 8:(1/(t-8)), 12:(0)", [(12, 8, "inf")]),
        ("0:(1/0), 8:(2)", [(3, 0, "inf")]),
        ("0:(1/0) @linear, 8:(sqrt(-1))", [(3, 0, "inf"), (20, 8, "nan")]),
        ("0:(0), 4:(1/0) @linear, 8:(1)", [(10, 4, "inf")]),
    ],
)
def test_the_key_whose_value_is_not_finite_is_named(text, expected):
    with pytest.raises(ScheduleError) as raised:
        parse_values(text).evaluate(16)
    found = [(problem.column, problem.message) for problem in raised.value.problems]
    assert found == [(at, f"this is not a finite number at frame {frame}: {value}") for at, frame, value in expected]


def test_at_evaluation_the_frame_is_named():
    schedule = parse_values("0:(1),\n3:(1/(t-5)), 8:(sqrt(7-t))")
    with pytest.raises(ScheduleError) as raised:
        schedule.evaluate(10)
    places = [(problem.line, problem.column, problem.message) for problem in raised.value.problems]
    assert places[0] == (2, 3, "this is not a finite number at frame 5: inf")
    assert places[1] == (2, 16, "this is not a finite number at frame 8: nan")
    assert schedule.evaluate(10, frames=[4])[0] == -1.0  # the others are not asked for
    with pytest.raises(ScheduleError, match="line 1, column 4: this is not a finite number at frame 2: inf"):
        parse_prompts("a `1/(t-2)`").evaluate(4)
    with pytest.raises(ScheduleError, match="line 1, column 1: this key is not a finite number"):
        parse_values("max_f/0:(1)").evaluate(4)


def test_no_key_in_the_clip():
    with pytest.raises(ScheduleError, match="line 1, column 1: no key lies in the clip, which has frames 0 to 3"):
        parse_values("4:(1), 9:(2)").evaluate(4)
    with pytest.raises(ScheduleError, match="no key lies in the clip"):
        parse_prompts('{"9": "a"}').evaluate(4)


def test_mistakes_in_the_texts_around_a_prompt_say_where():
    with pytest.raises(ScheduleError, match="^app_text, line 2, column 4: unknown name `q`"):
        parse_prompts("a", app_text="x\n--`q`")


@pytest.mark.parametrize("parse", [parse_values, parse_prompts])
def test_size_is_limited_in_bytes(parse):
    for text, limit in [("1" * 101, 100), ("é" * 51, 100), ("1" * (256 * 1024 + 1), None)]:
        with pytest.raises(ScheduleError, match="longer than"):
            parse(text, **({"limit": limit} if limit else {}))
    parse("1" * 100, limit=100)
    parse_prompts("é" * 50, limit=100)


@pytest.mark.parametrize("parse", [parse_values, parse_prompts])
def test_twenty_mistakes_are_enough(parse):
    text = ",".join(f'{frame}: "`bad`" 1' for frame in range(1000))
    with pytest.raises(ScheduleError) as raised:
        parse(text)
    assert len(raised.value.problems) == 20


def test_warnings_are_problems_too():
    [warning] = parse_values("0:(0), 12:(1)").check(10)
    assert isinstance(warning, Problem) and warning.warning and (warning.line, warning.column) == (1, 8)
    assert "warning: this key is frame 12, past the last frame, 9: it is ignored" in str(warning)


@pytest.mark.parametrize(
    "arguments",
    [{"num_frames": 0}, {"num_frames": 10**9}, {"num_frames": 4, "fps": 0}, {"num_frames": 4, "fps": float("nan")}],
)
def test_clips_that_cannot_be(arguments):
    for schedule in (parse_values("t"), parse_prompts("a")):
        with pytest.raises(T2VError):
            schedule.evaluate(**arguments)


@pytest.mark.parametrize("frames", [[4], [-1], [0.5], [[0, 1]], ["a"]])
def test_frames_outside_the_clip(frames):
    with pytest.raises(T2VError):
        parse_values("t").evaluate(4, frames=frames)


def test_variables():
    schedule = parse_values("0:(strength*2+t)", variables=["strength"])
    assert schedule.evaluate(3, variables={"strength": 4}).tolist() == [8, 9, 10]
    assert schedule.evaluate(3, variables={"strength": [1, 2, 3]}).tolist() == [2, 5, 8]
    assert schedule.evaluate(3, variables={"strength": [1, 2, 3]}, frames=[2]).tolist() == [8]
    with pytest.raises(T2VError, match="strength"):
        schedule.evaluate(3)
    with pytest.raises(T2VError, match="one a frame"):
        schedule.evaluate(3, variables={"strength": [1, 2]})
    track = parse_prompts("(a:`pw_a`)", variables=["pw_a"]).evaluate(2, variables={"pw_a": [0.25, 0.5]})
    assert track.positive.texts == ("(a:0.25)", "(a:0.5)")


@pytest.mark.parametrize("option", [{"dialect": "a1111"}, {"blend": "curvy"}])
def test_options_that_are_not_known(option):
    with pytest.raises(ValueError, match="known are"):
        parse_prompts("a", **option)
