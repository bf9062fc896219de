"""The manifest of a bundle: `manifest.json`, the only file that a reader of a bundle must know.

Nothing here needs torch. A program without this package can read the JSON file itself. Format 1 is:

    format        1
    name          "model": the stem of the file names of the graph and the engines
    onnx          "model.onnx"
    files         {"model.onnx": {"sha256": hex, "bytes": n}, ...}: all files except the manifest
    inputs        [{"name": "latents", "dtype": "float32", "shape": ["batch", 120]}], followed by
                  {"name": "labels", "dtype": "int64", "shape": ["batch"]} if it is conditional
                  a network of somebody else keeps the names and shapes of its own inputs
    outputs       [{"name": "images", "dtype": "float32", "shape": ["batch", 3, 32, 32]}]
                  a dimension given as a string is dynamic
    image_range   [-1.0, 1.0]: the values of black and white in the images
    opset         18
    precision     "fp32", "fp16" or "int8" arithmetic; images and latents are float32 in any case
    batch         {"min": 1, "opt": 8, "max": 64}: the optimisation profile of every engine
    engines       [{"file": "model.sm86.engine", "target": "tensorrt-rtx",
                    "compute_capability": "8.6", "tool": "tensorrt-rtx 1.7.1.116"}]
    not_built     [{"target": ..., "compute_capability": ..., "reason": one line}]
    tools         {"torch": version, "onnx": version, ...}: the packages that wrote the bundle
    latents       {"file": "latents.npy", "seed": 0, "samples": 64}: rows of the first input;
                  if it is conditional also "labels": "labels.npy", rows of the second
    parity        {"max_abs": 1.2e-6, "psnr_db": 134.1, "samples": 64}: ONNX Runtime against torch
                  on these latents; psnr_db is null if all pixels are equal
    params, macs  parameters, biases included; multiply-adds per image, or null if unknown
    dense         null, or the folder in this one that holds the bundle of the dense generator
    provenance    where the generator comes from, as given by the exporting program
    n_classes     present only if it is conditional: labels are 0 to n_classes - 1
    quality       present only if asked for: the files by which a device measures quality itself:
                  {"features": "features.onnx", "mean": "reference_mean.npy", "factor":
                   "reference_factor.npy", "inputs": ["quality_latents.npy"], "extractor": name,
                   "reference": source, "samples": 5120}
    conversion    present only if precisions were compared: how this one was chosen, and its cost
        version           1
        wanted            what was asked for: "fp16", "int8" or "auto"
        rest              precision of the nodes that are not in int8
        int8_nodes        names of the nodes that compute in int8
        higher_precision  {"conv_3": reason, ...}: nodes with weights that do not
        weight_bits       8, or 7 where int8 products saturate; null without int8
        runtime           what judged the times: "onnxruntime 1.31.1, CPUExecutionProvider, ..."
        metric, distance, reference   how quality was measured; null if it was not
        rise              over the float32 graph: {"fid": value, "delta_fid": rise, "ci_low": low,
                          "ci_high": high, "n_samples": n, "extractor": features}; null if it was
                          not measured, or the graph is float32
        rise_over_dense   the same over the dense generator, or null
        seed              seed of the latents of these rises, or null
        budget, total_budget          as they were written, or null
        allowed           {"rise": number or null, "total": number or null}
        missed            whether a precision was demanded that does not hold the budget
        not_measured      why there is no rise, on one line; empty if there is nothing to say
        tried             [{"precision": "fp32", "int8_nodes": 0, "milliseconds": 3.1, "rise": ...,
                          "holds": true, "reason": ""}, ...]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from export.errors import BundleError
from nas_gan.errors import UnreadableError
from nas_gan.files import sha256, write_json
from nas_gan.reading import Fields, is_number, leads_out, plain_name, read_json

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileEntry:
    """Content hash and size of one file of a bundle."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The entry for the file at `path`."""
        return cls(sha256(path), path.stat().st_size)


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of an input or output; a string in `shape` is a dynamic size."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes that an engine accepts, and the one that it is tuned for.

    Args:
        min: The smallest batch.
        opt: The usual batch, for which TensorRT optimises.
        max: The largest batch.

    Raises:
        BundleError: The three are not in this order, or the smallest is below 1.
    """

    min: int = 1
    opt: int = 8
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise BundleError(
                f"must be 1 <= min <= opt <= max; got {self.min}, {self.opt}, {self.max}",
                setting="batch",
            )


@dataclass(frozen=True)
class Engine:
    """An engine file, and the GPUs and the tool that it is for."""

    file: str
    target: str
    compute_capability: str
    tool: str


@dataclass(frozen=True)
class NotBuilt:
    """An engine that could not be built, and the first line of the reason."""

    target: str
    compute_capability: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The content of a bundle as a value.

    Attributes:
        name: Stem of the file names of the graph and the engines.
        onnx: File name of the graph.
        files: SHA-256 and size in bytes of every file except the manifest, by file name.
        inputs: Name, element type and shape of the noise or the image and, if conditional, of the
            labels.
        outputs: The same of the images.
        opset: ONNX opset of the graph.
        precision: `fp32`, `fp16` or `int8` arithmetic.
        batch: The batch sizes that every engine accepts.
        tools: Versions of the packages that wrote the bundle.
        latents: File, seed and number of the latents in the bundle.
        parity: How far ONNX Runtime is from torch on these latents: `max_abs`, `psnr_db` (null if
            all pixels are equal) and `samples`.
        params: Number of parameters, biases included.
        macs: Multiply-adds per image; None if unknown.
        engines: The engines that were built ahead of time.
        not_built: The engines that could not be built, with the reason.
        dense: Folder in the bundle that holds the bundle of the dense generator; None if there is
            none.
        provenance: Where the generator comes from.
        image_range: The values of black and white in the images.
        quality: The files by which a device measures quality itself; None if there are none.
        conversion: How the precision was chosen and what it costs, as described above; None if
            nothing was compared.
        n_classes: Number of classes; 0 for an unconditional generator.
    """

    name: str
    onnx: str
    files: Mapping[str, FileEntry]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    precision: str
    batch: BatchRange
    tools: Mapping[str, str]
    latents: Mapping[str, Any]
    parity: Mapping[str, Any]
    params: int
    macs: int | None = None
    engines: tuple[Engine, ...] = ()
    not_built: tuple[NotBuilt, ...] = ()
    dense: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    image_range: tuple[float, float] = (-1.0, 1.0)
    conversion: Mapping[str, Any] | None = None
    quality: Mapping[str, Any] | None = None
    _: KW_ONLY
    n_classes: int

    def to_dict(self) -> dict[str, Any]:
        """The plain values that `manifest.json` holds."""
        data = {"format": FORMAT, **asdict(self)}
        if not self.n_classes:
            del data["n_classes"]
        for name in ("conversion", "quality"):
            if data[name] is None:
                del data[name]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = MANIFEST) -> Self:
        """Read what `to_dict` returned; keys that this version does not know are ignored.

        Raises:
            UnreadableError: A key is missing, or its value cannot be used.
            BundleError: The batch sizes are not in order.
        """
        given = Fields(data, where)
        files = given.table("files")
        low, high = _image_range(given)
        return cls(
            name=plain_name(given.text("name"), f"{where}: name"),
            onnx=plain_name(given.text("onnx"), f"{where}: onnx"),
            files={plain_name(name, f"{where}: files"): _entry(files, name) for name in files.data},
            inputs=tuple(map(_tensor, given.tables("inputs"))),
            outputs=tuple(map(_tensor, given.tables("outputs"))),
            opset=given.count("opset", 1),
            precision=given.text("precision"),
            batch=_batch(given.table("batch")),
            tools=given.texts("tools"),
            latents=_bank(given.table("latents")),
            parity=_parity(given.table("parity")),
            params=given.count("params"),
            macs=None if given.any("macs") is None else given.count("macs"),
            engines=tuple(
                Engine(
                    plain_name(engine.text("file"), f"{where}: engines"),
                    engine.text("target"),
                    engine.text("compute_capability"),
                    engine.text("tool"),
                )
                for engine in given.tables("engines")
            ),
            not_built=tuple(
                NotBuilt(
                    entry.text("target"), entry.text("compute_capability"), entry.text("reason")
                )
                for entry in given.tables("not_built")
            ),
            dense=(
                None
                if given.any("dense") is None
                else plain_name(given.any("dense"), f"{where}: dense")
            ),
            provenance=given.table("provenance").data,
            image_range=(low, high),
            conversion=_conversion(given.table("conversion")) if "conversion" in given else None,
            quality=_quality(given.table("quality")) if "quality" in given else None,
            n_classes=given.count("n_classes") if "n_classes" in given else 0,
        )


def _entry(files: Fields, name: str) -> FileEntry:
    entry = files.table(name)
    digest = entry.text("sha256")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise UnreadableError(f"{entry.where}: sha256 is {digest[:80]!r}, not a digest")
    return FileEntry(digest, entry.count("bytes"))


def _bank(latents: Fields) -> dict[str, Any]:
    files = {key: latents.text(key) for key in ("file", "labels") if key in latents}
    for key, name in files.items():
        plain_name(name, f"{latents.where}: {key}")
    if "samples" in latents:
        latents.count("samples", 1)
    return {**latents.data, **files}


def _parity(parity: Fields) -> dict[str, Any]:
    psnr = None if parity.any("psnr_db") is None else parity.number("psnr_db")
    found = {"max_abs": parity.number("max_abs"), "psnr_db": psnr}
    return {**parity.data, **found, "samples": parity.count("samples")}


def _quality(quality: Fields) -> dict[str, Any]:
    """The files by which quality is measured, all of them names in the bundle."""
    for key in ("features", "mean", "factor"):
        plain_name(quality.text(key), f"{quality.where}: {key}")
    inputs = quality.any("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise UnreadableError(f"{quality.where}: inputs is {str(inputs)[:60]}, not a list of files")
    for name in inputs:
        plain_name(name, f"{quality.where}: inputs")
    quality.text("extractor")
    quality.count("samples", 1)
    return dict(quality.data)


def _conversion(conversion: Fields) -> dict[str, Any]:
    """The record of a conversion, with those of its values checked that others rely on."""
    conversion.count("version", 1)
    conversion.text("wanted")
    if not isinstance(conversion.any("missed"), bool):
        raise UnreadableError(f"{conversion.where}: missed is neither true nor false")
    for name in ("rise", "rise_over_dense"):
        if conversion.any(name) is not None:
            score = conversion.table(name)
            numbers = [score.number(key) for key in ("ci_low", "ci_high")]
            if not numbers[0] <= numbers[1]:
                raise UnreadableError(f"{score.where}: the interval ends before it begins")
            score.count("n_samples")
            score.text("extractor")
    return dict(conversion.data)


def _tensor(spec: Fields) -> TensorSpec:
    name = spec.text("name")
    # It becomes the name of a file and a word of a command.
    plain_name(name, f"{spec.where}: name")
    return TensorSpec(name, spec.text("dtype"), spec.sizes("shape"))


def _batch(batch: Fields) -> BatchRange:
    return BatchRange(batch.count("min", 1), batch.count("opt", 1), batch.count("max", 1))


def _image_range(given: Fields) -> tuple[float, float]:
    values = given.data.get("image_range", (-1.0, 1.0))
    pair = isinstance(values, list | tuple) and len(values) == 2 and all(map(is_number, values))
    if not pair or not values[0] < values[1]:
        raise UnreadableError(f"{given.where}: image_range is {str(values)[:60]}, not low and high")
    return float(values[0]), float(values[1])


def write_manifest(manifest: Manifest, bundle: Path) -> None:
    """Write `manifest.json` into the folder `bundle`."""
    write_json(bundle / MANIFEST, manifest.to_dict())


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a bundle.

    Args:
        path: The folder of the bundle, or its manifest file.

    Returns:
        The manifest; the files that it lists are not checked.

    Raises:
        BundleError: There is no manifest, or its format is not 1.
    """
    path = path / MANIFEST if path.is_dir() else path
    if not path.is_file():
        raise BundleError(
            f"{path}: no such file; a bundle is a folder that `python -m export` wrote"
        )
    try:
        data = read_json(path)
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT or type(found) is not int:
            raise BundleError(
                f"{path}: format {str(found)[:40]} is not known; this version reads {FORMAT}"
            )
        return Manifest.from_dict(data, str(path))
    except UnreadableError as error:
        raise BundleError(f"{error}; export the bundle again") from error
    except BundleError as error:
        raise error if str(path) in str(error) else BundleError(f"{path}: {error}") from error


def inside(bundle: Path, name: str) -> Path:
    """The path of a file or folder in a bundle.

    Args:
        bundle: The folder.
        name: A name from its manifest.

    Raises:
        BundleError: It is not the name of something in the folder, or a link leads out of it.
    """
    try:
        path = bundle / plain_name(name, str(bundle / MANIFEST))
    except UnreadableError as error:
        raise BundleError(f"{error}; export the bundle again") from error
    if leads_out(path, bundle):
        raise BundleError(f"{path}: a link that leads out of the bundle; copy the file instead")
    return path


def verify(bundle: Path) -> Manifest:
    """Check the hash of every file of a bundle, and of the bundle inside it.

    Args:
        bundle: The folder of the bundle.

    Returns:
        The manifest of the bundle.

    Raises:
        BundleError: A file is missing or differs from the manifest; the message names it.
    """
    manifest = read_manifest(bundle)
    for engine in manifest.engines:
        if engine.file not in manifest.files:
            raise BundleError(
                f"{bundle / engine.file}: an engine whose hash is not in the manifest; export the "
                "bundle again"
            )
    for name, entry in manifest.files.items():
        path = inside(bundle, name)
        if not path.is_file():
            raise BundleError(
                f"{path}: listed in the manifest and missing; export the bundle again"
            )
        size = path.stat().st_size
        # A file of another size need not be read to know that it is another.
        found = FileEntry.of(path) if size == entry.bytes else FileEntry("(not read)", size)
        if found != entry:
            raise BundleError(
                f"{path}: {found.bytes} bytes with sha256 {found.sha256[:12]}; the manifest says "
                f"{entry.bytes} bytes with {entry.sha256[:12]}; copy or export the bundle again"
            )
    if manifest.dense is not None:
        inner = inside(bundle, manifest.dense)
        if inner.resolve() == bundle.resolve() or read_manifest(inner).dense is not None:
            raise BundleError(f"{inner}: the bundle of a dense generator holds no other bundle")
        verify(inner)
    return manifest
