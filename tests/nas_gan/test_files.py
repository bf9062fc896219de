import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys

import pytest

from nas_gan.files import atomic_path, sha256, write_bytes, write_json, write_text


def test_a_file_and_its_folders_appear(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "grüße")
    assert path.read_bytes() == "grüße".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_the_temporary_file_keeps_folder_and_suffix(tmp_path):
    with atomic_path(tmp_path / "a.npz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npz"
        assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# A limit on file sizes is how a full disk looks to a writer. It holds for a whole process, whose
# output may be a file as well, so another process gets it.
WRITE_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from nas_gan.files import write_bytes

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_bytes(Path(sys.argv[1]), bytes(10_000))
except OSError as error:
    print(error.errno)
"""


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    command = [sys.executable, "-c", WRITE_ON_A_FULL_DISK, str(path)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert int(printed) == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_way_is_an_os_error_and_leaves_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_text(tmp_path / "a", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_json_reads_back(tmp_path):
    value = {"a": [1, 2.5, None], "b": "Δ"}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == value


def test_the_digest_is_that_of_the_content(tmp_path):
    write_bytes(tmp_path / "a", b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_the_bytes_of_a_file_name_that_is_no_text_are_kept(tmp_path):
    name = os.fsdecode(b"\xe9.png")
    write_text(tmp_path / "a", f"Δ {name}")
    assert (tmp_path / "a").read_bytes() == "Δ ".encode() + b"\xe9.png"


KILLED = """
import os, signal, sys
from pathlib import Path
from nas_gan.files import write_bytes
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
write_bytes(Path(sys.argv[1]), b"half")
"""


@pytest.mark.parametrize("name", ["compressed.pt", "engine", "\u00e4" * 100 + ".json"])
def test_the_next_write_removes_what_a_killed_one_left(tmp_path, name):
    path, other = tmp_path / name, tmp_path / "other.pt"
    write_bytes(path, b"old")
    for victim in (path, other):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(victim)], check=False)
        assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 3
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    [left] = set(tmp_path.iterdir()) - {path}
    assert left.name.startswith(".other-")


def test_two_that_write_the_same_file_do_not_remove_each_others(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as first:
        first.write_text("first")
        with atomic_path(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
