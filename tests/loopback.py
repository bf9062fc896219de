"""A device on this machine: a real sshd on the loopback, and a Python without this project."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from edge_bench.ssh import Host

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Device:
    """A server on this machine, whose sessions begin in `home`."""

    host: Host
    home: Path
    daemon: subprocess.Popen[bytes]

    def cut(self) -> int:
        """Kill every connection, as a cable that is pulled; returns how many there were."""
        sessions = children_of(self.daemon.pid)
        for pid in sessions:
            os.kill(pid, signal.SIGKILL)
        return len(sessions)

    def stop(self) -> None:
        """Let nobody in any more, and cut every connection."""
        sessions = children_of(self.daemon.pid)
        self.daemon.kill()
        self.daemon.wait()
        for pid in sessions:
            os.kill(pid, signal.SIGKILL)

    @property
    def arguments(self) -> list[str]:
        """The options of a command that runs there."""
        return ["--host", self.host.address, "--python", self.host.python, "--ssh", self.host.ssh]


def bare_python(folder: Path) -> Path:
    """A Python that has numpy and ONNX Runtime, and nothing else."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for module in (np, onnxruntime):
        package = Path(str(module.__file__)).parent
        for there in (package, package.with_name(f"{package.name}.libs")):
            if there.is_dir():
                (site / there.name).symlink_to(there)
    return folder / "bin/python"


@contextmanager
def serving(folder: Path, python: Path) -> Iterator[Device]:
    """Serve until the end of the block; keys and configuration are made for it."""
    folder, home = folder / "ssh", folder / "home"
    folder.mkdir(mode=0o700)
    home.mkdir()
    for name in ("host", "user"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(key, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nPasswordAuthentication no\n"
        f"PermitRootLogin yes\n"
        f'ForceCommand cd {home} && exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    public = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    (folder / "config").write_text(
        f"Host jetson\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  BatchMode yes\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    assert SSHD is not None
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
        try:
            wait_for(lambda: _answers(port))
            ssh = f"ssh -F {shlex.quote(str(folder / 'config'))}"
            yield Device(Host("jetson", str(python), ssh), home, daemon)
        finally:
            daemon.terminate()
            daemon.wait()


def _answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def children_of(pid: int) -> list[int]:
    """The processes that this one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the condition holds, or fail."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
