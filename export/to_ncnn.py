"""ncnn's form of the graph, for phones and boards without a GPU that TensorRT knows.

pnnx converts the ONNX file for one image at a time, which is how ncnn runs. The result is written
as `model.ncnn.param` and the weights `model.ncnn.bin`, in float32, and run here once, against ONNX
Runtime.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from export.engines import ANY, EngineJob, Sample
from export.errors import ExportError
from export.manifest import Engine
from export.parity import compare
from nas_gan.children import run_child

# An eighth of a grey level, as for a float32 graph in ONNX Runtime. Measured: 4e-5.
MAX_ABS = 1e-3
# ncnn computes in float16 by default, which may be off by two grey levels (0.015) and says nothing
# about the graph.
FLOAT32 = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")


@dataclass(frozen=True)
class Ncnn:
    """The target ncnn; the network takes noise or an image, and no labels."""

    timeout_s: float = 600.0
    name: str = "ncnn"
    install: str = 'pip install "ard-gan[ncnn]"'
    compute_capabilities: tuple[str, ...] = (ANY,)

    def is_installed(self) -> bool:
        """Whether both packages are there that it takes to convert and to check."""
        return all(importlib.util.find_spec(name) for name in ("ncnn", "pnnx"))

    def build(self, job: EngineJob, compute_capability: str) -> Engine:
        """Convert the graph, and compare its images with those of the ONNX file.

        Raises:
            ExportError: pnnx leaves an operator that ncnn does not have, or images differ.
        """
        if len(job.tensors) != 2 or any(isinstance(size, str) for size in job.tensors[0].shape[1:]):
            raise ExportError("ncnn runs networks of one input, whose size is fixed; not this one")
        if job.precision != "fp32":
            raise ExportError(
                "ncnn takes a float32 graph, and decides on the device whether to compute in "
                f"float16; this one is {job.precision}"
            )
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shape = ",".join(map(str, (1, *job.tensors[0].shape[1:])))
            said = _convert(job.onnx_path, folder, shape, self.timeout_s)
            written = [folder / f"model.ncnn.{kind}" for kind in ("param", "bin")]
            if not all(path.is_file() for path in written):
                raise ExportError(f"pnnx wrote no network: {said}")
            _check_layers(written[0])
            if job.sample is not None:
                _check_images(written[0], written[1], job.sample)
            for path in written:
                shutil.copyfile(path, job.onnx_path.with_suffix(f".ncnn{path.suffix}"))
        file = job.onnx_path.with_suffix(".ncnn.param")
        return Engine(file.name, self.name, ANY, f"pnnx {version('pnnx')}, ncnn {version('ncnn')}")


def _convert(onnx_path: Path, folder: Path, shape: str, timeout_s: float) -> str:
    """Run pnnx, which writes its files beside its input; returns the last line that it prints."""
    import pnnx

    shutil.copyfile(onnx_path, folder / "model.onnx")
    # ncnn decides on the device whether it computes in half precision.
    command = [pnnx.EXEC_PATH, "model.onnx", f"inputshape=[{shape}]", "fp16=0"]
    try:
        done = run_child(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"pnnx took longer than {timeout_s:g} s") from error
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"


def _check_layers(param: Path) -> None:
    """Refuse layers that pnnx passed on because ncnn has none for them."""
    for line in param.read_text().splitlines()[2:]:
        kind = line.split()[0]
        if "." in kind or "::" in kind:
            raise ExportError(f"ncnn has no layer for {kind}")


def _check_images(param: Path, weights: Path, sample: Sample) -> None:
    images = np.stack([_run(param, weights, row) for row in _rows(sample.inputs)])
    found = compare(sample.images, images, sample.image_range)
    # Written so that NaN fails the check.
    if not found.max_abs <= MAX_ABS:
        raise ExportError(f"in ncnn images differ by {found.max_abs:.3g} (at most {MAX_ABS:g})")


def _rows(inputs: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    [rows] = inputs.values()
    return rows


def _run(param: Path, weights: Path, row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import ncnn

    with ncnn.Net() as network:
        for option in FLOAT32:
            setattr(network.opt, option, False)
        network.load_param(str(param))
        network.load_model(str(weights))
        with network.create_extractor() as extractor:
            extractor.input(network.input_names()[0], ncnn.Mat(np.ascontiguousarray(row)).clone())
            _, image = extractor.extract(network.output_names()[0])
            return np.array(image)
