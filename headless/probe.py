"""`python -m headless probe`: what is in a video file, and the workflow that made it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from ..t2v_core.errors import GraphError, VideoError
from ..t2v_core.video.reading.describe import describe
from ..t2v_core.video.reading.info import VideoInfo
from ..t2v_core.video.reading.metadata_read import COMFYUI_KEYS
from ..t2v_core.video.reading.probe import probe
from .progress import Progress
from .wording import LONGEST, plain, short

DONE = 0
EXIT_CODES = (
    "exit codes: 0 the file was read; 2 it is no video that can be read, or the workflow cannot be written; "
    "130 interrupted. Errors are one line on stderr."
)


def add(commands) -> None:
    """Adds the command to the program's."""
    parser = commands.add_parser("probe", help="show what is in a video file, the workflow too", epilog=EXIT_CODES)
    parser.set_defaults(command=show)
    parser.add_argument("file", metavar="FILE", help="a video file, or a PNG or WebP picture")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, prompt and workflow whole")
    parser.add_argument(
        "--workflow",
        metavar="OUT",
        type=Path,
        help="write the workflow in the file into a new file OUT: the one for ComfyUI's page or, where there is none, "
        "the prompt in the API format, which `run` reads",
    )


def show(options: argparse.Namespace, progress: Progress) -> int:
    """Prints what is in the file, and returns the exit code. GraphError for what is no video."""
    try:
        info = probe(options.file, count=True)
    except VideoError as error:
        raise GraphError(plain(str(error))) from error  # one line, whatever the file is called
    sys.stdout.reconfigure(errors="backslashreplace")  # metadata has letters that a terminal's encoding may lack
    print(json.dumps(_as_json(info), indent=2) if options.json else "\n".join(map(plain, _lines(info))))
    if options.workflow is not None:
        _write_workflow(info, options.workflow)
    return DONE


def _lines(info: VideoInfo) -> list[str]:
    lines = [str(info.path), *(f"  {line}" for line in describe(info))]
    for name in COMFYUI_KEYS:
        if name in info.metadata:
            lines.append(f"  {name}: {_summary(info.metadata[name])}")
    others = {name: value for name, value in info.metadata.items() if name not in COMFYUI_KEYS}
    return lines + [f"  {short(name)}: {short(value[: 2 * LONGEST])}" for name, value in others.items()]


def _summary(text: str) -> str:
    """How large a workflow is, and of what nodes."""
    graph = _parsed(text)
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if isinstance(nodes, list):  # the page's format
        kinds = [node.get("type") for node in nodes if isinstance(node, dict)]
    elif isinstance(graph, dict):  # the API format: nodes by their ids
        kinds = [node.get("class_type") for node in graph.values() if isinstance(node, dict)]
    else:
        return f"{len(text):,} characters that are no workflow"
    kinds = [kind for kind in kinds if isinstance(kind, str)]
    named = ", ".join(short(kind) for kind in dict.fromkeys(kinds[:200]))
    return f"{len(kinds)} node{'s' if len(kinds) != 1 else ''}" + (f" ({named})" if named else "")


def _as_json(info: VideoInfo) -> dict[str, Any]:
    stream = info.stream
    fps = None if info.fps is None else f"{info.fps.numerator}/{info.fps.denominator}"
    colour = {"range": stream.range, "matrix": stream.matrix, "primaries": stream.primaries}
    return {
        "file": str(info.path),
        "container": info.file.kind,
        "bytes": info.file.size,
        "duration": info.duration,
        "width": info.width,
        "height": info.height,
        "pixel_aspect": f"{stream.pixel_aspect.numerator}:{stream.pixel_aspect.denominator}",
        "rotation": stream.rotation,
        "fps": fps,
        "variable_rate": info.variable_rate,
        "num_frames": info.num_frames,
        "codec": stream.codec,
        "profile": stream.profile,
        "pixel_format": stream.pixel_format,
        "bits": stream.bits,
        "alpha": stream.alpha,
        "colour": {**colour, "transfer": stream.transfer},
        "audio": [{"codec": a.codec, "sample_rate": a.sample_rate, "channels": a.channels} for a in info.audio],
        "others": list(info.others),
        "prompt": _parsed(info.metadata.get("prompt", "null")),
        "workflow": _parsed(info.metadata.get("workflow", "null")),
        "metadata": {name: value for name, value in info.metadata.items() if name not in COMFYUI_KEYS},
    }


def _parsed(text: str) -> Any:
    """What the JSON text says, or the text itself if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _write_workflow(info: VideoInfo, target: Path) -> None:
    """As it stands in the file, to a file that is not there yet. GraphError if that cannot be."""
    text = info.metadata.get("workflow") or info.metadata.get("prompt")
    if text is None:
        raise GraphError(f"{info.path}: there is no workflow in it")
    if not isinstance(_parsed(text), dict):
        raise GraphError(f"{info.path}: what it holds as its workflow is no JSON object")
    data = text.encode("utf-8", "surrogatepass")
    try:
        with open(target, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise GraphError(f"{target} exists already; nothing is ever overwritten: choose another name") from None
    except (OSError, ValueError) as error:
        raise GraphError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from error
