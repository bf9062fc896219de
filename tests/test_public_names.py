"""What `from ard import ...` and its kind promise."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("nas_gan", "ard", "export", "edge_bench")
NAMES = [
    (package, name) for package in PACKAGES for name in importlib.import_module(package).__all__
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_public_names_and_lists_them(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_every_public_name_says_in_a_sentence_what_it_is(package: str, name: str) -> None:
    value = getattr(importlib.import_module(package), name)
    assert value.__name__ == name
    # `ard` also offers the executors of the package that it builds on.
    assert value.__module__.partition(".")[0] in {
        package,
        *({"nas_gan"} if package == "ard" else ()),
    }
    # Of its own: a dataclass without a docstring shows its signature, a subclass that of its base.
    docstring = inspect.getdoc(value) if inspect.isroutine(value) else value.__dict__["__doc__"]
    assert docstring, f"{package}.{name} has no docstring"
    first, *_ = docstring.strip().splitlines()
    assert not first.startswith(f"{name}("), f"{package}.{name} has no docstring"
    assert re.match(r"[A-Z0-9`].*\.$", first), f"{package}.{name}: {first!r} is no sentence"


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_no_public_name_hides_a_module(package: str, name: str) -> None:
    assert not (ROOT / package / f"{name}.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_does_not_load_torch(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {package}; sys.exit('torch' in sys.modules)"],
        cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0


@pytest.mark.parametrize("command", ["ard.compress", "ard.sweep", "nas_gan.train", "export"])
def test_running_a_command_does_not_load_it_twice(command: str) -> None:
    # runpy warns if the module is already there when it is to be run.
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", command, "--help"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
