"""Finds models in a folder by the names of its files; opens none of them.

What is known of how people have these models:

- ModelScope's folder: `text2video_pytorch_model.pth` with `VQGAN_autoencoder.pth` and `open_clip_pytorch_model.bin`
  beside it, or one level up, where several models share them (the A1111 extension's `zs2_576w/` and its like);
- diffusers' folder: `unet/`, `vae/` and `text_encoder/`, each with weights and a `config.json`, and `model_index.json`;
- a file: a UNet alone, or all parts in one, as VideoCrafter2's `model.ckpt`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import CheckpointError
from .entries import Entry, Part, is_index, is_weights

# A models folder is a few levels of a few files; these end a walk through something else, such as a whole disk.
MAX_DEPTH = 8
MAX_FILES = 20_000

ORIGINAL_UNET = "text2video_pytorch_model"
ORIGINAL_AUTOENCODER = "VQGAN_autoencoder"
ORIGINAL_TEXT_ENCODER = "open_clip_pytorch_model"
PARTS = ("unet", "text_encoder", "vae")  # folders of diffusers' folder, in the order of an Entry's fields
PIPELINE, CONFIG = "model_index.json", "config.json"
DIFFUSERS_NAMES = ("diffusion_pytorch_model", "model", "pytorch_model")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
WANTED = (
    "A model's folder has unet/diffusion_pytorch_model.safetensors or .bin, as diffusers saves it, or "
    f"{ORIGINAL_UNET}.pth, as ModelScope published it."
)


@dataclass
class _Folder:
    """A folder's ordinary files and folders, by name; links count as what they lead to inside the root."""

    path: Path
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def part(self, *stems: str) -> Part | None:
        """The files of one part, which bear one of these names, the first that there is."""
        for stem in stems:
            named = [name for name in self.files if name.split(".")[0] == stem and is_weights(name)]
            shards = [name for name in self.files if name.startswith(f"{stem}") and _SHARD.search(name)]
            whole = [name for name in named if not _SHARD.search(name)]
            if whole:
                config = self.path / CONFIG if CONFIG in self.files else None
                more = [self.path / name for name in shards] + ([config] if config else [])
                return Part(tuple(self.path / name for name in whole), tuple(more), config)
        return None


class _Walk:
    """One walk below a root: reads each folder at most once, and only so many files."""

    def __init__(self, root: Path):
        self.root = root
        self.left = MAX_FILES
        self._read: dict[Path, _Folder] = {}

    def folder(self, path: Path) -> _Folder:
        """What lies in a folder; nothing where it cannot be read, or enough was read already."""
        if path not in self._read:
            self._read[path] = self._look(path)
        return self._read[path]

    def _look(self, path: Path) -> _Folder:
        found = _Folder(path)
        try:
            with os.scandir(path) as inside:
                for item in inside:
                    if self.left <= 0:
                        break
                    self.left -= 1
                    self._sort(item, found)
        except OSError:
            pass
        found.files.sort()
        found.folders.sort()
        return found

    def _sort(self, item: os.DirEntry, found: _Folder) -> None:
        if item.name.startswith("."):
            return
        try:
            if item.is_dir(follow_symlinks=False):
                found.folders.append(item.name)
            elif item.is_file() and (not item.is_symlink() or is_inside(item.path, self.root)):
                found.files.append(item.name)
        except OSError:
            pass

    def entries(self, path: Path, depth: int = 0) -> Iterator[Entry]:
        """The models in a folder and below it."""
        folder = self.folder(path)
        pipeline = self._pipeline(folder)
        if pipeline:
            yield pipeline
            if pipeline.unet:
                return  # a second copy in another layout is not another model
        if CONFIG in folder.files and (part := folder.part(DIFFUSERS_NAMES[0])):
            yield Entry(self._name(path), path, part)  # diffusers' UNet alone
        else:
            yield from self._files(folder)
        if depth < MAX_DEPTH:
            for name in folder.folders:
                if not (pipeline and name in PARTS):
                    yield from self.entries(path / name, depth + 1)

    def _pipeline(self, folder: _Folder) -> Entry | None:
        """The model in diffusers' folder, if this is one."""
        parts = {
            name: self.folder(folder.path / name).part(*DIFFUSERS_NAMES) for name in PARTS if name in folder.folders
        }
        if PIPELINE not in folder.files and not parts.get("unet"):
            return None
        return Entry(self._name(folder.path), folder.path, *(parts.get(name) for name in PARTS))

    def _files(self, folder: _Folder) -> Iterator[Entry]:
        """ModelScope's model in this folder, and each other file that is not part of one."""
        beside = {"text_encoder": self._near(folder, ORIGINAL_TEXT_ENCODER)}
        beside["autoencoder"] = self._near(folder, ORIGINAL_AUTOENCODER)
        if original := folder.part(ORIGINAL_UNET):
            # Among other models in the root itself, it goes by its file's name.
            name = original.choose().name if folder.path == self.root else self._name(folder.path)
            yield Entry(name, folder.path, original, **beside)
        for name in folder.files:
            if name.split(".")[0] in (ORIGINAL_UNET, ORIGINAL_AUTOENCODER, ORIGINAL_TEXT_ENCODER):
                continue
            if is_weights(name) and not (_SHARD.search(name) and self._listed(folder, name)):
                yield Entry(self._name(folder.path / name), folder.path / name, self._one(folder, name), **beside)

    def _near(self, folder: _Folder, stem: str) -> Part | None:
        """A file that several models may share: in their folder, or one level up, never above the root."""
        return folder.part(stem) or (self.folder(folder.path.parent).part(stem) if folder.path != self.root else None)

    @staticmethod
    def _listed(folder: _Folder, shard: str) -> bool:
        """Whether an index stands for this shard."""
        stem = shard[: _SHARD.search(shard).start()].split(".")[0]
        return any(is_index(name) and name.split(".")[0] == stem for name in folder.files)

    @staticmethod
    def _one(folder: _Folder, name: str) -> Part:
        shards = [n for n in folder.files if _SHARD.search(n) and n.startswith(name.split(".")[0])]
        return Part((folder.path / name,), tuple(folder.path / n for n in shards) if is_index(name) else ())

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path != self.root else path.name


def is_inside(path: str | os.PathLike, root: Path) -> bool:
    """Whether a path leads, through whatever links, to something below a root; the root itself is resolved already."""
    try:
        return Path(path).resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # leads nowhere, or in a circle
        return False


def find_models(root: str | os.PathLike) -> list[Entry]:
    """The models in a folder and below it, one entry each, sorted by name; the first of two of one name.

    By names alone: no file is opened, no link followed out of the root, and at most `MAX_FILES` names are read,
    `MAX_DEPTH` folders deep. A folder that is missing or may not be read holds no models.
    """
    try:
        root = Path(root).resolve(strict=True)
    except (OSError, RuntimeError):
        return []
    found: dict[str, Entry] = {}
    for entry in _Walk(root).entries(root):
        found.setdefault(entry.name, entry)
    return [found[name] for name in sorted(found)]


def model_at(path: str | os.PathLike) -> Entry:
    """The model that a path names: a file, or a folder that is one model.

    What lies beside a file, or in the folder above a model's, is not looked for. Raises CheckpointError.
    """
    path = Path(path)
    if not path.is_dir():
        if is_index(path.name):
            return Entry(path.name, path, _Walk._one(_Walk(path.parent).folder(path.parent), path.name))
        return Entry(path.name, path, Part((path,)))
    models, whole = find_models(path), path.resolve()
    chosen = next((model for model in models if model.path == whole), None)
    if chosen is None and len(models) > 1:
        named = ", ".join(model.name for model in models[:10])
        raise CheckpointError(f"{path}: this is a folder of {len(models)} models; name one of them: {named}")
    if chosen is None and not models:
        raise CheckpointError(f"{path}: this is a folder in which there is no model. {WANTED}")
    return replace(chosen, name=whole.name) if chosen else models[0]
