"""UNet3D's forward pass against diffusers' UNet3DConditionModel: same weights, same input, taken in turn in one run.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/unet3d.py [--frames 16 --height 32 --width 32 --pairs 7]

Prints the ratio of wall time pair by pair (below 1 is faster than diffusers), that of CPU time, which says more where
others take the machine's time, the peak memory of one forward above the loaded model, each in a process of its own, and
how far the two outputs are apart.
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
WIDTHS = (128, 256, 512, 512)


def build(name: str, seed: int = 0) -> torch.nn.Module:
    """Either network, with the same random weights in every parameter (the zero-initialised ones too)."""
    sys.path.insert(0, str(ROOT))
    from diffusers import UNet3DConditionModel

    from t2v_core.checkpoints import load_unet

    torch.manual_seed(seed)
    reference = UNet3DConditionModel(block_out_channels=WIDTHS).eval().requires_grad_(False)
    for parameter in reference.parameters():
        parameter.copy_(parameter + 0.02 * torch.randn_like(parameter))
    if name == "diffusers":
        return reference
    import tempfile

    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unet.safetensors"
        save_file(reference.state_dict(), path)
        # Cloned, so that the weights are in memory as the reference's are, not mapped from a file that is gone.
        network = load_unet(path)
        return network._apply(torch.clone)


def inputs(arguments: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (1, 4, arguments.frames, arguments.height, arguments.width)
    return (
        torch.randn(shape, generator=generator),
        torch.tensor([500]),
        torch.randn(1, 77, 1024, generator=generator),
    )


@torch.no_grad()
def run(network: torch.nn.Module, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    out = network(x, timesteps, context)
    return out if isinstance(out, torch.Tensor) else out.sample


def _status(field: str) -> int:
    """A memory figure of this process, in MiB (Linux)."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(field)).split()[1]) // 1024


def _peak(name: str, arguments: argparse.Namespace, queue) -> None:
    network = build(name)
    data = inputs(arguments)
    run(network, *data)  # kernels are warm, as in the second sampling step
    ctypes.CDLL(None).malloc_trim(0)  # what was kept for later does not count as needed
    Path("/proc/self/clear_refs").write_text("5")  # peak RSS starts again from now
    before = _status("VmRSS")
    run(network, *data)
    queue.put(_status("VmHWM") - before)


def peak_memory(name: str, arguments: argparse.Namespace) -> int:
    """MiB that one forward needs above the loaded model."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(name, arguments, queue))
    process.start()
    peak = queue.get(timeout=600)
    process.join()
    return peak


def summary(times: dict[str, list[float]]) -> dict[str, float]:
    """Ours over theirs, pair by pair."""
    ratios = [ours / theirs for ours, theirs in zip(times["ours"], times["diffusers"], strict=True)]
    figures = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    return {name: round(figure, 3) for name, figure in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, default in (("frames", 16), ("height", 32), ("width", 32), ("pairs", 7), ("threads", 2)):
        parser.add_argument(f"--{option}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    networks = {name: build(name) for name in ("ours", "diffusers")}
    data = inputs(arguments)
    outputs = {name: run(network, *data) for name, network in networks.items()}  # also the warm-up
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    cpu: dict[str, list[float]] = {name: [] for name in networks}
    for pair in range(arguments.pairs):
        for name in networks if pair % 2 == 0 else reversed(networks):
            start, cpu_start = time.perf_counter(), time.process_time()
            run(networks[name], *data)
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
        print(f"pair {pair + 1}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()), flush=True)
    print(json.dumps({
        "shape": list(data[0].shape),
        "widths": WIDTHS,
        "ratio": summary(seconds),
        "ratio_cpu": summary(cpu),
        "seconds_median": {name: round(statistics.median(s), 3) for name, s in seconds.items()},
        "peak_mib": {name: peak_memory(name, arguments) for name in networks},
        "relative_difference": ((outputs["ours"] - outputs["diffusers"]).norm() / outputs["diffusers"].norm()).item(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
