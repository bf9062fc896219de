"""The device's side of `--host`: keeps the files of a run, and works on while nobody is connected.

    python -m edge_bench.job VERB FOLDER

The other side, `edge_bench.remote`, copies this package into the folder and calls the verbs over
ssh. A job is a list of commands that are run one after the other, by a process of its own.

    missing   stdin: JSON of names to sha256; prints those that are not there
    receive   stdin: a tar archive of files, each of which appears whole or not at all
    start     stdin: JSON of the commands; does nothing if they are running or have ended
    follow    prints what the commands say from byte N on, for a while; the code says how they are
    fetch     prints a tar archive of the folder `out`
    stop      ends the commands
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edge_bench.errors import BundleError
from edge_bench.files import write_whole
from edge_bench.interrupts import PARENT
from edge_bench.reading import read_json, sha256

CODE, INPUTS, OUTPUTS = "code", "in", "out"
PRINTED, ENDING = "printed.txt", "ended.json"
_JOB, _LOCK, _PID, _LOG = "job.json", "lock", "pid", "log.txt"
# Exit codes of `follow`: all done; still running; ended without saying how, as when it is killed.
ENDED, RUNNING, LOST = 0, 75, 76
# `follow` ends after so many seconds, so that a connection that hangs is found out.
FOLLOW_S, POLL_S = 60.0, 0.5


def missing(folder: Path, wanted: dict[str, str]) -> list[str]:
    """The names of `wanted` whose files are not there with this digest."""
    found = []
    for name, digest in wanted.items():
        try:
            there = sha256(folder / INPUTS / plain(name)) == digest
        except (OSError, BundleError):
            there = False
        if not there:
            found.append(name)
    return found


def plain(name: str) -> PurePosixPath:
    """A relative path that stays where it is put.

    Raises:
        BundleError: it leads elsewhere.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise BundleError(f"{name!r} is not a name inside the folder of a job")
    return path


def unpack(archive: tarfile.TarFile, folder: Path) -> Iterator[Path]:
    """Write the regular files of an archive below `folder`, each whole or not at all.

    Raises:
        BundleError: a name leads out of the folder, or an entry is neither a file nor a folder.
    """
    for entry in archive:
        if entry.isdir():
            continue
        content = archive.extractfile(entry) if entry.isreg() else None
        if content is None:
            raise BundleError(f"{entry.name!r} is not a regular file")
        path = folder / plain(entry.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as file:
            while chunk := content.read(1 << 20):
                file.write(chunk)
        partial.replace(path)
        yield path


def start(folder: Path, job: dict[str, Any]) -> None:
    """Begin the commands of a job, unless they are running or have ended."""
    if (folder / ENDING).exists() or _is_running(folder):
        return
    (folder / OUTPUTS).mkdir(exist_ok=True)
    write_whole(folder / _JOB, json.dumps(job))
    # A session of its own: the connection that started it may end.
    with (folder / _LOG).open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "edge_bench.job", "work", str(folder)],
            env={**os.environ, "PYTHONPATH": str(folder / CODE)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + FOLLOW_S
    while time.monotonic() < deadline:
        if (folder / ENDING).exists() or _is_running(folder):
            return
        time.sleep(POLL_S)


def work(folder: Path) -> None:
    """Run the commands in turn, up to the first that fails and must not; this takes the lock."""
    with (folder / _LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_whole(folder / _PID, str(os.getpid()))
        code = 0
        with (folder / _LOG).open("ab") as log, (folder / OUTPUTS / PRINTED).open("wb") as printed:
            for step in read_json(folder / _JOB)["steps"]:
                command = [sys.executable, *step["arguments"]]
                ended = subprocess.run(
                    command,
                    cwd=folder,
                    env={**os.environ, PARENT: str(os.getpid())},
                    stdin=subprocess.DEVNULL,
                    stdout=log if step["optional"] else printed,
                    stderr=log,
                    check=False,
                )
                if ended.returncode and not step["optional"]:
                    code = ended.returncode
                    break
        write_whole(folder / ENDING, json.dumps({"code": code}))


def follow(folder: Path, offset: int) -> int:
    """Print the log from `offset` on while the commands run; returns how they are."""
    deadline = time.monotonic() + FOLLOW_S
    with (folder / _LOG).open("rb") as log:
        log.seek(offset)
        while True:
            running = _is_running(folder)  # asked before the log is read, which is then complete
            sys.stdout.buffer.write(log.read())
            sys.stdout.buffer.flush()
            if not running:
                return ENDED if (folder / ENDING).exists() else LOST
            if time.monotonic() > deadline:
                return RUNNING
            time.sleep(POLL_S)


def fetch(folder: Path) -> None:
    """Print the archive of what the commands wrote and how they ended."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for path in [folder / ENDING, *sorted((folder / OUTPUTS).rglob("*"))]:
            if path.is_file():
                name = path.name if path.parent == folder else path.relative_to(folder / OUTPUTS)
                archive.add(path, arcname=str(name))


def stop(folder: Path) -> None:
    """End the commands, and wait for that."""
    pid = _owner(folder)
    if pid is None:
        return
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while _is_running(folder) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    with contextlib.suppress(OSError):  # what has not ended by now, commands included
        os.killpg(pid, signal.SIGKILL)


def _is_running(folder: Path) -> bool:
    """Whether a process holds the lock, which dies with it."""
    try:
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _owner(folder: Path) -> int | None:
    """The process that works, which leads the group of its commands."""
    if not _is_running(folder):
        return None
    try:
        return int((folder / _PID).read_text())
    except (OSError, ValueError):
        return None


def main(arguments: Sequence[str]) -> int:
    """Obey one verb; what is asked and answered goes through stdin and stdout."""
    verb, folder = arguments[0], Path(arguments[1]).resolve()
    if verb == "missing":
        sys.stdout.write(json.dumps(missing(folder, json.load(sys.stdin))))
    elif verb == "receive":
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            for _ in unpack(archive, folder / INPUTS):
                pass
    elif verb == "start":
        start(folder, json.load(sys.stdin))
    elif verb == "work":
        work(folder)
    elif verb == "follow":
        return follow(folder, int(arguments[2]))
    elif verb == "fetch":
        fetch(folder)
    elif verb == "stop":
        stop(folder)
    else:
        raise SystemExit(f"no such verb: {verb}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
