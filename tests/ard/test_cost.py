import functools

import pytest
import torch

from ard.cost import PlanCost, fixed_cost, macs_cost, make_cost, params_cost, plan_cost
from ard.errors import ArdError, PlanError, RankError
from ard.layers import LayerProfile, profile_layers
from ard.plan import DENSE, Factorization, RankPlan
from nas_gan.networks import Generator, GeneratorConfig

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
VECTORS = {
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
    assert plan_cost(plan, profile.layers, profile.fixed_params, params_cost) == size


def test_the_dense_plan_costs_the_total():
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16))
    profile = profile_layers(net, torch.ones(2, 8))
    for objective, total in (("params", profile.total_params), ("macs", profile.total_macs)):
        cost = PlanCost(profile.layers, fixed_cost(profile, objective), make_cost(objective))
        assert cost(DENSE) == total


def test_a_plan_changes_only_the_layers_it_names():
    plan = RankPlan({"l1": Factorization("svd", (2,))})
    dense = plan_cost(DENSE, LAYERS, 7, params_cost)
    assert dense - plan_cost(plan, LAYERS, 7, params_cost) == 16 * 8 - 2 * (16 + 8)


def test_any_cost_of_a_layer_can_be_plugged_in():
    milliseconds = {None: 3.0, Factorization("svd", (2,)): 0.5}
    cost = PlanCost(LAYERS[:1], 1.0, lambda layer, choice: milliseconds[choice])
    assert cost(DENSE) == 4.0
    assert cost(RankPlan({"l1": Factorization("svd", (2,))})) == 1.5


def test_make_cost_knows_its_names():
    assert make_cost("params") is params_cost
    assert make_cost("macs") is macs_cost
    with pytest.raises(ArdError, match="use one of params, macs"):
        make_cost("flops")


def test_a_plan_for_another_generator_is_refused():
    with pytest.raises(PlanError, match=r"names l9, .* its layers are c1, l1"):
        plan_cost(RankPlan({"l9": Factorization("svd", (2,))}), LAYERS, 0, params_cost)
    with pytest.raises(RankError, match=r"rank \(99,\) does not fit"):
        plan_cost(RankPlan({"l1": Factorization("svd", (99,))}), LAYERS, 0, params_cost)
