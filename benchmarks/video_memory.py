"""Memory that writing a video takes above what was there before it: of this process, and of ffmpeg. Linux.

    python benchmarks/video_memory.py write --frames 10000 --width 1280 --height 720
    python benchmarks/video_memory.py decode --frames 2000 --width 640 --height 360

`write` hands `write_video` frames that are made as they are asked for; `decode` hands T2VDecodeAndSave latents and the
bundled model's autoencoder. Compare two numbers of frames: what streams takes as much for both.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PACK = "t2v_measured"


def writing(arguments: argparse.Namespace, folder: Path) -> Callable[[], object]:
    """`write_video`, ready to be called."""
    sys.path.insert(0, str(ROOT))
    from t2v_core.video import VideoOptions, write_video

    still = np.random.default_rng(0).integers(0, 256, (arguments.height, arguments.width, 3), np.uint8)
    still[: arguments.height * 3 // 4] = 128  # noise everywhere would measure the encoder alone

    def frames() -> Iterator[np.ndarray]:
        for index in range(arguments.frames):
            yield np.roll(still, index, axis=1)

    options = VideoOptions(preset="ultrafast")
    return lambda: write_video(frames(), folder / "a.mp4", 24, quality="low", options=options)


def decoding(arguments: argparse.Namespace, folder: Path) -> Callable[[], object]:
    """T2VDecodeAndSave, ready to be called."""
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py")
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])
    import torch

    nodes, host, core = (importlib.import_module(f"{PACK}.{name}") for name in ("nodes", "headless.host", "t2v_core"))
    progress = importlib.import_module(f"{PACK}.headless.progress").Progress(io.StringIO(), "none")
    nodes.host.use(host.HeadlessHost(folder / "models", folder, progress))
    vae = nodes.host.current().load_model("bundled", "fp32", ("vae",)).vae
    latents = torch.randn(arguments.frames, 4, arguments.height // 8, arguments.width // 8)
    options = importlib.import_module(f"{core.__name__}.video").VideoOptions(preset="ultrafast")
    widgets = {"fps": 24.0, "filename_prefix": "a", "format": "h264-mp4", "quality": "low", "tile_size": 0}

    def run() -> None:
        with torch.inference_mode():
            nodes.T2VDecodeAndSave().save(
                {"samples": latents}, vae, **widgets, frames_per_batch=arguments.batch, options=options
            )

    return run


def status(field: str, process: str = "self") -> float:
    """A memory figure of a process, in MiB; 0 once it has none any more."""
    text = Path(f"/proc/{process}/status").read_text()
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(field)), 0.0)


class Watch(threading.Thread):
    """The peak RSS of the child processes there are meanwhile, in MiB.

    getrusage would count what a child has before it becomes ffmpeg: all that this process has.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._over = 0.0, threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.1):
            for children in Path("/proc/self/task").glob("*/children"):
                try:
                    peaks = [status("VmHWM", pid) for pid in children.read_text().split()]
                except OSError:  # ended since
                    continue
                self.peak = max([self.peak, *peaks])

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("write", "decode"))
    for option, default in (("frames", 100), ("width", 640), ("height", 360), ("batch", 0)):
        parser.add_argument(f"--{option}", type=int, default=default)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = {"write": writing, "decode": decoding}[arguments.what](arguments, Path(folder))
        ctypes.CDLL(None).malloc_trim(0)  # what was kept for later does not count as needed
        Path("/proc/self/clear_refs").write_text("5")  # peak RSS starts again from now
        loaded, start = status("VmRSS"), time.perf_counter()
        with Watch() as ffmpeg:
            run()
        seconds = time.perf_counter() - start
    print(json.dumps({
        **vars(arguments),
        "loaded_mib": round(loaded, 1),
        "peak_above_loaded_mib": round(status("VmHWM") - loaded, 1),
        "ffmpeg_peak_mib": round(ffmpeg.peak, 1),
        "seconds": round(seconds, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
