from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_gan.networks.halving import halving_batches
from nas_gan.networks.memory import (
    activations_of,
    available_bytes,
    bytes_to_keep,
    fitting_rows,
    in_fitting_batches,
)


class Steps(nn.Module):
    """Makes 100 floats a row, then 400, then drops the first and makes 200."""

    def forward(self, z: Tensor) -> Tensor:
        first = z + 1
        second = torch.cat([first, first, first, first], dim=1)
        del first
        return second[:, :200] * 2


def test_what_a_row_takes_is_counted_while_somebody_holds_it():
    found = activations_of(Steps(), torch.zeros(6, 100))
    assert found.made == 4 * (100 + 400 + 200)
    assert found.alive == 4 * (400 + 200)


def test_weights_and_views_and_writing_in_place_take_nothing():
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1000, 100))

        def forward(self, z: Tensor) -> Tensor:
            x = z @ self.weight.T  # (n, 1000)
            return x.view(len(z), 10, 100).relu_().flatten(1)

    found = activations_of(Writes(), torch.zeros(2, 100))
    assert found.alive == found.made == 4 * 1000


@pytest.mark.parametrize(
    ("memory", "rows"),
    # A quarter of the memory is for activations of 2,400 bytes a row.
    [(None, 64), (10**9, 64), (4 * 2400 * 64, 64), (4 * 2400 * 63, 32), (4 * 2400 * 5, 4), (1, 1)],
)
def test_the_batch_is_a_power_of_two_that_fits_into_the_memory(memory, rows, monkeypatch):
    monkeypatch.setattr("nas_gan.networks.memory.available_bytes", lambda: memory)
    assert fitting_rows(Steps(), torch.zeros(64, 100), 64) == rows


def test_a_pass_with_gradients_keeps_all_that_it_makes(monkeypatch):
    monkeypatch.setattr("nas_gan.networks.memory.available_bytes", lambda: 4 * 2400 * 16)
    latents = torch.zeros(64, 100)
    assert fitting_rows(Steps(), latents, 64) == 16
    assert fitting_rows(Steps(), latents, 64, gradients=True) == 8


@pytest.mark.parametrize(("memory", "kept"), [(1600, 200), (16000, 1000), (None, 1000)])
def test_no_more_is_kept_than_an_eighth_of_the_memory(memory, kept, monkeypatch):
    monkeypatch.setattr("nas_gan.networks.memory.available_bytes", lambda: memory)
    assert bytes_to_keep(1000) == kept


def test_a_measurement_that_runs_out_of_memory_starts_anew_with_half_the_batch():
    counted: list[int] = []

    def measure(rows: int) -> int:
        total = 0
        for batch in torch.ones(20).split(rows):
            counted.append(len(batch))
            if len(batch) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            total += int(batch.sum())
        return total

    assert halving_batches(measure, 16) == 20
    assert counted == [16, 8, 4, 4, 4, 4, 4]
    with pytest.raises(torch.OutOfMemoryError):
        halving_batches(lambda rows: measure(20), 4)


def test_no_batch_is_larger_than_the_latents():
    assert in_fitting_batches(lambda rows: rows, Steps(), torch.zeros(7, 100), 64) == 7


# --- control groups


def machine(root: Path, *, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8 kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


LEFT = {
    "no limit": ("0::/job\n", {"job/memory.max": "max\n", "job/memory.current": "100\n"}, 8192),
    "version 2": ("0::/job\n", {"job/memory.max": "5000\n", "job/memory.current": "3000\n"}, 2000),
    "pages of files": (
        "0::/job\n",
        {
            "job/memory.max": "5000\n",
            "job/memory.current": "3000\n",
            "job/memory.stat": "anon 2500\ninactive_file 400\n",
        },
        2400,
    ),
    "the group above": (
        "0::/job/step\n",
        {"job/memory.max": "5000\n", "job/memory.current": "4000\n"},
        1000,
    ),
    "version 1": (
        "4:cpu,memory:/job\n",
        {"memory/job/memory.limit_in_bytes": "900\n", "memory/job/memory.usage_in_bytes": "200\n"},
        700,
    ),
    "a container": (
        "0::/docker/1\n",
        {"memory.max": "5000\n", "memory.current": "1000\n"},
        4000,
    ),
    "full": ("0::/job\n", {"job/memory.max": "5\n", "job/memory.current": "9\n"}, 0),
}


@pytest.mark.parametrize(("cgroup", "files", "left"), LEFT.values(), ids=LEFT.keys())
def test_a_control_group_leaves_what_it_has_not_used(tmp_path, cgroup, files, left):
    assert available_bytes(machine(tmp_path, cgroup=cgroup, files=files)) == left


def test_a_system_without_proc_does_not_say(tmp_path):
    assert available_bytes(tmp_path) is None
