"""Generators whose code makes the batch a constant, exported for every batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.errors import ExportError
from export.to_onnx import build_model
from nas_gan.networks.adapting import adapt_
from nas_gan.networks.finding import find_interface

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytestmark = pytest.mark.onnx


class WithLength(nn.Module):
    """Uses the length of its input in every way that a test asks for."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layer = nn.Linear(6, 3 * 4 * 4)
        self.start = nn.Parameter(torch.randn(1, 3, 4, 4))
        self.mix = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.layer(z)
        if self.how == "view":
            images = h.view(len(z), 3, 4, 4)
        elif self.how == "expand":
            images = self.start.expand(len(z), -1, -1, -1) + h.view(-1, 3, 4, 4)
        elif self.how == "repeat":
            images = self.start.repeat(len(z), 1, 1, 1) * h.view(-1, 3, 4, 4)
        elif self.how == "twice":  # two sizes of one shape depend on the batch
            wide = h.view(len(z), 3, 4, 4).transpose(0, 1).reshape(3, len(z) * 4, 4)
            images = wide.view(3, len(z), 4, 4).transpose(0, 1)
        elif self.how == "divide":
            images = h.view(-1, 3, 4, 4) / len(z)
        else:
            images = torch.stack([h[i].view(3, 4, 4) for i in range(len(z))])
        return torch.tanh(self.mix(images))


def exported(how: str) -> tuple[nn.Module, bytes]:
    torch.manual_seed(0)
    network = WithLength(how).eval()
    adapt_(network, find_interface(network))
    return network, build_model(network).SerializeToString()


@pytest.mark.parametrize("how", ["view", "expand", "repeat", "twice", "divide"])
def test_the_graph_takes_any_batch(how: str) -> None:
    network, graph = exported(how)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for n in (1, 2, 5, 7, 12):
        z = torch.randn(n, 6)
        with torch.no_grad():
            expected = network(z).numpy()
        [found] = session.run(None, {"z": z.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_depends_on_the_batch_in_another_way_is_refused() -> None:
    with pytest.raises(ExportError, match=r"use x\.shape\[0\] in its forward"):
        exported("loop")
