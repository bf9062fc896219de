"""A Ray of this machine's own, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nas_gan.workers.ray_executor import own_signals


@contextmanager
def small_ray(cpus: int = 2, gpus: int = 0) -> Iterator[None]:
    """Within the block, a Ray with room for two workers; the test is skipped without Ray.

    Ray believes in as many GPUs as it is told, and gives their numbers to workers.
    """
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    os.environ.setdefault("RAY_worker_niceness", "0")
    with own_signals():
        ray.init(
            "local",  # whatever other clusters are here
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=200 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
    try:
        yield
    finally:
        ray.shutdown()
