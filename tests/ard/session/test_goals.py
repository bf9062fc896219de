"""What a target asks of a whole network, and of the settings of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import SmallNet
from torch import nn

from ard.costs.cost import macs_cost, params_cost
from ard.errors import BudgetError
from ard.layers import Part, Profile, profile_layers
from ard.plan import DENSE, RankPlan, Replacement
from ard.search.target import Target
from ard.session.config import SearchConfig
from ard.session.goals import parse_targets, reach_of, with_target
from nas_gan.errors import UsageError
from nas_gan.networks.latents import latent_bank

CONFIG = SearchConfig(checkpoint=Path("zoo:fashion_mnist"))


@pytest.fixture(scope="module")
def profile() -> Profile:
    return profile_layers(SmallNet(), latent_bank(2, 8, 0))


def time_of(layer: Part, choice: Replacement | None) -> float:
    return 2.0 if choice is None else 1.0


def test_counts_are_those_of_the_whole_network(profile: Profile) -> None:
    net = SmallNet()
    total = sum(p.numel() for p in net.parameters())
    reach, dense = reach_of(Target.parse("params=0.5"), profile, params_cost, net, None, "target")
    assert (dense, reach.limit, reach.measured) == (total, total / 2, None)
    assert reach.fixed == profile.fixed_params
    reach, dense = reach_of(Target.parse("macs=0.25"), profile, macs_cost, net, None, "target")
    assert (dense, reach.limit) == (profile.total_macs, profile.total_macs / 4)


def test_what_no_layer_explains_of_a_measured_time_is_there_under_every_plan(
    profile: Profile,
) -> None:
    layers = 2.0 * len(profile.layers)

    def timed(generator: nn.Module, plan: RankPlan) -> float:
        assert plan == DENSE
        return layers + 3.0

    reach, dense = reach_of(
        Target.parse("latency=0.5"), profile, time_of, SmallNet(), timed, "target"
    )
    assert dense == layers + 3.0
    assert reach.fixed == pytest.approx(3.0)
    assert reach.limit == dense / 2
    assert reach.measured is timed


def test_layers_that_were_timed_elsewhere_stand_for_the_network(profile: Profile) -> None:
    layers = 2.0 * len(profile.layers)
    reach, dense = reach_of(
        Target.parse("latency=0.5"), profile, time_of, SmallNet(), None, "target"
    )
    assert (dense, reach.limit, reach.fixed, reach.measured) == (layers, layers / 2, 0.0, None)


def test_what_the_dense_network_reaches_already_is_refused(profile: Profile) -> None:
    for text in ("latency=1s", "fps=1"):
        with pytest.raises(BudgetError, match="reached by the dense network already") as refused:
            reach_of(Target.parse(text), profile, time_of, SmallNet(), lambda g, p: 9.0, "target")
        assert refused.value.setting == "target"


def test_a_target_sets_the_objective_and_the_batch() -> None:
    config = with_target(CONFIG, Target.parse("fps=60@4"))
    assert (config.objective, config.latency_batch) == ("latency", 4)
    config = with_target(replace(CONFIG, latency_batch=8), Target.parse("latency=5ms"))
    assert (config.objective, config.latency_batch) == ("latency", 8)


@pytest.mark.parametrize(
    ("changed", "text", "setting"),
    [
        ({"objective": "macs"}, "params=0.5", "objective"),
        ({"objective": "mixed"}, "latency=0.5", "objective"),
        ({"latency_batch": 8}, "fps=60@4", "latency_batch"),
    ],
)
def test_settings_of_another_cost_are_refused_beside_a_target(
    changed: dict[str, object], text: str, setting: str
) -> None:
    with pytest.raises(UsageError) as refused:
        with_target(replace(CONFIG, **changed), Target.parse(text))  # type: ignore[arg-type]
    assert refused.value.setting == setting


def test_targets_of_one_run_are_of_one_kind() -> None:
    targets = parse_targets(("latency=5ms", "fps=60", "latency=5ms"), "targets")
    assert [target.text for target in targets] == ["latency=5ms", "fps=60"]
    with pytest.raises(UsageError):
        parse_targets(("params=0.5", "macs=0.5"), "targets")
