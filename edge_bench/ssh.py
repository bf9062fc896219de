"""A connection to a device by the system's OpenSSH client.

The client, its keys, known hosts and configuration are the user's own, and what it asks, it asks
the user itself. It connects once; all calls share that connection.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from edge_bench.errors import EdgeBenchError

# What `ssh` returns if it, and not the command on the other side, fails.
_FAILED = 255
_POLL_S = 0.1
# Results are tables of times; a device that sends more than this sends something else.
MAX_ANSWER_BYTES = 256 << 20


class RemoteError(EdgeBenchError):
    """The device cannot be reached, lacks something, or sends what it should not."""


class ConnectionLostError(RemoteError):
    """ssh ended without an answer of the device."""


@dataclass(frozen=True)
class Host:
    """A device that is reached by ssh.

    Attributes:
        address: What `ssh` takes: a host, user@host, or a name of the user's configuration.
        python: The Python of the device that has numpy and a runtime.
        ssh: The client and its options as a shell reads them, such as `ssh -p 2222`.

    Raises:
        RemoteError: The address is empty or looks like an option, or there is no such client.
    """

    address: str
    python: str = "python3"
    ssh: str = "ssh"

    def __post_init__(self) -> None:
        if not self.address.strip() or self.address[0] == "-" or not self.address.isprintable():
            raise RemoteError(f"takes a host or user@host; got {self.address!r}", setting="host")
        client = self.client
        if not client or shutil.which(client[0]) is None:
            raise RemoteError(
                f"{self.ssh!r} is no command here; install the OpenSSH client", setting="ssh"
            )

    @property
    def client(self) -> list[str]:
        """The client and its options as arguments."""
        try:
            return shlex.split(self.ssh)
        except ValueError as error:
            raise RemoteError(f"{self.ssh!r} is no command ({error})", setting="ssh") from None


@dataclass(frozen=True)
class Answer:
    """The exit code of a script, its stdout, and the last line of its stderr."""

    code: int
    stdout: bytes
    last: str


class Connection(contextlib.AbstractContextManager["Connection"]):
    """A connection that is made on first use, and made again after it was lost."""

    def __init__(self, host: Host) -> None:
        self.host = host
        # Sockets have short names, so not below the folder of a user's choice.
        self._folder = tempfile.TemporaryDirectory(prefix="edge-bench-")
        self._master: subprocess.Popen[bytes] | None = None
        options = {
            "ControlPath": f"{self._folder.name}/%C",
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ConnectTimeout": "15",
        }
        self._client = [
            *host.client,
            *(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
        ]

    def shell(
        self,
        script: str,
        sent: IO[bytes] | bytes = b"",
        hear: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Run a script of the POSIX shell on the device, whatever shell its user has.

        Args:
            script: The script.
            sent: Its stdin.
            hear: Called with each piece of its stdout as it comes; otherwise that is returned.

        Returns:
            What came back.

        Raises:
            ConnectionLostError: ssh failed.
            RemoteError: The script wrote more than `MAX_ANSWER_BYTES`.
        """
        self._connect()
        with contextlib.ExitStack() as opened:
            if isinstance(sent, bytes):
                content, sent = sent, opened.enter_context(tempfile.TemporaryFile())
                sent.write(content)
                sent.seek(0)
            said = opened.enter_context(tempfile.TemporaryFile())
            ssh = opened.enter_context(
                subprocess.Popen(
                    [*self._client, "--", self.host.address, f"exec sh -c {shlex.quote(script)}"],
                    stdin=sent,
                    stdout=subprocess.PIPE,
                    stderr=said,
                )
            )
            opened.callback(ssh.kill)
            assert ssh.stdout is not None  # it was asked for
            stdout = bytearray()
            while piece := os.read(ssh.stdout.fileno(), 1 << 20):
                (stdout.extend if hear is None else hear)(piece)
                if len(stdout) > MAX_ANSWER_BYTES:
                    raise RemoteError(
                        f"{self.host.address} answered with over {MAX_ANSWER_BYTES:,} bytes"
                    )
            code = ssh.wait()
            said.seek(0)
            last = last_line(said.read())
        if code == _FAILED:
            raise ConnectionLostError(f"{self.host.address}: {last}")
        return Answer(code, bytes(stdout), last)

    def _connect(self) -> None:
        if self._is_up():
            return
        self._disconnect()
        with tempfile.TemporaryFile() as said:
            # It belongs to this terminal, where ssh asks for what it needs to know, and ends when
            # its stdin does, so with this process, however that ends.
            self._master = subprocess.Popen(
                [*self._client, "-M", "--", self.host.address, "exec cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            while not self._is_up():
                if self._master.poll() is not None:
                    said.seek(0)
                    raise ConnectionLostError(f"{self.host.address}: {last_line(said.read())}")
                time.sleep(_POLL_S)

    def _is_up(self) -> bool:
        if self._master is None or self._master.poll() is not None:
            return False
        check = [*self._client, "-O", "check", "--", self.host.address]
        return not subprocess.run(check, capture_output=True, check=False).returncode

    def _disconnect(self) -> None:
        if self._master is not None:
            self._master.terminate()
            self._master.communicate()
            self._master = None

    def __exit__(self, *error: object) -> None:
        self._disconnect()
        with contextlib.suppress(OSError):
            self._folder.cleanup()


def last_line(said: bytes) -> str:
    """The last line of what a program wrote, for a message."""
    lines = said.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no answer")
