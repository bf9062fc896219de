"""The folder of a bundle, when the process that writes it is killed or another one does so too."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.folder import complete_folder, exchange
from export.manifest import BatchRange, FileEntry, Manifest, TensorSpec
from nas_gan import locks
from nas_gan.errors import InUseError

ROOT = Path(__file__).parents[2]
MANIFEST = Manifest(
    name="model",
    onnx="model.onnx",
    files={"model.onnx": FileEntry("0" * 64, 3)},
    inputs=(TensorSpec("latents", "float32", ("batch", 120)),),
    outputs=(TensorSpec("images", "float32", ("batch", 3, 32, 32)),),
    opset=18,
    precision="fp32",
    batch=BatchRange(1, 8, 64),
    tools={},
    latents={"file": "latents.npy", "seed": 0, "samples": 64},
    parity={"max_abs": 0.0, "psnr_db": None, "samples": 64},
    params=0,
    n_classes=0,
).to_dict()
# Writes a bundle, and is killed at the n-th call of a function that renames or removes.
WRITES = """
import os, shutil, signal, sys
from pathlib import Path
from export import folder

where, stop, supported = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "exchange"
calls = 0
def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
if not supported:
    def exchange(one, other):
        raise OSError(22, "Invalid argument")
    folder.exchange = exchange
else:
    folder.exchange = counted(folder.exchange)
Path.rename, shutil.rmtree = counted(Path.rename), counted(shutil.rmtree)
with folder.complete_folder(where) as new:
    (new / "model.onnx").write_text("new")
    (new / "manifest.json").write_text(sys.argv[4])
"""


def write(out: Path, stop: int = 0, way: str = "exchange") -> int:
    """Write a bundle in another process, which is killed at some point; the exit code."""
    command = [sys.executable, "-c", WRITES, str(out), str(stop), way, json.dumps(MANIFEST)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A bundle, with something in it that is not of it."""
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "model.onnx").write_text("old")
    (out / "manifest.json").write_text(json.dumps(MANIFEST))
    (out / "bench.json").write_text("mine")
    return out


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_a_kill_at_any_moment_leaves_a_whole_bundle_to_the_next_run(
    way: str, out: Path, tmp_path: Path
) -> None:
    kept = shutil.copytree(out, tmp_path / "kept")
    stop, seen = 1, set()
    while write(out, stop, way) == -signal.SIGKILL:
        if way == "exchange":  # there is no moment without a bundle
            seen.add((out / "model.onnx").read_text())
            assert (out / "bench.json").read_text() == "mine"
        assert write(out) == 0
        assert (out / "model.onnx").read_text() == "new"
        assert (out / "bench.json").read_text() == "mine"
        assert {path.name for path in tmp_path.iterdir()} == {"bundle", "kept"}
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        stop += 1
    assert stop > 2
    assert seen == ({"old", "new"} if way == "exchange" else set())


def test_two_folders_change_places_at_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).write_text("")
    try:
        exchange(one, other)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            pytest.skip("this file system cannot exchange")
        raise
    assert (one / "other").exists()
    assert (other / "one").exists()


def test_what_cannot_be_exchanged_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(FileNotFoundError, match="other"):
        exchange(tmp_path / "one", tmp_path / "other")


@pytest.fixture
def held(out: Path) -> Iterator[int]:
    """Another process that writes the bundle; its number."""
    code = WRITES.replace(
        "    (new /", "    print('held', flush=True); sys.stdin.read()\n    (new /", 1
    )
    command = [sys.executable, "-c", code, str(out), "0", "exchange", json.dumps(MANIFEST)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.communicate("")


def test_a_second_process_is_refused_and_disturbs_nothing(
    held: int, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.1)
    before = sorted(out.parent.iterdir())
    refused = pytest.raises(InUseError, match=f"bundle is in use by process {held};")
    with refused, complete_folder(out):
        pytest.fail("two write it")
    assert sorted(out.parent.iterdir()) == before


def test_hidden_folders_of_others_are_left_alone(out: Path) -> None:
    for name in (".bundle-backup", ".bundle-12345678", ".other-12345678.partial"):
        (out.parent / name).mkdir()
    with complete_folder(out) as new:
        (new / "manifest.json").write_text(json.dumps(MANIFEST))
    found = {path.name for path in out.parent.iterdir()}
    assert found == {"bundle", ".bundle-backup", ".bundle-12345678", ".other-12345678.partial"}


def test_an_empty_folder_is_filled_by_one_rename(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with complete_folder(tmp_path / "bundle") as new:
        (new / "manifest.json").write_text(json.dumps(MANIFEST))
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["manifest.json"]
