"""Where ComfyUI keeps model files."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...t2v_core.checkpoints import BUNDLED_PATH, Entry, find_models, model_at
from ...t2v_core.errors import CheckpointError
from ..host import BUNDLED, VIDEO_FORMATS

# Our own folder first: where two folders hold a model of the same name, it is the first one's.
FOLDERS = ("text2video", "diffusion_models")


def _register() -> None:
    """Make `models/text2video` a folder of models, beside what the user's extra_model_paths says of that name.

    At every listing, for a host may keep such names per run. Its entry may be a view of what is set here, so it is
    copied first.
    """
    own, known = FOLDERS[0], folder_paths.folder_names_and_paths
    paths, suffixes = known[own] if own in known else ((), ())
    paths, suffixes = list(paths), set(suffixes)
    default = str(Path(folder_paths.models_dir) / own)
    if default not in paths:
        known[own] = ([*paths, default], suffixes or set(folder_paths.supported_pt_extensions))


def video_formats_folder() -> Path:
    """Where the user's own video formats lie; it need not exist."""
    return Path(folder_paths.models_dir) / VIDEO_FORMATS


def names_in(folder: str) -> list[str]:
    """ComfyUI's list of the files of a kind. What ComfyUI remembers of a folder that is gone since, it fails on."""
    try:
        return folder_paths.get_filename_list(folder)
    except OSError:
        getattr(folder_paths, "filename_list_cache", {}).pop(folder, None)
        return folder_paths.get_filename_list(folder)


def _models() -> dict[str, Entry]:
    """Every model by its name, the first of each name."""
    _register()
    found: dict[str, Entry] = {}
    for folder in FOLDERS:
        here: dict[str, Entry] = {}
        roots = [Path(root).resolve() for root in folder_paths.get_folder_paths(folder)]
        for root in roots:
            for entry in find_models(root):
                here.setdefault(entry.name, entry)
        here |= {name: entry for name, entry in _linked(folder, roots).items() if name not in here}
        found |= {name: here[name] for name in sorted(here) if name not in found and name != BUNDLED}
    return found


def _linked(folder: str, roots: list[Path]) -> dict[str, Entry]:
    """Files elsewhere that ComfyUI lists because a link of the user's leads to them: each by itself.

    Whoever may make links among the models could as well copy the files there; a workflow or a model cannot.
    """
    found = {}
    for name in names_in(folder):
        path = folder_paths.get_full_path(folder, name)
        if path and not any(Path(path).resolve().is_relative_to(root) for root in roots):
            found[name.replace("\\", "/")] = model_at(path)
    return found


def model_names() -> list[str]:
    """`bundled`, then every model of `FOLDERS`, each name once; a folder that is not there holds none."""
    return [BUNDLED, *_models()]


def model(name: str) -> Entry:
    """One of `model_names`; a name that is not in that list is never made into a path."""
    if name == BUNDLED:
        return model_at(BUNDLED_PATH)
    if entry := _models().get(name):
        return entry
    raise CheckpointError(
        f"model_name: there is no model {name!r} in models/{' or models/'.join(FOLDERS)}; put it there and "
        "refresh the page, or choose another"
    )
