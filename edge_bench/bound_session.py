"""A session of ONNX Runtime whose inputs and images stay at fixed addresses on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BoundSession:
    """A session bound to buffers of its own, so that what is copied and when is up to the caller.

    A CUDA graph reads and writes the addresses at which it was captured, and ONNX Runtime does not
    check shapes when it launches one. So the buffers live as long as this object, and hold one
    shape of each input only.

    Args:
        onnxruntime: The package.
        session: An `onnxruntime.InferenceSession`.
        device: Where the buffers are: `cuda` or `cpu`, in ONNX Runtime's words.
        feed: The inputs by name, which are sent.
        output: The name of the output.
        images: Images `(batch, ...)` of the shape and type that this feed gives.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        device: str,
        feed: Mapping[str, NDArray[np.generic]],
        output: str,
        images: NDArray[np.generic],
    ) -> None:
        def buffer(array: NDArray[np.generic]) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                list(array.shape), array.dtype.type, device, 0
            )

        self._session = session
        self._binding = session.io_binding()
        self._inputs = {name: buffer(array) for name, array in feed.items()}
        self._images = buffer(images)
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_output(output, self._images)
        self.send(feed)

    def send(self, feed: Mapping[str, NDArray[np.generic]]) -> None:
        """Copy the inputs, by name and of the shapes of the first ones, into the buffers."""
        for name, array in feed.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))

    def run(self) -> None:
        """Compute the images of what was sent, and wait for them."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def images(self) -> NDArray[np.generic]:
        """The images of the last run, copied to host memory."""
        found: NDArray[np.generic] = self._images.numpy()
        return found
