"""The largest kernel of a generator, factorized in a process of its own that says what it took."""

import subprocess
import sys

import pytest

LIMIT = 2e9  # bytes, with Python and torch

SCRIPT = """
import sys, torch
from torch import nn
from ard.assembly.statistics import LayerStatistics
from ard.plan import Factorization
from ard.assembly.surgery import factorize_layer
rng = torch.Generator().manual_seed(0)
conv = nn.Conv2d(512, 512, 5, bias=False, device="meta").to_empty(device="cpu")
conv.weight.data.normal_(generator=rng)
channel, vertical = (
    torch.diag(torch.rand(n, generator=rng, dtype=torch.float64)) for n in (512, 2560)
)
statistics = LayerStatistics(channel, vertical, 1, output=channel)
for choice in sys.argv[1:]:
    factorize_layer(conv, Factorization.parse(choice), statistics)
# Not ru_maxrss, which a process inherits from the one that started it.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""

# The whole way of a layer: statistics of its inputs and outputs, its factors, batch statistics.
WHOLE = """
import torch
from torch import nn
from ard.assembly.assembler import Assembler
from ard.layers import profile_layers
from ard.plan import Factorization, RankPlan

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 512 * 8 * 8)
        self.conv = nn.Conv2d(512, 512, 3, padding=1)
        self.norm = nn.BatchNorm2d(512)
        self.last = nn.Conv2d(512, 3, 1)

    def forward(self, z):
        x = self.first(z).view(-1, 512, 8, 8).relu()
        return self.last(self.norm(self.conv(x)).relu()).tanh()

torch.manual_seed(0)
net = Net().eval()
latents = torch.randn(128, 16)
with torch.no_grad():
    layers = [l for l in profile_layers(net, latents[:2]).layers if l.name == "conv"]
assemble = Assembler.measure(net, latents, layers)
for choice in ("spatial_svd(384)", "tucker2(256, 256)"):
    assemble(RankPlan({"conv": Factorization.parse(choice)}))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc of Linux")
def test_statistics_and_factors_of_a_layer_take_no_more_than_two_gigabytes():
    done = subprocess.run(
        [sys.executable, "-c", WHOLE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < LIMIT


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc of Linux")
@pytest.mark.parametrize(
    "choices",
    [
        ("tucker2(256, 256)", "spatial_svd(640)"),
        pytest.param(("cp(1024)",), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_kernel_of_512_channels_takes_no_more_than_two_gigabytes(choices):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *choices], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < LIMIT
