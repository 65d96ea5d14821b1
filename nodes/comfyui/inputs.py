"""Where ComfyUI keeps what users give it to load."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...t2v_core.video.reading.inputs import inside, videos_in


def videos() -> list[str]:
    """The videos directly in ComfyUI's input folder, as its own LoadVideo lists them."""
    return videos_in(Path(folder_paths.get_input_directory()))


def video(name: str) -> Path:
    """The file that ComfyUI means by a name: below the input folder, or the one named behind it, `name.mp4 [output]`.

    ComfyUI itself would follow `..` out of the folder; here that is a VideoError.
    """
    plain, folder = folder_paths.annotated_filepath(name)
    return inside(Path(folder or folder_paths.get_input_directory()), plain)
