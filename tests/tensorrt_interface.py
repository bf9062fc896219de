"""What a source file touches of TensorRT's Python interface, and whether a binding has it.

`touches` reads the source; `problems` looks at a binding. As a program, this reads touches from
stdin and prints the problems, since only one binding can be imported by a process.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

# What a method returns, where it is used without being given a name.
RETURNS = {
    "OnnxParser.get_error": "ParserError",
    "INetworkDefinition.get_input": "ITensor",
    "INetworkDefinition.get_output": "ITensor",
}

# The class of each variable, "" for the module itself, None for plain values.
Classes = Mapping[str, str | None]


@dataclass(frozen=True)
class Touch:
    """An attribute of a class (of the module, if that is empty), and how it is called, if it is.

    `positional` counts arguments; `at_least` says that a starred one follows. `optional` is an
    attribute that the source asks for before it uses it.
    """

    line: int
    owner: str
    name: str
    optional: bool = False
    called: bool = False
    positional: int = 0
    at_least: bool = False
    keywords: tuple[str, ...] = ()


def touches(source: str, classes: Classes) -> list[Touch]:
    """Everything of TensorRT that is touched by functions which mention a name of `classes`.

    Raises:
        LookupError: A result of TensorRT gets a name that is not in `classes`.
    """
    anchors = {name for name in classes if classes[name] == "" or name.startswith("self.")}
    found: list[Touch] = []
    for function in _functions(ast.parse(source)):
        mentioned = {_dotted(node) for node in ast.walk(function)}
        if mentioned & anchors or {a.arg for a in function.args.args} & set(classes):
            found += _touched_in(function, classes)
    return found


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """The outermost functions and the methods of classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node)


def _touched_in(function: ast.FunctionDef, classes: Classes) -> Iterator[Touch]:
    calls = {id(node.func): node for node in ast.walk(function) if isinstance(node, ast.Call)}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            _check_names(node, classes)
        if isinstance(node, ast.Attribute) and (owner := _owner(node.value, classes)) is not None:
            yield _touch(node, owner, calls.get(id(node)), classes)
        if (
            isinstance(node, ast.Call)
            and _dotted(node.func) in ("hasattr", "getattr")
            and (owner := _owner(node.args[0], classes)) is not None
        ):
            name = ast.literal_eval(node.args[1])
            yield Touch(node.lineno, owner, name, optional=True)


def _touch(node: ast.Attribute, owner: str, call: ast.Call | None, classes: Classes) -> Touch:
    if call is None:
        return Touch(node.lineno, owner, node.attr)
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    # trt.ILogger.__init__(self) hands over the instance itself.
    of_class = _is_path(node.value, classes)
    return Touch(
        line=node.lineno,
        owner=owner,
        name=node.attr,
        called=True,
        positional=len(call.args) - starred - of_class,
        at_least=starred,
        keywords=tuple(keyword.arg or "**" for keyword in call.keywords),
    )


def _check_names(node: ast.Assign, classes: Classes) -> None:
    value = node.value
    if not isinstance(value, ast.Call) or _owner(value.func, classes) is None:
        return
    for target in node.targets:
        for named in target.elts if isinstance(target, ast.Tuple) else [target]:
            if _dotted(named) not in classes:
                raise LookupError(f"line {node.lineno}: what is {ast.unparse(named)}?")


def _owner(node: ast.AST, classes: Classes) -> str | None:
    """The class of an expression, None if it is not TensorRT's."""
    if (name := _dotted(node)) in classes:
        return classes[name]
    if isinstance(node, ast.Attribute):
        owner = _owner(node.value, classes)
        return None if owner is None else f"{owner}.{node.attr}".lstrip(".")
    if isinstance(node, ast.Call) and (called := _owner(node.func, classes)) is not None:
        return RETURNS.get(called)
    return None


def _is_path(node: ast.AST, classes: Classes) -> bool:
    """Whether it is a class, reached from the module by names."""
    while isinstance(node, ast.Attribute):
        node = node.value
        if classes.get(_dotted(node), None) == "":
            return True
    return False


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def problems(touched: list[Touch], trt: Any) -> list[tuple[Touch, str]]:
    """The touches that a binding does not have or does not accept, each with the reason."""
    found = []
    for touch in touched:
        try:
            owner = trt
            for name in filter(None, touch.owner.split(".")):
                owner = getattr(owner, name)
            attribute = getattr(owner, touch.name)
        except AttributeError as error:
            found.append((touch, f"line {touch.line}: {error}"))
            continue
        if touch.called and not _accepts(attribute, touch):
            shown = f"{touch.owner}.{touch.name}".lstrip(".")
            found.append((touch, f"line {touch.line}: {shown} takes other arguments"))
    return found


def _accepts(attribute: Any, touch: Touch) -> bool:
    if inspect.isfunction(attribute):  # of the Python part of the package
        given = inspect.signature(attribute)
        try:
            given.bind(*range(touch.positional), **dict.fromkeys(touch.keywords))
        except TypeError:
            return False
        return True
    name = touch.name
    if inspect.isclass(attribute):
        attribute, name = attribute.__init__, "__init__"
    return any(_fits(parameters, touch) for parameters in _signatures(name, attribute.__doc__))


def _signatures(name: str, doc: str | None) -> list[list[tuple[str, bool]]]:
    """For each overload in a docstring: `(name, has a default)` of the parameters after self."""
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) -> ", doc or "", re.MULTILINE)
    parsed = []
    for line in lines:
        parts = _split(line)
        named = [(part.partition(":")[0].strip(), "=" in part) for part in parts]
        parsed.append([one for one in named if one[0] != "self"])
    return parsed


def _split(line: str) -> list[str]:
    """At the commas that are not inside brackets."""
    parts, depth = [""], 0
    for character in line:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _fits(parameters: list[tuple[str, bool]], touch: Touch) -> bool:
    rest = parameters[touch.positional :]
    names = {name for name, _ in rest}
    needed = {name for name, default in rest if not default}
    return (
        touch.positional + touch.at_least <= len(parameters)
        and set(touch.keywords) <= names
        and (touch.at_least or needed <= set(touch.keywords))
    )


def main() -> None:
    """Print the problems with the touches that stdin lists, and the version of the binding."""
    trt = importlib.import_module("tensorrt_bindings")
    listed = [Touch(**{**one, "keywords": tuple(one["keywords"])}) for one in json.load(sys.stdin)]
    found = [(asdict(touch), reason) for touch, reason in problems(listed, trt)]
    json.dump({"version": trt.__version__, "problems": found}, sys.stdout)


if __name__ == "__main__":
    main()
