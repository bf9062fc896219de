"""What an error says: libraries speak of values, and only commands speak of options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Commands and their skin; build_engine.py is a script that is run on the device.
COMMANDS = {
    "ard/compress.py", "ard/sweep.py", "ard/pareto.py", "ard/select.py", "ard/latency.py",
    "export/__main__.py", "export/build_engine.py",
    "edge_bench/__main__.py", "edge_bench/layers.py", "edge_bench/command.py",
    "nas_gan/train.py", "nas_gan/search.py", "nas_gan/sample.py", "nas_gan/evaluate.py",
    "nas_gan/figures.py", "nas_gan/experiments.py", "nas_gan/dashboard.py", "nas_gan/cli.py",
}  # fmt: skip


def texts_raised(path: Path) -> Iterator[str]:
    """Every piece of text inside a raise statement."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


@pytest.mark.parametrize("package", ["ard", "nas_gan", "export", "edge_bench"])
def test_no_error_of_a_library_module_names_an_option(package: str) -> None:
    files = set((ROOT / package).rglob("*.py")) - {ROOT / name for name in COMMANDS}
    assert files
    found = {str(path): text for path in files for text in texts_raised(path)
             if re.search(r"(^|[^-\w])--[a-z]", text)}  # fmt: skip
    assert found == {}
