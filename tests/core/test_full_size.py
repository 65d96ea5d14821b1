"""One network of the published size: what loading and running it takes, and that it gives what diffusers gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from core.references import relative_error
from safetensors.torch import load_file

GIB = 2**30
PARAMETERS = 1_411_233_860

CLIP = """
import torch
torch.set_grad_enabled(False)
numbers = torch.Generator().manual_seed(1)
x, context = torch.randn(1, 4, 16, 32, 32, generator=numbers), torch.randn(1, 77, 1024, generator=numbers)
"""
# Every parameter random, those too that both libraries start at 0, or most of the network would not show.
REFERENCE = """
import sys
from diffusers import UNet3DConditionModel
from safetensors.torch import save_file
torch.manual_seed(0)
network = UNet3DConditionModel().eval()
for parameter in network.parameters():
    parameter.add_(0.01 * torch.randn_like(parameter))
network.save_pretrained(sys.argv[1])
save_file({"out": network(x, torch.tensor([500]), context).sample.contiguous()}, sys.argv[1] + "/out.safetensors")
"""
OURS = """
import json, sys
from pathlib import Path
from safetensors.torch import save_file
from t2v_core.checkpoints import load_unet

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

before = memory("VmRSS")
network = load_unet(sys.argv[1])
loaded = memory("VmHWM") - before
out = network(x, torch.tensor([500]), context)
weights = sum(parameter.numel() * parameter.itemsize for parameter in network.parameters())
numbers = sum(parameter.numel() for parameter in network.parameters())
save_file({"out": out.contiguous()}, sys.argv[2])
print(json.dumps({"loaded": loaded, "peak": memory("VmHWM") - before, "weights": weights, "numbers": numbers}))
"""


def in_a_process(program: str, *arguments: Path) -> str:
    command = [sys.executable, "-c", CLIP + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read where Linux tells it")
def test_the_published_size_loads_once_and_equals_diffusers(tmp_path, capsys):
    in_a_process(REFERENCE, tmp_path)
    said = json.loads(in_a_process(OURS, tmp_path, tmp_path / "ours.safetensors"))
    error = relative_error(*(load_file(tmp_path / f"{name}.safetensors")["out"] for name in ("ours", "out")))
    with capsys.disabled():
        sizes = {name: f"{said[name] / GIB:.2f} GiB" for name in ("weights", "loaded", "peak")}
        print({**sizes, "relative error": f"{error:.1e}"})
    assert said["numbers"] == PARAMETERS and said["weights"] == 4 * PARAMETERS
    assert said["loaded"] <= said["weights"] + GIB // 4  # the weights, once
    assert said["peak"] <= said["weights"] + 2 * GIB
    assert error <= 1e-5
