"""Schedules against pandas, Python's own parser and json, and properties that hold for every schedule."""

from __future__ import annotations

import ast
import gc
import json
import math
import operator
import random
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import mutated

from t2v_core.schedules import ScheduleError, parse_prompts, parse_values

PATIENT = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
NUMBERS = st.floats(-1e6, 1e6).map(lambda x: round(x, 4))
EXPRESSIONS = {
    "t": lambda t: t,
    "1.0+0.2*sin(2*3.14*t/30)": lambda t: 1.0 + 0.2 * math.sin(2 * 3.14 * t / 30),
    "(t%5)*-2": lambda t: (t % 5) * -2,
    "where(t>7,1,0)": lambda t: float(t > 7),
    "0.5+0.5": lambda t: 1.0,
    "sqrt(t)/(1+t)": lambda t: math.sqrt(t) / (1 + t),
}
ENTRIES = st.dictionaries(st.integers(0, 40), NUMBERS | st.sampled_from(sorted(EXPRESSIONS)), min_size=1, max_size=12)


def as_text(entries: dict) -> str:
    return ", ".join(f"{frame}:({value})" for frame, value in entries.items())


@given(ENTRIES, st.integers(1, 40))
@PATIENT
def test_values_equal_the_series_that_deforum_gives_to_pandas(entries, num_frames):
    pandas = pytest.importorskip("pandas", exc_type=ImportError)
    entries = {0: 0.25} | entries  # Deforum fails without a key at 0
    series = pandas.Series([float("nan")] * num_frames)
    active = None
    for frame in range(num_frames):  # a number where its key is; an expression from its key to the next
        active = entries.get(frame, active if isinstance(active, str) else None)
        if active is not None:
            series[frame] = EXPRESSIONS[active](frame) if isinstance(active, str) else active
    expected = series.interpolate(method="linear", limit_direction="both")
    found = parse_values(as_text(entries)).evaluate(num_frames)
    np.testing.assert_allclose(found, expected.to_numpy(), rtol=1e-9, atol=1e-9)


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="`")).filter(
    lambda text: "--neg" not in text
)


@given(st.dictionaries(st.integers(0, 20), WORDS, min_size=1), st.booleans())
@PATIENT
def test_what_json_writes_is_read_back_exactly(texts, ascii_only):
    written = json.dumps({str(frame): text for frame, text in texts.items()}, ensure_ascii=ascii_only)
    track = parse_prompts(written).evaluate(21).positive
    for frame, text in texts.items():
        assert track[frame] == (text, text, 0.0, False)
    names = parse_values(written, kind="text").evaluate(21)
    assert all(names[frame] == text for frame, text in texts.items())


@given(WORDS)
@PATIENT
def test_a_plain_prompt_is_kept_exactly(text):
    text = "a " + text
    assert parse_prompts(text).evaluate(1).positive.texts == (text.replace("\\`", "`"),)


_BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Mod: operator.mod}
_BINARY |= {ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow}
_COMPARE = {ast.Lt: operator.lt, ast.Gt: operator.gt, ast.LtE: operator.le, ast.GtE: operator.ge}
_COMPARE |= {ast.Eq: operator.eq, ast.NotEq: operator.ne}


def by_python(node: ast.expr, t: int):
    """The value of what Python's parser made of a text; a ValueError where it has no real value."""
    match node:
        case ast.Constant(value):
            return value
        case ast.Name("t"):
            return t
        case ast.UnaryOp(op, operand):
            x = by_python(operand, t)
            return -x if isinstance(op, ast.USub) else x if isinstance(op, ast.UAdd) else float(not x)
        case ast.BinOp(left, op, right):
            value = _BINARY[type(op)](by_python(left, t), by_python(right, t))
            if isinstance(value, complex) or not abs(value) < 2.0**50:
                raise ValueError
            return value
        case ast.Compare(left, ops, comparators):
            values = [by_python(x, t) for x in (left, *comparators)]
            return float(all(_COMPARE[type(op)](a, b) for op, a, b in zip(ops, values, values[1:], strict=False)))
        case ast.BoolOp(op, values):
            return float((all if isinstance(op, ast.And) else any)(by_python(x, t) for x in values))
        case ast.IfExp(test, body, orelse):
            return by_python(body if by_python(test, t) else orelse, t)


OPERATORS = st.sampled_from([*"+-*%<>", "//", "**", "<=", ">=", "==", "!=", " and ", " or "])
OPERANDS = st.sampled_from(["t", "2", "3", "1", "-t", "-2", "+1", "(t-4)", "(t<3)", "(1 if t else 2)"])
CHAINS = st.lists(st.tuples(OPERATORS, OPERANDS), min_size=1, max_size=6)


@given(st.sampled_from(["", "not ", "5 if t>3 else "]), OPERANDS, CHAINS)
@settings(PATIENT, max_examples=100)
def test_operators_bind_as_in_python(prefix, first, chain):
    text = prefix + first + "".join(sign + operand for sign, operand in chain)
    tree = ast.parse(text, mode="eval").body
    expected = {}
    for t in range(8):
        try:
            expected[t] = by_python(tree, t)
        except (ValueError, ArithmeticError):
            continue  # no value in Python; what we make of it is not this test's
    if expected:
        found = parse_values(text).evaluate(8, frames=[*expected])
        np.testing.assert_allclose(found, [*expected.values()], rtol=1e-9)


RICH = st.sampled_from(
    [
        "0:(sin(t)*noise(t/3, s)), 5:(1) @ease_in, 17:(rand(t)), 20:(exp(-sec)) @smoothstep, 33:(2)",
        "where(t%7<3, log(t+1), beat(97))**1.5",
        "0:8 = 1, 12: = 3, -1 = (tan(t))",
        "0:(1) @bezier(0.1,-1,0.2,2), 39:(atan2(t, 3))",
    ]
)


@given(RICH, st.lists(st.integers(0, 39)))
@PATIENT
def test_a_choice_of_frames_has_the_values_of_the_whole(text, frames):
    schedule = parse_values(text)
    whole = schedule.evaluate(40, 12.0, seed=3)
    assert schedule.evaluate(40, 12.0, seed=3, frames=frames).tolist() == whole[frames].tolist()


@given(st.lists(st.integers(0, 29)), st.sampled_from(["deforum", "fizz", "ade"]))
@PATIENT
def test_a_choice_of_frames_has_the_texts_of_the_whole(frames, dialect):
    text = '"0": "a `t` --neg x", "7": "b" @slerp @ease_out, "15": "c (d:`sin(t)`)", "max_f": "e"'
    schedule = parse_prompts(text, dialect=dialect)
    whole, part = schedule.evaluate(30), schedule.evaluate(30, frames=frames)
    for all_of_them, some in ((whole.positive, part.positive), (whole.negative, part.negative)):
        assert [some[row] for row in range(len(frames))] == [all_of_them[frame] for frame in frames]


def test_long_clips_are_computed_in_blocks_that_do_not_show():
    schedule = parse_values("0:(sin(t)+noise(t/7)), 9000:(cos(t))")
    whole = schedule.evaluate(10_000)
    assert schedule.evaluate(10_000, frames=range(4095, 4098)).tolist() == whole[4095:4098].tolist()
    assert whole[9001] == pytest.approx(math.cos(9001), abs=1e-12)


def test_random_numbers_are_those_of_splitmix64():
    # The first output of SplitMix64 for state 0, as published with the reference code.
    assert parse_values("rand(0)").evaluate(1)[0] == (0xE220A8397B1DCDAF >> 11) / 2**53
    numbers = parse_values("rand(t)").evaluate(20_000)
    assert 0 <= numbers.min() and numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.01) and numbers.var() == pytest.approx(1 / 12, abs=0.003)
    assert len(set(numbers)) == 20_000
    assert parse_values("rand(0)-rand(-0.0)").evaluate(1)[0] == 0


def test_noise_joins_random_numbers_smoothly():
    fine = parse_values("noise(t/100, 5)").evaluate(10_000)
    assert -1 <= fine.min() < -0.8 and 0.8 < fine.max() < 1
    assert np.abs(np.diff(fine)).max() < 0.031  # 2 * 1.5 / 100: the steepest that smoothstep can be
    whole = parse_values("noise(t, 5)").evaluate(100)
    np.testing.assert_array_equal(fine[::100], whole)
    assert np.abs(parse_values("noise(t, 6)").evaluate(100) - whole).max() > 0.5


def survives(text: str, most: float = 5.0) -> None:
    """`most` is in seconds of CPU for one reading, of which there are two, generous where the machine may be busy."""
    for parse in (parse_values, parse_prompts):
        began = time.process_time()
        try:
            schedule = parse(text)
            hash(schedule)
            schedule.evaluate(7)
            schedule.check(7)
        except ScheduleError as error:
            assert str(error) and error.problems
        assert time.process_time() - began <= most, text[:300]


@given(st.text())
@PATIENT
def test_any_text_is_a_schedule_or_a_schedule_error(text):
    survives(text)


@pytest.mark.parametrize("seed", range(2))
def test_mutated_schedules_are_schedules_or_schedule_errors(seed):
    numbers = random.Random(seed)
    for _ in range(500):
        survives(mutated(numbers))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_million_mutated_schedules():
    numbers = random.Random(20)
    gc.collect()
    gc.freeze()  # what the test runner holds is no part of what a text costs
    for _ in range(500_000):  # each as values and as prompts
        text = mutated(numbers)
        survives(text, most=0.05 * (1 + len(text.encode("utf-8", "surrogatepass")) // KIB64))
    gc.unfreeze()


KIB64 = 64 * 1024
HOSTILE = {
    "powers": "9**" * KIB64 + "9",
    "brackets": "(" * KIB64,
    "pairs": "(" * (KIB64 // 2) + ")" * (KIB64 // 2),
    "calls": "min(1," * KIB64,
    "arguments": "min(" + "1," * KIB64,
    "sums": "1+" * KIB64,
    "signs": "-" * KIB64,
    "conditions": "1?" * KIB64,
    "ifs": "1 if " * KIB64,
    "digits": "1" * KIB64,
    "names": "a" * KIB64,
    "keys": "0:" * KIB64,
    "open keys": '"0":"' * KIB64,
    "braces": "{" * KIB64,
    "quotes": '"' * KIB64,
    "backslashes": '"0": "' + "\\" * KIB64,
    "broken lines": '\n\\"' * KIB64,
    "escapes": '"0": "' + "\\u0041" * KIB64,
    "blanks": " " * KIB64,
    "comments": "#\n" * KIB64,
    "backticks": "`" * KIB64,
    "marks": "0:1@" * KIB64,
    "negatives": "--neg " * KIB64,
    "near keys": ("0" * 61 + " ") * KIB64,
    "numbers": ", ".join(f"{frame}:({frame}.5)" for frame in range(KIB64)),
    "texts": ", ".join(f'"{frame}": "a circle {frame}"' for frame in range(KIB64)),
}


# Nothing but short expressions, all different: the most that there is to do for a character.
DENSE = {
    "expressions": ",".join(f"{frame}:t+{frame}" for frame in range(KIB64)),
    "maths": '"0": "' + "".join(f"`t+{number}`" for number in range(KIB64)),
}


@pytest.mark.parametrize("name", [*HOSTILE, *DENSE])
def test_hostile_texts_cost_little(name):
    survives((HOSTILE | DENSE)[name][:KIB64])


@pytest.mark.long
@pytest.mark.parametrize("name", [*HOSTILE, *DENSE])
@pytest.mark.parametrize("parse", [parse_values, parse_prompts])
def test_reading_64_kib_costs_50_ms_and_100_mb(name, parse):
    def read(text):
        try:
            parse(text)
        except ScheduleError as error:
            str(error)

    text, times = (HOSTILE | DENSE)[name][:KIB64], []
    for _ in range(5):
        began = time.process_time()
        read(text)
        times.append(time.process_time() - began)
    assert min(times) < (0.05 if name in HOSTILE else 0.2)
    tracemalloc.start()
    read(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.long
def test_ten_thousand_keys_over_a_hundred_thousand_frames():
    numbers = ", ".join(f"{10 * frame}:({frame % 7}.5)" for frame in range(10_000))
    mixed = ", ".join(f"{10 * i}:({'sin(t/10)*0.5+1' if i % 2 else i % 7})" for i in range(10_000))
    for text, limit in ((numbers, 1.0), (mixed, 1.0)):
        times = []
        for _ in range(3):
            began = time.process_time()
            parse_values(text).evaluate(100_000)
            times.append(time.process_time() - began)
        assert min(times) < limit


@pytest.mark.long
def test_one_expression_over_a_hundred_thousand_frames():
    schedule, times = parse_values("1.0+0.2*sin(2*pi*t/30)+noise(t/9)"), []
    for _ in range(5):
        began = time.process_time()
        schedule.evaluate(100_000)
        times.append(time.process_time() - began)
    assert min(times) < 0.05


@pytest.mark.parametrize("parse", [parse_values, parse_prompts])
def test_time_is_linear_in_size(parse):
    def cost(size: int) -> float:
        text = ", ".join(f'"{frame}": "{frame}.5"' for frame in range(size))
        times = []
        for _ in range(3):
            began = time.process_time()
            parse(text)
            times.append(time.process_time() - began)
        return min(times)

    assert cost(4000) < 8 * 3 * cost(500) + 0.01


def test_schedules_can_be_compared_and_are_frozen():
    one, same = parse_values("0:(t+1), 5:(2)"), parse_values("0:(t+1), 5:(2)")
    assert one == same and hash(one) == hash(same) and one != parse_values("0:(t+2), 5:(2)")
    with pytest.raises(AttributeError):
        one.kind = "text"
    a, b = parse_prompts('{"0": "a"}'), parse_prompts('{"0": "a"}')
    assert a == b and hash(a) == hash(b) and a != parse_prompts('{"0": "a"}', pre_text="x")
