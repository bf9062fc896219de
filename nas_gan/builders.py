"""Networks of other projects: the function or class that builds one, by its name and arguments."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from nas_gan.errors import InvalidValueError, MissingDataError, UnreadableError, named
from nas_gan.reading import check_plain, read_text

_FORMS = "package.module:build or path/to/file.py:build"


def import_builder(reference: str, arguments: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """A function that builds the network which `reference` points at.

    The code is imported and runs. For a file, its folder stays at the head of `sys.path`, as for
    a script, so that it finds the modules beside it; for a module, the current folder does.

    Args:
        reference: `package.module:name` or `path/to/file.py:name`. The name is that of a function
            or a class which returns a module, or of a module that is there already, of which
            every call returns a copy.
        arguments: What the function or the class takes, by keyword.

    Returns:
        A function without arguments. Calling it raises InvalidValueError, too, if the builder
        fails or does not return one module.

    Raises:
        InvalidValueError: nothing importable is there, it cannot be called, or it does not take
            these arguments.
    """
    # From the right: a path of Windows has a colon of its own.
    source, _, name = reference.rpartition(":")
    if not source or not name:
        raise InvalidValueError(f"takes {_FORMS}; got {reference!r}", setting="model")
    is_file = source.endswith(".py") or "/" in source or "\\" in source
    module = _import_file(Path(source)) if is_file else _import_module(source)
    found = _attribute(module, name, source)
    if isinstance(found, nn.Module):
        if arguments:
            raise InvalidValueError(
                f"cannot be given: {reference} is a network that is built already",
                setting="model_args",
            )
        return partial(copy.deepcopy, found)
    if not callable(found):
        raise InvalidValueError(
            f"{reference}: not callable but a {type(found).__name__}; use a function or a class "
            "that returns a module",
            setting="model",
        )
    _check_arguments(found, name, arguments)
    return partial(_build, found, reference, dict(arguments))


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments of a builder, from the text of an option.

    Args:
        text: A JSON object, such as `{"ngf": 64}`, or `@file.json` for the file that holds it.

    Raises:
        InvalidValueError: the file cannot be read, or its text or this one is no JSON object.
    """
    where = ""
    if text.startswith("@"):
        path = Path(text[1:])
        where = f"{path} "
        try:
            text = read_text(path)
        except (MissingDataError, UnreadableError) as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise InvalidValueError(
                f"cannot be read from {str(path)!r}: {reason}", setting="model_args"
            ) from error
    try:
        arguments = check_plain(json.loads(text), "")
    except json.JSONDecodeError as error:
        raise InvalidValueError(
            f'{where}must be a JSON object such as {{"ngf": 64}}, or @file.json; got '
            f"{_shortened(text)} ({error.msg} at character {error.pos + 1})",
            setting="model_args",
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
        raise InvalidValueError(
            f'{where}must be a JSON object such as {{"ngf": 64}}, or @file.json ({error})',
            setting="model_args",
        ) from error
    if not isinstance(arguments, dict):
        raise InvalidValueError(
            f'{where}must be a JSON object such as {{"ngf": 64}}, or @file.json; got '
            f"{_shortened(text)}",
            setting="model_args",
        )
    return arguments


def _shortened(text: str, width: int = 60) -> str:
    return repr(text if len(text) <= width else text[:width] + "...")


def _import_module(name: str) -> ModuleType:
    _put_first(Path.cwd())
    try:
        return importlib.import_module(name)
    except Exception as error:  # code of somebody else may raise anything
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and missing and _leads_to(missing, name):
            raise InvalidValueError(
                f"{name}: there is no module {missing!r}, neither installed nor in {Path.cwd()}; "
                f"use {_FORMS}",
                setting="model",
            ) from error
        raise _import_failed(name, error) from error


def _leads_to(missing: str, name: str) -> bool:
    return name == missing or name.startswith(f"{missing}.")


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        found = "a directory" if path.is_dir() else "no such file"
        raise InvalidValueError(f"{path}: {found}; use {_FORMS}", setting="model")
    path = path.resolve()
    _put_first(Path.cwd())
    _put_first(path.parent)
    # A file inside a package is imported as part of it, so that its relative imports work.
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file() and root.name.isidentifier():
        root, parts = root.parent, [root.name, *parts]
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    _put_first(root)
    name = ".".join(parts)
    importlib.invalidate_caches()
    try:
        return _load_by_name(path, name)
    except Exception as error:  # code of somebody else may raise anything
        if len(parts) > 1 and isinstance(error, ImportError):
            # The package may need what this file of it does not.
            with suppress(Exception):
                return _load_apart(path)
        raise _import_failed(path.name, error) from error


def _load_by_name(path: Path, name: str) -> ModuleType:
    """Import a file under its own name if that leads to it.

    Processes that are started with our `sys.path` can then import it too, and a module beside it
    that imports it gets the same one.
    """
    if not path.stem.isidentifier():
        return _load_apart(path)
    loaded = sys.modules.get(name)
    try:
        spec = importlib.util.find_spec(name) if loaded is None else None
    except ValueError:  # such as for __main__
        return _load_apart(path)
    file = getattr(loaded, "__file__", None) if spec is None else spec.origin
    if file is None or Path(file).resolve() != path:
        return _load_apart(path)
    return importlib.import_module(name)


def _load_apart(path: Path) -> ModuleType:
    """Load a file whose own name is that of another module, under a name that stays the same."""
    stem = re.sub(r"\W", "_", path.stem)
    name = f"{stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file", path=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _put_first(folder: Path) -> None:
    text = str(folder)
    if text in sys.path:
        sys.path.remove(text)
    sys.path.insert(0, text)


def _import_failed(source: str, error: Exception) -> InvalidValueError:
    where = _where(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        by = where.rpartition(":")[0] or source
        what = f"{source}: {by} imports {error.name!r}, which is not installed"
    elif isinstance(error, SyntaxError):
        file = Path(error.filename).name if error.filename else source
        what = f"{source}: {file}, line {error.lineno}, is not valid Python: {error.msg}"
    else:
        what = f"{source}: importing it failed with {_first_line(error)}" + _at(where)
    return InvalidValueError(what, setting="model")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _where(error: BaseException) -> str:
    """`file.py:12`, the last line of somebody else's code that ran."""
    ours = {__file__, importlib.__file__, "<frozen importlib._bootstrap>"}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in ours and not frame.filename.startswith("<frozen")
    ]
    theirs = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{Path(theirs[-1].filename).name}:{theirs[-1].lineno}" if theirs else ""


def _at(where: str) -> str:
    return f" ({where})" if where else ""


def _attribute(module: ModuleType, name: str, source: str) -> Any:
    found: Any = module
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        theirs = [
            n for n, value in vars(module).items()
            if not n.startswith("_") and _can_build(value)
            and getattr(value, "__module__", module.__name__) in (module.__name__, None)
        ]  # fmt: skip
        others = [n for n, value in vars(module).items() if isinstance(value, nn.Module)]
        names = list(dict.fromkeys([*theirs, *others]))
        near = get_close_matches(name, names, n=1)
        names = list(dict.fromkeys([*near, *names]))
        there = f"it has {named(names, 8)}" if names else "it has no function or class"
        there = f"did you mean {near[0]}? {there}" if near else there
        raise InvalidValueError(f"{source} has no {name!r}; {there}", setting="model") from error
    return found


def _can_build(value: object) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def _check_arguments(builder: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that `builder` does not take, or lacks."""
    try:
        parameters = inspect.signature(builder).parameters
    except (TypeError, ValueError):  # some builtins have no signature: their call will tell
        return
    keyword = [
        p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = {p.name for p in keyword}
    unknown = [] if takes_any else [n for n in arguments if n not in known]
    if unknown:
        takes = f"it takes {', '.join(p.name for p in keyword)}" if keyword else "it takes none"
        raise InvalidValueError(
            f"{name} does not take {', '.join(unknown)}; {takes}", setting="model_args"
        )
    positional = [
        p for p in parameters.values() if p.kind is p.POSITIONAL_ONLY and p.default is p.empty
    ]
    if positional:
        raise InvalidValueError(
            f"{name} takes {', '.join(p.name for p in positional)} by position only; "
            "give a function that takes keywords",
            setting="model",
        )
    missing = [p.name for p in keyword if p.default is p.empty and p.name not in arguments]
    if missing:
        raise InvalidValueError(
            f"{name} needs {', '.join(missing)}; give them as model arguments, such as "
            f'{{"{missing[0]}": 64}}',
            setting="model_args",
        )


def _build(builder: Callable[..., Any], reference: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        built = builder(**copy.deepcopy(dict(arguments)))
    except Exception as error:  # code of somebody else may raise anything
        raise InvalidValueError(
            f"{reference} failed with {_first_line(error)}{_at(_where(error))}", setting="model"
        ) from error
    if isinstance(built, nn.Module):
        return built
    if isinstance(built, tuple | list | dict):
        values = built.values() if isinstance(built, dict) else built
        kinds = ", ".join(type(value).__name__ for value in values)
        what = f"a {type(built).__name__} ({kinds})"
    else:
        what = f"a {type(built).__name__}" if built is not None else "None"
    raise InvalidValueError(
        f"{reference} returned {what}; give a function that returns the generator alone, an "
        "nn.Module",
        setting="model",
    )
