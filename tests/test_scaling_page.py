"""The commands of docs/scaling.md that need one machine only are executed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import checkpoint_of, lively_generator

from nas_gan.checkpoint import save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scaling.md"
QUICK = (
    *("--samples", "16", "--sweep-samples", "16", "--anchors", "2", "--reference", "dense"),
    *("--features", "efficientnet-lite0", "--threads", "1", "--fractions", "0.2"),
    *("--methods", "svd"),
)


def loopback_commands() -> list[list[str]]:
    section = PAGE.read_text().split("\n## A cluster\n")[1].split("\n### ")[0]
    [block] = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


@contextmanager
def running(command: list[str], cwd: Path) -> Iterator[None]:
    """A node of Ray that ends with the block; `ray stop` would end those of others too."""
    folder = Path(sys.executable).parent
    process = subprocess.Popen(
        [str(folder / command[0]), *command[1:], "--block"],
        cwd=cwd,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.ray
@pytest.mark.slow
def test_the_cluster_on_the_loopback_measures_what_it_is_asked_to(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    import ray

    head, other, measure, stop = loopback_commands()
    assert (head[:3], other[:3], stop) == (
        ["ray", "start", "--head"],
        ["ray", "start", "--address"],
        ["ray", "stop"],
    )
    save_checkpoint(checkpoint_of(lively_generator()), tmp_path / "tiny.pt")
    address = measure[measure.index("--ray-address") + 1]
    with running(head, tmp_path):
        deadline = time.monotonic() + 120
        while True:  # until the head answers
            try:
                ray.init(address=address, log_to_driver=False, configure_logging=False)
                break
            except ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(1)
        try:
            with running(other, tmp_path):
                while sum(node["Alive"] for node in ray.nodes()) < 2:
                    assert time.monotonic() < deadline
                    time.sleep(1)
                command = [a if a != "zoo:fashion_mnist" else "tiny.pt" for a in measure[1:]]
                done = subprocess.run(
                    [sys.executable, *command, *QUICK, "--run-dir", "run"],
                    cwd=tmp_path,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    capture_output=True,
                    text=True,
                    check=False,
                )
        finally:
            ray.shutdown()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "sensitivity.csv").is_file()
