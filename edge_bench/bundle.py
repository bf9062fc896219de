"""What is measured: a bundle folder, a single `.onnx` file or a single TensorRT engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import BundleError
from edge_bench.reading import AGAIN, inside, read_json, read_npy, sha256_of_file

MANIFEST = "manifest.json"
MODEL = "model.onnx"
FORMAT = 1
# What build_engine.py writes beside the engine that it builds.
RECORD = "engine.json"
ENGINE_SUFFIXES = (".engine", ".plan")


@dataclass(frozen=True)
class QualityFiles:
    """What the quality of images is measured with.

    Attributes:
        features: A network from bytes `(n, 3, h, w)` to features `(n, d)`.
        mean: Mean of the reference's features, `(d,)`.
        factor: Factor of their covariance, `(d, rank)`.
        inputs: Rows for each input of a model, in files named after it with a prefix.
        extractor: Name of the feature space.
    """

    features: Path
    mean: Path
    factor: Path
    inputs: tuple[Path, ...]
    extractor: str

    PREFIX: ClassVar[str] = "quality_"


@dataclass(frozen=True)
class Bundle:
    """Where the files are, and what the manifest says about them; `None` if nothing does.

    `samples` are files of inputs to try, each named after its input. `refused` says why an engine
    in the folder is not used. `max_batch` is the largest batch that it was exported for. Pixels lie
    in `image_range`.
    """

    name: str
    path: Path
    model: Path | None
    engine: Path | None
    model_sha256: str | None
    engine_sha256: str | None
    precision: str | None = None
    params: int | None = None
    macs: int | None = None
    dense: Path | None = None
    samples: tuple[Path, ...] = ()
    refused: str | None = None
    image_range: tuple[float, float] = (-1.0, 1.0)
    quality: QualityFiles | None = None
    max_batch: int | None = None
    _: KW_ONLY
    n_classes: int | None


def load_bundle(path: Path) -> Bundle:
    """Read a bundle folder (`manifest.json` and its model), an `.onnx` file or an engine file.

    A bundle is named after its folder or file. An engine that was built on the device is found
    beside the model by its suffix, `.engine` or `.plan`. Engines that the manifest lists were built
    elsewhere, for another runtime, and are ignored.

    Raises:
        BundleError: nothing is there, a key is missing, or a file is not the exported one.
    """
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise BundleError(f"{path}: no such file or folder; `python -m export` writes bundles")
    if path.suffix == ".onnx":
        return Bundle(path.stem, path, path, None, sha256_of_file(path), None, n_classes=None)
    if path.suffix in ENGINE_SUFFIXES:
        return Bundle(path.stem, path, None, path, None, sha256_of_file(path), n_classes=None)
    raise BundleError(
        f"{path}: not a bundle folder, an .onnx file or a TensorRT engine "
        f"({', '.join(ENGINE_SUFFIXES)})"
    )


def load_bundles(paths: Sequence[Path]) -> tuple[Bundle, ...]:
    """Read several bundles, in their order, with names that tell them apart.

    A bundle that is given alone and holds its dense counterpart counts as two, the dense one first.
    """
    bundles = [load_bundle(path) for path in paths]
    if len(bundles) == 1 and bundles[0].dense is not None:
        bundles = [load_bundle(bundles[0].dense), *bundles]
    names = _distinct_names(bundles)
    return tuple(replace(bundle, name=name) for bundle, name in zip(bundles, names, strict=True))


def _distinct_names(bundles: Sequence[Bundle]) -> list[str]:
    """Names with as many parent folders as it takes to tell them apart, or else with numbers."""
    names = [bundle.name for bundle in bundles]
    parents = [bundle.path.resolve().parent.parts[1:] for bundle in bundles]
    for depth in range(1, max(map(len, parents), default=0) + 1):
        if len(set(names)) == len(names):
            return names
        names = [
            "/".join((*above[-depth:], bundle.name))
            for bundle, above in zip(bundles, parents, strict=True)
        ]
    if len(set(names)) == len(names):
        return names
    return [f"{bundle.name} ({number})" for number, bundle in enumerate(bundles, start=1)]


def _load_folder(folder: Path) -> Bundle:
    path = folder / MANIFEST
    manifest = _read_manifest(path)
    model = inside(folder, manifest.get("onnx", MODEL), path)
    digest = _check_hash(model, manifest, path)
    dense = manifest.get("dense")
    if RECORD in _get(manifest, path, "files"):
        raise BundleError(f"{path}: {RECORD} is written on the device, not exported; {AGAIN}")
    engine, refused = _engine_built_here(folder, _get(manifest, path, "files"), digest)
    return Bundle(
        name=folder.resolve().name,
        path=folder,
        model=model,
        engine=engine,
        model_sha256=digest,
        engine_sha256=None if engine is None else sha256_of_file(engine),
        precision=_text(manifest, path, "precision"),
        params=_count(manifest, path, "params"),
        macs=_count(manifest, path, "macs"),
        dense=None if dense is None else inside(folder, dense, path),
        samples=tuple(_samples(folder, manifest, path)),
        refused=refused,
        image_range=_image_range(manifest, path),
        quality=_quality(folder, manifest, path),
        max_batch=_max_batch(manifest, path),
        n_classes=_classes(manifest, path),
    )


def _samples(folder: Path, manifest: dict[str, Any], path: Path) -> Iterator[Path]:
    """The listed files of inputs."""
    bank = manifest.get("latents")
    if bank is None:
        return
    if not isinstance(bank, dict):
        raise BundleError(f"{path}: latents is {bank!r}, not a table; {AGAIN}")
    for name in (bank.get("file"), bank.get("labels")):
        if name is None:
            continue
        file = inside(folder, name, path)
        if file.suffix != ".npy":
            raise BundleError(f"{path}: {name!r} is not the name of an .npy file; {AGAIN}")
        _check_hash(file, manifest, path)
        yield file


def _quality(folder: Path, manifest: dict[str, Any], path: Path) -> QualityFiles | None:
    """The files for measuring quality, whose hashes the manifest states; None if there are none."""
    listed = manifest.get("quality")
    if listed is None:
        return None

    def file(name: Any, suffix: str) -> Path:
        found = inside(folder, name, path)
        if found.suffix != suffix:
            raise BundleError(f"{path}: {name!r} is not the name of an {suffix} file; {AGAIN}")
        _check_hash(found, manifest, path)
        return found

    def name_of(key: str) -> Any:
        return _get(manifest, path, "quality", key)

    names = name_of("inputs")
    if not isinstance(names, list) or not names:
        raise BundleError(f"{path}: quality / inputs is {names!r}, not a list of files; {AGAIN}")
    extractor = name_of("extractor")
    if not isinstance(extractor, str):
        raise BundleError(f"{path}: quality / extractor is {extractor!r}, not a text; {AGAIN}")
    return QualityFiles(
        file(name_of("features"), ".onnx"),
        file(name_of("mean"), ".npy"),
        file(name_of("factor"), ".npy"),
        tuple(file(name, ".npy") for name in names),
        extractor,
    )


def _image_range(manifest: dict[str, Any], path: Path) -> tuple[float, float]:
    found = manifest.get("image_range", [-1, 1])
    numbers = isinstance(found, list) and [type(end) for end in found if type(end) in (int, float)]
    if not numbers or len(found) != 2 or len(numbers) != 2 or not found[0] < found[1]:
        raise BundleError(f"{path}: image_range is {found!r}, not two numbers in order; {AGAIN}")
    return float(found[0]), float(found[1])


def load_samples(bundle: Bundle) -> dict[str, NDArray[np.generic]]:
    """The inputs of a bundle, by the name of the model's input; empty if it has none.

    Raises:
        BundleError: a file is not an array of numbers with a row for each image.
    """
    found = {}
    for file in bundle.samples:
        rows = read_npy(file)
        if rows.dtype.kind not in "fiu" or not rows.ndim:
            raise BundleError(f"{file}: not an array of inputs; export the bundle again")
        found[file.stem] = rows
    return found


def _check_hash(file: Path, manifest: dict[str, Any], path: Path) -> str:
    """The digest of a file, which must be the exported one."""
    expected = _get(manifest, path, "files", file.name, "sha256")
    size = manifest["files"][file.name].get("bytes")
    if size is not None and file.is_file() and 0 < file.stat().st_size != size:
        raise BundleError(
            f"{file}: {file.stat().st_size:,} bytes, the manifest says {size}; copy or export the "
            "bundle again"
        )
    digest = sha256_of_file(file)
    # A truncated copy still has its name and often still loads; only its hash gives it away.
    if digest != expected:
        raise BundleError(
            f"{file}: sha256 is {digest[:12]}…, the manifest says {str(expected)[:12]}…; "
            "copy or export the bundle again"
        )
    return digest


def _classes(manifest: dict[str, Any], path: Path) -> int | None:
    """Number of classes of a conditional model; other manifests do not have the key."""
    found = manifest.get("n_classes")
    if found is None or (type(found) is int and found > 0):
        return found
    raise BundleError(f"{path}: n_classes is {found!r}, not a count; export the bundle again")


def _max_batch(manifest: dict[str, Any], path: Path) -> int | None:
    """The largest batch of the range that the manifest states, if it states one."""
    stated = manifest.get("batch")
    if stated is None:
        return None
    most = stated.get("max") if isinstance(stated, dict) else None
    if type(most) is int and most > 0:
        return most
    raise BundleError(f"{path}: batch is {str(stated)[:60]!r}, not a range; {AGAIN}")


def _text(manifest: dict[str, Any], path: Path, key: str) -> str | None:
    found = manifest.get(key)
    if found is None or isinstance(found, str):
        return found
    raise BundleError(f"{path}: {key} is {found!r}, not a text; {AGAIN}")


def _count(manifest: dict[str, Any], path: Path, key: str) -> int | None:
    found = manifest.get(key)
    if found is None or (type(found) is int and found >= 0):
        return found
    raise BundleError(f"{path}: {key} is {found!r}, not a count; {AGAIN}")


def _engine_built_here(
    folder: Path, listed: Mapping[str, Any], model_sha256: str
) -> tuple[Path | None, str | None]:
    """The engine that build_engine.py built here, or why there is none that may be loaded.

    An engine is code for the GPU: one whose hash nothing states is not loaded.
    """
    engines = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in ENGINE_SUFFIXES and file.name not in listed
    )
    if len(engines) > 1:
        names = ", ".join(engine.name for engine in engines)
        raise BundleError(f"{folder}: several engines ({names}); give the file you mean instead")
    if not engines:
        return None, None
    engine = inside(folder, engines[0].name, folder)
    remedy = "build it with build_engine.py of the bundle, or give the engine file itself"
    try:
        record = read_json(folder / RECORD)
    except FileNotFoundError:
        return None, f"{engine.name} has no {RECORD} that states its hash; {remedy}"
    if (record.get("engine"), record.get("sha256")) != (engine.name, sha256_of_file(engine)):
        return None, f"{engine.name} is not the engine that {RECORD} states; {remedy}"
    if record.get("onnx_sha256") != model_sha256:
        return None, f"{engine.name} was built from another model; {remedy}"
    return engine, None


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        raise BundleError(
            f"{path.parent}: no {MANIFEST} in this folder; give a bundle that "
            "`python -m export` wrote, or an .onnx file"
        ) from None
    if _get(manifest, path, "format") != FORMAT:
        raise BundleError(
            f"{path}: format {str(manifest['format'])[:40]}, this program reads format {FORMAT}; "
            "export the bundle with the same version of the toolkit"
        )
    return manifest


def _get(manifest: dict[str, Any], path: Path, *keys: str) -> Any:
    value: Any = manifest
    for depth, key in enumerate(keys, start=1):
        if not isinstance(value, dict) or key not in value:
            missing = " / ".join(keys[:depth])
            raise BundleError(f"{path}: the key {missing!r} is missing; export the bundle again")
        value = value[key]
    return value
