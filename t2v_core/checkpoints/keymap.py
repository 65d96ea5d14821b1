"""Names and shapes of weights, between a file's layout and ours: a table of rules, read in both directions."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import CheckpointError

Rule = tuple[str, str | None]
_WILDCARD = re.compile(r"\{\}|\*")


def first_ten(keys: Sequence[str]) -> str:
    """At most ten of the keys, and how many more there are."""
    more = f", and {len(keys) - 10} more" if len(keys) > 10 else ""
    return ", ".join(key if len(key) <= 200 else f"{key[:200]}..." for key in keys[:10]) + more


def _pattern(text: str) -> re.Pattern:
    return re.compile(re.escape(text).replace(r"\{\}", r"([^.]+)").replace(r"\*", "(.+)"))


def _fill(text: str, found: Iterable[str]) -> str:
    """Put what the wildcards of one side matched into those of the other."""
    found = iter(found)
    return _WILDCARD.sub(lambda _: next(found), text)


class _Direction:
    """The rules read one way. The first in the table that matches a key decides."""

    def __init__(self, rules: Sequence[tuple[str, str | None]]):
        # By the whole segments before the first wildcard, so that a key meets few of several hundred rules.
        self.rules: dict[str, list[tuple[int, re.Pattern, str | None]]] = defaultdict(list)
        for order, (source, target) in enumerate(rules):
            fixed = _WILDCARD.split(source)[0]
            head = fixed.rpartition(".")[0] if fixed != source else source
            self.rules[head].append((order, _pattern(source), target))

    def __call__(self, key: str) -> str | None:
        """The key's other name, or None where it is to be dropped; KeyError where no rule knows it."""
        segments = key.split(".")
        heads = (".".join(segments[:length]) for length in range(len(segments) + 1))
        candidates = sorted((rule for head in heads for rule in self.rules.get(head, ())), key=lambda rule: rule[0])
        for _, pattern, target in candidates:
            if match := pattern.fullmatch(key):
                return target and _fill(target, match.groups())
        raise KeyError(key)


class KeyMap:
    """How a layout names and shapes the weights of a network.

    rules: rows (name in the file, our name), first match first. `{}` stands for one part between dots and `*` for any
        text, the same ones in the same order on both sides. None as our name: known, and dropped.
    one_axis_more: patterns of our names whose weights files store with one more axis, of size 1, at the end.
    """

    def __init__(self, rules: Iterable[Rule], one_axis_more: Iterable[str] = ()):
        rules = tuple(rules)
        self._ours = _Direction(rules)
        self._theirs = _Direction([(ours, theirs) for theirs, ours in rules if ours is not None])
        self._one_axis_more = _Direction([(pattern, None) for pattern in one_axis_more])

    def theirs(self, ours: str) -> str:
        """The file's name of one of our weights. Raises CheckpointError where the layout has none."""
        try:
            return self._theirs(ours)
        except KeyError:
            raise CheckpointError(f"this layout has no place for {ours}") from None

    def ours(self, keys: Iterable[str]) -> tuple[dict[str, str], list[str]]:
        """`{our name: file's name}` of the file's keys, less those that are dropped, and the keys that no rule knows.

        Raises CheckpointError where two keys mean the same weight.
        """
        names: dict[str, str] = {}
        unknown = []
        for key in keys:
            try:
                ours = self._ours(key)
            except KeyError:
                unknown.append(key)
                continue
            if ours in names:
                raise CheckpointError(f"two keys for one weight: {names[ours]} and {key}")
            if ours is not None:
                names[ours] = key
        return names, unknown

    def file_shape(self, ours: str, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape in which a file stores our weight of this name and shape."""
        try:
            self._one_axis_more(ours)
        except KeyError:
            return tuple(shape)
        return (*shape, 1)

    def to_file(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our weights under the file's names and in its shapes. Raises CheckpointError as `theirs` does."""
        shapes = {key: self.file_shape(key, tensor.shape) for key, tensor in state_dict.items()}
        return {self.theirs(key): tensor.reshape(shapes[key]) for key, tensor in state_dict.items()}


def fit(tensors: Mapping[str, Tensor], keys: KeyMap, network: nn.Module) -> dict[str, Tensor]:
    """A file's weights under our names and in our shapes, complete and with nothing left over; views, not copies.

    `network` may be on the meta device. Raises CheckpointError naming the file's keys where weights are missing, left
    over, of another shape, not floating point, or not finite.
    """
    names, left_over = keys.ours(tensors)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = [keys.theirs(name) for name in expected if name not in names]
    left_over += [key for name, key in names.items() if name not in expected]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(expected)} weights are missing: {first_ten(missing)}")
    if left_over:
        problems.append(f"{len(left_over)} keys are not of this network: {first_ten(left_over)}")
    if problems:
        raise CheckpointError(
            f"{'; '.join(problems)}. The file is incomplete, or holds another kind of network; download or copy it "
            "again, or take another"
        )
    found = {name: tensors[names[name]] for name in expected}
    _check_shapes({name: keys.file_shape(name, shape) for name, shape in expected.items()}, found, names)
    _check_numbers(found, names)
    return {name: tensor.reshape(expected[name]) for name, tensor in found.items()}


def _check_shapes(expected: dict[str, tuple[int, ...]], found: dict[str, Tensor], names: dict[str, str]) -> None:
    wrong = [
        f"{names[name]} is {list(found[name].shape)} and should be {list(shape)}"
        for name, shape in expected.items()
        if tuple(found[name].shape) != shape
    ]
    if wrong:
        raise CheckpointError(f"{len(wrong)} weights of the wrong shape: {first_ten(wrong)}")


def _check_numbers(found: dict[str, Tensor], names: dict[str, str]) -> None:
    other = [f"{names[name]} ({tensor.dtype})" for name, tensor in found.items() if not tensor.is_floating_point()]
    if other:
        raise CheckpointError(
            f"{len(other)} weights are not floating point: {first_ten(other)}. "
            "Quantised files cannot be read; take the fp16 or fp32 one"
        )
    damaged = [names[name] for name, tensor in found.items() if not is_finite(tensor)]
    if damaged:
        raise CheckpointError(
            f"{len(damaged)} weights hold NaN or infinity: {first_ten(damaged)}. "
            "The file is damaged, or overflowed when it was converted to fp16; take another copy"
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    if not tensor.numel():
        return True
    # NaN is both least and greatest wherever it is; one pass and no copy, many times faster than asking each element.
    # Eight-bit floats have few operations of their own.
    extremes = torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())
    return all(math.isfinite(value.item()) for value in extremes)
