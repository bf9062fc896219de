"""torch on the CPU or an NVIDIA GPU, which runs the program that `export --target torch` writes.

Loading a program runs what is in it, as loading an engine does, so it is loaded only by the hash of
its manifest and if torch was asked for by name. One that holds pickles, which torch.export does not
write, is not loaded at all.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.asked import Covers, RunSettings
from edge_bench.bundle import Bundle
from edge_bench.errors import RunnerError
from edge_bench.fixed_program import FixedProgram
from edge_bench.inputs import InputSpec
from edge_bench.listed import listed_engines, listed_inputs
from edge_bench.reading import sha256_of_file
from edge_bench.runners import GraphRunner, Infer

TARGET, ANY = "torch", "any"
# A list of weights is kilobytes.
MAX_LIST_BYTES = 64 << 20


class TorchRunner(GraphRunner):
    """A program of torch.export on the CPU with a fixed number of threads."""

    title = "torch"
    device = "cpu"

    def __init__(
        self, path: Path, inputs: Sequence[InputSpec], settings: RunSettings | None = None
    ) -> None:
        super().__init__(path, settings)
        self._described = tuple(inputs)
        self._torch: Any = None
        self._network: Any = None

    @property
    def runtime(self) -> str:
        """The version, and the number of threads."""
        return self._on_cpu("torch")

    def _start(self) -> tuple[Sequence[InputSpec], int]:
        try:
            import torch
        except ImportError:
            raise RunnerError(
                "torch is not installed; install it (https://pytorch.org), or use the "
                "onnxruntime runner"
            ) from None
        self._torch, self._version = torch, str(torch.__version__)
        # What its operators and its loader raise has no base of its own.
        self._errors = (RuntimeError, ValueError, TypeError, AssertionError, LookupError)
        torch.set_num_threads(self._settings.threads)
        refuse_pickles(self._path, torch)
        try:
            self._network = self._load(torch)
        except (*self._errors, AttributeError, OSError) as error:
            raise RunnerError(
                f"{self._path}: torch {self._version} does not load it ({self._reason(error)}); "
                "export it again with this version"
            ) from None
        return self._described, 1

    def _stop(self) -> None:
        self._network = None

    def _load(self, torch: Any) -> Any:
        return torch.export.load(self._path).module()

    def _run(self, named: Mapping[str, NDArray[np.generic]]) -> NDArray[np.generic]:
        with self._torch.inference_mode():
            found: NDArray[np.generic] = self._network(*self._to_device(named)).cpu().numpy()
        return found

    def _to_device(self, named: Mapping[str, NDArray[np.generic]]) -> list[Any]:
        """The inputs as tensors, in their order."""
        return [
            self._torch.from_numpy(named[spec.name]).to(self.device) for spec in self._described
        ]

    def _reason(self, error: Exception) -> str:
        return " ".join(str(error).split())[:300] or type(error).__name__


class TorchCudaRunner(TorchRunner):
    """A program of torch.export on the first NVIDIA GPU."""

    device = "cuda"

    def __init__(
        self, path: Path, inputs: Sequence[InputSpec], settings: RunSettings | None = None
    ) -> None:
        super().__init__(path, inputs, settings)
        self._timed: _TimedProgram | None = None

    @property
    def runtime(self) -> str:
        """The version."""
        return f"torch {self._version} on GPU"

    @property
    def timed(self) -> Infer:
        """The program with the transfers that were asked for."""
        if self._timed is None:
            self._timed = _TimedProgram(self, self._torch, self._settings)
        return self._timed

    def covers(self, batch: int) -> Covers:
        """What was timed at a batch size."""
        return self._settings.covers(self._timed.refused.get(batch) if self._timed else None)

    def _load(self, torch: Any) -> Any:
        if not torch.cuda.is_available():
            raise RunnerError("torch sees no NVIDIA GPU; use the torch or the onnxruntime runner")
        from torch.export.passes import move_to_device_pass

        return move_to_device_pass(torch.export.load(self._path), self.device).module()

    def _stop(self) -> None:
        self._timed = None
        super()._stop()


class _TimedProgram:
    """A program with the transfers that were asked for, between two events on torch's stream.

    The first call with some shapes is a whole one, and sends everything. A graph belongs to these
    shapes, and is captured anew when they change. If the program cannot be captured, its kernels
    are launched one by one, and `refused` says why, by batch size.
    """

    def __init__(self, runner: TorchCudaRunner, torch: Any, settings: RunSettings) -> None:
        self._runner, self._torch, self._settings = runner, torch, settings
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._ready: tuple[tuple[int, ...], ...] | None = None
        self._fixed: FixedProgram | None = None
        self._images: NDArray[np.generic] = np.empty(0)
        self.refused: dict[int, str] = {}

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        """Run it; without the transfer of the images, they are those of an earlier call."""
        shapes = tuple(x.shape for x in feed)
        if self._fixed is None or self._ready != shapes:
            self._fixed = self._prepare(feed)
            self._ready = shapes
        fixed = self._fixed
        self._start.record()
        if self._settings.sends_inputs:
            fixed.send(feed)
        fixed.run()
        if self._settings.fetches_images:
            self._images = fixed.images()
        self._end.record()
        self._end.synchronize()
        return self._images

    def device_ns(self) -> int:
        """Nanoseconds between the two events of the last call."""
        return max(1, round(self._start.elapsed_time(self._end) * 1e6))

    def _prepare(self, feed: Sequence[NDArray[np.generic]]) -> FixedProgram:
        self._fixed = None  # the graph of other shapes goes first, with its memory
        self._images = self._runner.infer(*feed)
        fixed = FixedProgram(self._torch, self._runner._network, feed, self._runner.device)
        if self._settings.cuda_graph:
            refused = fixed.capture()
            if refused is not None:
                self.refused[len(feed[0])] = f"it cannot be captured ({refused})"
        return fixed


def program_of(bundle: Bundle) -> tuple[Path, tuple[InputSpec, ...]]:
    """The program of a bundle for torch, whose hash is the manifest's, and its inputs.

    Raises:
        RunnerError: There is none, or it is not the exported one.
        BundleError: The manifest is damaged.
    """
    listed = listed_engines(bundle, TARGET).get(ANY)
    if listed is None:
        raise RunnerError(
            f"{bundle.path}: no program for torch; export the bundle for the target torch, or use "
            "the onnxruntime runner"
        )
    path, digest = listed
    if sha256_of_file(path) != digest:
        raise RunnerError(
            f"{path}: not the file that the manifest states; copy or export the bundle again"
        )
    return path, listed_inputs(bundle)


def refuse_pickles(path: Path, torch: Any) -> None:
    """Refuse a program that torch would unpickle without restrictions.

    Raises:
        RunnerError: It is no program, or holds more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                _check_member(archive, name, torch)
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, NotImplementedError) as error:
        raise RunnerError(
            f"{path}: not a program of torch.export ({' '.join(str(error).split())[:200]}); "
            "export the bundle again"
        ) from None


def _check_member(archive: zipfile.ZipFile, name: str, torch: Any) -> None:
    folder, _, file = name.rpartition("/")
    kind = folder.rpartition("/")[2]
    if (kind in ("weights", "constants") and file.endswith((".json", ".pt"))) or "custom" in file:
        if not file.endswith(".json"):
            raise ValueError(f"{name} is a pickle")
        listed = json.loads(_read(archive, name))["config"]
        if any(entry["use_pickle"] for entry in listed.values()):
            raise ValueError(f"{name} lists a pickle")
    if kind == "sample_inputs" and archive.getinfo(name).file_size:
        with contextlib.closing(io.BytesIO(_read(archive, name))) as content:
            try:
                torch.load(content, weights_only=True)
            except Exception as error:  # whatever it is: torch would go on without restrictions
                raise ValueError(f"{name} is a pickle") from error


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_LIST_BYTES:
        raise ValueError(f"{name} is larger than {MAX_LIST_BYTES:,} bytes")
    return archive.read(name)
