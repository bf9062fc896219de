"""The server of the dashboard's page: Streamlit in a process of its own, on this machine only."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from nas_gan.errors import InvalidValueError, NasGanError

ADDRESS = "localhost"
PAGE = Path(__file__).with_name("dashboard_page.py")
INSTALL = 'pip install "ard-gan[dashboard]"'


class DashboardError(NasGanError, RuntimeError):
    """The page cannot be served."""


def check_installed() -> None:
    """Raise DashboardError, with the command that installs it, unless Streamlit is there."""
    if importlib.util.find_spec("streamlit") is None:
        raise DashboardError(f"the dashboard needs streamlit; {INSTALL}")


def server_command(runs: Path, port: int) -> list[str]:
    """The command that serves the page, without Streamlit's file watcher and telemetry."""
    settings = {
        "server.headless": "true",
        "server.address": ADDRESS,
        "server.port": str(port),
        "server.fileWatcherType": "none",
        "browser.serverAddress": ADDRESS,
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "global.developmentMode": "false",
        "logger.level": "warning",
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    # Absolute, since the server may have another working directory.
    page = [str(PAGE), "--", str(runs.resolve())]
    return [sys.executable, "-m", "streamlit", "run", *flags, *page]


def serve(command: list[str]) -> int:
    """Run the server until it is interrupted, and leave no process behind.

    Raises:
        DashboardError: the server ended by itself.
    """
    # The page imports this package, which need not be installed.
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # Streamlit's banner would repeat the address.
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
    )
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        return 0  # the way to stop the server
    finally:
        signal.signal(signal.SIGTERM, before)
        server.terminate()
        server.wait()
    raise DashboardError(f"the dashboard server exited with code {code}; see its message above")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def free_port(asked: int) -> int:
    """The port `asked` for, if it is free; for 0 any free one.

    Raises:
        InvalidValueError: the port is taken, or is not one.
    """
    if not 0 <= asked <= 65535:
        raise InvalidValueError(f"must be 0 to 65535; got {asked}", setting="port")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, asked))
        except OSError as error:
            raise InvalidValueError(
                f"{asked} cannot be used ({error.strerror}); choose another, or 0 for any free one",
                setting="port",
            ) from error
        return int(probe.getsockname()[1])
