"""pytorch-fid's Inception, the feature space of published FIDs."""

from __future__ import annotations

import errno
import logging
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nas_gan.cache import is_cached
from nas_gan.errors import MissingDataError, NasGanError
from nas_gan.metrics.onnx_graph import GraphInParts, OnnxGraph, check_onnx
from nas_gan.metrics.protocol import LEGACY, FidProtocol, Images, checked_images, extractor_name
from nas_gan.networks.halving import halving
from nas_gan.weights.files import load_torch

logger = logging.getLogger(__name__)

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
SIZE = 299


class InceptionV3:
    """The 2048-d pool3 features of pytorch-fid, the feature space of published FIDs.

    `weights` is the file of pytorch-fid; by default it is taken from torch's hub cache, after
    downloading it if necessary. Under `legacy` the features are those of
    `pytorch_fid.inception.InceptionV3` on images / 255, up to rounding. On a CPU the network runs
    in ONNX Runtime with batch normalisation folded in, in half the time of eager torch.
    """

    dim = 2048
    comparable = True
    kept_by_workers = True

    def __init__(
        self,
        weights: Path | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        protocol: FidProtocol = LEGACY,
    ) -> None:
        self.name = extractor_name("inception-v3", protocol)
        self.device = torch.device(device)
        self.threads = threads
        self.protocol = protocol
        loaded = _load_inception_weights(weights)
        self._network = _build_inception(loaded).to(self.device)
        self._classes = loaded["fc.weight"].detach().numpy()  # (1008, 2048)

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        images = checked_images(images)
        with torch.inference_mode():
            if self.device.type == "cpu":
                return self._graph(self._scaled(images).numpy())
            return halving(
                lambda part: self._network(self._scaled(part)).flatten(1).cpu(), images
            ).numpy()

    def _scaled(self, images: Tensor) -> Tensor:
        """The input of the network, on its device."""
        centre = self.protocol.centre
        return (self.protocol.resize(images.to(self.device), SIZE) - centre) / centre

    def logits(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scores of 1008 classes, `(n, 1008)`, of features `(n, 2048)`.

        Without the bias, as in the original code of the Inception score.
        """
        return features @ self._classes.T

    def __getstate__(self) -> dict[str, Any]:
        """Without the graph: a worker on another machine opens its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_graph"}

    @cached_property
    def _graph(self) -> GraphInParts:
        check_onnx()
        return GraphInParts(_to_onnx(self._network), self.threads)


def inception_cache() -> Path:
    """Where pytorch-fid keeps the Inception weights: in the cache of torch's hub."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def _load_inception_weights(path: Path | None) -> dict[str, Tensor]:
    if path is not None:
        if not path.is_file():
            raise _unusable(f"{path}: no such file")
        try:
            content = load_torch(path)
        except NasGanError as error:
            raise _unusable(str(error)) from error
        if not isinstance(content, dict):
            raise _unusable(f"{path}: not a file of tensors")
        return content
    fid = _import_pytorch_fid()
    try:
        with _hub_folder() as folder:
            return torch.hub.load_state_dict_from_url(
                fid.FID_WEIGHTS_URL,
                str(folder),
                map_location="cpu",
                check_hash=True,
                weights_only=True,
            )
    except (OSError, HTTPException, RuntimeError, pickle.UnpicklingError) as error:
        raise MissingDataError(
            f"must be given, since {fid.FID_WEIGHTS_URL} cannot be downloaded ({error}); get that "
            "file elsewhere, or use the features efficientnet-lite0",
            setting="inception_weights",
        ) from error


@contextmanager
def _hub_folder() -> Iterator[Path]:
    """The cache of torch's hub if the weights are or can be there, else a temporary folder."""
    kept = inception_cache()
    if not is_cached(kept):
        try:
            if not kept.is_absolute():  # torch could not expand ~
                raise FileNotFoundError(errno.ENOENT, "not an absolute path")
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=kept.parent):
                pass
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s); the Inception weights are downloaded for this run "
                "alone",
                kept.parent,
                error.strerror,
            )
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)
            return
    yield kept.parent


def _unusable(problem: str) -> MissingDataError:
    return MissingDataError(f"must be {INCEPTION_FILE}; {problem}", setting="inception_weights")


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

    pytorch-fid's constructors download their weights, so the same parts are assembled here:
    torchvision's Inception with the blocks in which TensorFlow's differs.
    """
    fid = _import_pytorch_fid()
    # On the meta device nothing is allocated or drawn for weights that are replaced anyway.
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
        raise _unusable("these weights do not fit pytorch-fid's network") from error
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


class _Tracer(fx.Tracer):
    """Follows the network down to its convolutions, each with its norm and ReLU as one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return hasattr(m, "bn") or super().is_leaf_module(m, module_qualified_name)


def _to_onnx(network: nn.Module) -> bytes:
    """The network as a serialised ONNX model, `images` `(n, 3, 299, 299)` to `features`."""
    from onnx import TensorProto

    graph = OnnxGraph()
    names: dict[fx.Node, str] = {}
    output = "images"
    for node in _Tracer().trace(network).nodes:
        inputs = [names[argument] for argument in node.all_input_nodes]
        if node.op == "placeholder":
            names[node] = "images"
        elif node.op == "call_module":
            names[node] = _add_module(graph, network.get_submodule(str(node.target)), inputs[0])
        elif node.op == "call_function":
            names[node] = _add_function(graph, node, inputs)
        else:
            output = inputs[0]
    return graph.serialize(
        "inception_v3", TensorProto.FLOAT, ["n", 3, SIZE, SIZE], output, InceptionV3.dim
    )


def _add_module(graph: OnnxGraph, module: nn.Module, x: str) -> str:
    if isinstance(module, nn.MaxPool2d):
        return graph.node("MaxPool", x, **_window(module.kernel_size, module.stride, 0))
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return graph.node("GlobalAveragePool", x)
    conv, norm = module.conv, module.bn
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return graph.conv(x, conv, norm, "relu")


def _add_function(graph: OnnxGraph, node: fx.Node, inputs: list[str]) -> str:
    if node.target is torch.cat:
        return graph.node("Concat", *inputs, axis=1)
    # What else the network calls is pooling: behind the images the size of its window, if unnamed.
    options = node.kwargs
    kernel = options["kernel_size"] if "kernel_size" in options else node.args[1]
    window = _window(kernel, options["stride"], options.get("padding", 0))
    if node.target is F.avg_pool2d:
        counted = int(bool(options.get("count_include_pad", True)))
        return graph.node("AveragePool", *inputs, count_include_pad=counted, **window)
    return graph.node("MaxPool", *inputs, **window)


def _window(kernel: Any, stride: Any, padding: Any) -> dict[str, list[int]]:
    return dict(kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4)
