"""What `pip install` gives: the wheel in an empty environment, used from an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nas_gan", "ard", "export", "edge_bench")
SOURCES = (*PACKAGES, "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
# What cuts the README's example down to seconds; everything else is as shown.
SMALL = "--samples 64 --sweep-samples 16 --fractions 0.1 --anchors 1 --methods svd " \
    "--recover-steps 1 --max-trials 1"  # fmt: skip
WHERE = f"import {', '.join(PACKAGES)}\nfor package in ({', '.join(PACKAGES)}):\n" \
    "    print(package.__file__)"  # fmt: skip


class Built(NamedTuple):
    sdist: Path
    wheel: Path
    wheel_of_tree: Path


class Installed(NamedTuple):
    folder: Path
    python: Path


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that sees no package of the checkout, and fail with what it said."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A source distribution, the wheel made from it, and the wheel made from the tree itself."""
    folder = tmp_path_factory.mktemp("built")
    tree = folder / "tree"
    tree.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, tree / name, ignore=ignored)
        elif source.exists():
            shutil.copy2(source, tree / name)
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--outdir", folder / "released", tree, cwd=folder)
    shutil.rmtree(tree / "build", ignore_errors=True)
    run(*build, "--wheel", "--outdir", folder / "direct", tree, cwd=folder)
    [sdist] = (folder / "released").glob("*.tar.gz")
    [wheel] = (folder / "released").glob("*.whl")
    [wheel_of_tree] = (folder / "direct").glob("*.whl")
    return Built(sdist, wheel, wheel_of_tree)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel, and with the dependencies of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment").resolve()
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
        "--no-index", built.wheel, cwd=folder)  # fmt: skip
    # A folder named in a .pth file is searched after the environment's own, and .pth files in it
    # are not read: an editable install of the checkout stays out.
    here = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    (Path(here) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(folder, python)


def contents(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def test_the_source_distribution_builds_the_wheel_of_the_tree(built: Built) -> None:
    assert built.wheel.name == built.wheel_of_tree.name
    assert contents(built.wheel) == contents(built.wheel_of_tree)


def test_the_wheel_holds_every_module_and_nothing_but_the_packages(built: Built) -> None:
    names = {name for name in contents(built.wheel) if ".dist-info/" not in name}
    modules = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert modules <= names
    assert {name.split("/")[0] for name in names} == set(PACKAGES)


def test_the_packages_come_from_the_wheel(installed: Installed, tmp_path: Path) -> None:
    files = run(installed.python, "-c", WHERE, cwd=tmp_path).stdout.split()
    assert len(files) == len(PACKAGES)
    for file in map(Path, files):
        assert file.is_relative_to(installed.folder)
        assert not file.is_relative_to(ROOT)


def test_the_example_of_the_readme_runs_from_an_empty_folder(
    installed: Installed, tmp_path: Path
) -> None:
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    [shown] = re.findall(r"^python (-m ard\.compress .*)$", text, re.MULTILINE)
    done = run(installed.python, *shlex.split(shown), *SMALL.split(), cwd=tmp_path)
    report = tmp_path / done.stdout.splitlines()[-1]
    assert report.stat().st_size > 10_000
    assert "shipped statistics" in done.stdout
    assert (tmp_path / "runs" / "demo" / "bundle" / "model.onnx").is_file()
