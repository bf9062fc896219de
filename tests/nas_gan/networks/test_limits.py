from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.limits import check_options, limited
from nas_gan.networks.models import build_model


def test_parameters_are_counted_to_the_last_one():
    with limited(parameters=12):
        nn.Linear(3, 3)
    with pytest.raises(InvalidValueError, match="more than 11 parameters"), limited(parameters=11):
        nn.Linear(3, 3)
    nn.Linear(3, 3)  # nothing is left behind


def test_modules_are_counted():
    with limited(modules=2):
        nn.Sequential(nn.ReLU(), nn.ReLU())
    with pytest.raises(InvalidValueError, match="more than 2 modules"), limited(modules=2):
        nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU())


def test_a_limit_within_a_limit_counts_too():
    with limited(parameters=100), pytest.raises(InvalidValueError), limited(parameters=3):
        nn.Linear(3, 3)


def test_no_random_numbers_are_used():
    before = torch.get_rng_state()
    with pytest.raises(InvalidValueError, match="parameters"), limited(parameters=3):
        nn.Linear(100, 100)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "options",
    [
        {"gf_dim": 1_000_000},
        {"layers": [{"units": 10**9}]},
        {"layers": [{}] * 100_000},
        {"input": [[[[[[[[[[1]]]]]]]]]]},
    ],
)
def test_options_beyond_the_limits_are_refused(options):
    with pytest.raises(InvalidValueError, match="at most"):
        check_options(options)


@pytest.mark.parametrize("kind", ["dcgan", "mmd-nas", "maxout-gan"])
@pytest.mark.parametrize("value", [True, 1.0, "64", [64]])
def test_a_count_is_a_whole_number(kind, value):
    with pytest.raises(InvalidValueError, match="latent_dim"):
        build_model({"kind": kind, "latent_dim": value})
