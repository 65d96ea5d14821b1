"""Schedules in the forms found in the wild, against values worked out by hand or with plain formulas.

corpus.json has one schedule a line: `expect` is the value at every frame, or for prompts [before, after, weight];
`is` the dialect found, `warnings` how many there are, `note` what a peer makes of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from t2v_core.schedules import parse_prompts, parse_values

CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text(encoding="utf-8"))
VALUES = [case for case in CORPUS if case["kind"] == "values"]
PROMPTS = [case for case in CORPUS if case["kind"] == "prompts"]


def name(case: dict) -> str:
    return ascii(case["text"][:40])


def check_rest(case: dict, schedule) -> None:
    assert schedule.reason
    assert schedule.dialect == case.get("is", schedule.dialect)
    warnings = schedule.check(case["num_frames"], case["fps"])
    assert len(warnings) == case.get("warnings", 0), [str(warning) for warning in warnings]
    assert hash(schedule) == hash(type(schedule)(**{key: getattr(schedule, key) for key in schedule.__match_args__}))


def test_the_corpus_is_large():
    assert len(CORPUS) >= 300 and len(VALUES) >= 200 and len(PROMPTS) >= 100


@pytest.mark.parametrize("case", VALUES, ids=name)
def test_values(case):
    schedule = parse_values(case["text"], dialect=case["dialect"])
    got = schedule.evaluate(case["num_frames"], case["fps"], seed=case.get("seed", 0))
    if isinstance(case["expect"][0], str):
        assert got == case["expect"]
    else:
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, case["expect"], rtol=1e-9, atol=1e-9)
    check_rest(case, schedule)


def rows(expected: list) -> list[tuple]:
    return [(row, row, 0.0) if isinstance(row, str) else tuple(row) for row in expected]


@pytest.mark.parametrize("case", PROMPTS, ids=name)
def test_prompts(case):
    schedule = parse_prompts(case["text"], dialect=case["dialect"], **case.get("options", {}))
    track = schedule.evaluate(case["num_frames"], case["fps"])
    negative = case.get("negative", [""] * case["num_frames"])
    for got, expected in ((track.positive, rows(case["expect"])), (track.negative, rows(negative))):
        found = [got[frame] for frame in range(len(got))]
        assert [(row.before, row.after) for row in found] == [(before, after) for before, after, _ in expected]
        np.testing.assert_allclose([row.weight for row in found], [weight for *_, weight in expected], atol=1e-9)
        used = {row.before for row in found} | {row.after for row in found}
        assert sorted(got.texts) == sorted(used)  # each once, and none for nothing
    slerp = [frame.slerp for frame in (track.positive[i] for i in range(case["num_frames"]))]
    assert slerp == case.get("slerp", [False] * case["num_frames"])
    check_rest(case, schedule)
