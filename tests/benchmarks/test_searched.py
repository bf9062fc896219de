"""What the benchmark of searched nets compares, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from benchmark_modules import load_benchmark
from torch.utils.flop_counter import FlopCounterMode

from nas_gan.networks.genotype import MMD_NAS, Genotype
from nas_gan.networks.searched import Generator, GeneratorConfig


@pytest.fixture(scope="module")
def searched() -> ModuleType:
    return load_benchmark("searched")


def test_the_size_is_that_of_the_generator(searched: ModuleType) -> None:
    net = Generator(GeneratorConfig(MMD_NAS, gf_dim=4, n_classes=0)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, net.latent_dim))
    params, macs = searched.size_of(MMD_NAS, 4)
    assert params == sum(p.numel() for p in net.parameters())
    assert macs == counter.get_total_flops() // 2


def test_the_random_genotype_is_another_one_of_that_size(searched: ModuleType) -> None:
    drawn = [searched.random_like(MMD_NAS, 4, seed) for seed in (1, 2)]
    assert len({MMD_NAS, *drawn}) == 3
    wanted = searched.size_of(MMD_NAS, 4)
    for genotype in drawn:
        for found, asked in zip(searched.size_of(genotype, 4), wanted, strict=True):
            assert found / asked == pytest.approx(1, abs=0.05)
    assert searched.random_like(MMD_NAS, 4, 1) == drawn[0]


def side(fid: float, processor: float) -> dict[str, Any]:
    seconds = {"wall": 2 * processor, "processor": processor}
    return {"fid": fid, "fid_se": 1.0, "params": 100, "macs": 1000, "seconds": seconds}


def test_ratios_are_found_over_random(searched: ModuleType) -> None:
    rows = [
        {"seed": 1, "found": side(20.0, 3.0), "random": side(40.0, 3.0)},
        {"seed": 2, "found": side(40.0, 6.0), "random": side(20.0, 3.0)},
        {"seed": 3, "found": side(10.0, 3.0), "random": side(80.0, 6.0)},
    ]
    found = searched.summary(rows)
    assert found["fid_ratios"] == [0.5, 2.0, 0.125]
    assert found["fid_ratio"] == pytest.approx(0.5)
    assert (found["won"], found["seeds"]) == (2, 3)
    assert found["processor_ratio"] == pytest.approx(1.0)


def test_what_is_done_is_not_done_again(searched: ModuleType, tmp_path: Path) -> None:
    row = {"seed": 1, "found": side(1.0, 1.0), "random": side(2.0, 1.0)}
    (tmp_path / "row.json").write_text(json.dumps(row))
    assert searched.compare(searched.QUICK, tmp_path, 1) == row
    assert [path.name for path in tmp_path.iterdir()] == ["row.json"]


def test_seconds_of_an_interrupted_run_add_up(searched: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_text(json.dumps({"wall": 100.0, "processor": 50.0}))
    with pytest.raises(KeyboardInterrupt), searched.timed(tmp_path):
        raise KeyboardInterrupt
    spent = json.loads((tmp_path / "seconds.json").read_text())
    assert 100.0 < spent["wall"] < 160.0
    assert spent["processor"] >= 50.0


def test_a_genotype_whose_nodes_have_no_input_is_not_drawn(searched: ModuleType) -> None:
    drawn: Genotype = searched.random_like(MMD_NAS, 4, 3)
    Generator(GeneratorConfig(drawn, gf_dim=4, n_classes=0))  # or it could not be built
