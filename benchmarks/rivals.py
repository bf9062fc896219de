"""Question: does any rival make a better small net than ours, by parameters or by time?

The bar: no rival's point lies below our curve of ΔFD, against parameters or against time.

    OMP_NUM_THREADS=1 python benchmarks/rivals.py --runs runs/rivals           # an hour on one core
    OMP_NUM_THREADS=1 python benchmarks/rivals.py --runs runs/rivals --full    # days
    OMP_NUM_THREADS=1 python benchmarks/rivals.py --runs /tmp/tiny --tiny      # does it run?

Every side makes a net of about a third, a fifth and an eighth of the parameters:

- ours: the plan of that size from the ladder of `ard.compress`, gates included;
- Torch-Pruning: channels pruned in three stages with distillation between them. Of its importances
  and of ranking within a layer or among all, it has what distorts the images least at the middle
  size. Before it, `Linear -> view` becomes a transposed convolution;
- student: the same architecture, narrower, from scratch;
- AIMET: its greedy selection, spatial SVD, and weight SVD for the layers that spatial SVD refuses;
- tltorch: the CP of every layer, each with the same share of its weights.

All of them then get the recovery of `ard.compress` (distillation, and as many updates against the
discriminator) with the same latents, images and number of updates; what a rival trains before it
is taken off. Batch norms of rivals measure their own statistics first. Of several learning rates
of the distillation each has the best by the score of a bank that does not judge it; without
`--full` they are tried at the middle size. All are scored on the same held-out latents. The graphs
take turns in ONNX Runtime, one thread: times are ratios to the rewritten dense graph.

A rival whose package is missing is left out, and the result says so. AIMET wants an old bokeh, so
give it an environment of its own. A run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from rival_nets import (
    Pruning,
    aimet_svd,
    n_params,
    narrower,
    pruned,
    prunings,
    uniform_cp,
    with_linear,
    without_views,
)
from torch import Tensor, nn

from ard.compress import CompressConfig
from ard.measuring.evaluate import Candidate
from ard.measuring.executors import SerialExecutor
from ard.measuring.metric import MetricEvaluator
from ard.pipeline import Prepared, measure_sensitivities, prepare
from ard.plan import DENSE, RankPlan
from ard.recovery.recover import Building, Recover
from ard.report.summary import plan_params
from ard.search.ladder import Ladder, Rung
from ard.session.recovering import discriminator_of, loss_of, open_recovery
from ard.session.search import Session, check_evaluator, open_session
from edge_bench.asked import RunSettings
from edge_bench.runners import OnnxRuntimeRunner
from edge_bench.statistics import ratio_of_medians
from edge_bench.timing import TimingPlan
from edge_bench.timing import measure as measure_times
from export.rewrites import rewrite
from export.to_onnx import build_model
from nas_gan.cli import progress, say
from nas_gan.errors import NasGanError
from nas_gan.files import atomic_path, write_json
from nas_gan.losses import make_loss
from nas_gan.networks.latents import latents_of
from nas_gan.networks.standing import with_standing_statistics
from nas_gan.reading import read_json
from nas_gan.tables import text_table

RESULTS = Path(__file__).parent / "results"
OURS = "ours"
# The package that each side needs, beside the project.
PACKAGES = {
    OURS: None,
    "Torch-Pruning": "torch_pruning",
    "student": None,
    "AIMET": "aimet_torch",
    "tltorch": "tltorch",
}
PRUNING_STAGES = 3
PICTURES = {"params": "parameters of the dense net", "time": "time of the dense net"}
Row = dict[str, Any]
Point = tuple[float, float]  # a share of the dense net's cost, and a rise


@dataclass(frozen=True)
class Settings:
    """Sizes of a run.

    Attributes:
        fewer: how many times fewer parameters.
        updates: of a recovery, both halves together.
        rates: peak learning rates of the distillation, the library's own first.
        seeds: of the recovery.
        rates_everywhere: whether rates are tried at every size, and not at the middle one only.
        samples: images per score; 0 for the library's own number.
        sweep_samples: images per score of a single layer, and of what chooses a learning rate.
        fractions: of a layer's weights, that the ladder's plans may leave.
        batch: images per update.
        candidates: AIMET's number of ratios.
        timed_seconds: per graph and batch size.
    """

    fewer: tuple[float, ...] = (5.0, 3.0, 8.0)
    updates: tuple[int, ...] = (200,)
    rates: tuple[float, ...] = (5e-4, 2e-3)
    seeds: tuple[int, ...] = (0,)
    rates_everywhere: bool = False
    samples: int = 2560
    sweep_samples: int = 400
    fractions: tuple[float, ...] = (0.5, 0.3, 0.18, 0.1, 0.06)
    batch: int = 16
    candidates: int = 10  # the harshest leaves a tenth of a layer
    timed_seconds: float = 2.0


FULL = Settings(
    updates=(200, 600, 1500), rates=(5e-4, 2e-4, 2e-3), seeds=(0, 1), rates_everywhere=True,
    samples=5120, candidates=20, timed_seconds=10.0,
)  # fmt: skip
TINY = Settings(
    fewer=(5.0,), updates=(4,), rates=(5e-4,), samples=64, sweep_samples=32, batch=4, candidates=2,
    fractions=(0.18,),
    timed_seconds=0.1,
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One net that is recovered and scored."""

    rival: str
    fewer: float
    updates: int
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its files."""
        rate = f"{self.rate:g}".replace(".", "_")
        return f"{self.rival}-{self.fewer:g}x-{self.updates}-{rate}-{self.seed}"


# -- the sides


@dataclass(frozen=True, eq=False)
class Arena:
    """One dense net, and what all sides share."""

    session: Session
    config: CompressConfig
    settings: Settings
    folder: Path

    @cached_property
    def dense(self) -> nn.Module:
        return self.session.search.generator

    @cached_property
    def total(self) -> int:
        return n_params(self.dense)

    @cached_property
    def latents(self) -> Tensor:
        """Behind everything that is measured before a recovery."""
        return self.session.search.latents

    @cached_property
    def prepared(self) -> Prepared:
        return prepare(self.session.search, self.session.profile)

    @cached_property
    def rungs(self) -> tuple[Rung, ...]:
        table = measure_sensitivities(self.session.search, self.prepared)
        return Ladder(table, self.prepared.parts, self.session.search.cost).rungs()

    def error(self, network: nn.Module) -> float:
        """How far a network moves the features of a few images: a cheap stand-in for a score."""
        proxy = self.session.search.evaluators.proxy
        assert proxy is not None, "a search with anchors has one"
        return proxy(Candidate.finished(network)).value

    def adversarial(self, images: Tensor) -> Tensor:
        """The generator's loss against the discriminator, with the dense net's images as real."""
        discriminator = discriminator_of(self.config, self.session.setting)
        assert discriminator is not None, "Taylor importances need one"
        real = discriminator(self.dense(self.latents[: len(images)])).detach()
        loss = make_loss(loss_of(self.session.setting.checkpoint))
        return loss.generator(real, discriminator(images))

    @cached_property
    def check(self) -> MetricEvaluator:
        """What chooses the best state within a recovery."""
        single = cast(MetricEvaluator, self.session.search.evaluators.single)
        return check_evaluator(self.config, self.session.setting, single)

    @cache  # noqa: B019 - one arena a process; its teacher's images are remembered
    def recovery(self, distilled: int, polished: int, rate: float, seed: int) -> Recover:
        """The recovery of `ard.compress` with so many updates."""
        config = replace(
            self.config, recover_steps=distilled, polish_steps=polished, recover_lr=rate,
            seed=self.config.seed + 1000 * seed,
        )  # fmt: skip
        prepared = open_recovery(config, self.session.setting)
        return prepared(self.folder, self.check).store.recover

    # -- what each makes, recovered

    def made(self, job: Job) -> nn.Module:
        """The recovered net of a job."""
        target = round(self.total / job.fewer)
        half = job.updates // 2
        if job.rival == OURS:
            plan = self.plan_of(target)
            return self.recovery(half, job.updates - half, job.rate, job.seed)(
                Building(self.prepared.assemble, plan), plan
            )
        if job.rival == "Torch-Pruning":
            return self._pruned_in_stages(job, target)
        start = {
            "student": lambda: narrower(self.dense, target, job.seed),
            "tltorch": lambda: uniform_cp(self.dense, target),
            "AIMET": lambda: aimet_svd(
                self.dense,
                1 / job.fewer,
                self.error,
                self.folder / "aimet",
                self.settings.candidates,
            ),
        }[job.rival]()
        start = self._measured(start)
        return self._recovered(start, half, job.updates - half, job)

    def plan_of(self, target: int) -> RankPlan:
        """The plan of the ladder with the number of parameters nearest to the target."""
        profile = self.prepared.profile
        return min(
            (rung.plan for rung in self.rungs if rung.plan != DENSE),
            key=lambda plan: abs(np.log(plan_params(profile, plan) / target)),
        )

    def _measured(self, network: nn.Module) -> nn.Module:
        """With its own batch statistics: a recovery keeps them, and the dense net's are wrong."""
        return with_standing_statistics(network, self.latents)

    def _recovered(self, start: nn.Module, distilled: int, polished: int, job: Job) -> nn.Module:
        made = Building(lambda plan, base: start, DENSE)
        return self.recovery(distilled, polished, job.rate, job.seed)(made, DENSE)

    @cached_property
    def pruning(self) -> Pruning:
        """The ranking of channels that harms the images least at the middle size."""
        target = round(self.total / self.settings.fewer[0])
        path = self.folder / "pruning.json"
        if not path.exists():
            errors = {
                how: self.error(self._measured(self._pruned(self._followed, target, how)))
                for how in prunings()
            }
            best = min(errors, key=errors.__getitem__)
            write_json(
                path, {"best": asdict(best), "errors": {str(h): e for h, e in errors.items()}}
            )
        return Pruning(**read_json(path)["best"])

    @cached_property
    def _followed(self) -> nn.Module:
        return without_views(self.dense)

    def _pruned(self, network: nn.Module, target: int, how: Pruning) -> nn.Module:
        return pruned(network, target, how, self.latents[:16], self.adversarial)

    def _pruned_in_stages(self, job: Job, target: int) -> nn.Module:
        half = job.updates // 2
        network, size = self._followed, float(self.total)
        ratio = (target / self.total) ** (1 / PRUNING_STAGES)
        for stage in range(1, PRUNING_STAGES + 1):
            size *= ratio
            network = self._pruned(network, round(size), self.pruning)
            network = self._measured(network)
            if stage < PRUNING_STAGES:
                network = self._recovered(network, half // PRUNING_STAGES, 0, job)
        left = half - (PRUNING_STAGES - 1) * (half // PRUNING_STAGES)
        return self._recovered(with_linear(network), left, job.updates - half, job)


# -- measuring


def result_of(arena: Arena, job: Job) -> Row:
    """What a job gave; remembered, with its graph, in the folder."""
    path = arena.folder / f"{job.name}.json"
    if not path.exists():
        started = time.process_time()
        network = arena.made(job)
        seconds = time.process_time() - started
        onnx.save(rewrite(build_model(network, rewrites=())), path.with_suffix(".onnx"))
        candidate = Candidate.finished(network)
        row = {
            **asdict(job),
            "params": n_params(network),
            "chosen_by": arena.session.search.evaluators.single(candidate).rise,
            "processor_seconds": seconds,
        }
        score = arena.session.search.evaluators.final(candidate)
        row |= {"rise": score.rise, "ci_low": score.ci_low, "ci_high": score.ci_high}
        write_json(path, row)
    return dict(read_json(path))


def measure(arena: Arena, rivals: Sequence[str], tell: Callable[[list[Row]], None]) -> list[Row]:
    """The best row of each rival, size, number of updates and seed, the middle size first.

    `tell` is called with the rows so far after each.
    """
    settings = arena.settings
    rows: list[Row] = []
    best_rate: dict[tuple[str, int, int], float] = {}
    for fewer in settings.fewer:
        for updates in settings.updates:
            for seed in settings.seeds:
                for rival in rivals:
                    known = best_rate.get((rival, updates, seed))
                    rates = settings.rates
                    if known is not None and not settings.rates_everywhere:
                        rates = (known,)
                    tried = [
                        result_of(arena, Job(rival, fewer, updates, rate, seed)) for rate in rates
                    ]
                    best = min(tried, key=lambda row: row["chosen_by"])
                    best_rate.setdefault((rival, updates, seed), best["rate"])
                    rows.append(best)
                    tell(rows)
    return rows


def timed(arena: Arena, rows: Sequence[Row]) -> list[Row]:
    """The rows with the speed of their graphs, all in turns with the dense one."""
    dense = arena.folder / "dense.onnx"
    if not dense.exists():
        onnx.save(rewrite(build_model(arena.dense, rewrites=())), dense)
    names = [
        Job(*(row[f] for f in ("rival", "fewer", "updates", "rate", "seed"))).name for row in rows
    ]
    paths = [dense, *(arena.folder / f"{name}.onnx" for name in names)]
    bank = latents_of(arena.session.setting.interface, 16, 0).numpy()
    plan = TimingPlan(
        runs=20, warmup=3, block=2, duration_s=arena.settings.timed_seconds, max_warmup_s=1.0
    )
    found: list[Row] = [{**row, "speed": {}} for row in rows]
    with ExitStack() as stack, progress("timing graphs", 2) as advance:
        runners = [stack.enter_context(OnnxRuntimeRunner(p, RunSettings(1))) for p in paths]
        for batch in (1, 16):
            feeds = [(bank,)] * len(paths)
            first, *others = measure_times(runners, feeds, [batch], time.perf_counter_ns, plan)
            for row, other in zip(found, others, strict=True):
                row["speed"][str(batch)] = {
                    "wall": asdict(_ratio(first.times_ns, other.times_ns)),
                    "processor": asdict(
                        _ratio(first.processor_ns[:, None], other.processor_ns[:, None])
                    ),
                }
            advance(1)
    return found


def _ratio(dense_ns: Any, small_ns: Any) -> Any:
    return ratio_of_medians(dense_ns / 1e3, small_ns / 1e3, np.random.default_rng(0))


# -- the verdict


def share_of(row: Row, picture: str, total: int) -> float:
    """The cost of a row as a share of the dense net's: of its parameters, or of its time."""
    if picture == "params":
        return float(row["params"]) / total
    return 1 / float(row["speed"]["1"]["processor"]["value"])


def height(curve: Sequence[Point], share: float) -> float | None:
    """The rise of a curve at a share: of a net of that size, or of a smaller one if that is lower.

    Between two points the curve is straight over the logarithm of the share. It ends in the dense
    net, a share of 1 without a rise, and is None where it has no point as small.
    """
    points = sorted([*curve, (1.0, 0.0)])
    if share < points[0][0]:
        return None
    smaller = [rise for at, rise in points if at <= share]
    shares, rises = zip(*points, strict=True)
    between = float(np.interp(np.log(share), np.log(shares), rises))
    return min(between, *smaller)


def below(rows: Sequence[Row], picture: str, total: int) -> list[Row]:
    """Where a rival lies below our curve, or is smaller than any of ours: its row and the curve.

    Curves are of the same number of updates and seed. `clear` says that the whole interval lies
    below.
    """
    found = []
    for row in rows:
        if row["rival"] == OURS:
            continue
        curve = [
            (share_of(other, picture, total), other["rise"])
            for other in rows
            if other["rival"] == OURS
            and (other["updates"], other["seed"]) == (row["updates"], row["seed"])
        ]
        ours = height(curve, share_of(row, picture, total))
        if ours is None or row["rise"] < ours:
            found.append(
                {
                    **{key: row[key] for key in ("rival", "fewer", "updates", "seed", "rise")},
                    "picture": picture,
                    "share": share_of(row, picture, total),
                    "ours": ours,
                    "clear": ours is not None and row["ci_high"] < ours,
                }
            )
    return found


# -- output


def draw(rows: Sequence[Row], picture: str, total: int, path: Path) -> None:
    """ΔFD against a share of the dense net's cost, for the longest recovery."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

    most = max(row["updates"] for row in rows)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, rival in enumerate(dict.fromkeys(row["rival"] for row in rows)):
        of_rival = [r for r in rows if (r["rival"], r["updates"]) == (rival, most)]
        for nth, seed in enumerate(dict.fromkeys(row["seed"] for row in of_rival)):
            points = sorted(
                (share_of(r, picture, total), r["rise"], r["ci_low"], r["ci_high"])
                for r in of_rival
                if r["seed"] == seed
            )
            shares, rises, lows, highs = (np.array(column) for column in zip(*points, strict=True))
            axes.errorbar(
                shares,
                rises,
                yerr=np.stack([rises - lows, highs - rises]),
                fmt="os^Dv"[number % 5] + "-",
                color=f"C{number}",
                linewidth=2.5 if rival == OURS else 1.2,
                label=rival if nth == 0 else None,
                capsize=2,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("symlog", linthresh=10)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(top=2 * max(row["rise"] for row in rows))
    axes.set_xlabel(f"share of the {PICTURES[picture]}")
    axes.set_ylabel(f"rise of the Fréchet distance\nafter {most} updates")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def show(result: Mapping[str, Any]) -> None:
    """The table and the verdict on stdout."""
    columns = ["side", "fewer", "updates", "rate", "seed", "ΔFD", "95 %", "batch 1", "batch 16"]
    cells = []
    for row in result["rows"]:
        speed = row.get("speed", {})
        cells.append(
            [
                row["rival"],
                f"{result['params'] / row['params']:.1f}x",
                str(row["updates"]),
                f"{row['rate']:g}",
                str(row["seed"]),
                f"{row['rise']:+.1f}",
                f"{row['ci_low']:+.1f} to {row['ci_high']:+.1f}",
                *(
                    f"{speed[b]['processor']['value']:.2f}x" if b in speed else ""
                    for b in ("1", "16")
                ),
            ]
        )
    sys.stdout.write(text_table(columns, cells) + "\n")
    for rival, reason in result["missing"].items():
        sys.stdout.write(f"{rival} is left out: {reason}\n")
    for row in result.get("below", ()):
        ours = "smaller than any of ours" if row["ours"] is None else f"ours {row['ours']:+.1f}"
        sys.stdout.write(
            f"below our curve of {row['picture']}: {row['rival']} {row['fewer']:g}x, "
            f"{row['rise']:+.1f} ({ours})\n"
        )


def available(rivals: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those whose package is installed, and for the others what is missing."""
    found, missing = [], {}
    for rival in rivals:
        package = PACKAGES[rival]
        if package is None or importlib.util.find_spec(package) is not None:
            found.append(rival)
        else:
            missing[rival] = f"the package {package} is not installed"
    return found, missing


def open_arena(options: argparse.Namespace, settings: Settings) -> Arena:
    """The dense net, and everything that scores it."""
    name = f"s{settings.samples}-{settings.sweep_samples}-b{settings.batch}"
    config = CompressConfig(
        checkpoint=options.checkpoint,
        run_dir=options.runs / f"search-{name}",
        fid_budget="20%",
        objective="mixed",
        weights=("params=1", "latency=2"),
        samples=settings.samples,
        sweep_samples=settings.sweep_samples,
        fractions=settings.fractions,
        anchors=12,
        recover_steps=100,
        recover_batch=settings.batch,
        max_rounds=1,
        threads=1,
        latency_table=options.latency_table,
    )
    session = open_session(config, say, SerialExecutor())
    folder = options.runs / f"rivals-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    return Arena(session, config, settings, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("zoo:fashion_mnist"))
    parser.add_argument("--runs", type=Path, default=Path("runs/rivals"), help="resumes here")
    parser.add_argument("--latency-table", type=Path, help="times of the layers, if known")
    parser.add_argument("--rivals", nargs="+", default=list(PACKAGES), choices=list(PACKAGES))
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--full", action="store_true", help="three rates and lengths, two seeds")
    sizes.add_argument("--tiny", action="store_true", help="a few updates: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    settings = FULL if options.full else TINY if options.tiny else Settings()
    rivals, missing = available(options.rivals)
    try:
        arena = open_arena(options, settings)
    except NasGanError as error:
        parser.error(str(error))
    result: dict[str, Any] = {
        "machine": {
            "machine": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "load_at_start": os.getloadavg()[0],
            **{name: version(name) for name in ("torch", "onnxruntime")},
        },
        "checkpoint": str(options.checkpoint),
        "settings": asdict(settings),
        "params": arena.total,
        "distance": arena.session.setting.distance,
        "features": arena.session.setting.extractor.name,
        "dense": arena.session.dense,
        "missing": missing,
        "packages": {r: version(_distribution(r)) for r in rivals if PACKAGES[r]},
    }

    def keep(rows: list[Row]) -> None:
        write_json(arena.folder / "so_far.json", result | {"rows": rows})
        row = rows[-1]
        say(f"{row['rival']} {row['fewer']:g}x, {row['params']} parameters: {row['rise']:+.1f}")

    rows = timed(arena, measure(arena, rivals, keep))
    result["rows"] = rows
    if "Torch-Pruning" in rivals:
        result["pruning"] = read_json(arena.folder / "pruning.json")
    result["below"] = [row for picture in PICTURES for row in below(rows, picture, arena.total)]
    write_json(options.out / "rivals.json", result)
    for picture in PICTURES:
        draw(rows, picture, arena.total, options.out / f"rivals_{picture}.png")
    show(result)


def _distribution(rival: str) -> str:
    return {"tltorch": "tensorly-torch", "AIMET": "aimet-torch"}.get(rival, "torch-pruning")


if __name__ == "__main__":
    main()
