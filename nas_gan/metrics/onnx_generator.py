"""A generator's images from ONNX Runtime, for scores that need many of them on a CPU.

The graph is made by the tracing exporter of torch, which takes as long as some hundred images: only
many images repay it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from nas_gan.metrics.onnx_graph import GraphInParts
from nas_gan.networks.structure import evaluating

# From how many images on the graph repays its making.
WORTHWHILE = 1000
# The largest difference of an image from torch's, in [-1, 1]: an eightieth of a step of 8 bits, so
# that no byte is more than one step off, and few are.
TOLERANCE = 1e-4
N_TESTED = 8
OPSET = 18


def onnx_images(
    generator: nn.Module, latents: Tensor, threads: int | None = None
) -> Callable[[Tensor], Tensor] | None:
    """A function from latents to images that does what the generator does, in ONNX Runtime.

    Args:
        generator: the generator, on the CPU; it is not changed.
        latents: `(n, latent_dim)` latents, on the first and last of which the images are compared.
        threads: threads that run it; by default as many as those of torch.

    Returns:
        The function; None if the generator cannot be exported, or if an image differs by more than
        `TOLERANCE`, as those of a generator that draws noise of its own do.
    """
    try:
        graph = GraphInParts(_graph(generator, latents[:2]), threads)
    except Exception:  # whatever the exporter or the runtime cannot do, torch can
        return None

    def images(z: Tensor) -> Tensor:
        return torch.from_numpy(graph(z.numpy()))

    few = N_TESTED // 2
    for tested in (latents[:few], latents[-few - 1 :]):  # two batches, of different sizes
        with evaluating(generator):
            expected = generator(tested)
        try:
            found = images(tested)
        except Exception:
            return None
        if found.shape != expected.shape or not torch.allclose(
            found, expected, rtol=0, atol=TOLERANCE
        ):
            return None
    return images


def _graph(generator: nn.Module, example: Tensor) -> bytes:
    """The generator as an ONNX model from `latents` to `images`, with a dynamic batch."""
    buffer = io.BytesIO()
    traced = copy.deepcopy(generator).eval()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        _silent("torch.onnx"),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            traced,
            (example,),
            buffer,  # type: ignore[arg-type]  # the stub knows paths only
            dynamo=False,
            opset_version=OPSET,
            input_names=["latents"],
            output_names=["images"],
            dynamic_axes={"latents": {0: "n"}, "images": {0: "n"}},
        )
    return buffer.getvalue()


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
