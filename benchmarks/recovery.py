"""ΔFD of a factorized generator against training steps: ours, its options, the published way.

    python benchmarks/recovery.py

One plan (spatial SVD, SVD for matrices, a quarter of every layer's parameters) and one start for
all, scored on the same latents. Ours distils the images and the features that the checkpoint's
discriminator has of them for half of the updates, and trains on against that discriminator for the
other half: with the data set, and with the dense generator's images where there is none. Either
part of it is also run alone. The published fine-tuning trains on against the discriminator and real
images, with a rate of 1e-8 for the factors, which amounts to freezing them; it is also run with its
factors trained.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rank_bench import FULL, NETS, RESULTS, Effort, RankBench, machine, open_bench, scores
from torch import nn

from ard.plan import RankPlan
from ard.recovery.adversarial import UPPER_BOUND, batches_of
from ard.recovery.distillation import Recovery, parameter_groups
from nas_gan.cli import progress
from nas_gan.files import write_json
from nas_gan.losses import make_loss
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.draws import Batch, StepLatents
from nas_gan.training.learner import Learner
from nas_gan.training.loop import run_training
from nas_gan.training.schedule import Schedule
from nas_gan.training.steps import AdversarialStep, Batches
from nas_gan.training.upper_bound import UpperBoundSchedule

FACTOR_RATE = 1e-8  # of the published recipe
RATE = 2e-4  # of everything else in it


def quarter_plan(bench: RankBench, share: float) -> RankPlan:
    """Every layer at a share of its parameters."""
    choices = {}
    for layer in bench.layers:
        method = "spatial_svd" if "spatial_svd" in layer.methods() else "svd"
        for choice in layer.rank_grid(method, (share,)):
            choices[layer.name] = choice
    return RankPlan(choices)


def fine_tuned(bench: RankBench, start: nn.Module, n_steps: int, factor_rate: float) -> nn.Module:
    """The published fine-tuning; the average over the updates is what is scored."""
    student = copy.deepcopy(start).requires_grad_(True)
    judge = copy.deepcopy(bench.discriminator).requires_grad_(True)
    average = ExponentialMovingAverage(student, 0.98)
    settings = Recovery(lr=RATE, factor_lr=factor_rate)
    betas = (0.0, 0.9)
    groups = parameter_groups(student, bench.generator, settings)
    g_optimizer = torch.optim.Adam(groups, RATE, betas)
    run_training(
        AdversarialStep(
            Learner(student, g_optimizer),
            Learner(judge, torch.optim.Adam(judge.parameters(), RATE, betas)),
            make_loss("latest"),
            average=average,
            upper_bound=UpperBoundSchedule("geometric", UPPER_BOUND, UPPER_BOUND),
            batches=Batches(
                bench.real, StepLatents(4, bench.effort.recover_batch, bench.setting.interface)
            ),
            schedule=Schedule(n_steps, updates_per_epoch=n_steps),
        ),
        n_steps=n_steps,
    )
    return average.average.eval().requires_grad_(False)


def measure(bench: RankBench, steps: Sequence[int], share: float) -> dict[str, object]:
    plan = quarter_plan(bench, share)
    start = bench.build_ours(plan)
    draw = StepLatents(10, bench.effort.recover_batch, bench.setting.interface)

    drawn = batches_of(bench.generator, draw, bench.setting.interface)

    def ours(n_steps: int, real: Callable[[int], Batch]) -> nn.Module:
        half = bench.distil(start, n_steps // 2)
        return bench.fine_tune(half, n_steps - n_steps // 2, real)

    ways: dict[str, Callable[[int], nn.Module]] = {
        "ours": lambda n: ours(n, bench.real),
        "ours, without data": lambda n: ours(n, drawn),
        "distilled": lambda n: bench.distil(start, n),
        "distilled, images alone": lambda n: bench.distil(start, n, 0.0),
        "fine-tuned": lambda n: bench.fine_tune(start, n, bench.real),
        "published": lambda n: fine_tuned(bench, start, n, FACTOR_RATE),
        "published, factors trained": lambda n: fine_tuned(bench, start, n, RATE),
    }
    plain, before = bench.evaluate(bench.build_plain(plan)), bench.evaluate(start)
    curves: dict[str, list[dict[str, float]]] = {}
    with progress(bench.name, len(ways) * len(steps)) as advance:
        for name, train in ways.items():
            curves[name] = [{"steps": 0, **scores(before)}]
            for n_steps in steps:
                curves[name].append({"steps": n_steps, **scores(bench.evaluate(train(n_steps)))})
                advance(1)
    return {
        "net": bench.name,
        "fid_dense": bench.fid_dense,
        "effort": asdict(bench.effort),
        "plan": {name: str(choice) for name, choice in plan.items()},
        "plain_factors": scores(plain),
        "closed_form": scores(before),
        "curves": curves,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="mmd-nas", choices=list(NETS))
    parser.add_argument("--steps", nargs="+", type=int, default=[60, 180])
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="sizes for a GPU")
    parser.add_argument("--out", type=Path, default=RESULTS / "recovery.json")
    options = parser.parse_args()
    effort = replace(FULL if options.full else Effort(), threads=options.threads)
    bench = open_bench(options.net, effort, Path("runs/bench"))
    result = {"machine": machine(), **measure(bench, options.steps, options.share)}
    write_json(options.out, result)
    print(json.dumps(result["curves"], indent=1))


if __name__ == "__main__":
    main()
