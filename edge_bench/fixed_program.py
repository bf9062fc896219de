"""A program of torch whose inputs and images stay at fixed addresses, and its CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Calls before a capture, in which libraries choose their kernels and take their workspaces; the
# number is that of the examples in torch's notes on CUDA.
WARMUP = 3


class FixedProgram:
    """A program with inputs of one shape in tensors of its own.

    Its kernels are launched one by one, or after `capture` as one graph, which reads and writes the
    addresses that it was captured with.

    Args:
        torch: The package.
        network: The program; it takes the inputs in their order.
        feed: The first inputs, which are sent.
        device: Where it runs, in torch's words.
    """

    def __init__(
        self,
        torch: Any,
        network: Callable[..., Any],
        feed: Sequence[NDArray[np.generic]],
        device: str,
    ) -> None:
        self._torch, self._network = torch, network
        self._inputs = [torch.from_numpy(array).to(device, copy=True) for array in feed]
        self._images: Any = None
        self._graph: Any = None

    def send(self, feed: Sequence[NDArray[np.generic]]) -> None:
        """Copy inputs of the shapes of the first ones to the device."""
        with self._torch.inference_mode():
            for there, array in zip(self._inputs, feed, strict=True):
                there.copy_(self._torch.from_numpy(array))

    def run(self) -> None:
        """Launch what computes the images of what was sent, without waiting for it."""
        if self._graph is None:
            with self._torch.inference_mode():
                self._images = self._network(*self._inputs)
        else:
            self._graph.replay()

    def images(self) -> NDArray[np.generic]:
        """The images of the last run, complete and in host memory."""
        found: NDArray[np.generic] = self._images.cpu().numpy()
        return found

    def capture(self) -> str | None:
        """From now on, launch the kernels as one CUDA graph.

        As torch's notes ask for, the program runs on another stream first, and what it needs then
        stays in memory of the graph's own.

        Returns:
            Why that is not possible, in a line; the kernels are then launched as before. None if it
            was.
        """
        torch = self._torch
        try:
            here = torch.cuda.current_stream()
            # A failed capture leaves its stream the current one; this block ends that.
            with torch.inference_mode(), torch.cuda.stream(here):
                aside = torch.cuda.Stream()
                aside.wait_stream(here)
                with torch.cuda.stream(aside):
                    for _ in range(WARMUP):
                        self._network(*self._inputs)
                here.wait_stream(aside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    images = self._network(*self._inputs)
            graph.replay()
            torch.cuda.synchronize()
        # What torch raises without a GPU, and of a capture that breaks off, has no base of its own.
        except (RuntimeError, AssertionError) as error:
            return " ".join(str(error).split())[:300] or type(error).__name__
        self._graph, self._images = graph, images
        return None
