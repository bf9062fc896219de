"""No call has more than ten arguments: what belongs together is one value."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 10


def n_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters that a caller sees: without `self` and `cls`."""
    args = function.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


@pytest.mark.parametrize("package", ["nas_gan", "ard", "export", "edge_bench"])
def test_no_function_takes_more_than_ten_parameters(package: str) -> None:
    functions = [
        (path, node)
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert functions
    long = {f"{path}:{f.lineno} {f.name}": n_parameters(f) for path, f in functions}
    assert {name: n for name, n in long.items() if n > LIMIT} == {}
