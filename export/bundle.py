"""A bundle: a folder with everything that is needed to run a generator without torch."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from export import build_engine
from export.converting import Convert, Converted, Stated
from export.engines import EngineChoice, EngineJob, Sample, build_engines
from export.errors import ExportError
from export.features import Features
from export.folder import complete_folder
from export.interface import arrays_of, image_range_of, inputs_of, outputs_of
from export.manifest import BatchRange, FileEntry, Manifest, TensorSpec, write_manifest
from export.parity import check_parity, onnx_images
from export.readme import readme
from export.targets import Targets, unfit
from export.to_onnx import GraphSettings, build_model, write_model
from nas_gan.errors import InvalidValueError
from nas_gan.files import write_text
from nas_gan.networks.interface import GeneratorInterface, interface_of
from nas_gan.networks.latents import latents_of

DENSE, BUILD_SCRIPT, README = "dense", "build_engine.py", "README.md"
TOOLS = ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "tensorrt-rtx", "polygraphy")


@dataclass(frozen=True)
class BundleSource:
    """What is exported.

    Args:
        generator: The generator, which is not changed. It has `latent_dim`, `image_shape`
            `(c, h, w)` and, if it is conditional, `n_classes`.
        dense: The generator before compression, which becomes a bundle of its own inside the
            bundle; None if there is no other.
        provenance: Where the generator comes from, as plain values for the manifest.
        features: What a device measures quality with; None if it shall not.
    """

    generator: nn.Module
    dense: nn.Module | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    features: Features | None = None


@dataclass(frozen=True)
class BundleSettings:
    """How a generator is exported.

    Args:
        name: Stem of the file names of the graph and the engines.
        graph: Precision, opset and rewrites of the graph.
        samples: Number of latents in the bundle, on which ONNX Runtime is compared with torch.
        seed: Seed of these latents, which are the first of its latent bank.
        engines: The runtimes whose engines are built, and when.
        boards: The boards that must run the graph; see `export.targets.BOARDS`.
        batch: The batch sizes that every engine accepts.

    Raises:
        ExportError: The name has a character that file names should not have, or `samples` is
            below 1.
    """

    name: str = "model"
    graph: GraphSettings = field(default_factory=GraphSettings)
    samples: int = 64
    seed: int = 0
    engines: tuple[EngineChoice, ...] = Targets().engines
    boards: tuple[str, ...] = ()
    batch: BatchRange = field(default_factory=BatchRange)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ExportError(
                f"takes letters, digits, dot, dash and underscore; got {self.name!r}",
                setting="name",
            )
        if self.samples < 1:
            raise ExportError(f"must be 1 or more; got {self.samples}", setting="samples")


def write_bundle(
    source: BundleSource,
    out: Path,
    settings: BundleSettings | None = None,
    *,
    convert: Convert | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Manifest:
    """Export a generator into a folder, which appears once it is complete.

    A bundle that is already in the folder is replaced; other files in it are kept. The dense
    generator is exported with the same settings, into `out/dense`.

    Args:
        source: What to export.
        out: The folder; missing parents are created.
        settings: How to export it; by default a float32 graph.
        convert: Converts the float32 graph, such as a `PrecisionPlanner`; by default to the
            precision of the settings, which measures nothing.
        advance: Called with 1 after each of the `count_steps` steps.

    Returns:
        The manifest that was written.

    Raises:
        BundleError: `out` is neither a bundle nor an empty folder.
        ExportError: The export or the parity check failed; `out` is left as it was.
        MissingPackageError: A package that the export needs is not installed.
    """
    settings = settings or BundleSettings()
    # Through JSON now: a value that it cannot hold becomes text before anything is built.
    provenance = json.loads(json.dumps(dict(source.provenance), default=str))
    convert = convert or Stated(settings.graph.precision)
    with complete_folder(out) as folder:
        converted = _convert(source.generator, settings, convert)
        inside = None
        if source.dense is not None:
            inside = DENSE
            (folder / inside).mkdir()
            dense = BundleSource(source.dense, provenance=provenance)
            of_dense = replace(settings, name=DENSE)
            graph = _convert(source.dense, of_dense, convert.for_dense(converted.precision))
            _fill(folder / inside, dense, graph, of_dense, None, advance)
        source = replace(source, provenance=provenance)
        return _fill(folder, source, converted, settings, inside, advance)


def count_steps(source: BundleSource, settings: BundleSettings) -> int:
    """How often `write_bundle` calls `advance`: once per graph, parity check and engine."""
    engines = sum(wanted.n_engines for wanted in settings.engines)
    return (2 + engines) * (1 if source.dense is None else 2)


def _convert(generator: nn.Module, settings: BundleSettings, convert: Convert) -> Converted:
    """The graph to deliver of a generator."""
    _checked_interface(generator)
    graph = settings.graph
    model = build_model(generator, opset=graph.opset, rewrites=graph.rewrites)
    return convert(model, generator)


def _fill(
    folder: Path,
    source: BundleSource,
    converted: Converted,
    settings: BundleSettings,
    dense: str | None,
    advance: Callable[[int], None],
) -> Manifest:
    """Write a bundle into `folder`; `dense` names the folder in it for the dense generator's."""
    generator, graph = source.generator, settings.graph
    interface = interface_of(generator)
    onnx_path = folder / f"{settings.name}.onnx"
    latents = latents_of(interface, settings.samples, settings.seed)
    write_model(converted.model, onnx_path, generator)
    advance(1)
    parity = check_parity(generator, onnx_path, latents, precision=converted.precision)
    advance(1)
    inputs, outputs = inputs_of(interface), outputs_of(interface)
    misfits = tuple(unfit(converted.model, settings.boards))
    arrays = arrays_of(interface, latents)
    job = EngineJob(
        generator,
        onnx_path,
        (*inputs, *outputs),
        settings.batch,
        Sample(arrays, lambda: onnx_images(onnx_path, arrays), image_range_of(interface)),
        converted.precision,
    )
    built = [build_engines(wanted, job, advance) for wanted in settings.engines]
    for tensor, array in arrays.items():
        np.save(folder / f"{tensor}.npy", array)
    quality = None if source.features is None else source.features.write(folder, interface)
    shutil.copyfile(build_engine.__file__, folder / BUILD_SCRIPT)
    (folder / BUILD_SCRIPT).chmod(0o755)

    def manifest() -> Manifest:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        return Manifest(
            name=settings.name,
            onnx=onnx_path.name,
            files={path.name: FileEntry.of(path) for path in files},
            inputs=inputs,
            outputs=outputs,
            opset=graph.opset,
            precision=converted.precision,
            batch=settings.batch,
            tools=_tool_versions(),
            latents=_bank(inputs, settings.seed, len(latents)),
            parity=parity.to_dict(),
            params=sum(parameter.numel() for parameter in generator.parameters()),
            macs=count_macs(generator),
            engines=tuple(engine for builds in built for engine in builds.engines),
            not_built=(*misfits, *(entry for builds in built for entry in builds.not_built)),
            dense=dense,
            provenance=source.provenance,
            image_range=image_range_of(interface),
            quality=quality,
            conversion=converted.record,
            n_classes=interface.n_classes,
        )

    write_text(folder / README, readme(manifest()))
    complete = manifest()  # now with the README among its files
    write_manifest(complete, folder)
    return complete


def count_macs(generator: nn.Module) -> int:
    """Multiply-adds of the convolutions and matrix products, per image."""
    measured = copy.deepcopy(generator).eval().cpu()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        measured(torch.zeros(1, *interface_of(measured).row_shape))
    return counter.get_total_flops() // 2  # the counter counts a multiply-add as two


def _bank(inputs: tuple[TensorSpec, ...], seed: int, n: int) -> dict[str, Any]:
    """The entry of the manifest for the files with inputs to try."""
    first, *labels = (f"{spec.name}.npy" for spec in inputs)
    bank = {"file": first, "seed": seed, "samples": n}
    return {**bank, "labels": labels[0]} if labels else bank


def _checked_interface(generator: nn.Module) -> GeneratorInterface:
    for key, tensor in generator.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ExportError(
                f"{key}: holds NaN or infinite values; nothing useful can be exported"
            )
    try:
        return interface_of(generator)
    except InvalidValueError as error:
        raise ExportError(str(error)) from error


def _tool_versions() -> dict[str, str]:
    versions = {}
    for package in TOOLS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
