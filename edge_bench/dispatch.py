"""The jobs of `--host`: what each command copies to a device, runs there and brings back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edge_bench.bundle import ENGINE_SUFFIXES, MANIFEST, RECORD, load_bundle
from edge_bench.errors import BundleError
from edge_bench.job import INPUTS, OUTPUTS
from edge_bench.layer_table import TABLE
from edge_bench.layer_timing import FILE, load_folder
from edge_bench.remote import Job, Step

BUILDER = "build_engine.py"


def bench_job(
    bundles: Sequence[Path],
    options: Sequence[str],
    results: Mapping[str, Path],
    packages: Sequence[str],
) -> Job:
    """A benchmark of bundles; their engines are built first if the device has TensorRT.

    Args:
        bundles: Bundle folders, ONNX files or engines.
        options: The options of `python -m edge_bench` but its bundles and `--out`.
        results: Where the files that it writes there are written to here.
        packages: The packages that the device has.

    Raises:
        BundleError: A path holds nothing that can be measured.
    """
    files: dict[str, Path] = {}
    names: list[str] = []
    builds: list[Step] = []
    for number, path in enumerate(bundles):
        load_bundle(path)  # a damaged one is found here and not after it was copied
        # With its parent, by which equal names are told apart.
        whole = path.resolve()
        name = "/".join((INPUTS, str(number), whole.parent.name or "root", whole.name))
        names.append(name)
        found = dict(_files_of(path)) if path.is_dir() else {"": path}
        files |= {f"{name}/{inner}".rstrip("/"): file for inner, file in found.items()}
        if "tensorrt" in packages:
            scripts = (f"{name}/{inner}" for inner in found if Path(inner).name == BUILDER)
            builds += [Step((script,), optional=True) for script in sorted(scripts)]
    bench = Step(("-m", "edge_bench", *names, *options, "--out", OUTPUTS))
    return Job(_inside(files), (*builds, bench), results)


def layers_job(folder: Path, options: Sequence[str], table: Path) -> Job:
    """The times of single layers; those that `table` holds already are not measured again.

    Args:
        folder: The folder that `python -m ard.latency` wrote.
        options: The options of `python -m edge_bench.layers` but its folder and `--table`.
        table: The table that is written or extended.

    Raises:
        BundleError: It is not such a folder, or a file is missing.
    """
    listed = [model.path for model in load_folder(folder).models]
    files = {f"{INPUTS}/layers/{path.name}": path for path in (folder / FILE, *listed)}
    there = f"{OUTPUTS}/{TABLE}"
    steps = [Step(("-m", "edge_bench.layers", f"{INPUTS}/layers", *options, "--table", there))]
    if table.is_file():
        files[f"{INPUTS}/{TABLE}"] = table
        copy = f"import shutil; shutil.copyfile('{INPUTS}/{TABLE}', '{there}')"
        steps.insert(0, Step(("-c", copy)))
    return Job(_inside(files), tuple(steps), {TABLE: table})


def _files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a bundle and of the one inside it, without engines of this machine."""
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if not path.is_file() or any(part.startswith((".", "__pycache__")) for part in inner.parts):
            continue
        if path.is_symlink() and folder.resolve() not in path.resolve().parents:
            raise BundleError(f"{path}: a link that leads out of the bundle; copy the file instead")
        built_here = path.suffix in ENGINE_SUFFIXES or path.name == RECORD
        if not (built_here and (path.parent / MANIFEST).is_file()):
            yield inner.as_posix(), path


def _inside(files: dict[str, Path]) -> dict[str, Path]:
    """The files by their names below the folder of inputs."""
    return {name.removeprefix(f"{INPUTS}/"): path for name, path in files.items()}
