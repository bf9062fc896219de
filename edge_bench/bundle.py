"""What is measured: a bundle folder, a single `.onnx` file or a single TensorRT engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import BundleError

MANIFEST = "manifest.json"
MODEL = "model.onnx"
FORMAT = 1
ENGINE_SUFFIXES = (".engine", ".plan")


@dataclass(frozen=True)
class Bundle:
    """Where the files are, and what the manifest says about them; `None` if nothing does.

    `samples` are files of inputs to try, each named after its input.
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
        return Bundle(path.stem, path, path, None, _sha256_of_file(path), None, n_classes=None)
    if path.suffix in ENGINE_SUFFIXES:
        return Bundle(path.stem, path, None, path, None, _sha256_of_file(path), n_classes=None)
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


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _load_folder(folder: Path) -> Bundle:
    path = folder / MANIFEST
    manifest = _read_manifest(path)
    model = _inside(folder, str(manifest.get("onnx", MODEL)))
    digest = _check_hash(model, _get(manifest, path, "files", model.name, "sha256"))
    dense = manifest.get("dense")
    engine = _engine_built_here(folder, _get(manifest, path, "files"))
    return Bundle(
        name=folder.resolve().name,
        path=folder,
        model=model,
        engine=engine,
        model_sha256=digest,
        engine_sha256=None if engine is None else _sha256_of_file(engine),
        precision=manifest.get("precision"),
        params=manifest.get("params"),
        macs=manifest.get("macs"),
        dense=None if dense is None else _inside(folder, str(dense)),
        samples=tuple(_samples(folder, manifest, path)),
        n_classes=_classes(manifest, path),
    )


def _samples(folder: Path, manifest: dict[str, Any], path: Path) -> Iterator[Path]:
    """The listed files of inputs."""
    bank = manifest.get("latents")
    names = [bank.get("file"), bank.get("labels")] if isinstance(bank, dict) else []
    for name in names:
        if isinstance(name, str) and name.endswith(".npy"):
            file = _inside(folder, name)
            _check_hash(file, _get(manifest, path, "files", name, "sha256"))
            yield file


def load_samples(bundle: Bundle) -> dict[str, NDArray[np.generic]]:
    """The inputs of a bundle, by the name of the model's input; empty if it has none.

    Raises:
        BundleError: a file is not an array of numbers with a row for each image.
    """
    found = {}
    for file in bundle.samples:
        try:
            rows = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(
                f"{file}: not an .npy file ({error}); export the bundle again"
            ) from None
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu" or not rows.size:
            raise BundleError(f"{file}: not an array of inputs; export the bundle again")
        found[file.stem] = rows
    return found


def _check_hash(file: Path, expected: object) -> str:
    """The digest of a file, which must be the exported one."""
    digest = _sha256_of_file(file)
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


def _engine_built_here(folder: Path, listed: Collection[str]) -> Path | None:
    engines = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in ENGINE_SUFFIXES and file.name not in listed
    )
    if len(engines) > 1:
        names = ", ".join(engine.name for engine in engines)
        raise BundleError(f"{folder}: several engines ({names}); give the file you mean instead")
    return engines[0] if engines else None


def _inside(folder: Path, name: str) -> Path:
    """`folder / name`; a manifest that was copied here must not reach into other folders."""
    if Path(name).name != name or name == "..":
        raise BundleError(
            f"{folder / MANIFEST}: {name!r} is not a name inside the bundle; export it again"
        )
    return folder / name


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(
            f"{path.parent}: no {MANIFEST} in this folder; give a bundle that "
            "`python -m export` wrote, or an .onnx file"
        ) from None
    except ValueError as error:
        raise BundleError(f"{path}: not JSON ({error}); export the bundle again") from None
    if not isinstance(manifest, dict):
        raise BundleError(f"{path}: a JSON object is expected; export the bundle again")
    if _get(manifest, path, "format") != FORMAT:
        raise BundleError(
            f"{path}: format {manifest['format']!r}, this program reads format {FORMAT}; "
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


def _sha256_of_file(path: Path) -> str:
    if not path.is_file():
        raise BundleError(f"{path}: no such file; copy or export the bundle again")
    if path.stat().st_size == 0:
        raise BundleError(f"{path}: the file is empty; copy or export the bundle again")
    return sha256(path)
