from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ard.baselines.published import published_cp
from nas_gan.data.loading import synthetic_shapes
from nas_gan.errors import InvalidValueError
from nas_gan.metrics.classifier import train_classifier
from nas_gan.metrics.kernel_distance import kernel_distance
from nas_gan.seeds import folded
from nas_gan.training.build import build_networks
from nas_gan.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
# Where the field of a seed ends in numpy and in torch, and far beyond both.
LARGE = [2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64, 10**40]


@pytest.mark.parametrize("bits", [32, 64])
def test_seeds_that_fit_are_kept_and_others_become_seeds_that_fit(bits):
    kept = [0, 1, 12345, 2**bits - 1]
    assert [folded(seed, bits) for seed in kept] == kept
    others = [2**bits, 2**bits + 1, 2 * 2**bits, 10**40]
    made = [folded(seed, bits) for seed in others]
    assert all(0 <= seed < 2**bits for seed in made)
    assert len({*kept, *made}) == len(kept) + len(made)


def test_a_negative_seed_is_refused():
    with pytest.raises(InvalidValueError, match="seed must be at least 0; got -1"):
        folded(-1)


@pytest.mark.parametrize("seed", LARGE)
def test_every_generator_takes_a_seed_of_any_size(seed):
    pytest.importorskip("torch_fidelity")
    features = np.random.default_rng(0).standard_normal((2, 8, 3)).astype(np.float32)
    kernel_distance(*features, subsets=1, subset_size=2, seed=seed)
    train_classifier(synthetic_shapes(size=8, n=20), seed=seed, epochs=1)
    published_cp(torch.randn(3, 3, 3, 3), 1, seed)


def test_networks_of_large_seeds_differ():
    config = TrainConfig(model="dcgan", gf_dim=4, df_dim=4, image_size=16, latent_dim=4)
    weights = []
    for seed in (0, 2**64, 2**64 + 1, 10**40):
        network = build_networks(replace(config, seed=seed)).generator
        weights.append(next(network.parameters()).flatten()[:4].tolist())
    assert len({tuple(values) for values in weights}) == 4


def test_no_seed_goes_to_a_narrow_generator_unfolded():
    narrow = {"manual_seed", "manual_seed_all", "RandomState", "seed"}
    found = []
    for package in ("ard", "nas_gan", "export"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                seeds = node.args[:1] if called in narrow else []
                seeds += [k.value for k in node.keywords if k.arg in ("random_state", "rng_seed")]
                found += [
                    f"{path}:{seed.lineno}"
                    for seed in seeds
                    if not isinstance(seed, ast.Constant)
                    and not ast.unparse(seed).startswith("folded(")
                ]
    assert found == []
