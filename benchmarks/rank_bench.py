"""What the benchmarks of the rank engine share: the nets, the ways to choose ranks, one score.

Every way to choose ranks is a list of plans, mild to harsh. A plan is built as its method builds
it, scored on one bank of latents, recovered by one recovery, and scored again on the same bank.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ard.assembly.assembler import N_MOMENTS
from ard.assembly.batchnorm import correct_batchnorm
from ard.assembly.surgery import apply_plan
from ard.baselines.published import published_generator
from ard.baselines.rules import (
    energy_threshold,
    evbmf,
    greedy,
    penalty_plans,
    random_plans,
    uniform_rank,
    uniform_ratio,
)
from ard.costs.cost import params_cost
from ard.layers import LayerProfile
from ard.measuring.evaluate import Candidate
from ard.measuring.executors import SerialExecutor
from ard.measuring.journal import FileJournal
from ard.measuring.metric import MetricEvaluator
from ard.measuring.score import Score
from ard.measuring.sensitivity import SensitivityTable
from ard.measuring.sweep import Measure, single_layer_plans, sweep
from ard.pipeline import Evaluators, Prepared, Run, Search, prepare
from ard.plan import DENSE, Factorization, RankPlan, Replacement
from ard.recovery.adversarial import FineTuning, fine_tune
from ard.recovery.distillation import Distance, Recovery, feature_distance, recover
from ard.report.summary import plan_macs, plan_params
from ard.session.recovering import FEATURE_WEIGHT
from ard.session.setting import MeasuringConfig, Setting, bank_of, load_setting
from nas_gan.checkpoint import build_saved_discriminator
from nas_gan.cli import progress
from nas_gan.data.batches import ShuffledBatches
from nas_gan.generators import open_generator
from nas_gan.training.distillation import image_distance
from nas_gan.training.draws import Batch, StepLatents

ZOO = Path(__file__).parents[1] / "nas_gan" / "zoo"


@dataclass(frozen=True)
class Net:
    """A checkpoint, and how its network is built and scored."""

    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)


# The weights are part of the package gan-face-generate: a DCGAN of 64 x 64 faces.
_FACES = util.find_spec("gan_face_generate")
NETS = {
    "mmd-nas": Net(ZOO / "fashion_mnist.pt"),
    "adversarial-nas": Net(ZOO / "adversarial_nas.pt"),
    "crossfire": Net(ZOO / "crossfire.pt"),
    "faces": Net(
        Path(str(_FACES and _FACES.origin)).with_name("weights.tar"),
        {
            "model": "gan_face_generate.models:Generator",
            "model_args": '{"ngpu": 0, "nc": 3, "nz": 100, "ngf": 64}',
            "reference": "dense",
        },
    ),
}
RESULTS = Path(__file__).parent / "results"
# Ranks of the published sweep as multiples of the width of its net (128 to 768 of 256), and the
# ranks of its linear layers.
PUBLISHED_CONV, PUBLISHED_LINEAR = (0.5, 1, 2, 3), (2, 4, 8, 16, 32)
PENALTIES = (4, 2, 1, 1 / 2, 1 / 5, 1 / 10, 1 / 15, 1 / 20, 1 / 50, 1 / 100, 1 / 300)
SHARES = (0.7, 0.55, 0.42, 0.32, 0.25, 0.18, 0.12)
ENERGIES = (0.995, 0.98, 0.95, 0.9, 0.85, 0.75, 0.65)
WEAKENINGS = (0.5, 0.7, 0.85, 1.0)


@dataclass(frozen=True)
class Effort:
    """Sizes of a benchmark run: images behind scores and updates behind a recovery."""

    samples: int = 1000
    sweep_samples: int = 250
    recover_steps: int = 40
    polish_steps: int = 40
    recover_batch: int = 16
    threads: int = 1


FULL = Effort(10_000, 2500, recover_steps=1000, polish_steps=1000, recover_batch=64)


@dataclass(frozen=True)
class Point:
    """One plan of one way to choose ranks."""

    way: str
    setting: float
    params: int
    macs: int
    compression: float
    macs_ratio: float
    factorized: dict[str, float] | None
    recovered: dict[str, float] | None


@dataclass(frozen=True, eq=False)
class RankBench:
    """One net, its banks of latents, and everything that was measured once."""

    name: str
    setting: Setting
    effort: Effort
    work: Path

    @cached_property
    def generator(self) -> nn.Module:
        return self.setting.generator

    @cached_property
    def joint(self) -> MetricEvaluator:
        return self._evaluator(self.effort.samples, 2)

    @cached_property
    def single(self) -> MetricEvaluator:
        return self._evaluator(self.effort.sweep_samples, 1)

    def _evaluator(self, n: int, seed: int) -> MetricEvaluator:
        bank = bank_of(self.setting, self._config, n, seed)
        return self.setting.metric.evaluator(bank, False)

    @cached_property
    def latents(self) -> Tensor:
        """Behind everything that is fitted in closed form."""
        return self.setting.latents(128, 6)

    @property
    def moment_latents(self) -> Tensor:
        """Those of them behind the corrected batch statistics, as many as ours has."""
        return self.latents[:N_MOMENTS]

    @cached_property
    def prepared(self) -> Prepared:
        with progress(f"{self.name}: preparing", 1) as advance:
            prepared = prepare(self.search())
            advance(1)
        return prepared

    def search(self, **changes: Any) -> Search:
        """The search that `ard.compress` makes, with the banks of this benchmark."""
        return replace(
            Search(
                self.generator,
                self.latents,
                Evaluators(self.single, self.joint, self.joint),
                run=Run(progress=progress),
            ),
            **changes,
        )

    @property
    def layers(self) -> tuple[LayerProfile, ...]:
        return tuple(p for p in self.prepared.parts if isinstance(p, LayerProfile))

    @property
    def _config(self) -> MeasuringConfig:
        return MeasuringConfig(threads=self.effort.threads)

    @property
    def fid_dense(self) -> float:
        return self.joint.dense_value

    # -- how plans become generators

    def build_ours(self, plan: RankPlan) -> nn.Module:
        return self.prepared.assemble(plan)

    def build_plain(self, plan: RankPlan) -> nn.Module:
        """As the peers do: factors of the weights alone, batch statistics corrected."""
        if plan == DENSE:
            return self.generator
        factorized = apply_plan(self.generator, plan)
        moments = self.prepared.assemble.moments
        return correct_batchnorm(
            factorized, self.generator, self.moment_latents, dense_moments=moments
        )

    def build_published(self, plan: RankPlan) -> nn.Module:
        """CP from a random start; the fault in the linear layers mended."""
        if plan == DENSE:
            return self.generator
        factorized = published_generator(self.generator, plan, seed=0, linear_fault=False)
        moments = self.prepared.assemble.moments
        return correct_batchnorm(
            factorized, self.generator, self.moment_latents, dense_moments=moments
        )

    def recover(self, factorized: nn.Module) -> nn.Module:
        """What `ard.compress` does with a plan that is not recovered in stages."""
        if not self.setting.checkpoint.holds_discriminator:
            return self.distil(factorized, self.effort.recover_steps, feature_weight=0.0)
        distilled = self.distil(factorized, self.effort.recover_steps)
        return self.fine_tune(distilled, self.effort.polish_steps, self.real)

    def distil(
        self, start: nn.Module, n_steps: int, feature_weight: float = FEATURE_WEIGHT
    ) -> nn.Module:
        """Updates towards the dense generator's images and what the discriminator sees of them."""
        distance: Distance = image_distance
        if feature_weight:
            distance = feature_distance(self.discriminator, feature_weight)
        return recover(
            start,
            self.generator,
            Recovery(n_steps, self.effort.recover_batch, seed=4),
            latents=StepLatents(4, self.effort.recover_batch, self.setting.interface),
            selection=self.setting.latents(64, 5),
            score=self.score,
            distance=distance,
        )

    def fine_tune(self, start: nn.Module, n_steps: int, real: Callable[[int], Batch]) -> nn.Module:
        """Updates against the discriminator."""
        return fine_tune(
            start,
            self.discriminator,
            FineTuning(n_steps, self.effort.recover_batch, seed=8),
            real=real,
            latents=StepLatents(8, self.effort.recover_batch, self.setting.interface),
            score=self.score,
        )

    @cached_property
    def discriminator(self) -> nn.Module:
        """The one that the generator was trained against."""
        discriminator = build_saved_discriminator(self.setting.checkpoint)
        assert discriminator is not None, "the shipped checkpoints hold theirs"
        return discriminator

    @cached_property
    def real(self) -> ShuffledBatches:
        """Batches of the data that the generator was trained on."""
        load = self.setting.load_images
        assert load is not None, "the shipped checkpoints name their data set"
        return ShuffledBatches(load(), self.effort.recover_batch, seed=9)

    def score(self, network: nn.Module) -> float:
        return self.single(Candidate.finished(network)).value

    # -- tables of single layers, for the ways that need one

    def table(
        self, way: str, choices: Sequence[tuple[str, Factorization]], build: Build
    ) -> SensitivityTable:
        """Scores of single layers, remembered in the work folder."""
        plans = [DENSE, *single_layer_plans(choices)]
        journal = FileJournal(self.work / f"{self.name}-{way}.jsonl", asdict(self.effort))
        with progress(f"{self.name}: {way}, single layers", len(plans)) as advance:
            dense, *singles = sweep(
                plans, Measure(build, self.single), SerialExecutor(), journal, on_measured=advance
            )
        scores: dict[tuple[str, Replacement], Score] = {
            c: m.score for c, m in zip(choices, singles, strict=True)
        }
        return SensitivityTable.of(dense.score, scores, self.layers)

    def published_choices(self) -> list[tuple[str, Factorization]]:
        """The published grid, its convolution ranks scaled to the width of this net."""
        choices = []
        for layer in self.layers:
            if layer.kind == "linear":
                largest = layer.max_rank("svd")[0]
                ranks = [r for r in PUBLISHED_LINEAR if r <= largest]
                choices += [(layer.name, Factorization("svd", (r,))) for r in ranks]
            elif layer.kind == "conv2d":  # it has no recipe for a transposed convolution
                width = max(layer.shape[:2])
                for multiple in PUBLISHED_CONV:
                    choice = Factorization("cp", (int(multiple * width),))
                    if layer.params(choice) < layer.params():
                        choices.append((layer.name, choice))
        return choices

    def plain_choices(self) -> list[tuple[str, Factorization]]:
        """What AIMET's greedy search looks at: spatial SVD, or SVD, at a few ratios."""
        return [
            (layer.name, choice)
            for layer in self.layers
            for method in ("spatial_svd", "svd")
            for choice in layer.rank_grid(method, (0.6, 0.4, 0.25, 0.15, 0.08))
        ]

    # -- the ways to choose ranks

    def ways(self) -> Mapping[str, tuple[Build, Callable[[], list[tuple[float, RankPlan]]]]]:
        """Name to how it builds, and a function that gives its plans with their settings."""
        weights = {
            layer.name: self.generator.get_parameter(f"{layer.name}.weight").detach()
            for layer in self.layers
        }
        dense = sum(layer.params() for layer in self.layers)

        def published() -> list[tuple[float, RankPlan]]:
            choices = self.published_choices()
            if not choices:
                return []
            table = self.table("published", choices, self.build_published)
            plans = penalty_plans(table, self.layers, PENALTIES)
            return list(zip(PENALTIES, plans, strict=True))

        def aimet() -> list[tuple[float, RankPlan]]:
            table = self.table("greedy", self.plain_choices(), self.build_plain)
            return [(s, greedy(table, self.layers, params_cost, s * dense)) for s in SHARES]

        widest = max(max(layer.shape[:2]) for layer in self.layers if layer.kind != "linear")
        ranks = [max(1, round(widest * share)) for share in (2, 1.5, 1, 0.75, 0.5, 0.35, 0.25)]
        return {
            "published": (self.build_published, published),
            "uniform rank": (
                self.build_plain,
                lambda: [(r, uniform_rank(self.layers, r, "spatial_svd")) for r in ranks],
            ),
            "uniform ratio": (
                self.build_plain,
                lambda: [(s, uniform_ratio(self.layers, s, "spatial_svd")) for s in SHARES],
            ),
            "energy": (
                self.build_plain,
                lambda: [
                    (e, energy_threshold(self.layers, weights, e, "spatial_svd")) for e in ENERGIES
                ],
            ),
            "EVBMF": (
                self.build_plain,
                lambda: [(w, evbmf(self.layers, weights, "tucker2", w)) for w in WEAKENINGS],
            ),
            "greedy": (self.build_plain, aimet),
            "random": (self.build_plain, self._random),
        }

    def _random(self) -> list[tuple[float, RankPlan]]:
        grid: dict[str, list[Factorization]] = {}
        for name, choice in self.plain_choices():
            grid.setdefault(name, []).append(choice)
        plans = random_plans(self.layers, grid, 6, torch.Generator().manual_seed(0))
        return [(float(i), plan) for i, plan in enumerate(plans)]

    # -- measuring

    def point(self, way: str, value: float, plan: RankPlan, build: Build, again: bool) -> Point:
        """Build and score a plan, and with `again` recover and score it again; remembered."""
        memory = self.work / f"{self.name}-points.jsonl"
        key = [way, plan.to_json(), again, asdict(self.effort)]
        for line in memory.read_text().splitlines() if memory.exists() else ():
            known = json.loads(line)
            if known["key"] == key:
                return Point(**known["point"])
        factorized = build(plan)
        before = self.evaluate(factorized)
        after = self.evaluate(self.recover(factorized)) if again else None
        point = self.describe(way, value, plan, before, after)
        memory.parent.mkdir(parents=True, exist_ok=True)
        with memory.open("a") as file:
            file.write(json.dumps({"key": key, "point": asdict(point)}) + "\n")
        return point

    def evaluate(self, network: nn.Module) -> Score:
        return self.joint(Candidate.finished(network))

    def describe(
        self,
        way: str,
        value: float,
        plan: RankPlan,
        before: Score | None,
        after: Score | None,
    ) -> Point:
        profile = self.prepared.profile
        params, macs = plan_params(profile, plan), plan_macs(profile, plan)
        return Point(
            way,
            value,
            params,
            macs,
            profile.total_params / params,
            profile.total_macs / macs,
            scores(before) if before else None,
            scores(after) if after else None,
        )


Build = Callable[[RankPlan], nn.Module]


def scores(e: Score) -> dict[str, float]:
    return {"delta_fid": e.rise, "ci_low": e.ci_low, "ci_high": e.ci_high}


def open_bench(name: str, effort: Effort, work: Path) -> RankBench:
    """One of `NETS`, ready to measure."""
    torch.set_num_threads(effort.threads)
    # Weights that a training drove to almost nothing make a CPU ten times slower.
    torch.set_flush_denormal(True)
    net = NETS[name]
    config = MeasuringConfig(samples=effort.samples, threads=effort.threads, **net.options)
    opened = open_generator(net.path, config)
    setting = load_setting(opened, config, run_dir=work / name, progress=progress)
    return RankBench(name, setting, effort, work)


def machine() -> dict[str, Any]:
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }
