"""Prompt schedules and value schedules: what the prompt, and any number, is at each frame.

`parse_prompts` and `parse_values` make frozen trees of texts; their `evaluate` says what each frame of a clip gets. The
language is described in docs/schedule-grammar.md.
"""

from ..errors import ScheduleError
from .blends import CURVES, Blend
from .dialects import CHOICES as DIALECT_CHOICES
from .dialects import DIALECTS, Dialect
from .evaluate import MAX_FRAMES
from .prompts import PromptFrame, PromptSchedule, PromptTrack, TextTrack, parse_prompts
from .source import FILE_LIMIT, NODE_LIMIT, Problem
from .values import ValueSchedule, parse_values

__all__ = [
    "CURVES",
    "DIALECTS",
    "DIALECT_CHOICES",
    "FILE_LIMIT",
    "MAX_FRAMES",
    "NODE_LIMIT",
    "Blend",
    "Dialect",
    "Problem",
    "PromptFrame",
    "PromptSchedule",
    "PromptTrack",
    "ScheduleError",
    "TextTrack",
    "ValueSchedule",
    "parse_prompts",
    "parse_values",
]
