import functools

import pytest
import torch

from ard.costs.cost import cost_of, macs_cost, mixed_cost, params_cost
from ard.costs.latency_table import Conditions, LatencyRow, LatencyTable
from ard.costs.objectives import make_cost, parse_weights
from ard.errors import LatencyError, RankError
from ard.layers import LayerProfile, profile_layers
from ard.plan import DENSE, Factorization, RankPlan
from nas_gan.errors import InvalidValueError
from nas_gan.networks.searched import Generator, GeneratorConfig

LAYERS = (
    LayerProfile("l1", "linear", (16, 8)),
    LayerProfile("c1", "conv2d", (8, 8, 3, 3), positions=100),
)
# Layers 1 to 13 in the numbering of the published tables.
NUMBERED = [
    *(f"cell1.c{i}" for i in (0, 1, 2, 3)),
    *(f"cell2.c{i}" for i in (0, 2, 3, 4)),
    *(f"cell3.c{i}" for i in (0, 1, 2, 3, 4)),
]
# penalty factor -> CP ranks of layers 1 to 13, None being dense; l2 and l3 have rank 2, l1 none.
VECTORS: dict[str, list[int | None]] = {
    "1": [128, 128, 256, 128, 256, 128, 128, 128, 512, 128, 128, 128, 768],
    "1/5": [128, 128, 768, 128, 768, 128, 128, 256, 512, 256, 128, 128, 768],
    "1/10": [128, 128, 768, 128, 768, 128, 128, 256, 768, 256, 768, 768, None],
    "1/15": [128, 128, 768, 128, 768, 128, 128, 512, None, 256, 768, 768, None],
    "1/20": [128, 128, 768, 128, None, 128, 128, None, None, 512, 768, 768, None],
}


def published_plan(penalty, linear=("l2", "l3")):
    choices = {
        f"{name}.ops.0.op.1": Factorization("cp", (rank,))
        for name, rank in zip(NUMBERED, VECTORS[penalty], strict=True)
        if rank is not None
    }
    return RankPlan(choices | {name: Factorization("svd", (2,)) for name in linear})


@functools.cache
def profile_of(dataset, gf_dim):
    with torch.device("meta"):
        generator = Generator(GeneratorConfig.for_dataset(dataset, gf_dim=gf_dim))
        return profile_layers(generator, torch.empty(1, 120))


@pytest.mark.parametrize(
    ("dataset", "gf_dim", "penalty", "size"),
    [
        ("cifar10", 256, "1", 2_550_967),
        ("cifar10", 256, "1/5", 3_218_103),
        ("cifar10", 256, "1/10", 5_257_399),
        ("cifar10", 256, "1/15", 6_627_511),
        ("cifar10", 256, "1/20", 8_322_231),
        ("cifar10", 128, "1", 1_141_559),
        ("cifar10", 128, "1/20", 2_652_983),
        ("cifar100", 128, "1/15", 2_309_903),
        ("stl10", 256, "1/20", 8_581_263),
        ("celeba64", 256, "1/20", 9_104_527),
    ],
)
def test_the_published_sizes(dataset, gf_dim, penalty, size):
    profile = profile_of(dataset, gf_dim)
    plan = published_plan(penalty, ("l2", "l3") if dataset == "cifar10" else ("l2",))
    assert profile.fixed_params + cost_of(params_cost, profile.layers, plan) == size


def test_the_dense_plan_costs_the_total():
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16))
    profile = profile_layers(net, torch.ones(2, 8))
    for objective, fixed, total in (
        ("params", profile.fixed_params, profile.total_params),
        ("macs", profile.fixed_macs, profile.total_macs),
    ):
        assert fixed + cost_of(make_cost(objective), profile.layers, DENSE) == total


def test_a_plan_changes_only_the_layers_it_names():
    plan = RankPlan({"l1": Factorization("svd", (2,))})
    dense = cost_of(params_cost, LAYERS, DENSE)
    assert dense - cost_of(params_cost, LAYERS, plan) == 16 * 8 - 2 * (16 + 8)


def test_any_cost_of_a_layer_can_be_plugged_in():
    milliseconds = {None: 3.0, Factorization("svd", (2,)): 0.5}
    cost = lambda layer, choice: milliseconds[choice]  # noqa: E731
    assert cost_of(cost, LAYERS[:1], DENSE) == 3.0
    assert cost_of(cost, LAYERS[:1], RankPlan({"l1": Factorization("svd", (2,))})) == 0.5


def test_make_cost_knows_its_names():
    assert make_cost("params") is params_cost
    assert make_cost("macs") is macs_cost
    with pytest.raises(InvalidValueError, match=r"choose one of params, macs, latency, mixed"):
        make_cost("flops")
    with pytest.raises(InvalidValueError, match="did you mean latency"):
        make_cost("latancy")


# -- latency and mixes


def timed(layer, ms, choice=None, batch=1):
    under = Conditions(batch, "a runtime", "a board", 1, "fp32")
    return LatencyRow(layer.signatures[0], choice, ms, ms, ms, under)


TIMED = (
    LayerProfile("l1", "linear", (16, 8), signatures=("linear 16x8 bias",)),
    LayerProfile("l2", "linear", (64, 64), signatures=("linear 64x64 bias",)),
)
SVD2 = Factorization("svd", (2,))
TABLE = LatencyTable(
    (
        timed(TIMED[0], 1.0),
        timed(TIMED[0], 0.5, SVD2),
        timed(TIMED[1], 3.0),
        timed(TIMED[1], 4.0, SVD2),
    )
)


def test_latency_is_read_from_the_table_for_every_call_of_a_layer():
    cost = make_cost("latency", table=TABLE)
    assert [cost(layer, None) for layer in TIMED] == [1.0, 3.0]
    assert [cost(layer, SVD2) for layer in TIMED] == [0.5, 4.0]
    twice = LayerProfile("l", "linear", (16, 8), signatures=TIMED[0].signatures * 2)
    assert cost(twice, SVD2) == 1.0


def test_the_latency_of_a_generator_is_found_by_the_signatures_of_its_profile():
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 8, bias=False))
    layers = profile_layers(net, torch.ones(2, 8)).layers
    rows = (timed(TIMED[0], 1.0), timed(TIMED[0], 0.5, SVD2))
    other = LatencyRow("linear 8x16", None, 2.0, 2.0, 2.0, rows[0].conditions)
    cost = make_cost("latency", table=LatencyTable((*rows, other)))
    assert cost_of(cost, layers, RankPlan({"0": SVD2})) == 2.5


def test_a_layer_that_was_not_timed_is_named_with_the_command_that_does_it():
    cost = make_cost("latency", table=LatencyTable(TABLE.rows[:2]))
    with pytest.raises(LatencyError, match=r"l2: .* no dense linear 64x64 bias; .*ard\.latency"):
        cost(TIMED[1], None)
    with pytest.raises(LatencyError, match="l1: its signature is not known"):
        cost(LAYERS[0], None)


def test_latency_needs_one_table_of_one_batch_size():
    with pytest.raises(InvalidValueError, match="latency_table must be given to minimise latency"):
        make_cost("latency")
    both = LatencyTable((*TABLE.rows, timed(TIMED[0], 9.0, batch=64)))
    with pytest.raises(LatencyError, match=r"several conditions.*choose one by its batch size"):
        make_cost("latency", table=both)
    assert make_cost("latency", table=both.at(64))(TIMED[0], None) == 9.0


def test_a_mix_weighs_shares_of_the_dense_totals():
    cost = make_cost("mixed", table=TABLE, weights={"params": 1, "latency": 3}, layers=TIMED)
    sizes = (16 * 8 + 16, 64 * 64 + 64)
    for layer, size, ms in zip(TIMED, sizes, (1.0, 3.0), strict=True):
        assert cost(layer, None) == pytest.approx((size / sum(sizes) + 3 * ms / 4) / 4)
    assert sum(cost(layer, None) for layer in TIMED) == pytest.approx(1)
    smaller = (2 * (16 + 8) + 16) / sum(sizes)
    assert cost(TIMED[0], SVD2) == pytest.approx((smaller + 3 * 0.5 / 4) / 4)


def test_a_mix_of_one_orders_choices_as_that_one():
    cost = mixed_cost([("macs", 7.0, macs_cost)], LAYERS)
    choices = [None, SVD2, Factorization("svd", (4,))]
    shares = [cost(LAYERS[0], choice) for choice in choices]
    total = sum(layer.macs() for layer in LAYERS)
    assert shares == pytest.approx([LAYERS[0].macs(choice) / total for choice in choices])


def test_weights_are_read_as_written():
    assert parse_weights(["params=1", "latency=0.5"]) == {"params": 1.0, "latency": 0.5}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["latency"], "write latency=2"),
        (["latency=0"], "write latency=2"),
        (["macs=nan"], "write macs=2"),
        (["flops=1"], "objective 'flops' is not known"),
        (["macs=1", "macs=2"], "macs has two weights"),
    ],
)
def test_weights_that_are_none_are_refused(texts, message):
    with pytest.raises(InvalidValueError, match=message):
        parse_weights(texts)


def test_a_mix_without_weights_or_layers_is_refused():
    with pytest.raises(InvalidValueError, match="needs weights"):
        make_cost("mixed", layers=LAYERS)
    with pytest.raises(InvalidValueError, match="needs weights"):
        make_cost("mixed", weights={"macs": 1})
    with pytest.raises(InvalidValueError, match="the weight of macs must be above 0; got -1"):
        mixed_cost([("macs", -1, macs_cost)], LAYERS)


def test_a_rank_that_does_not_fit_is_refused():
    with pytest.raises(RankError, match=r"rank \(99,\) does not fit"):
        cost_of(params_cost, LAYERS, RankPlan({"l1": Factorization("svd", (99,))}))
