"""CLIP's byte-pair encoding (Radford et al. 2103.00020, 2.4): transformers' tokenizer, and where its vocabulary is.

All CLIP text encoders of OpenAI and OpenCLIP have one vocabulary, of 49,408 entries. No package that is needed here has
it, so it is looked for in several places; nothing is downloaded.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..t2v_core.checkpoints.files import AGAIN
from ..t2v_core.checkpoints.folders import is_inside
from ..t2v_core.checkpoints.shards import LARGEST_JSON, read_json
from ..t2v_core.errors import CheckpointError
from .extra import needed_for

VOCABULARY, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
START, END = "<|startoftext|>", "<|endoftext|>"
PAD = 0  # as OpenCLIP pads, and Stable Diffusion 2; the id is a word's besides
OPEN_CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"
OPEN_CLIP_MERGES = 49_408 - 2 * 256 - 2  # of the file's many more: the entries less the bytes and START and END


@dataclass(frozen=True)
class Vocabulary:
    """path: where it is from. ids: of each entry. merges: pairs of entries that become one, "a b", the first first."""

    path: Path
    ids: Mapping[str, int]
    merges: Sequence[str]


class ClipTokenizer:
    """Implements `t2v_core.text.tokenizer.Tokenizer`, with the ids that ComfyUI's SD2 text encoder gets.

    Raises T2VError without transformers, CheckpointError where the vocabulary is none. size: one more than the last id.
    """

    def __init__(self, vocabulary: Vocabulary):
        with needed_for(f"the tokenizer ({vocabulary.path})"):
            from transformers import CLIPTokenizer

        ids = vocabulary.ids
        self.start, self.end, self.pad, self.size = ids[START], ids[END], PAD, max(ids.values()) + 1
        self._texts = {index: text.removesuffix("</w>") for text, index in ids.items()}
        # Of the vocabulary alone: a tokenizer_config.json beside it may make "!" its padding, which then means another
        # token in a prompt than ComfyUI takes it for.
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, VOCABULARY).write_text(json.dumps(dict(ids)), encoding="utf-8")
            Path(folder, MERGES).write_text("#version: 0.2\n" + "\n".join(vocabulary.merges) + "\n", encoding="utf-8")
            try:
                self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            except Exception as error:  # of a Rust library, which has no types for its errors
                reason = " ".join(str(error).split())[:120]
                raise CheckpointError(
                    f"{vocabulary.path}: vocabulary and merges do not belong together ({reason}). {AGAIN}"
                ) from None

    def words(self, text: str) -> list[int]:
        """The ids of a text, without START and END."""
        return self._tokenizer(text)["input_ids"][1:-1]

    def word(self, index: int) -> str:
        """The letters of an id."""
        return self._texts.get(index, "")


def find_vocabulary(places: Sequence[tuple[Path, Path]]) -> Vocabulary:
    """The vocabulary in the first place that has one, else that of an installed open_clip.

    places: a folder, which need not exist, and a folder around it out of which no link is followed. Raises
    CheckpointError.
    """
    for folder, root in places:
        if _is_there(folder, root, VOCABULARY) and _is_there(folder, root, MERGES):
            return _checked(folder, read_json(folder / VOCABULARY), _lines(folder / MERGES))
        if _is_there(folder, root, WHOLE):
            model = read_json(folder / WHOLE).get("model")
            model = model if isinstance(model, dict) else {}
            return _checked(folder / WHOLE, model.get("vocab"), model.get("merges"))
    if path := _of_open_clip():
        return _from_merges(path)
    raise CheckpointError(
        f"the text encoder needs CLIP's vocabulary, which is in no file of the model. Put {VOCABULARY} and {MERGES} of "
        f"a diffusers repository's folder tokenizer into {places[0][0]}, or run: pip install open_clip_torch, which "
        "comes with it"
    )


def _is_there(folder: Path, root: Path, name: str) -> bool:
    return (folder / name).is_file() and is_inside(folder / name, root)


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_JSON).decode()
    except (OSError, UnicodeDecodeError):
        raise CheckpointError(f"{path}: cannot be read as text. {AGAIN}") from None
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#version")]


def _checked(path: Path, ids: object, merges: object) -> Vocabulary:
    """The vocabulary, if it is one. Merges may be "a b" or ["a", "b"]."""
    if isinstance(merges, list):
        merges = [" ".join(pair) if isinstance(pair, list) and all(map(_is_text, pair)) else pair for pair in merges]
    good = isinstance(ids, dict) and isinstance(merges, list) and {START, END} <= ids.keys()
    if not good or not all(map(_is_id, ids.values())) or not all(map(_is_text, merges)):
        raise CheckpointError(f"{path}: no vocabulary of CLIP's kind: no ids of entries, {END} among them. {AGAIN}")
    return Vocabulary(path, ids, merges)


def _is_id(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _of_open_clip() -> Path | None:
    """The file in an installed open_clip, found without importing it, for that would import torchvision."""
    try:
        spec = importlib.util.find_spec("open_clip")
    except (ImportError, ValueError):
        spec = None
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder, OPEN_CLIP_FILE)).is_file():
            return path
    return None


def _from_merges(path: Path) -> Vocabulary:
    """OpenAI's file, of merges alone: entries are the bytes, the bytes that end a word, what each merge makes, and the
    two that stand around a text, in this order."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            merges = [line.strip() for line, _ in zip(file, range(OPEN_CLIP_MERGES + 1), strict=False)][1:]
    except (OSError, EOFError, UnicodeDecodeError):
        raise CheckpointError(f"{path}: cannot be read as text. {AGAIN}") from None
    letters = _letters_of_bytes()
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    return _checked(path, {entry: index for index, entry in enumerate([*entries, START, END])}, merges)


def _letters_of_bytes() -> list[str]:
    """A visible letter for each byte, in the order of their ids: Latin-1's own where it has one, then others
    (Radford et al. 2019, the code of GPT-2)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(visible)
    return [chr(code) for code in (*visible, *range(256, 256 + others))]
