"""`python -m headless nodes`: every node with its inputs and outputs, as text."""

from __future__ import annotations

from .schema import Input, inputs_of
from .wording import listed


def listing(classes: dict[str, type], titles: dict[str, str]) -> str:
    """A paragraph for each node: id, title, category, what it is for, inputs with type, default and range, outputs."""
    return "\n\n".join(_node(name, titles[name], node_class) for name, node_class in classes.items())


def _node(name: str, title: str, node_class: type) -> str:
    outputs = zip(node_class.RETURN_NAMES, node_class.RETURN_TYPES, strict=True)
    given = ", ".join(f"{out} ({kind})" for out, kind in outputs)
    lines = [f'{name} "{title}" ({node_class.CATEGORY})', f"  {node_class.DESCRIPTION}"]
    lines += [f"  {_input(declared)}" for declared in inputs_of(node_class).values()]
    return "\n".join([*lines, f"  -> {given or 'a file'}"])


def _input(declared: Input) -> str:
    options = declared.options
    parts = [f"one of {listed(declared.type)}" if isinstance(declared.type, list) else declared.type]
    if "min" in options:
        parts.append(f"{options['min']} to {options['max']}")
    if "default" in options:
        parts.append(f"default {options['default']!r}")
    if not declared.required:
        parts.append("optional")
    return f"{declared.name}: {', '.join(parts)}"
