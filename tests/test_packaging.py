from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("nas_gan", "ard", "export", "edge_bench")
TEXT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(TEXT)
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_every_package_folder_is_listed_and_nothing_else():
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(SETUPTOOLS["packages"]) == folders
    assert len(SETUPTOOLS["packages"]) == len(folders)


def test_every_folder_with_modules_is_a_package():
    with_modules = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert [str(folder) for folder in with_modules if not (folder / "__init__.py").is_file()] == []


def test_tests_stay_out_of_the_wheel():
    assert not any(name.startswith(("tests", "benchmarks")) for name in SETUPTOOLS["packages"])
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_tells_type_checkers_that_it_is_typed(package):
    assert (ROOT / package / "py.typed").is_file()


def test_data_files_beside_modules_are_shipped():
    covered = SETUPTOOLS["package-data"]
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            name = ".".join(path.parent.relative_to(ROOT).parts)
            patterns = [*covered.get("*", []), *covered.get(name, [])]
            assert any(path.match(pattern) for pattern in patterns), f"{path} is not shipped"


def commented(section: str, key: str) -> list[tuple[str, str]]:
    """`(line, comment)` of each line of one list or table of pyproject.toml."""
    block = TEXT.split(f"\n{section}\n")[1].split("\n[")[0]
    block = block.split(f"\n{key}")[1].split("\n]")[0] if key else block
    parts = [line.partition("#") for line in block.splitlines() if '"' in line]
    return [(line, comment) for line, _, comment in parts]


def named_files(comment: str) -> list[str]:
    return re.findall(r"\b[\w/]+(?:\.py|/)", comment)


@pytest.mark.parametrize(
    ("line", "comment"), commented("[project.optional-dependencies]", ""), ids=lambda t: t[:12]
)
def test_every_extra_names_the_file_that_needs_it(line, comment):
    if comment == "" and "=" not in line.split('"')[0]:
        return  # one of the tools of dev, which no file of ours imports
    files = named_files(comment)
    assert files, f"{line.strip()} says no file"
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize(
    ("line", "comment"), commented("[project]", "dependencies"), ids=lambda t: t.strip()[:12]
)
def test_the_files_that_a_dependency_names_exist(line, comment):
    assert [file for file in named_files(comment) if not (ROOT / file).exists()] == []


def test_the_licence_of_the_project_is_its_file():
    for file in PROJECT["project"]["license-files"]:
        assert (ROOT / file).is_file()
    assert (ROOT / PROJECT["project"]["readme"]).is_file()
