"""A node class's inputs as INPUT_TYPES declares them, and the check of one value against one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .wording import listed, shown

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")


@dataclass(frozen=True)
class Input:
    """One declared input: `type` is INT, FLOAT, STRING, BOOLEAN, a socket's type, or the list of a combo's entries."""

    name: str
    type: str | list
    options: dict
    required: bool

    @property
    def is_socket(self) -> bool:
        """Whether the value can only come over a link."""
        return isinstance(self.type, str) and self.type not in WIDGETS

    @property
    def type_name(self) -> str:
        return "COMBO" if isinstance(self.type, list) else self.type

    def accepts(self, output_type: str) -> bool:
        """Whether an output of that type may be linked here. A type may be several, joined by commas; `*` is any."""
        if not isinstance(self.type, str) or not isinstance(output_type, str):
            return self.type == output_type
        mine, theirs = ({name.strip() for name in kind.split(",")} for kind in (self.type, output_type))
        return bool(mine & theirs) or "*" in mine | theirs

    def convert(self, value: Any) -> Any:
        """The value a node gets for what a file or a command line gives. Raises ValueError saying what is wrong.

        Like ComfyUI this reads a number from a string; unlike it, nothing is lost on the way (2.7 is not an INT).
        """
        if self.is_socket:
            raise ValueError(f'{shown(value)} is a value; this input takes a link, ["node id", output number]')
        if isinstance(self.type, list):
            if not any(type(value) is type(option) and value == option for option in self.type):
                known = f"the list: {listed(self.type)}" if self.type else "the list, which is empty"
                raise ValueError(f"{shown(value)} is not in {known}")
            return value
        value = _CONVERTERS[self.type](value)
        least, most = self.options.get("min"), self.options.get("max")
        if least is not None and value < least:
            raise ValueError(f"{shown(value)} is smaller than {least}, the least allowed")
        if most is not None and value > most:
            raise ValueError(f"{shown(value)} is bigger than {most}, the most allowed")
        return value


def _integer(value: Any) -> int:
    try:
        if isinstance(value, str) or type(value) is int or (type(value) is float and value.is_integer()):
            return int(value)
    except ValueError:
        pass
    raise ValueError(f"{shown(value)} is not a whole number")


def _number(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, str) or type(value) in (int, float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{shown(value)} is not a finite number")
    return number


def _text(value: Any) -> str:
    if isinstance(value, str) or type(value) in (int, float):
        return str(value)
    raise ValueError(f"{shown(value)} is not text")


def _truth(value: Any) -> bool:
    if type(value) is bool or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise ValueError(f"{shown(value)} is not true or false")


_CONVERTERS = {"INT": _integer, "FLOAT": _number, "STRING": _text, "BOOLEAN": _truth}


def inputs_of(node_class: type) -> dict[str, Input]:
    """The inputs a file may give, required ones first, in the order they are declared."""
    declared = node_class.INPUT_TYPES()
    return {
        name: Input(name, entry[0], entry[1] if len(entry) > 1 else {}, group == "required")
        for group in ("required", "optional")
        for name, entry in declared.get(group, {}).items()
    }


def hidden_of(node_class: type) -> dict[str, str]:
    """Inputs that the host fills by itself: name to PROMPT, EXTRA_PNGINFO or UNIQUE_ID."""
    return node_class.INPUT_TYPES().get("hidden", {})
