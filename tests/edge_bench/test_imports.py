from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edge_bench

MODULES = sorted(Path(edge_bench.__file__).parent.glob("*.py"))
FOREIGN = ("torch", "rich", "tyro", "onnx", "onnxruntime", "tensorrt", "psutil", "pynvml", "jtop",
           "cuda", "openvino", "tensorrt_rtx", "nas_gan", "ard", "export")  # fmt: skip

IMPORT_ALL = f"""
import importlib, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FOREIGN!r}:
            raise ModuleNotFoundError(name + " is hidden")

sys.meta_path.insert(0, Hidden())
for name in {[path.stem for path in MODULES]!r}:
    importlib.import_module("edge_bench" if name == "__init__" else "edge_bench." + name)
from edge_bench.device import describe_device
from edge_bench.power_sources import find_power_meter
describe_device()
find_power_meter(on_gpu=True)
"""


def test_every_module_imports_on_a_device_with_numpy_alone():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_onnx_runtime_the_command_says_how_to_install_it(make_model, tmp_path):
    hidden = IMPORT_ALL + (
        f"from edge_bench.__main__ import main\n"
        f"sys.exit(main([{str(make_model())!r}, '--out', {str(tmp_path)!r}, '--repeats', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    expected = "error: onnxruntime is not installed; install it with: pip install onnxruntime\n"
    assert done.stderr == expected


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_is_python_3_10_whose_tensorrt_binding_jetpack_6_ships(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 10))
    # Names of the standard library that came with 3.11 and are easy to reach for.
    newer = {"Self", "UTC", "file_digest", "StrEnum", "ExceptionGroup", "tomllib"}
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in guarded:
            assert not newer & {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute):
            assert node.attr not in newer
