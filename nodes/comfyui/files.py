"""Where ComfyUI keeps model files."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...t2v_core.checkpoints import BUNDLED_PATH
from ...t2v_core.errors import CheckpointError
from ..host import BUNDLED

# Our own folder first: where two folders hold a file of the same name, it is the first one's.
FOLDERS = ("text2video", "diffusion_models")


def register() -> None:
    """Make `models/text2video` a folder of models, beside what the user's extra_model_paths says of that name."""
    own = FOLDERS[0]
    folder_paths.add_model_folder_path(own, str(Path(folder_paths.models_dir) / own))
    paths, suffixes = folder_paths.folder_names_and_paths[own]
    folder_paths.folder_names_and_paths[own] = (paths, suffixes or set(folder_paths.supported_pt_extensions))


def model_names() -> list[str]:
    """`bundled`, then every file of `FOLDERS`, each name once; a folder that is not there holds none."""
    names = [name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)]
    return [BUNDLED, *dict.fromkeys(name for name in names if name != BUNDLED)]


def model_path(name: str) -> Path:
    """The file of one of `model_names`; a name that is not in that list is never made into a path."""
    if name == BUNDLED:
        return BUNDLED_PATH
    for folder in FOLDERS:
        if name in folder_paths.get_filename_list(folder) and (path := folder_paths.get_full_path(folder, name)):
            return Path(path)
    raise CheckpointError(
        f"model_name: there is no model {name!r} in models/{' or models/'.join(FOLDERS)}; put the file there and "
        "refresh the page, or choose another"
    )
