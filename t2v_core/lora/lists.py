"""cloneofsimo's lists: pairs without names, in the order in which diffusers' and transformers' modules were made.

lora_diffusion walks over the modules of the classes that were trained and, in each, over its linear layers and
convolutions. Where the file does not name the classes, every choice of them is tried: the shapes say which it was. The
order inside a transformer block depends on the version of diffusers, and the shapes tell that too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations

from ..checkpoints.diffusers import DIFFUSERS
from ..errors import CheckpointError
from ..models.unet3d import UNet3DConfig
from .read import LoraPair, PairList

Shapes = Mapping[str, tuple[int, ...]]

# Children in the order in which diffusers' UNet3DConditionModel and its parts register them.
_START = (
    "conv_in time_embedding transformer_in down_blocks up_blocks mid_block conv_out linear_1 linear_2 resnets "
    "temp_convs attentions temp_attentions downsamplers upsamplers conv1 time_emb_proj conv2 conv3 conv4 "
    "conv_shortcut conv proj_in transformer_blocks proj_out to_q to_k to_v to_out net proj"
).split()
ORDERS = ((*_START, "attn1", "attn2", "ff"), (*_START, "attn1", "ff", "attn2"))

WHOLE = "UNet3DConditionModel"
# The class of a module by the last parts of its name; a list's index matches any.
CLASSES = (
    (("transformer_in",), "TransformerTemporalModel"),
    (("temp_attentions", "#"), "TransformerTemporalModel"),
    (("attentions", "#"), "Transformer2DModel"),
    (("resnets", "#"), "ResnetBlock2D"),
    (("temp_convs", "#"), "TemporalConvLayer"),
    (("transformer_blocks", "#"), "BasicTransformerBlock"),
    (("attn1",), "Attention"),
    (("attn2",), "Attention"),
    (("ff",), "FeedForward"),
    (("ff", "net", "#"), "GEGLU"),
)
RENAMED = {"CrossAttention": "Attention"}  # up to diffusers 0.14
TRIED = ("ResnetBlock2D", "TransformerTemporalModel", "Transformer2DModel", "Attention", "GEGLU", "TemporalConvLayer")

TEXT_ATTENTION = tuple(f"self_attn.{each}_proj" for each in ("k", "v", "q", "out"))
TEXT_LAYER = (*TEXT_ATTENTION, "mlp.fc1", "mlp.fc2")


def named(pairs: PairList, config: UNet3DConfig, shapes: Shapes) -> tuple[str, tuple[LoraPair, ...]]:
    """A list's pairs with names, those of diffusers or transformers, and whose they are: "unet" or "text_encoder".

    shapes: of our UNet's weights. Raises CheckpointError where the list fits neither network.
    """
    if pairs.part != "text_encoder":
        theirs = _their_shapes(config, shapes)
        if name_lists := _fitting(pairs, theirs):
            if len(name_lists) > 1:
                raise CheckpointError(
                    f"its {len(pairs.pairs)} pairs have no names and fit the UNet in {len(name_lists)} ways; "
                    "a file that names them is needed"
                )
            return "unet", _with_names(pairs, name_lists.pop())
    if pairs.part != "unet" and (names := _text_names(pairs)):
        return "text_encoder", _with_names(pairs, names)
    raise CheckpointError(
        f"its {len(pairs.pairs)} pairs have no names, and their shapes in their order are not those of this UNet's "
        "layers or of a text encoder's: it was made for another model"
    )


def _with_names(pairs: PairList, names: Sequence[str]) -> tuple[LoraPair, ...]:
    # A module inside two of the classes is there twice; lora_diffusion's loader lets the later one stand.
    last = {name: replace(pair, name=name) for name, pair in zip(names, pairs.pairs, strict=True)}
    return tuple(last.values())


def _their_shapes(config: UNet3DConfig, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """diffusers' names of the modules with a matrix or a kernel, and its shape there."""
    keys, found = DIFFUSERS.key_map(config), {}
    for ours, shape in shapes.items():
        if ours.endswith(".weight") and len(shape) > 1:
            try:
                name = keys.theirs(ours).removesuffix(".weight")
            except CheckpointError:  # a part that only the bundled model has
                continue
            found[name] = keys.file_shape(ours, shape)
    return found


def _fitting(pairs: PairList, theirs: Shapes) -> set[tuple[str, ...]]:
    """Every order of modules that has the list's shapes."""
    wanted = [(*pair.up.shape[:1], *pair.down.shape[1:]) for pair in pairs.pairs]
    found = set()
    for order in ORDERS:
        for only_linear in (False, True):
            searched = [name for name, shape in theirs.items() if len(shape) == 2 or not only_linear]
            walk = _Walk(searched, order)
            for targets in _choices(pairs.targets):
                names = walk.modules(targets)
                if len(names) == len(wanted) and [tuple(theirs[name]) for name in names] == wanted:
                    found.add(tuple(names))
    return found


def _choices(targets: tuple[str, ...] | None) -> Iterator[frozenset[str]]:
    if targets is not None:
        yield frozenset(RENAMED.get(each, each) for each in targets)
        return
    yield frozenset((WHOLE,))
    subsets = chain.from_iterable(combinations(TRIED, count) for count in range(1, len(TRIED) + 1))
    yield from map(frozenset, subsets)


class _Walk:
    """Modules in the order in which their parents registered them."""

    def __init__(self, names: Sequence[str], order: Sequence[str]):
        place = {word: index for index, word in enumerate(order)}

        def rank(name: str) -> list[int]:
            return [int(part) if part.isdigit() else place[part] for part in name.split(".")]

        self._names = sorted(names, key=rank)
        parents = {name[:dot] for name in names for dot in range(len(name)) if name[dot] == "."}
        # A class's modules: what is in each, in order. A parent comes before what is in it.
        self._inside = [
            (kind, [name for name in self._names if name.startswith(f"{parent}.")])
            for parent in sorted(parents | {"transformer_in"}, key=rank)
            if (kind := _class_of(parent)) is not None
        ]

    def modules(self, targets: frozenset[str]) -> list[str]:
        """The modules inside those of these classes, each as often as it is in one."""
        if WHOLE in targets:
            return self._names + [name for kind, inside in self._inside if kind in targets for name in inside]
        return [name for kind, inside in self._inside if kind in targets for name in inside]


def _class_of(name: str) -> str | None:
    parts = tuple("#" if part.isdigit() else part for part in name.split("."))
    return next((kind for end, kind in CLASSES if parts[-len(end) :] == end), None)


def _text_names(pairs: PairList) -> tuple[str, ...] | None:
    """transformers' CLIPTextModel's names, where the shapes are those of whole layers or of their attention."""
    shapes = [(*pair.up.shape[:1], *pair.down.shape[1:]) for pair in pairs.pairs]
    for layer in (TEXT_LAYER, TEXT_ATTENTION):
        if len(shapes) % len(layer):
            continue
        width = shapes[0][0]
        expected = {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        names = [(number, name) for number in range(len(shapes) // len(layer)) for name in layer]
        if all(shape == expected.get(name, (width, width)) for shape, (_, name) in zip(shapes, names, strict=True)):
            return tuple(f"text_model.encoder.layers.{number}.{name}" for number, name in names)
    return None
