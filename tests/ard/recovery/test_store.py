from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from tiny import checkpoint_of, lively_generator
from torch import nn

from ard.assembly.surgery import apply_plan
from ard.plan import Factorization, RankPlan
from ard.recovery.recover import Assemble, Build
from ard.recovery.store import RecoveredStore, compressed_checkpoint
from nas_gan.checkpoint import build_generator
from nas_gan.networks.latents import latent_bank
from nas_gan.networks.searched import Generator

PLAN = RankPlan({"cell1.c0.ops.0.op.1": Factorization("tucker2", (2, 2))})
OTHER = RankPlan({"l1": Factorization("svd", (3,))})


@pytest.fixture(scope="module")
def dense() -> Generator:
    return lively_generator()


class Recoveries:
    """Recovers by doubling one bias, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, build: Build, plan: RankPlan) -> nn.Module:
        self.count += 1
        generator = build()
        with torch.no_grad():
            generator.get_parameter("to_rgb.2.bias").mul_(2)
        return generator

    def further(self, network: nn.Module, number: int, /, *, sharpened: bool) -> nn.Module:
        self.count += 1
        network = copy.deepcopy(network)
        with torch.no_grad():
            network.get_parameter("to_rgb.2.bias").add_(-number if sharpened else number)
        return network


@pytest.fixture
def recoveries() -> Recoveries:
    return Recoveries()


def make_store(folder: Path, dense: Generator, recoveries: Recoveries) -> RecoveredStore:
    return RecoveredStore(folder, checkpoint_of(dense), dense, recoveries, recoveries.further)


def images(generator: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return generator(latent_bank(4, 120, 0))


def test_a_plan_is_recovered_once_while_it_is_asked_for_in_a_row(
    tmp_path: Path, dense: Generator, recoveries: Recoveries
) -> None:
    store = make_store(tmp_path, dense, recoveries)
    first = store(lambda *_: apply_plan(dense, PLAN), PLAN)
    assert store(lambda *_: apply_plan(dense, PLAN), PLAN) is first
    assert recoveries.count == 1


def test_a_restart_finds_what_was_recovered_and_factorizes_nothing(
    tmp_path: Path, dense: Generator, recoveries: Recoveries
) -> None:
    recovered = make_store(tmp_path, dense, recoveries)(lambda *_: apply_plan(dense, PLAN), PLAN)

    def factorized(*_: object) -> nn.Module:
        raise AssertionError("factorized again")

    again = make_store(tmp_path, dense, recoveries)(factorized, PLAN)
    assert recoveries.count == 1
    assert torch.equal(images(again), images(recovered))


def test_another_plan_is_another_generator_also_after_going_back(
    tmp_path: Path, dense: Generator, recoveries: Recoveries
) -> None:
    store = make_store(tmp_path, dense, recoveries)
    first = images(store(lambda *_: apply_plan(dense, PLAN), PLAN))
    other = images(store(lambda *_: apply_plan(dense, OTHER), OTHER))
    assert not torch.equal(first, other)
    assert torch.equal(images(store(lambda *_: apply_plan(dense, PLAN), PLAN)), first)
    assert recoveries.count == 2


def bias(generator: nn.Module) -> torch.Tensor:
    return generator.get_parameter("to_rgb.2.bias")


def assembler(dense: Generator) -> Assemble:
    return lambda plan, base: apply_plan(dense if base is None else base, plan)


def test_a_round_goes_on_from_the_weights_of_the_one_before(
    tmp_path: Path, dense: Generator, recoveries: Recoveries
) -> None:
    assemble, start = assembler(dense), bias(dense)
    store = make_store(tmp_path, dense, recoveries)
    assert torch.equal(bias(store.after(assemble, PLAN, (PLAN, PLAN))), 2 * start + 2 + 3)
    # All three rounds are kept, so a restart trains none of them again.
    again = make_store(tmp_path, dense, recoveries)
    assert torch.equal(bias(again.after(assemble, PLAN, (PLAN,))), 2 * start + 2)
    assert torch.equal(bias(again.after(assemble, PLAN, ())), 2 * start)
    assert recoveries.count == 3
    again.after(assemble, PLAN, (PLAN,) * 3)
    assert recoveries.count == 4


def test_a_harsher_plan_goes_on_from_the_weights_of_a_milder_one(
    tmp_path: Path, dense: Generator, recoveries: Recoveries
) -> None:
    both = RankPlan({**PLAN, **OTHER})
    assemble, start = assembler(dense), bias(dense)
    store = make_store(tmp_path, dense, recoveries)
    sharpened = store.after(assemble, both, (PLAN, PLAN))
    assert torch.equal(bias(sharpened), 2 * start + 2 - 3)
    # The same rounds of another plan have made other weights, and neither takes the other's place.
    assert torch.equal(bias(store.after(assemble, both, (OTHER, PLAN))), 2 * start - 2 - 3)
    assert torch.equal(bias(store.after(assemble, both, (PLAN, PLAN))), 2 * start + 2 - 3)
    count = recoveries.count
    again = make_store(tmp_path, dense, recoveries)
    found = again.after(assemble, both, (PLAN, PLAN))
    assert recoveries.count == count
    assert torch.equal(images(found), images(sharpened))


def test_a_copy_that_was_sent_goes_on_with_what_it_was_sent(
    tmp_path: Path, dense: Generator, recoveries: Recoveries
) -> None:
    assemble = assembler(dense)
    store = make_store(tmp_path, dense, recoveries)
    store.after(assemble, PLAN, (PLAN,))
    sent = pickle.loads(pickle.dumps(store))
    third = bias(sent.after(assemble, PLAN, (PLAN, PLAN)))
    assert sent.recover.count == 3
    made = sent.made(PLAN, (PLAN, PLAN))
    assert made is not None
    store.keep(PLAN, (PLAN, PLAN), made)
    again = make_store(tmp_path, dense, recoveries)
    assert torch.equal(bias(again.after(assemble, PLAN, (PLAN, PLAN))), third)


def test_clearing_leaves_no_folder_behind(
    tmp_path: Path, dense: Generator, recoveries: Recoveries
) -> None:
    store = make_store(tmp_path / "recovered", dense, recoveries)
    store.clear()  # nothing was ever recovered
    store(lambda *_: apply_plan(dense, PLAN), PLAN)
    store.clear()
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_not_recovered_again_whatever_came_before_it(
    tmp_path: Path, dense: Generator, recoveries: Recoveries
) -> None:
    assemble = assembler(dense)
    store = make_store(tmp_path, dense, recoveries)
    weights = bias(store.after(assemble, PLAN, (PLAN, PLAN)))
    made = recoveries.count
    store.clear(kept=[(PLAN, (PLAN, PLAN))])
    assert len(list(tmp_path.iterdir())) == 1
    again = make_store(tmp_path, dense, recoveries)
    assert torch.equal(bias(again.after(assemble, PLAN, (PLAN, PLAN))), weights)
    assert recoveries.count == made
    again.after(assemble, PLAN, (PLAN,))  # which was not kept: both of its rounds
    assert recoveries.count == made + 2


def test_a_compressed_checkpoint_rebuilds_the_generator_and_says_where_it_came_from(
    dense: Generator,
) -> None:
    generator = apply_plan(dense, PLAN)
    checkpoint = compressed_checkpoint(checkpoint_of(dense), generator, PLAN)
    assert checkpoint.provenance["plan"] == {"cell1.c0.ops.0.op.1": "tucker2(2, 2)"}
    assert checkpoint.provenance["dataset"] == "synthetic"
    assert torch.equal(images(build_generator(checkpoint)), images(generator))
