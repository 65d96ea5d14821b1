"""Where the programs that people bring schedules from disagree, one row each, and which one a text was written for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """How a schedule is meant where its text alone does not say.

    `prompt_blend`: the blend between prompt keys that name none. `counted_max_f`: in the keys of prompt schedules
    `max_f` is the number of frames, and not the last frame. `fractions`: the keys 0.0 and 1.0 are the first and the
    last frame, and not frames 0 and 1. `beyond`: the first key at or past the end is still what the last frames blend
    towards, in prompt schedules and in value schedules. `joiner` stands between a prompt and what is put before or
    after it.
    """

    name: str
    prompt_blend: str
    counted_max_f: bool
    fractions: bool
    prompts_beyond: bool
    values_beyond: bool
    joiner: str


DIALECTS = {
    "deforum": Dialect("deforum", "hold", False, False, False, False, " "),
    "fizz": Dialect("fizz", "linear", True, False, True, False, " "),
    "ade": Dialect("ade", "linear", False, True, True, True, ", "),
}
CHOICES = ("auto", *DIALECTS)


@dataclass(frozen=True)
class Traits:
    """What a text shows of its origin: its braces, and the first key of a form that only one program has, if any."""

    prompts: bool
    keyed: bool
    braces: bool = False
    ade_form: str = ""


def choose_dialect(wanted: str, traits: Traits) -> tuple[Dialect, str]:
    """The dialect, and why that one. `wanted` is one of CHOICES; anything else is a ValueError."""
    if wanted != "auto":
        if wanted not in DIALECTS:
            raise ValueError(f"dialect is {wanted!r}; known are {', '.join(CHOICES)}")
        return DIALECTS[wanted], "as asked for"
    if not traits.keyed:
        return DIALECTS["deforum"], "there are no keys"
    if traits.ade_form:
        return DIALECTS["ade"], f"only AnimateDiff-Evolved has {traits.ade_form}"
    if traits.prompts and not traits.braces:
        return DIALECTS["fizz"], "entries without braces around them, as in FizzNodes"
    if traits.prompts:
        return DIALECTS["deforum"], "entries in braces, as in Deforum"
    return DIALECTS["deforum"], "the usual form of value schedules"
