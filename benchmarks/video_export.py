"""Writing a video: ours, VideoHelperSuite's, ComfyUI's SaveVideo, and the limit, taken in turn in one run.

    OMP_WAIT_POLICY=PASSIVE ~/comfy/venv/bin/python benchmarks/video_export.py --comfyui ~/comfy/ComfyUI --vhs FOLDER

Run it by ComfyUI's Python, which has what ComfyUI's own nodes need. --vhs is a clone of VideoHelperSuite, whose Video
Combine is called as it stands there. Either peer may be left out.

All get the same frames and write H.264 mp4 at CRF 23, preset medium. The limit is the same ffmpeg with our own
arguments, fed rgb24 bytes that are ready in memory. Per size: the seconds, and the limit's over the writer's, round by
round (above 1 is faster than the limit), by the wall clock and in CPU time of Python and ffmpeg together. Then each
peer's time over ours, round by round: the median, with the 95% interval that the order of the rounds gives it.
"""

from __future__ import annotations

import argparse
import importlib
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from unittest import mock

import imageio_ffmpeg
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
FPS, CRF, PRESET = Fraction(24), 23, "medium"
SIZES = ((576, 320), (1280, 720), (1920, 1080))
LIMIT, OURS_UINT8, OURS_FLOAT, VHS, SAVE_VIDEO = (
    "limit: ready bytes",
    "ours, uint8",
    "ours, float32",
    "VideoHelperSuite",
    "ComfyUI SaveVideo",
)
# Of ComfyUI and its server VideoHelperSuite needs little to write a file; OpenCV it needs to read one.
NOT_NEEDED = ("comfy", "comfy.k_diffusion", "comfy.k_diffusion.utils", "server", "nodes", "execution", "cv2", "psutil")

Write = Callable[[Path], None]


def clip(frames: int, width: int, height: int) -> np.ndarray:
    """Frames uint8 `[f, h, w, 3]`: soft colours that drift, a disc that moves, a little grain, as a film has."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / height
    grain = random.normal(0, 3, (height + 64, width + 64, 3)).astype(np.float32)
    made = np.empty((frames, height, width, 3), np.uint8)
    for index in range(frames):
        at = index / 24
        waves = [np.sin(5 * x + at + phase) * np.cos(4 * y - at / 2 + phase) for phase in (0, 2, 4)]
        picture = (127 + 80 * np.stack(waves, axis=-1)).astype(np.float32)
        picture[(x - 0.5 - 0.3 * np.sin(at)) ** 2 + (y - 0.5) ** 2 < 0.03] = (220, 60, 40)
        down, right = random.integers(0, 64, 2)
        picture += grain[down : down + height, right : right + width]
        made[index] = picture.clip(0, 255)
    return made


def ours(frames: np.ndarray, arguments: argparse.Namespace) -> dict[str, Write]:
    sys.path.insert(0, str(ROOT))
    from t2v_core.video import VideoOptions, write_video

    floats = torch.from_numpy(frames).float().div_(255)
    options = VideoOptions(crf=CRF, preset=PRESET)
    command: list[str] = []

    def writer(source) -> Write:
        return lambda path: write_video(source, path, FPS, options=options) and None

    def limit(path: Path) -> None:
        size = ("-pixel_format", "rgb24", "-video_size", f"{frames.shape[2]}x{frames.shape[1]}")
        start, end = command.index("avi") - 1, command.index("pipe:0") + 1
        raw = ("-f", "rawvideo", *size, "-framerate", str(FPS), "-i", "pipe:0")
        with subprocess.Popen(
            [*command[:start], *raw, *command[end:-1], path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            for frame in frames:
                process.stdin.write(frame)
        if process.returncode:
            raise RuntimeError(f"the limit's ffmpeg failed with exit code {process.returncode}")

    with tempfile.TemporaryDirectory() as folder, mock.patch("subprocess.Popen", _noting(command)):
        writer(frames[:2])(Path(folder, "a.mp4"))
    return {LIMIT: limit, OURS_UINT8: writer(frames), OURS_FLOAT: writer(floats)}


def _noting(command: list[str]) -> type:
    class Popen(subprocess.Popen):
        """Notes the command that is fed frames."""

        def __init__(self, args, *others, **options):
            if "pipe:0" in args:
                command[:] = args
            super().__init__(args, *others, **options)

    return Popen


def save_video(frames: np.ndarray, arguments: argparse.Namespace) -> dict[str, Write]:
    sys.path.insert(0, str(arguments.comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    from comfy_api.latest._input_impl.video_types import VideoFromComponents
    from comfy_api.latest._util import VideoComponents

    images = torch.from_numpy(frames).float().div_(255)
    video = VideoFromComponents(VideoComponents(images=images, audio=None, frame_rate=FPS))
    return {SAVE_VIDEO: lambda path: video.save_to(str(path))}


def video_combine(frames: np.ndarray, arguments: argparse.Namespace) -> dict[str, Write]:
    os.environ["VHS_FORCE_FFMPEG_PATH"] = imageio_ffmpeg.get_ffmpeg_exe()  # ours too
    folders = types.ModuleType("folder_paths")
    folders.folder_names_and_paths = {}
    folders.get_filename_list = lambda category: []
    folders.get_input_directory = folders.get_temp_directory = tempfile.gettempdir
    utils = types.ModuleType("comfy.utils")
    utils.ProgressBar, utils.common_upscale = _ProgressBar, None
    sys.modules.update({name: mock.MagicMock() for name in NOT_NEEDED})
    sys.modules.update({"folder_paths": folders, "comfy.utils": utils})
    sys.path.insert(0, str(arguments.vhs))
    node = importlib.import_module("videohelpersuite.nodes").VideoCombine()
    images = torch.from_numpy(frames).float().div_(255)

    def write(path: Path) -> None:
        folders.get_output_directory = lambda: str(path.parent)
        folders.get_save_image_path = lambda prefix, folder: (folder, prefix, 0, "", prefix)
        node.combine_video(
            frame_rate=int(FPS),
            loop_count=0,
            images=images,
            filename_prefix=path.stem,
            format="video/h264-mp4",
            extra_pnginfo={"workflow": {"extra": {"VHS_MetadataImage": False}}},  # no PNG of the first frame besides
            pix_fmt="yuv420p",
            crf=CRF,
            save_metadata=False,
            trim_to_audio=False,
        )
        (written,) = path.parent.glob(f"{path.stem}_*.mp4")
        written.rename(path)

    return {VHS: write}


class _ProgressBar:
    def __init__(self, total: int):
        self.total = total

    def update(self, value: int) -> None:
        pass


def work(setup: Callable, arguments: argparse.Namespace, size: tuple[int, int], connection) -> None:
    """Runs in a process of its own: sends the names of its writers, then times the one whose name comes."""
    torch.set_num_threads(arguments.threads)
    writers = setup(clip(arguments.frames or arguments.pixels // (size[0] * size[1]), *size), arguments)
    connection.send(list(writers))
    while (name := connection.recv()) is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.mp4")
            start, cpu = time.perf_counter(), _cpu()
            writers[name](path)
            connection.send((time.perf_counter() - start, _cpu() - cpu, path.stat().st_size))


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(arguments: argparse.Namespace, size: tuple[int, int]) -> dict[str, list[tuple[float, float, int]]]:
    """For each writer (seconds, CPU seconds, bytes of the file) of each round."""
    setups = [ours, *([video_combine] if arguments.vhs else []), *([save_video] if arguments.comfyui else [])]
    context, workers, processes = multiprocessing.get_context("spawn"), {}, []
    for setup in setups:
        connection, far = context.Pipe()
        processes.append(context.Process(target=work, args=(setup, arguments, size, far), daemon=True))
        processes[-1].start()
        far.close()  # or its death would never be noticed here
        workers.update(dict.fromkeys(connection.recv(), connection))
    taken: dict[str, list[tuple[float, float, int]]] = {name: [] for name in workers}
    for turn in range(-1, arguments.rounds):  # the first is the warm-up
        names = list(workers)
        shift = turn % len(names)  # so that nobody always comes after the same one
        for name in names[shift:] + names[:shift]:
            workers[name].send(name)
            figures = workers[name].recv()
            if turn >= 0:
                taken[name].append(figures)
    for connection in set(workers.values()):
        connection.send(None)
    for process in processes:
        process.join()
    return taken


def table(size: tuple[int, int], taken: dict[str, list[tuple[float, float, int]]]) -> str:
    rows = [
        f"| {size[0]}x{size[1]} | seconds | limit / this (range) | CPU seconds | limit / this, CPU | MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in taken.items():
        seconds, cpu, sizes = zip(*figures, strict=True)
        wall, used = ([limit[of] / own[of] for limit, own in zip(taken[LIMIT], figures, strict=True)] for of in (0, 1))
        rows.append(
            f"| {name} | {statistics.median(seconds):.2f} | {statistics.median(wall):.3f} "
            f"({min(wall):.3f} to {max(wall):.3f}) | {statistics.median(cpu):.2f} | {statistics.median(used):.3f} | "
            f"{sizes[-1] / 1e6:.2f} |"
        )
    return "\n".join(rows)


def against_peers(taken: dict[str, list[tuple[float, float, int]]]) -> str:
    rows = ["| peer / ours | by the clock (95% interval) | CPU time (95% interval) |", "|---|---|---|"]
    for peer in (name for name in (VHS, SAVE_VIDEO) if name in taken):
        for own in (OURS_UINT8, OURS_FLOAT):
            pairs = list(zip(taken[peer], taken[own], strict=True))
            cells = [_median_and_interval([their[of] / our[of] for their, our in pairs]) for of in (0, 1)]
            rows.append(f"| {peer} / {own} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _median_and_interval(values: list[float]) -> str:
    """The median, and the values between which it lies with 95%, whatever their distribution (the sign test's)."""
    ordered, count = sorted(values), len(values)
    below, left_out = 0.0, -1
    while (below := below + math.comb(count, left_out + 1) / 2**count) <= 0.025:
        left_out += 1
    if left_out < 0:
        return f"{statistics.median(ordered):.3f} (too few rounds)"
    return f"{statistics.median(ordered):.3f} ({ordered[left_out]:.3f} to {ordered[-1 - left_out]:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, help="ComfyUI's folder")
    parser.add_argument("--vhs", type=Path, help="VideoHelperSuite's folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=0, help="of each clip (default: by --pixels)")
    parser.add_argument("--pixels", type=int, default=100_000_000, help="of each clip, all frames together")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's")
    parser.add_argument("--size", action="append", metavar="WxH", help=f"default: {SIZES}")
    arguments = parser.parse_args()
    sizes = [tuple(map(int, text.split("x"))) for text in arguments.size] if arguments.size else SIZES
    for size in sizes:
        taken = measure(arguments, size)
        print(table(size, taken), against_peers(taken), sep="\n\n", end="\n\n", flush=True)


if __name__ == "__main__":
    main()
