"""Clips in windows against the unwindowed forward pass: time and peak memory, in turn in one run. Linux.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/windows.py --frames 128 1024 [--where latents attention --model published]

One evaluation of the clip under one text, by `sample`, for each number of frames and each place of the windows. `time`
is that of a frame over a frame's of the shortest clip without windows, round by round, and `time_over_work` the same
over the windows' overlap factor: what a windowed frame costs of what it must. `peak_mib` is what a process of its own
needs above the loaded model. A place that is refused says why.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from t2v_core.checkpoints import load_bundled  # noqa: E402 (the path comes first)
from t2v_core.diffusion import (  # noqa: E402
    ContextWindows,
    Denoiser,
    NativeSize,
    NoiseSchedule,
    VideoModel,
    prepare_noise,
    sample,
)
from t2v_core.errors import T2VError  # noqa: E402
from t2v_core.models.unet3d import UNet3D, UNet3DConfig  # noqa: E402

NONE = "none"


def built(name: str) -> tuple[VideoModel, torch.Tensor]:
    """The model and a text for it: the bundled one, or the published form at 2 / 5 of its width with random weights."""
    if name == "bundled":
        bundled = load_bundled()
        return bundled.model, bundled.prompt_encoder.encode("a red circle moving right")[0]
    torch.manual_seed(0)
    network = UNet3D(UNet3DConfig(widths=(128, 256, 512, 512))).eval().requires_grad_(False)
    denoiser = Denoiser(network, NoiseSchedule.scaled_linear(), "eps")
    return VideoModel(denoiser, 0.18215, NativeSize(256, 256, 16, 8.0)), torch.randn(1, 77, 1024)


def run(model: VideoModel, text: torch.Tensor, frames: int) -> float:
    """Seconds for one evaluation of a clip of the model's own size."""
    shape = (frames, 4, model.native.height // 8, model.native.width // 8)
    latents, noise = torch.zeros(shape), prepare_noise(shape, 0)
    sigmas = torch.stack([model.denoiser.noise_schedule.sigma_max * torch.tensor(0.5), torch.tensor(0.0)])
    start = time.perf_counter()
    sample(model, latents, text, None, noise=noise, sampler="euler", sigmas=sigmas, cfg=1.0, seed=0)
    return time.perf_counter() - start


def windowed(model: VideoModel, where: str, arguments: argparse.Namespace) -> VideoModel:
    if where == NONE:
        return model
    return model.patched(ContextWindows(arguments.length, arguments.overlap, plan=arguments.plan, where=where))


def status(field: str) -> float:
    """A memory figure of this process, in MiB."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(field)) / 1024


def _peak(where: str, frames: int, arguments: argparse.Namespace, queue) -> None:
    torch.set_num_threads(arguments.threads)
    model, text = built(arguments.model)
    run(model, text, arguments.length)  # what kernels keep is there, as in a second step
    ctypes.CDLL(None).malloc_trim(0)  # what was kept for later does not count as needed
    Path("/proc/self/clear_refs").write_text("5")  # peak RSS starts again from now
    before = status("VmRSS")
    run(windowed(model, where, arguments), text, frames)
    queue.put(round(status("VmHWM") - before, 1))


def peak_memory(where: str, frames: int, arguments: argparse.Namespace) -> float:
    """MiB above the loaded model, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(where, frames, arguments, queue))
    process.start()
    peak = queue.get(timeout=3600)
    process.join()
    return peak


def timed(model: VideoModel, text: torch.Tensor, arguments: argparse.Namespace) -> dict[tuple[str, int], list[float]]:
    """Seconds of each case, round by round; first of all that without windows. A refused place is said and left out."""
    shortest = min(arguments.frames)
    cases = {(NONE, shortest): model}
    for where in arguments.where:
        try:
            run(windowed(model, where, arguments), text, shortest)
            cases |= {(where, frames): windowed(model, where, arguments) for frames in arguments.frames}
        except T2VError as error:
            print(f"{where}: {error}")
    run(model, text, shortest)  # the warm-up
    seconds: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for turn in range(arguments.rounds):
        for (where, frames), each in list(cases.items())[:: 1 if turn % 2 == 0 else -1]:
            seconds[where, frames].append(run(each, text, frames))
            print(f"round {turn + 1}, {where}, {frames} frames: {seconds[where, frames][-1]:.2f} s", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[128])
    parser.add_argument("--where", nargs="+", default=["latents", "attention"])
    parser.add_argument("--model", choices=("bundled", "published"), default="bundled")
    parser.add_argument("--plan", default="static")
    for option, default in (("length", 16), ("overlap", 4), ("rounds", 3), ("threads", 2)):
        parser.add_argument(f"--{option}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    model, text = built(arguments.model)
    seconds = timed(model, text, arguments)
    plain = (NONE, min(arguments.frames))
    print(json.dumps(vars(arguments)))
    for (where, frames), times in seconds.items():
        per_frame = [took / frames / (base / plain[1]) for took, base in zip(times, seconds[plain], strict=True)]
        work = ContextWindows(arguments.length, arguments.overlap, plan=arguments.plan).at(frames, 0.5).work
        work = work if where == "latents" else 1.0
        print(json.dumps({
            "where": where,
            "frames": frames,
            "work": round(work, 3),
            "time": {name: round(of(per_frame), 3) for name, of in
                     (("median", statistics.median), ("least", min), ("most", max))},
            "time_over_work": round(statistics.median(per_frame) / work, 3),
            "peak_mib": peak_memory(where, frames, arguments),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
