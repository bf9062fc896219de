"""Claim: the 95 % interval of ΔFID covers the rise in the limit of many images.

Features are drawn from populations whose mean and covariance are known exactly, so that the true
rise is known too. In each of `--draws` draws, `PairedFid` compares a candidate with the dense side
on the same rows. Counted are the intervals that hold the true rise, and those that lie wholly below
it: with a budget equal to the true rise, each of these is a false "met".

A second part runs whole searches of `ard.pipeline` on plans with known rises: several plans are
chosen on one bank, and the winners are tested on held-out banks.

    OMP_NUM_THREADS=1 nice -n 15 python benchmarks/coverage.py

An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ard.layers import LayerProfile, Profile
from ard.measuring.evaluate import Candidate as ArdCandidate
from ard.measuring.evaluate import Evaluator
from ard.measuring.journal import MemoryJournal
from ard.measuring.score import Score
from ard.measuring.sensitivity import SensitivityTable
from ard.pipeline import Evaluators, Prepared, Run, Search, find_plan
from ard.plan import RankPlan, Replacement
from nas_gan.files import write_json
from nas_gan.metrics.frechet import (
    FeatureStatistics,
    FrechetReference,
    PairedFid,
    frechet_distance,
    statistics_of,
)

Array = npt.NDArray[np.float64]

RESULT = Path(__file__).parent / "results" / "coverage.json"
RATIOS = (0.3, 0.5, 1.0, 1.2, 1.5, 2.0, 4.0, 12.0)  # images per feature
COMPONENTS = 8  # of the mixture


@dataclass(frozen=True)
class Population:
    """Features: a mixture of Gaussians, each with its weight, mean and factor of a covariance."""

    weights: Array  # (k,)
    means: Array  # (k, d)
    factors: Array  # (k, d, d), a component is `mean + z @ factor`

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Features `(n, d)`."""
        component = rng.choice(len(self.weights), size=n, p=self.weights)
        features = rng.standard_normal((n, self.means.shape[1]))
        for k, factor in enumerate(self.factors):
            rows = component == k
            features[rows] = features[rows] @ factor + self.means[k]
        return features

    def statistics(self) -> FeatureStatistics:
        """The exact mean and covariance."""
        mean = self.weights @ self.means
        centred = self.means - mean
        within = np.einsum("k,kij,kil->jl", self.weights, self.factors, self.factors)
        return FeatureStatistics(mean, within + (self.weights * centred.T) @ centred)


@dataclass(frozen=True)
class Candidate:
    """An affine image of the dense features, plus noise of its own: its statistics are exact."""

    matrix: Array  # (d, d)
    shift: float = 0.0
    noise: float = 0.0

    def draw(self, dense: Array, rng: np.random.Generator) -> Array:
        """The candidate's features on the same rows."""
        noise = self.noise * rng.standard_normal(dense.shape)
        changed: Array = dense @ self.matrix + self.shift + noise
        return changed

    def statistics(self, dense: FeatureStatistics) -> FeatureStatistics:
        """Its exact mean and covariance."""
        covariance = self.matrix.T @ dense.covariance @ self.matrix
        noise = self.noise**2 * np.eye(dense.dim)
        return FeatureStatistics(dense.mean @ self.matrix + self.shift, covariance + noise)


def factor_of(d: int, decay: float, rng: np.random.Generator) -> Array:
    """A root of a covariance whose eigenvalues fall as a power, with mean 1."""
    basis, _ = np.linalg.qr(rng.standard_normal((d, d)))
    values = np.arange(1, d + 1) ** -decay
    root: Array = (basis * np.sqrt(values / values.mean())) @ basis.T
    return root


def population(kind: str, d: int) -> tuple[Population, FeatureStatistics]:
    """The dense side, and the reference's exact statistics, which are close to it."""
    rng = np.random.default_rng([d, len(kind)])
    decay = 1.0
    root = factor_of(d, decay, rng)
    single = Population(np.ones(1), np.zeros((1, d)), root[None])
    found = single
    if kind == "mixture":  # of clusters apart, of unequal width and orientation
        spread = np.sqrt(np.arange(1, d + 1) ** -decay)
        means = 0.8 * rng.standard_normal((COMPONENTS, d)) * spread / spread.mean()
        widths = np.exp(0.3 * rng.standard_normal(COMPONENTS))
        others = [0.6 * root + 0.4 * factor_of(d, decay, rng) for _ in range(COMPONENTS)]
        factors = np.stack([w * other for w, other in zip(widths, others, strict=True)])
        found = Population(np.full(COMPONENTS, 1 / COMPONENTS), means, factors)
    elif kind == "heavy tails":  # the same Gaussian at four widths
        widths = np.array([0.6, 0.85, 1.1, 1.8])
        factors = widths[:, None, None] * root
        found = Population(np.array([0.3, 0.3, 0.3, 0.1]), np.zeros((4, d)), factors)
    statistics = found.statistics()
    other = factor_of(d, decay, rng)
    return found, FeatureStatistics(
        statistics.mean + 0.05 * rng.standard_normal(d),
        0.85 * statistics.covariance + 0.15 * other.T @ other,
    )


def candidates(dense: FeatureStatistics) -> dict[str, Candidate]:
    """Candidates of known statistics; the second lost the directions of little variance."""
    eye = np.eye(dense.dim)
    _, basis = np.linalg.eigh(dense.covariance)
    weak = np.where(np.arange(dense.dim) < dense.dim // 2, 0.7, 1.0)
    return {
        "narrower": Candidate(0.95 * eye),
        "smoother": Candidate((basis * weak) @ basis.T),
        "wider": Candidate(1.05 * eye),
        "noisier": Candidate(eye, noise=0.25),
        "narrower and noisier": Candidate(0.92 * eye, noise=0.2),
        "shifted": Candidate(0.99 * eye, shift=0.05),
    }


@dataclass(frozen=True)
class Case:
    """One population, candidate and reference at one number of images per feature."""

    population: str
    d: int
    candidate: str
    reference_images: int  # 0: the exact statistics
    ratio: float

    def compare(self, draws: int) -> dict[str, Any]:
        """Intervals in `draws` draws against the true rise."""
        dense, exact = population(self.population, self.d)
        statistics = dense.statistics()
        candidate = candidates(statistics)[self.candidate]
        n, rng = round(self.ratio * self.d), np.random.default_rng(self.d)
        if self.reference_images:
            root = np.linalg.cholesky(exact.covariance).T
            images = rng.standard_normal((self.reference_images, self.d)) @ root + exact.mean
            exact = statistics_of(images)
        reference = FrechetReference(exact)
        true = frechet_distance(candidate.statistics(statistics), exact) - frechet_distance(
            statistics, exact
        )
        rows = []
        for draw in range(draws):
            rng = np.random.default_rng([draw, n, self.d])
            features = dense.draw(n, rng)
            changed = candidate.draw(features, rng)
            found = PairedFid(reference, features).compare(changed)
            at_n, at_n_dense = (
                reference.distance(statistics_of(side)) for side in (changed, features)
            )
            rows.append((found.delta, found.ci_low, found.ci_high, at_n - at_n_dense))
        rise, low, high, at_n = np.array(rows).T
        half = (high - low) / 2
        return {
            **asdict(self),
            "n": n,
            "draws": draws,
            "true_rise": true,
            "covered": float(np.mean((low <= true) & (true <= high))),
            "false_met": float(np.mean(high < true)),
            "bias": float((rise.mean() - true) / rise.std()),
            "deviation": float(rise.std()),
            "half_width": float(half.mean()),
            "covered_at_n": float(np.mean(np.abs(at_n - true) <= half)),
            "false_met_at_n": float(np.mean(at_n + half < true)),
            "bias_at_n": float((at_n.mean() - true) / at_n.std()),
        }


def cases() -> Iterator[Case]:
    """Every case, the ratios that most runs have first."""
    names = tuple(candidates(FeatureStatistics(np.zeros(2), np.eye(2))))
    few = ("narrower", "smoother", "noisier")
    for ratio in sorted(RATIOS, key=lambda ratio: (ratio < 1, abs(ratio - 3))):
        for kind in ("gaussian", "mixture"):
            for name in names if ratio >= 1 else few:
                yield Case(kind, 64, name, 0, ratio)
        for name in few if ratio >= 1 else ():
            yield Case("heavy tails", 64, name, 0, ratio)
        yield Case("mixture", 64, "smoother", 2000, ratio)
    for ratio in (2.0, 4.0):
        for name in few:
            yield Case("mixture", 160, name, 0, ratio)


def worth(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The intervals by images per feature, over all populations and candidates."""
    wide = {_key(row): row["half_width"] for row in rows if row["ratio"] == 4.0}
    result = []
    for ratio in RATIOS:
        group = [row for row in rows if row["ratio"] == ratio and _key(row) in wide]
        if not group:
            continue
        covered = [row["covered"] for row in group]
        result.append(
            {
                "ratio": ratio,
                "cases": len(group),
                "covered_mean": float(np.mean(covered)),
                "covered_least": min(covered),
                "covered_most": max(covered),
                "false_met_mean": float(np.mean([row["false_met"] for row in group])),
                "false_met_most": max(row["false_met"] for row in group),
                "covered_at_n_least": min(row["covered_at_n"] for row in group),
                "false_met_at_n_most": max(row["false_met_at_n"] for row in group),
                "width_relative_to_4": float(
                    np.median([row["half_width"] / wide[_key(row)] for row in group])
                ),
            }
        )
    return result


def _nothing(plan: RankPlan, base: nn.Module | None = None) -> nn.Module:
    """Stands for the generator of a plan, whose rise is known without it."""
    return nn.Identity()


@dataclass(frozen=True)
class SearchCase:
    """Whole searches under a budget of 1, on plans whose rises are known.

    Attributes:
        plans: `graded`, in which damage adds up over layers and the budget lies in between;
            `near the budget`, in which the true rises of all plans scatter about it by one standard
            error; or `at the budget`, in which all are just above it, so that every "met" is false.
        fresh: whether every plan has held-out latents of its own in the final test.
        error: standard error of a score.
        shared: share of the variance of scores that all plans on one bank have in common.
    """

    plans: str
    fresh: bool
    error: float = 0.1
    shared: float = 0.5

    def run(self, searches: int) -> dict[str, Any]:
        """How many searches said "met" of a plan whose true rise is over the budget."""
        false = met = several = 0
        for seed in range(searches):
            found, true, finals = self.search(seed)
            met += found
            false += found and true > 1
            several += finals > 1
        return {
            **asdict(self),
            "searches": searches,
            "met": met / searches,
            "false_met": false / searches,
            "tested_several": several / searches,
        }

    def search(self, seed: int) -> tuple[bool, float, int]:
        """Whether the budget was met, the true rise of the result, and how many were tested."""
        layers = tuple(LayerProfile(f"l{i}", "conv2d", (64, 64, 3, 3)) for i in range(6))
        rng = np.random.default_rng([seed, 1])
        damages: dict[tuple[str, Replacement], float] = {
            (layer.name, choice): float(0.4 * 0.5**k * np.exp(0.3 * rng.standard_normal()))
            for layer in layers
            for k, choice in enumerate(layer.rank_grid("spatial_svd", (0.1, 0.2, 0.35, 0.5)))
        }

        def true_rise(plan: RankPlan) -> float:
            if self.plans == "at the budget":
                return 1 + 1e-9
            own = np.random.default_rng([seed, 2, zlib.crc32(str(plan).encode())]).normal()
            if self.plans == "near the budget":
                return float(1 + self.error * own)
            return float(sum(damages[item] for item in plan.items()) * np.exp(0.2 * own))

        def evaluator(bank: int) -> Evaluator:
            def evaluate(candidate: ArdCandidate) -> Score:
                assert candidate.plan is not None
                of_plan = zlib.crc32(str(candidate.plan).encode())
                common = np.random.default_rng([seed, 3, bank]).normal()
                own = np.random.default_rng([seed, 4, bank, of_plan]).normal()
                noise = self.shared**0.5 * common + (1 - self.shared) ** 0.5 * own
                return score_of(true_rise(candidate.plan) + self.error * noise, self.error)

            return evaluate

        scores = {item: score_of(damage, self.error) for item, damage in damages.items()}
        table = SensitivityTable.of(score_of(0.0, 0.0), scores, layers)
        evaluators = Evaluators(
            evaluator(0),
            evaluator(1),
            evaluator(2),
            fresh=(lambda bank: evaluator(2 + bank)) if self.fresh else None,
        )
        journal = MemoryJournal()
        search = Search(nn.Identity(), torch.zeros(1, 1), evaluators, run=Run(journal))
        prepared = Prepared(
            Profile(layers, (), 0, 0), layers, (), tuple(damages), cast("Any", _nothing)
        )
        found = find_plan(search, prepared, table, budget=1.0)
        finals = sum(m.stage == "final" for m in journal.measurements())
        return found.budget_met, true_rise(found.plan), finals


def score_of(rise: float, error: float) -> Score:
    """A score with the 95 % interval of its standard error."""
    half = 1.96 * error
    return Score(
        metric="fid",
        value=10 + rise,
        rise=rise,
        ci_low=rise - half,
        ci_high=rise + half,
        n_images=5120,
        features="",
        measured=True,
    )


def search_cases() -> Iterator[SearchCase]:
    """Every case of whole searches."""
    for plans in ("at the budget", "near the budget", "graded"):
        for fresh in (True, False):
            yield SearchCase(plans, fresh)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("population", "d", "candidate", "reference_images"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"intervals": [], "searches": []}
    if arguments.out.exists():
        result = json.loads(arguments.out.read_text())
    rows = result["intervals"]
    done = {(*_key(row), row["ratio"], row["draws"]) for row in rows}
    for case in cases():
        if (*_key(asdict(case)), case.ratio, arguments.draws) in done:
            continue
        row = case.compare(arguments.draws)
        rows.append(row)
        print(
            f"{case.population}, {case.candidate}, d {case.d}, N/d {case.ratio:g}: covered "
            f"{row['covered']:.1%}, false met {row['false_met']:.1%} (of n images: "
            f"{row['covered_at_n']:.1%}, {row['false_met_at_n']:.1%})",
            flush=True,
        )
        write_json(arguments.out, {**result, "by_ratio": worth(rows)})
    searches = result["searches"]
    known = {(r["plans"], r["fresh"], r["error"], r["searches"]) for r in searches}
    for search in search_cases():
        if (search.plans, search.fresh, search.error, arguments.searches) in known:
            continue
        row = search.run(arguments.searches)
        searches.append(row)
        print(
            f"plans {search.plans}, error {search.error:g}, fresh banks {search.fresh}: false met "
            f"{row['false_met']:.1%}, met {row['met']:.1%}",
            flush=True,
        )
        write_json(arguments.out, {**result, "by_ratio": worth(rows)})


if __name__ == "__main__":
    main()
