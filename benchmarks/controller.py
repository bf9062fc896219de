"""Claims: the search saves more than its predecessors in as many recoveries, and uses its budget.

    python benchmarks/controller.py

Three controllers search the same made-up generators, each with a table of single-layer damages, for
the same budgets and from the same random numbers: bracketing, the present one with one round of
recovery a plan, and the present one. The tables are a recorded one of a shipped network and random
ones. A generator has interactions between its layers, a recovery that undoes part of the damage and
more with further rounds, training noise of every plan (most of which stays with it) and the noise
of scores on a finite number of images, anew on each bank of latents. A plan is saved after it
passed on a bank of its own, as in `ard.pipeline.find_plan`. Every round counts as a recovery.

Claims: with as many recoveries it saves more than the others; and with the default number the saved
plan uses at least 80 % of its budget in nine searches of ten, or is the cheapest there is. Searches
are left out in which the cheapest plan fits the budget after one round.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from bracketing import BracketingController

from ard.costs.cost import LayerCost, cost_of, params_cost
from ard.layers import LayerProfile
from ard.measuring.measurement import History, Measurement, Stage
from ard.measuring.score import Score
from ard.measuring.sensitivity import Row, SensitivityTable
from ard.plan import DENSE, RankPlan
from ard.search.controller import BudgetController
from ard.search.recorded import counted_costs, read_sensitivity, read_text
from nas_gan.cli import progress
from nas_gan.files import write_json
from nas_gan.tables import text_table

RESULT = Path(__file__).parent / "results" / "controller.json"
RECORDED = Path(__file__).parent / "tables" / "fashion_mnist.csv"
N_SEEDS = 20
TRIALS = (3, 6, 9)
DEFAULT_TRIALS = 9
BUDGETS = (0.1, 0.2, 0.4)  # of the dense distance
DENSE_DISTANCE = 300.0
BAR = 0.8
MAX_ROUNDS = 8
AGAIN = 0.03  # relative standard deviation of what a further round leaves
FRACTIONS = (0.5, 0.3, 0.18, 0.1, 0.06)


@dataclass(frozen=True)
class Kind:
    """How plans come out: `shift + factor * (damages together) ** exponent`, in dense distances.

    Attributes:
        factor: what recovery leaves of a damage as large as a fifth of the dense distance.
        exponent: above 1, layers lose more together than alone.
        shift: what every plan gains (below 0) or loses, as a share of the dense distance.
        interaction: what neighbouring layers add to one another.
        training: relative standard deviation of a plan's rise by the luck of its training.
        scoring: standard deviation of a score, as a share of the dense distance.
        pace: what is left falls with the rounds of recovery to the power of minus this.
    """

    factor: float
    exponent: float
    shift: float
    interaction: float
    training: float
    scoring: float
    pace: float


KINDS = {
    "recovery halves": Kind(0.5, 1.0, 0.0, 0.0, 0.05, 0.005, 0.4),
    "recovery leaves a fifth": Kind(0.2, 1.2, 0.0, 0.5, 0.1, 0.01, 0.5),
    "fine-tuning gains": Kind(0.4, 1.5, -0.04, 0.5, 0.15, 0.01, 0.4),
    "steep": Kind(0.5, 2.0, 0.0, 0.5, 0.1, 0.01, 0.3),
    "flat": Kind(0.7, 0.7, 0.0, 0.0, 0.1, 0.01, 0.25),
    "layers interact": Kind(1.5, 1.2, 0.0, 2.0, 0.1, 0.01, 0.5),
    "noisy": Kind(0.4, 1.2, -0.02, 0.5, 0.3, 0.02, 0.4),
}


@dataclass(frozen=True)
class Recorded:
    """Layers, the single-layer scores that a search sees, and their costs."""

    layers: tuple[LayerProfile, ...]
    table: SensitivityTable
    cost: LayerCost


def score_of(rise: float, half: float, value: float = DENSE_DISTANCE) -> Score:
    """A score with an interval of `half` to either side."""
    return Score(
        metric="fid",
        value=value + rise,
        rise=rise,
        ci_low=rise - half,
        ci_high=rise + half,
        n_images=1000,
        features="made up",
        measured=True,
    )


def recorded_table(path: Path) -> Recorded:
    """The recorded sweep of a network."""
    text = read_text(path)
    table = read_sensitivity(text)
    names = dict.fromkeys(row.layer for row in table.rows)
    layers = tuple(LayerProfile(name, "linear", (1, 1)) for name in names)
    return Recorded(layers, table, counted_costs(text, table, "params"))


def random_table(seed: int) -> Recorded:
    """Twelve layers, the largest of which need not hurt most."""
    rng = np.random.default_rng([7, seed])
    rows, layers = [], []
    for i in range(12):
        c_in, c_out = (int(2 ** rng.integers(4, 8)) for _ in range(2))
        kernel = int(rng.choice([1, 3, 3, 5]))
        layer = LayerProfile(f"l{i}", "conv2d", (c_out, c_in, kernel, kernel), positions=64)
        layers.append(layer)
        hurt = DENSE_DISTANCE * 0.01 * math.exp(1.2 * rng.standard_normal())
        for choice in layer.rank_grid("spatial_svd" if kernel > 1 else "svd", FRACTIONS):
            kept = layer.params(choice) / layer.params()
            rise = hurt * (1 - kept) ** 2 / kept + 0.5 * rng.standard_normal()
            sizes = (layer.params(choice), layer.macs(choice))
            rows.append(Row(layer.name, "conv2d", choice, *sizes, score_of(rise, 1.0)))
    table = SensitivityTable(score_of(0, 0), tuple(rows))
    return Recorded(tuple(layers), table, params_cost)


@dataclass(frozen=True)
class World:
    """A made-up generator: what its plans come out at, by the seed."""

    recorded: Recorded
    kind: Kind
    seed: int

    def rise(self, plan: RankPlan, rounds: int = 1) -> float:
        """The true rise of a plan after some rounds of recovery."""
        damages = [
            max(row.score.rise, 0.0)
            for layer in self.recorded.layers
            for row in self.recorded.table.of_layer(layer.name)
            if plan.get(layer.name) == row.choice
        ]
        together = sum(math.sqrt(a * b) for a, b in itertools.pairwise(damages))
        total = sum(damages) + self.kind.interaction * together
        unit = 0.2 * DENSE_DISTANCE
        left = self.kind.factor * unit * (total / unit) ** self.kind.exponent
        luck = math.exp(self.kind.training * self._normal(plan, "training"))
        again = AGAIN * sum(self._normal(plan, f"round {m}") for m in range(2, rounds + 1))
        left *= luck * rounds**-self.kind.pace * math.exp(again)
        return self.kind.shift * DENSE_DISTANCE + left

    def measure(self, plan: RankPlan, stage: Stage, history: History) -> Measurement:
        """A score on the latents of a stage; on held-out ones every test has its own."""
        deviation = self.kind.scoring * DENSE_DISTANCE
        rounds = len(history) + 1
        luck = self._normal(plan, stage if stage == "recovered" else f"{stage} {rounds}")
        rise = self.rise(plan, rounds) + deviation * luck
        return Measurement(stage, plan, score_of(rise, 1.96 * deviation), history=history)

    def _normal(self, plan: RankPlan, what: str) -> float:
        key = f"{self.seed} {what} {plan.to_json()}".encode()
        number = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
        return float(np.random.default_rng(number).standard_normal())

    def cheapest(self) -> RankPlan:
        """The plan that is the cheapest of all."""
        return RankPlan(
            {
                layer.name: min(rows, key=lambda row: self.recorded.cost(layer, row.choice)).choice
                for layer in self.recorded.layers
                if (rows := self.recorded.table.of_layer(layer.name))
            }
        )

    def price(self, plan: RankPlan) -> float:
        """The cost of a plan."""
        return cost_of(self.recorded.cost, self.recorded.layers, plan)


@dataclass(frozen=True)
class Outcome:
    """What a search saved.

    Attributes:
        met: whether it holds.
        used: its share of the budget.
        cheapest: whether no plan is cheaper.
        compression: how many times smaller it is.
        trials: the recoveries that it took.
    """

    met: bool
    used: float
    cheapest: bool
    compression: float
    trials: int


def asked(controller: BudgetController | BracketingController) -> RankPlan | None:
    """The next plan of a controller."""
    if isinstance(controller, BracketingController):
        return controller.ask()
    plans = controller.ask(1)
    return plans[0] if plans else None


def history_of(controller: BudgetController | BracketingController, plan: RankPlan) -> History:
    """The rounds of recovery before the one after which a plan is measured."""
    return () if isinstance(controller, BracketingController) else controller.history_of(plan)


def search(controller: BudgetController | BracketingController, world: World) -> Outcome:
    """Search to the end, as `ard.pipeline.find_plan` does."""
    while True:
        while (plan := asked(controller)) is not None:
            controller.tell(world.measure(plan, "recovered", history_of(controller, plan)))
        chosen = controller.best() or controller.closest()
        assert chosen is not None
        final = world.measure(chosen.plan, "final", chosen.history)
        if controller.meets(final) or not controller.meets(chosen):
            break
        controller.reject(final)
    return Outcome(
        met=controller.meets(final),
        used=final.score.ci_high / controller.budget,
        cheapest=chosen.plan == world.cheapest(),
        compression=world.price(DENSE) / world.price(chosen.plan),
        trials=len(controller.trials),
    )


Controller = BudgetController | BracketingController
CONTROLLERS: dict[str, Callable[..., Controller]] = {
    "bracketing": BracketingController,
    "one round a plan": BudgetController,
    "rounds": partial(BudgetController, max_rounds=MAX_ROUNDS),
}


def outcomes_of(world: World, budget: float, trials: int) -> dict[str, Outcome]:
    """Every controller on one generator."""
    recorded = world.recorded
    return {
        name: search(
            make(recorded.table, recorded.layers, recorded.cost, budget, max_trials=trials), world
        )
        for name, make in CONTROLLERS.items()
    }


def worlds(n_seeds: int) -> Iterator[tuple[str, str, World]]:
    """Every kind of generator with every seed, with the recorded table and with random ones."""
    recorded = recorded_table(RECORDED)
    for seed in range(n_seeds):
        for kind, how in KINDS.items():
            yield "recorded", kind, World(recorded, how, seed)
            yield "random", kind, World(random_table(seed), how, seed)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of one controller: how much of the budget is used, compression, recoveries."""
    return {
        "searches": len(rows),
        "met": float(np.mean([row["met"] for row in rows])),
        "used_80": float(
            np.mean([row["met"] and (row["cheapest"] or row["used"] >= BAR) for row in rows])
        ),
        "median_used": float(np.median([row["used"] if row["met"] else 0.0 for row in rows])),
        "compression": float(
            np.exp(np.mean([np.log(row["compression"] if row["met"] else 1.0) for row in rows]))
        ),
        "trials": float(np.mean([row["trials"] for row in rows])),
    }


def measure(n_seeds: int, every: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """The outcome of every search, by controller."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTROLLERS}
    total = n_seeds * len(KINDS) * 2
    with progress("searches", total) as advance:
        for table, kind, world in worlds(n_seeds):
            for share, trials in itertools.product(BUDGETS, every):
                budget = share * DENSE_DISTANCE
                if world.rise(world.cheapest()) <= budget:
                    continue  # the first harsh plan settles it, and nothing can use the budget
                where = {"table": table, "kind": kind, "seed": world.seed, "budget": share}
                for name, outcome in outcomes_of(world, budget, trials).items():
                    rows[name].append({**where, "max_trials": trials, **asdict(outcome)})
            advance(1)
    return rows


def by(rows: Sequence[dict[str, Any]], *keys: str) -> dict[str, dict[str, Any]]:
    """The summary of each group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(", ".join(str(row[key]) for key in keys), []).append(row)
    return {name: summary(group) for name, group in groups.items()}


def result_of(rows: dict[str, list[dict[str, Any]]], n_seeds: int) -> dict[str, Any]:
    """Everything that is written."""
    default = {
        name: [row for row in found if row["max_trials"] == DEFAULT_TRIALS]
        for name, found in rows.items()
    }
    return {
        "machine": {"machine": platform.machine(), "numpy": version("numpy")},
        "settings": {
            "seeds": n_seeds,
            "budgets": BUDGETS,
            "kinds": {name: asdict(kind) for name, kind in KINDS.items()},
        },
        "by_trials": {name: by(found, "max_trials") for name, found in rows.items()},
        "by_kind": {name: by(found, "table", "kind") for name, found in default.items()},
        "by_budget": {name: by(found, "budget") for name, found in default.items()},
    }


def show(result: dict[str, Any]) -> None:
    """The tables on stdout, the controllers side by side in each group of columns."""
    for title in ("by_trials", "by_kind", "by_budget"):
        columns = [title.removeprefix("by_")]
        for what in ("used 80 %", "met", "compression", "recoveries"):
            columns += [what, *("" for _ in range(len(CONTROLLERS) - 1))]
        rows = []
        for group in result[title]["rounds"]:
            cells = [group]
            for key, form in (
                ("used_80", ".0%"),
                ("met", ".0%"),
                ("compression", ".2f"),
                ("trials", ".1f"),
            ):
                cells += [format(result[title][name][group][key], form) for name in CONTROLLERS]
            rows.append(cells)
        sys.stdout.write(text_table(columns, rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=N_SEEDS, help="random numbers per generator")
    parser.add_argument("--trials", type=int, nargs="+", default=TRIALS)
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file to write")
    arguments = parser.parse_args()
    result = result_of(measure(arguments.seeds, arguments.trials), arguments.seeds)
    write_json(arguments.out, result)
    show(result)


if __name__ == "__main__":
    main()
