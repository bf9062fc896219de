import json
import multiprocessing
import pickle
import sys

import pytest
import torch
from torch import nn

from nas_gan.builders import import_builder, parse_arguments
from nas_gan.errors import InvalidValueError

GENERATOR = """
import torch
from torch import nn

class Generator(nn.Module):
    def __init__(self, nz=4, ngf=8):
        super().__init__()
        self.first = nn.Linear(nz, ngf)

    def forward(self, z):
        return self.first(z)

class Sized(Generator):
    def __init__(self, nz, ngf, *, depth=1):
        super().__init__(nz, ngf)

def small():
    return Generator(2, 3)

def pair():
    return Generator(), Generator()

def nothing():
    Generator()

def broken(ngf=1):
    sizes = {}
    return sizes["no such size"]

def anything(**options):
    return Generator(**options)

def by_position(nz, /):
    return Generator(nz)

ready = small()
table = {"a": 1}
"""


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch, tmp_path):
    """No test leaves modules or folders of its own to the next one."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield
    for name, module in list(sys.modules.items()):
        place = vars(module).get("__file__") or str(vars(module).get("__path__"))
        if str(tmp_path) in place:
            del sys.modules[name]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nets" / "theirs.py"
    path.parent.mkdir()
    path.write_text(GENERATOR)
    return path


def refused(reference, arguments, match, setting="model"):
    with pytest.raises(InvalidValueError, match=match) as caught:
        import_builder(reference, arguments)()
    assert "\n" not in str(caught.value)
    assert caught.value.setting == setting


def width(module):
    return module.first.in_features, module.first.out_features


def test_a_builder_is_found_by_its_name():
    assert isinstance(import_builder("torch.nn:Identity", {})(), nn.Identity)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("Generator", {}, (4, 8)),
        ("Generator", {"ngf": 5}, (4, 5)),
        ("Sized", {"nz": 6, "ngf": 7}, (6, 7)),
        ("small", {}, (2, 3)),
        ("anything", {"nz": 9}, (9, 8)),
        ("ready", {}, (2, 3)),
    ],
)
def test_a_file_gives_classes_functions_and_networks(file, name, arguments, expected):
    for path in (file, file.relative_to(file.parents[1])):
        assert width(import_builder(f"{path}:{name}", arguments)()) == expected


def test_every_call_builds_another_network(file):
    build = import_builder(f"{file}:ready", {})
    first, second = build(), build()
    assert first is not second
    first.get_parameter("first.weight").data.zero_()
    assert second.get_parameter("first.weight").abs().min() > 0


def test_a_file_imports_what_lies_beside_it_even_later(file):
    (file.parent / "blocks_of_theirs.py").write_text("width = 11\n")
    file.write_text(
        GENERATOR
        + "def late():\n    import blocks_of_theirs as b\n    return Generator(1, b.width)\n"
    )
    assert width(import_builder(f"{file}:late", {})()) == (1, 11)


def test_a_file_in_a_package_may_import_relatively(file):
    (file.parent / "__init__.py").touch()
    (file.parent / "blocks.py").write_text("width = 13\n")
    file.write_text("from .blocks import width\n" + GENERATOR.replace("ngf=8", "ngf=width"))
    assert width(import_builder(f"{file}:Generator", {})()) == (4, 13)
    assert width(import_builder("nets.theirs:Generator", {})()) == (4, 13)


def test_a_file_does_not_need_all_of_its_package(file):
    (file.parent / "__init__.py").write_text("import no_such_dependency\n")
    assert width(import_builder(f"{file}:Generator", {})()) == (4, 8)


def test_a_module_in_the_current_folder_is_found(file):
    assert width(import_builder("nets.theirs:Generator", {"nz": 1})()) == (1, 8)


@pytest.mark.parametrize("stem", ["theirs", "json", "my-net.v2"])
def test_a_network_of_a_file_can_be_pickled_whatever_the_file_is_called(file, stem):
    path = file.rename(file.with_name(f"{stem}.py"))
    first, again = (import_builder(f"{path}:Generator", {"nz": 3}) for _ in range(2))
    network = first()
    assert type(network) is type(again())
    assert width(pickle.loads(pickle.dumps(network))) == (3, 8)
    assert width(pickle.loads(pickle.dumps(first))()) == (3, 8)
    assert json.loads("{}") == {}


def test_a_fresh_process_unpickles_a_network_of_a_file(file):
    network = import_builder(f"{file}:Generator", {})()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        [answer] = pool.map(repr, [network])
    assert answer == repr(network)


def test_a_network_of_a_file_is_exported(file):
    network = import_builder(f"{file}:Generator", {})().eval()
    z = torch.ones(2, 4)
    program = torch.export.export(network, (z,))
    torch.testing.assert_close(program.module()(z), network(z))


@pytest.mark.parametrize("reference", ["torch.nn", ":build", "torch.nn:", "", ":"])
def test_a_reference_has_two_parts(reference):
    refused(reference, {}, r"takes package\.module:build or path/to/file\.py:build; got")


def test_what_is_not_there_is_named(file):
    refused("none.py:Net", {}, "none.py: no such file")
    refused(f"{file.parent}/:Net", {}, "a directory")
    refused("no.such.module:build", {}, "there is no module 'no', neither installed nor in")
    refused("nets.other:build", {}, r"there is no module 'nets\.other'")
    refused("torch:pi", {}, "not callable but a float")
    refused(f"{file}:table", {}, "not callable but a dict")
    match = r"has no 'Genrator'; did you mean Generator\? it has Generator, Sized, .* and 1 more"
    refused(f"{file}:Genrator", {}, match)


def test_an_import_that_fails_inside_says_which(file):
    file.write_text("import torch\nimport einops_is_not_here\n")
    refused(f"{file}:G", {}, r"theirs\.py imports 'einops_is_not_here', which is not installed")
    refused("nets.theirs:G", {}, r"theirs\.py imports 'einops_is_not_here', which is not")
    (file.parent / "inner_of_theirs.py").write_text("import einops_is_not_here\n")
    file.write_text("import inner_of_theirs\n")
    refused(f"{file}:G", {}, r"inner_of_theirs\.py imports 'einops_is_not_here'")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("def f(:\n", r"theirs\.py, line 1, is not valid Python"),
        ("x = 1\n1 / 0\n", r"ZeroDivisionError: division by zero \(theirs\.py:2\)"),
        ("from torch import no_such_name\n", "cannot import name 'no_such_name'"),
        ("from .blocks import x\n", "relative import"),
    ],
)
def test_a_file_that_cannot_be_imported_says_where(file, text, match):
    file.write_text(text)
    refused(f"{file}:G", {}, match)


def test_arguments_that_do_not_match_are_named(file):
    match = r'Sized needs nz, ngf; give them as model arguments, such as \{"nz": 64\}'
    refused(f"{file}:Sized", {}, match, "model_args")
    refused(f"{file}:Sized", {"nz": 1}, "Sized needs ngf;", "model_args")
    refused(f"{file}:Generator", {"nfg": 1}, "does not take nfg; it takes nz, ngf", "model_args")
    refused(f"{file}:small", {"nz": 1}, "does not take nz; it takes none", "model_args")
    refused(f"{file}:ready", {"nz": 1}, "is a network that is built already", "model_args")
    refused(f"{file}:by_position", {}, "takes nz by position only")


def test_a_builder_that_fails_or_returns_something_else_says_so(file):
    line = 1 + GENERATOR.splitlines().index('    return sizes["no such size"]')
    refused(f"{file}:broken", {}, rf"broken failed with KeyError: .* \(theirs\.py:{line}\)")
    refused(f"{file}:pair", {}, r"returned a tuple \(Generator, Generator\); .* generator alone")
    refused(f"{file}:nothing", {}, "returned None")
    refused(f"{file}:Generator", {"nz": "four"}, r"failed with TypeError: .*\(theirs\.py:8\)")


def test_arguments_are_a_json_object_or_a_file_of_one(tmp_path):
    assert parse_arguments('{"ngf": 64, "norm": null}') == {"ngf": 64, "norm": None}
    (tmp_path / "a.json").write_text('{"ngf": [1, 2]}')
    assert parse_arguments(f"@{tmp_path}/a.json") == {"ngf": [1, 2]}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "must be a JSON object .* got ''"),
        ("[1]", "must be a JSON object .* got '\\[1\\]'"),
        ("64", "must be a JSON object"),
        ("{'ngf': 64}", "must be a JSON object .* at character 2"),
        ("ngf=64", "must be a JSON object"),
        ("@none.json", "cannot be read from 'none.json': no such file"),
        ("@.", "cannot be read from '.': not a regular file"),
        ("@list.json", "list.json must be a JSON object"),
        ("@bytes.json", "not text in UTF-8"),
    ],
)
def test_other_arguments_are_refused_in_one_line(tmp_path, text, match):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidValueError, match=match) as caught:
        parse_arguments(text)
    assert caught.value.setting == "model_args"
    assert "\n" not in str(caught.value)
