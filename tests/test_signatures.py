"""What the signatures of all packages have in common."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 10


def n_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters that a caller sees: without `self` and `cls`."""
    args = function.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


@pytest.mark.parametrize("package", ["ard", "nas_gan", "export", "edge_bench"])
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


FILES = [
    path for package in ("ard", "nas_gan", "export", "edge_bench")
    for path in sorted((ROOT / package).rglob("*.py"))
]  # fmt: skip
# Of these `None` is a setting: the family of the network decides.
SETTINGS = {"TrainConfig"}
# The one module that reads what a generator says of itself.
READER = ROOT / "nas_gan" / "networks" / "interface.py"


def defaulted(tree: ast.AST, name: str) -> Iterator[int]:
    """Lines on which a parameter or a field of a class called `name` has a default."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            positional = [*node.args.posonlyargs, *node.args.args]
            with_default = positional[len(positional) - len(node.args.defaults) :]
            named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            with_default += [argument for argument, default in named if default is not None]
            yield from (argument.lineno for argument in with_default if argument.arg == name)
        elif isinstance(node, ast.ClassDef) and node.name not in SETTINGS:
            for field in node.body:
                target = field.target if isinstance(field, ast.AnnAssign) else None
                wanted = isinstance(target, ast.Name) and target.id == name
                if wanted and isinstance(field, ast.AnnAssign) and field.value is not None:
                    yield field.lineno


@pytest.mark.parametrize(
    "code",
    [
        "def f(a, n_classes=0): ...",
        "def f(a, /, n_classes=0): ...",
        "async def f(*, a, n_classes=None): ...",
        "lambda n_classes=0: n_classes",
        "class A:\n    def f(self, n_classes=0): ...",
        "class A:\n    n_classes: int = 0",
    ],
)
def test_a_default_is_found_wherever_it_stands(code: str):
    assert list(defaulted(ast.parse(code), "n_classes"))
    assert not list(defaulted(ast.parse(code.replace("n_classes", "other")), "n_classes"))
    assert not list(defaulted(ast.parse("def f(n_classes, *, a=0): ..."), "n_classes"))


def test_no_function_takes_a_number_of_classes_with_a_default():
    # A caller that forgets it would treat a conditional generator as an unconditional one.
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for line in defaulted(ast.parse(path.read_text()), "n_classes")
    ]
    assert found == []


def test_one_module_reads_what_generators_say_of_themselves():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        if path != READER
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr")
        and isinstance(node.args[1], ast.Constant)
        and node.args[1].value in ("latent_dim", "n_classes", "image_shape")
    ]
    assert found == []
