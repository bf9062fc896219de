"""A bundle: one folder with everything that it takes to run a generator without torch."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from export import build_engine
from export.errors import ExportError
from export.folder import complete_folder
from export.interface import LABELS, LATENTS, arrays_of, input_width, inputs_of, outputs_of
from export.manifest import BatchRange, FileEntry, Manifest, write_manifest
from export.parity import check_parity
from export.precision import Precision
from export.readme import readme
from export.rewrites import ALL
from export.to_onnx import DEFAULT_OPSET, write_onnx
from export.to_tensorrt import COMPUTE_CAPABILITIES, RtxChoice, build_rtx_engines, rtx_available
from nas_gan.files import write_text
from nas_gan.metrics.sampling import latents_of
from nas_gan.training.describe import n_classes_of

DENSE, BUILD_SCRIPT, README = "dense", "build_engine.py", "README.md"
TOOLS = ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "tensorrt-rtx", "polygraphy")


def write_bundle(
    generator: nn.Module,
    out: Path,
    *,
    name: str = "model",
    precision: Precision = "fp32",
    opset: int = DEFAULT_OPSET,
    rewrites: Sequence[str] = ALL,
    seed: int = 0,
    samples: int = 64,
    provenance: Mapping[str, Any] | None = None,
    macs: int | None = None,
    dense: nn.Module | None = None,
    tensorrt_rtx: RtxChoice = "auto",
    batch: BatchRange | None = None,
    compute_capabilities: Sequence[str] = COMPUTE_CAPABILITIES,
    advance: Callable[[int], None] = lambda n: None,
) -> Manifest:
    """Export `generator` into the folder `out`, which appears when it is complete.

    `generator` has `latent_dim` and `image_shape` `(c, h, w)`, and if it is conditional
    `n_classes`; it is not changed. The first `samples` latents of the bank of `seed` go into the
    bundle, with their labels if there are any, and its images are compared on them.
    `dense`, the generator before compression, becomes a bundle of its own in `out/dense`. `macs` is
    counted where it is not given. `advance(1)` follows each of the `count_steps` steps.

    A bundle that `out` held before is replaced; other files in it stay.

    Raises:
        BundleError: `out` is something else than a bundle or an empty folder.
        ExportError: the export or the parity check fails; `out` is as it was.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ExportError(f"--name takes letters, digits, dot, dash and underscore; got {name!r}")
    if samples < 1:
        raise ExportError(f"--samples must be 1 or more; got {samples}")
    with complete_folder(out) as folder:
        settings = dict(
            precision=precision,
            opset=opset,
            rewrites=rewrites,
            seed=seed,
            samples=samples,
            # Through JSON now: a value that it cannot hold becomes text before anything is built.
            provenance=json.loads(json.dumps(dict(provenance or {}), default=str)),
            tensorrt_rtx=tensorrt_rtx,
            batch=batch or BatchRange(),
            compute_capabilities=compute_capabilities,
            advance=advance,
        )
        inside = None
        if dense is not None:
            (folder / DENSE).mkdir()
            _fill(dense, folder / DENSE, name=DENSE, macs=None, dense=None, **settings)
            inside = DENSE
        return _fill(generator, folder, name=name, macs=macs, dense=inside, **settings)


def count_steps(
    *,
    dense: bool,
    tensorrt_rtx: RtxChoice,
    compute_capabilities: Sequence[str] = COMPUTE_CAPABILITIES,
) -> int:
    """How often `write_bundle` calls `advance`: the graph, its parity and every engine."""
    engines = 0 if tensorrt_rtx == "off" or not rtx_available() else len(compute_capabilities)
    return (2 + engines) * (2 if dense else 1)


def _fill(
    generator: nn.Module,
    folder: Path,
    *,
    name: str,
    precision: Precision,
    opset: int,
    rewrites: Sequence[str],
    seed: int,
    samples: int,
    provenance: Mapping[str, Any],
    macs: int | None,
    dense: str | None,
    tensorrt_rtx: RtxChoice,
    batch: BatchRange,
    compute_capabilities: Sequence[str],
    advance: Callable[[int], None],
) -> Manifest:
    _check_generator(generator)
    onnx_path = folder / f"{name}.onnx"
    latents = latents_of(generator, samples, seed)
    summary = write_onnx(generator, onnx_path, precision=precision, opset=opset, rewrites=rewrites)
    advance(1)
    parity = check_parity(generator, onnx_path, latents, precision=precision)
    advance(1)
    inputs, outputs = inputs_of(generator), outputs_of(generator)
    built = build_rtx_engines(
        onnx_path,
        tensors=(*inputs, *outputs),
        choice=tensorrt_rtx,
        batch=batch,
        compute_capabilities=compute_capabilities,
        advance=advance,
    )
    for tensor, array in arrays_of(generator, latents).items():
        np.save(folder / f"{tensor}.npy", array)
    shutil.copyfile(build_engine.__file__, folder / BUILD_SCRIPT)
    (folder / BUILD_SCRIPT).chmod(0o755)

    def manifest() -> Manifest:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        return Manifest(
            name=name,
            onnx=onnx_path.name,
            files={path.name: FileEntry.of(path) for path in files},
            inputs=inputs,
            outputs=outputs,
            opset=summary.opset,
            precision=precision,
            batch=batch,
            tools=_tool_versions(),
            latents={"file": f"{LATENTS}.npy", "seed": seed, "samples": samples}
            | ({"labels": f"{LABELS}.npy"} if n_classes_of(generator) else {}),
            parity=parity.to_dict(),
            params=sum(parameter.numel() for parameter in generator.parameters()),
            macs=count_macs(generator) if macs is None else macs,
            engines=built.engines,
            not_built=built.not_built,
            dense=dense,
            provenance=provenance,
            n_classes=n_classes_of(generator),
        )

    write_text(folder / README, readme(manifest()))
    complete = manifest()  # now with the README among its files
    write_manifest(complete, folder)
    return complete


def count_macs(generator: nn.Module) -> int:
    """Multiply-adds of the convolutions and matrix products for one image."""
    measured = copy.deepcopy(generator).eval().cpu()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        measured(torch.zeros(1, input_width(measured)))
    return counter.get_total_flops() // 2  # the counter takes a multiply-add for two


def _check_generator(generator: nn.Module) -> None:
    for key, tensor in generator.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ExportError(
                f"{key}: holds NaN or infinite values; nothing useful can be exported"
            )
    latent_dim = getattr(generator, "latent_dim", None)
    image_shape = getattr(generator, "image_shape", None)
    if not isinstance(latent_dim, int) or not isinstance(image_shape, tuple):
        raise ExportError(
            f"{type(generator).__name__} needs latent_dim: int and image_shape: (c, h, w) to be "
            f"exported; got {latent_dim!r} and {image_shape!r}"
        )


def _tool_versions() -> dict[str, str]:
    versions = {}
    for package in TOOLS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
