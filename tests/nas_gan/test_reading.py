from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nas_gan.errors import InvalidValueError, MissingDataError, UnreadableError
from nas_gan.npz import open_npz
from nas_gan.reading import (
    MAX_DEPTH,
    Fields,
    map_npy,
    parse_json,
    plain_name,
    read_bytes,
    read_json,
    read_npy,
    read_toml,
)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_what_is_within_the_limits_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "b": {"c": "d"}, "n": 2**128}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "a.json") == value
    assert parse_json(nested(MAX_DEPTH - 1), "x") is not None
    (tmp_path / "a.toml").write_text("a = [1, 2.5]\n[b]\nc = 'd'\n")
    assert read_toml(tmp_path / "a.toml") == {"a": [1, 2.5], "b": {"c": "d"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (nested(MAX_DEPTH + 1), "deep"),
        ("[" * 100_000, "deep"),
        ('{"a": ' * 1000 + "1" + "}" * 1000, "deep"),
        ('{"a": {"size": NaN}}', "size: nan is not a finite number"),
        ('{"size": -Infinity}', "size: -inf is not a finite number"),
        ('{"size": 1e999}', "size: inf is not a finite number"),
        ('{"size": ' + "9" * 400 + "}", "size: a number of over 40 digits"),
        ("9" * 5000, "not JSON"),
        ("", "not JSON"),
        ("\0", "not JSON"),
    ],
)
def test_json_beyond_the_limits_names_the_file_and_the_key(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UnreadableError, match=message) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a = " + nested(200_000), "a = inf", "a = nan", "a", "a=1\na=2"])
def test_toml_beyond_the_limits_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(UnreadableError, match=str(tmp_path)):
        read_toml(tmp_path / "a.toml")


def test_only_regular_files_of_a_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "zero", "loop", "folder"):
        with pytest.raises(UnreadableError, match=name):
            read_bytes(tmp_path / name)
    with pytest.raises(MissingDataError):
        read_bytes(tmp_path / "none")
    (tmp_path / "large").write_bytes(b"12345")
    assert read_bytes(tmp_path / "large", 5) == b"12345"
    with pytest.raises(UnreadableError, match="5 bytes; at most 4 are read"):
        read_bytes(tmp_path / "large", 4)


def npy(head: str, body: bytes, version: bytes = b"\x01\x00") -> bytes:
    text = head.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


@pytest.mark.parametrize("read", [read_npy, map_npy])
def test_an_array_is_as_large_as_it_declares(tmp_path: Path, read) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6.0).reshape(2, 3))
    assert read(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    for shape in ("(1099511627776,)", "(3,)", "(-2,)", "(True,)", "(4294967296, 4294967296)"):
        head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n"
        path.write_bytes(npy(head, bytes(16)))
        with pytest.raises(UnreadableError, match=r"a\.npy"):
            read(path)


@pytest.mark.parametrize(
    "head",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (9999999999999,), }\n",
        "(" * 9000,
        "'''",
        "{'descr': 'x'",
        "",
        "{'descr': [], 'fortran_order': 3, 'shape': 5}",
    ],
)
def test_the_head_of_an_array_is_not_trusted(tmp_path: Path, head: str) -> None:
    (tmp_path / "a.npy").write_bytes(npy(head, bytes(8)))
    with pytest.raises(UnreadableError, match=r"a\.npy"):
        read_npy(tmp_path / "a.npy")


def test_an_array_that_nobody_asks_for_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    data = io.BytesIO()
    np.save(data, np.arange(3))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("wanted.npy", data.getvalue())
        with archive.open("unused.npy", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(1 << 20))  # a thousandth of it is in the file
    with open_npz(path, "numbers") as arrays:
        assert arrays.files == ["wanted", "unused"]
        assert arrays["wanted"].tolist() == [0, 1, 2]
        with pytest.raises(InvalidValueError, match="more than 100 times as many are not read"):
            arrays["unused"]


@pytest.mark.parametrize(
    ("value", "read", "message"),
    [
        (True, lambda f: f.count("a"), "a must be a whole number from 0 on; found True"),
        (-1, lambda f: f.count("a"), "whole number"),
        (1.0, lambda f: f.count("a"), "whole number"),
        (0, lambda f: f.count("a", 1), "from 1 on"),
        (True, lambda f: f.number("a"), "finite number"),
        (10**400, lambda f: f.number("a"), "finite number"),
        ("1", lambda f: f.number("a"), "finite number"),
        (5, lambda f: f.text("a"), "a text"),
        ("c", lambda f: f.choice("a", ("x", "y")), "one of x, y"),
        ([], lambda f: f.choice("a", ("x", "y")), "one of x, y"),
        (5, lambda f: f.table("a"), "a table of values"),
        ({"b": 1}, lambda f: f.table("a").text("b"), "where: a: b must be a text"),
        ({}, lambda f: f.tables("a"), "a list"),
        ([5], lambda f: f.tables("a"), "where: a 1: a table"),
        ([0], lambda f: f.sizes("a"), "a list of sizes"),
        (["a b"], lambda f: f.sizes("a"), "a list of sizes"),
    ],
)
def test_a_value_of_another_kind_is_named_by_its_key(value, read, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        read(Fields({"a": value}, "where"))
    with pytest.raises(UnreadableError, match="a is missing"):
        read(Fields({}, "where"))


@pytest.mark.parametrize("name", ["model.onnx", "a b", "ä.npy", "...", "a..b", "-x"])
def test_a_plain_name_is_one(name: str) -> None:
    assert plain_name(name, "x") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "../a", "a\\b", "C:a", "a\nb", "a\0", "x" * 256, 5, None]
)
def test_a_name_that_is_none(name: object) -> None:
    with pytest.raises(UnreadableError, match="is not the name of a file"):
        plain_name(name, "x")
