"""Compare runs in a browser: `python -m nas_gan.dashboard runs`.

The page shows runs side by side: losses, learning rates, gradient norms, FID and IS, architectures,
settings and samples; and compressions: results by size and rise, plans and benchmarks. It follows
the runs as they go on. It is available on this machine only; it reads run directories and changes
nothing. Stop it with Ctrl-C.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nas_gan.cli import run
from nas_gan.runs.dashboard_server import (
    ADDRESS,
    check_installed,
    free_port,
    serve,
    server_command,
)
from nas_gan.runs.reading import check_folder


@dataclass(frozen=True)
class DashboardConfig:
    """The runs to show, and the address of the page."""

    runs: Annotated[Path, tyro.conf.Positional] = Path("runs")
    """Folder that holds run directories, at any depth."""
    port: int = 8501
    """Port of the page; 0 selects a free one."""


def main(config: DashboardConfig) -> int:
    check_folder(config.runs)
    check_installed()
    port = free_port(config.port)
    sys.stdout.write(f"http://{ADDRESS}:{port}\n")
    sys.stdout.flush()
    return serve(server_command(config.runs, port))


if __name__ == "__main__":
    sys.exit(run(main, DashboardConfig, prog="python -m nas_gan.dashboard", description=__doc__))
