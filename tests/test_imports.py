from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# package -> the packages of ours that it may import
ALLOWED = {
    "nas_gan": set(),
    "ard": {"nas_gan"},
    "export": {"nas_gan", "ard"},
    "edge_bench": set(),
}
# The rooms of a package, top first: folders, and modules beside them. A room imports from the rows
# below its own and from itself alone, so that no two rooms can need one another.
ROOMS = {
    "ard": (
        "compress sweep pareto select latency inspect",
        "forecast",
        "selection report inspection",
        "session",
        "pipeline",
        "recovery baselines",
        "search",
        "costs measuring",
        "assembly csv_cells grid",
        "activation_sites",
        "layers",
        "activations",
        "plan signature coverage",
        "factorization",
        "errors",
    ),
    "nas_gan": (
        "train search sample evaluate experiments figures dashboard",
        "runs",
        "architecture_search cli",
        "training options",
        "metrics pictures",
        "generators workers",
        "checkpoint data losses settings tables panels devices builders",
        "networks progress weights",
        "remote",
        "locks children",
        "npz",
        "files reading seeds zoo interrupts cache",
        "errors",
    ),
}
OPTIONAL = ("onnx", "onnxsim", "onnxscript", "tensorrt", "tensorrt_rtx", "torch_tensorrt", "ray",
            "plotly", "matplotlib", "polygraphy", "streamlit", "altair", "pandas")  # fmt: skip
# These draw, and do nothing else.
PLOTTING = {
    "ard.report.curves", "ard.report.page", "ard.report.plots",
    "nas_gan.architecture_search.pictures",
    "nas_gan.pictures.activation_figures", "nas_gan.pictures.activation_sliders",
    "nas_gan.pictures.method_figures", "nas_gan.pictures.particle_figures",
    "nas_gan.pictures.plot_style",
    "nas_gan.runs.charts", "nas_gan.runs.compressions_page", "nas_gan.runs.dashboard_page",
}  # fmt: skip

HIDE = f"""
import importlib, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(name + " is hidden", name=name)

sys.meta_path.insert(0, Hidden())
"""


def modules_of(package: str) -> list[str]:
    names = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def imported_by(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, at its head or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add((node.module or "").partition(".")[0])
    return found


def modules_imported_by(path: Path, known: set[str]) -> set[str]:
    """Our modules that a file imports, at its head or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (named & known) or {node.module}
    return found & known


def all_modules() -> dict[str, Path]:
    """Every module of the four packages by its name."""
    found = {}
    for package in ALLOWED:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def python(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_between_packages_point_one_way(package):
    forbidden = set(ALLOWED) - ALLOWED[package] - {package}
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    crossing = {str(path): imported_by(path) & forbidden for path in files}
    assert {path: names for path, names in crossing.items() if names} == {}


def test_every_folder_of_a_package_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    here = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ALLOWED
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert set(project["tool"]["setuptools"]["packages"]) == here


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_has_a_floor(package):
    listed = [room for floor in ROOMS[package] for room in floor.split()]
    assert len(listed) == len(set(listed))
    here = {
        path.stem
        for path in (ROOT / package).iterdir()
        if (path / "__init__.py").is_file() or path.suffix == ".py"
    }
    only_data = {"__init__", "presets"}
    assert set(listed) == here - only_data


@pytest.mark.parametrize("package", ROOMS)
def test_no_arrow_points_upwards(package):
    floors = {room: n for n, floor in enumerate(ROOMS[package]) for room in floor.split()}
    modules = all_modules()
    upwards = []
    for name, path in modules.items():
        if name.partition(".")[0] != package or name == package:
            continue
        room = name.split(".")[1]
        for other in modules_imported_by(path, set(modules)):
            if other.partition(".")[0] != package or other == package:
                continue
            target = other.split(".")[1]
            if target != room and floors.get(target, -1) <= floors.get(room, -1):
                upwards.append(f"{name} -> {other}")
    assert upwards == []


def test_no_module_needs_itself_by_way_of_others():
    modules = all_modules()
    arrows = {
        name: modules_imported_by(path, set(modules)) - {name} for name, path in modules.items()
    }
    # Take away what needs nothing that is left, again and again: what stays stands in a circle.
    while free := [name for name, needs in arrows.items() if not needs & arrows.keys()]:
        for name in free:
            del arrows[name]
    assert arrows == {}


def test_every_module_imports_without_the_optional_packages():
    names = [*modules_of("nas_gan"), *modules_of("ard")]
    names = [name for name in names if name not in PLOTTING]
    python(HIDE + f"for name in {names!r}: importlib.import_module(name)")


def test_the_packages_themselves_import_numpy_at_most():
    python(
        "import sys, ard, nas_gan, edge_bench\n"
        "heavy = {'torch', 'scipy', 'onnxruntime', 'tyro', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


@pytest.mark.parametrize("package", ALLOWED)
def test_no_module_has_the_name_of_a_package_that_it_uses(package):
    # `python export/__main__.py` puts its folder first on the path: a file onnx.py there would
    # shadow the package.
    uses = set().union(*(imported_by(path) for path in (ROOT / package).rglob("*.py")))
    uses -= {*ALLOWED, *sys.stdlib_module_names}
    assert not uses & {path.stem for path in (ROOT / package).rglob("*.py")}
