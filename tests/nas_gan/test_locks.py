from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nas_gan import locks
from nas_gan.errors import InUseError
from nas_gan.locks import LOCK, locked

ROOT = Path(__file__).parents[2]
HOLDS = """
import sys, time
from pathlib import Path
from nas_gan.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.1)


def holder(folder: Path, code: str = HOLDS) -> subprocess.Popen[str]:
    """Another process that has the folder until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        message = f"^{tmp_path} is in use by process {other.pid}; wait until it ends, or use"
        with pytest.raises(InUseError, match=message), locked(tmp_path):
            pytest.fail("two processes have it")
        other.communicate("")
    with locked(tmp_path):
        pass


def test_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        other.kill()
        other.wait()
        assert (tmp_path / LOCK).exists()
        with locked(tmp_path):
            assert (tmp_path / LOCK).read_text().split()[0] == str(os.getpid())
    assert list(tmp_path.iterdir()) == []


# Its child lives on after the owner is killed.
FORKS = HOLDS.replace(
    "    print(", "    import os\n    if not os.fork(): time.sleep(20)\n    print("
)


def test_a_forked_child_does_not_hold_the_lock_of_its_parent(tmp_path: Path) -> None:
    with holder(tmp_path, FORKS) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        with locked(tmp_path):
            pass
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.close()


def test_the_same_process_has_a_folder_once(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(InUseError, match=f"process {os.getpid()};"), locked(tmp_path):
            pytest.fail("twice")
        with locked(tmp_path / "another"):
            pass


def test_a_folder_that_stays_empty_is_not_left(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    with pytest.raises(ValueError, match="wrong"), locked(folder):  # noqa: PT012
        assert folder.is_dir()
        raise ValueError("wrong settings")
    assert list(tmp_path.iterdir()) == []
    with locked(folder):
        (folder / "result").write_text("")
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_a_lock_that_its_last_owner_removed_is_not_taken_for_one(tmp_path: Path) -> None:
    """Of two that wait, one locks the old file just before it is removed."""
    first = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(first, fcntl.LOCK_EX)
    (tmp_path / LOCK).unlink()
    assert not locks._is_at(tmp_path / LOCK, first)
    with locked(tmp_path):  # the old file is still locked, and stands for nothing
        assert (tmp_path / LOCK).exists()
    os.close(first)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_warning(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), locked(tmp_path / "run"):
        (tmp_path / "run" / "result").write_text("")
    [record] = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / 'run'} cannot be locked (")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "samples").mkdir()
    left = [
        ".compressed-ab12cd_9.partial.pt",
        "samples/.000100-ab12cd_9.partial.png",
        ".x-12345678.partial",
    ]
    kept = [
        *(".env", ".my-settings.json", ".compressed-ab12cd34.pt", "a.partial.pt"),
        ".a-b.partial.pt", "samples/.notes",
    ]  # fmt: skip
    for name in (*left, *kept):
        (tmp_path / name).write_text("")
    busy = tmp_path / ".plan-zz12cd34.partial.json"
    (tmp_path / "target").write_text("")
    (tmp_path / ".link-ab12cd34.partial.pt").symlink_to(tmp_path / "target")
    with busy.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with locked(tmp_path):
            there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if not p.is_dir()}
    assert there == {*kept, busy.name, LOCK, "target", ".link-ab12cd34.partial.pt"}
