"""Look at runs in a browser: `python -m nas_gan.dashboard runs`.

The page shows runs side by side: losses, learning rates, gradient norms, FID and IS, settings and
samples. It serves this machine only, reads run directories and changes nothing. Ctrl-C ends it.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nas_gan.cli import run
from nas_gan.errors import InvalidValueError, MissingDataError, NasGanError

ADDRESS = "localhost"
PAGE = Path(__file__).parent / "runs" / "dashboard_page.py"
INSTALL = 'pip install "ard-gan[dashboard]"'


class DashboardError(NasGanError, RuntimeError):
    """The page cannot be served."""


@dataclass(frozen=True)
class DashboardConfig:
    """Which runs, and where the page is."""

    runs: Annotated[Path, tyro.conf.Positional] = Path("runs")
    """A folder with run directories, at any depth."""
    port: int = 8501
    """Of the page; 0 takes any that is free."""


def main(config: DashboardConfig) -> int:
    if not config.runs.is_dir():
        raise MissingDataError(
            f"{config.runs}: no such folder; give the one that holds run directories, such as runs"
        )
    if importlib.util.find_spec("streamlit") is None:
        raise DashboardError(f"the dashboard needs streamlit; {INSTALL}")
    port = free_port(config.port)
    sys.stdout.write(f"http://{ADDRESS}:{port}\n")
    sys.stdout.flush()
    return serve(server_command(config.runs, port))


def server_command(runs: Path, port: int) -> list[str]:
    """What serves the page: nothing is opened, watched, counted or sent to anybody."""
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
    # The folder becomes absolute: it must not depend on what the server takes for its own.
    page = [str(PAGE), "--", str(runs.resolve())]
    return [sys.executable, "-m", "streamlit", "run", *flags, *page]


def serve(command: list[str]) -> int:
    """Run the server until it ends or is interrupted, and leave none behind.

    Raises:
        DashboardError: it ended by itself.
    """
    # The page imports this package, which need not be installed.
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # Its own banner repeats the address; results are ours to print.
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
    )
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        return 0  # the way to end it
    finally:
        signal.signal(signal.SIGTERM, before)
        server.terminate()
        server.wait()
    raise DashboardError(f"the server of the page ended with code {code}; see its message above")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def free_port(asked: int) -> int:
    """`asked` if nobody listens there; any free port for 0.

    Raises:
        InvalidValueError: it is taken, or not a port.
    """
    if not 0 <= asked <= 65535:
        raise InvalidValueError(f"--port must be 0 to 65535; got {asked}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, asked))
        except OSError as error:
            raise InvalidValueError(
                f"port {asked} cannot be used ({error.strerror}); choose another --port, or 0"
            ) from error
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(run(main, DashboardConfig, prog="python -m nas_gan.dashboard", description=__doc__))
