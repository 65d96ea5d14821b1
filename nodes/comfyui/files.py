"""Where ComfyUI keeps model files."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...t2v_core.checkpoints import BUNDLED_PATH
from ...t2v_core.errors import CheckpointError
from ..host import BUNDLED

# Our own folder first: where two folders hold a file of the same name, it is the first one's.
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


def model_names() -> list[str]:
    """`bundled`, then every file of `FOLDERS`, each name once; a folder that is not there holds none."""
    _register()
    names = [name for folder in FOLDERS for name in sorted(folder_paths.get_filename_list(folder))]
    return [BUNDLED, *dict.fromkeys(name for name in names if name != BUNDLED)]


def model_path(name: str) -> Path:
    """The file of one of `model_names`; a name that is not in that list is never made into a path."""
    if name == BUNDLED:
        return BUNDLED_PATH
    _register()
    for folder in FOLDERS:
        if name in folder_paths.get_filename_list(folder) and (path := folder_paths.get_full_path(folder, name)):
            return Path(path)
    raise CheckpointError(
        f"model_name: there is no model {name!r} in models/{' or models/'.join(FOLDERS)}; put the file there and "
        "refresh the page, or choose another"
    )
