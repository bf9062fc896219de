"""The last round of a search: its most probable architectures, each trained from scratch.

How good an architecture is with the weights of the supernet hardly tells how good it will be with
its own (Yu et al., Evaluating the Search Phase of Neural Architecture Search, ICLR 2020). So some
are trained, and the FID chooses among them: all for a while, the best third three times as long,
and so on (successive halving; Jamieson and Talwalkar, AISTATS 2016).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.derivation import derive_generator
from nas_gan.architecture_search.relaxation import gumbel_noise
from nas_gan.data.images import Images
from nas_gan.errors import DivergedError
from nas_gan.files import write_text
from nas_gan.networks.genotype import Genotype, Table
from nas_gan.settings import settings_but
from nas_gan.training.config import TrainConfig
from nas_gan.training.log import read_log
from nas_gan.training.measuring import Measure
from nas_gan.training.run import train
from nas_gan.training.seeds import Stream

FINALISTS, FINALIST = "finalists", "finalist.json"
# One finalist of so many goes on, to so many times the steps.
ETA = 3
# Settings of a training of its own; any other that both have, it has from the search.
_OWN = (
    *("config", "run_dir", "steps", "upper_bound"),
    *("eval_every", "eval_metrics", "best_gain", "on_finish"),
)
# Draws per finalist: once the parameters are sure of an architecture, there are no others to draw.
MAX_DRAWS = 100


@dataclass(frozen=True)
class Finalist:
    """An architecture after its training, in a directory of its own.

    Attributes:
        genotype: the architecture.
        run_dir: the directory of its training, an ordinary run.
        steps: how long it was trained.
        fid: its FID after them; infinite if the training diverged.
        fid_se: the standard error of the FID.
    """

    genotype: Genotype
    run_dir: Path
    steps: int
    fid: float
    fid_se: float

    def to_json(self) -> str:
        """One line that `Genotype.from_json` reads too."""
        return self.genotype.to_json(steps=self.steps, fid=self.fid, fid_se=self.fid_se)


def rounds_of(n: int, steps: int) -> tuple[tuple[int, int], ...]:
    """How many finalists each round has, and after how many steps in all it ends.

    >>> rounds_of(8, 250)
    ((8, 250), (3, 750))
    """
    found: list[tuple[int, int]] = []
    while not found or n > 1:
        found.append((n, steps))
        n, steps = math.ceil(n / ETA), ETA * steps
    return tuple(found)


def updates_of(n: int, steps: int) -> int:
    """The training steps of all finalists together.

    >>> updates_of(8, 250)
    3500
    """
    total = before = 0
    for left, after in rounds_of(n, steps):
        total, before = total + left * (after - before), after
    return total


def draw_finalists(
    normal: Tensor, up: Tensor, table: Table, n: int, seed: int, best: Genotype | None = None
) -> tuple[Genotype, ...]:
    """Up to `n` different genotypes: the most probable one, `best`, and others drawn at random.

    An operation is drawn by its probability, the softmax of the architecture parameters.

    Args:
        normal: architecture parameters `(3, 5, 7)` of the operations within cells.
        up: those of the upsampling operations, `(3, 2, up operations)`.
        table: the upsampling operations to choose from.
        n: how many genotypes.
        seed: seed of the draws.
        best: a genotype that was measured along the way.
    """
    rng = np.random.default_rng([seed + Stream.FINALISTS])
    found = dict.fromkeys([derive_generator(normal, up, table), *([best] if best else [])])
    for _ in range(MAX_DRAWS * n):
        if len(found) >= n:
            break
        # The largest of log-probabilities with Gumbel noise is a draw from the distribution.
        noisy = [alphas + gumbel_noise(tuple(alphas.shape), rng) for alphas in (normal, up)]
        found.setdefault(derive_generator(noisy[0], noisy[1], table))
    return tuple(found)[:n]


def training_of(config: SearchConfig, run_dir: Path, genotype: Path, steps: int) -> TrainConfig:
    """The training of a finalist: the settings of the search, with the fixed discriminator."""
    shared = settings_but(config, _OWN)
    known = TrainConfig.__dataclass_fields__
    return TrainConfig(
        **{name: getattr(config, name) for name in shared if name in known},
        run_dir=run_dir,
        genotype=genotype,
        upper_bound="fixed",
        upper_bound_start=config.upper_bound,
        upper_bound_end=config.upper_bound,
        steps=steps,
        ema_warm_up=True,  # the run may be shorter than the memory of the average
        eval_every=steps,
    )


def compare_finalists(
    config: SearchConfig,
    genotypes: Sequence[Genotype],
    images: Images,
    measure: Measure,
    on_update: Callable[[int], None] = lambda n: None,
) -> tuple[Finalist, ...]:
    """Train and measure the genotypes, each in a directory of its own below that of the search.

    What an earlier call has trained is not trained again.

    Args:
        config: the settings of the search.
        genotypes: the architectures.
        images: the data set, in the size of the networks.
        measure: scores a generator; the FID is among its figures.
        on_update: called with the number of updates finished since its last call.

    Returns:
        The finalists, the best of the last round first, and diverged ones last in their round.

    Raises:
        DivergedError: the training of every one diverged.
        CheckpointError: a directory holds a training with other settings or data.
    """
    left, ranked, before = list(genotypes), list[Finalist](), 0
    for n, steps in rounds_of(len(left), config.finalist_steps):
        found = [
            _trained(config, genotype, steps, images, measure, _beyond(before, on_update))
            for genotype in left[:n]
        ]
        found.sort(key=lambda finalist: finalist.fid)
        if not math.isfinite(found[0].fid):
            raise DivergedError(
                f"the training of every finalist diverged ({n} of them); lower g_lr and d_lr"
            )
        ranked = [*found, *ranked[n:]]
        left, before = [finalist.genotype for finalist in ranked], steps
    return tuple(ranked)


def _trained(
    config: SearchConfig,
    genotype: Genotype,
    steps: int,
    images: Images,
    measure: Measure,
    on_update: Callable[[int], None],
) -> Finalist:
    text = genotype.to_json()
    # Named by the genotype: more finalists, or others, leave those that are trained in their place.
    run_dir = config.run_dir / FINALISTS / hashlib.sha256(text.encode()).hexdigest()[:8]
    path = run_dir / "genotype.json"
    write_text(path, text)
    try:
        settings = training_of(config, run_dir, path, steps)
        train(settings, images, on_update=on_update, measure=measure)
    except DivergedError:  # its images hold a NaN
        return Finalist(genotype, run_dir, steps, math.inf, 0.0)
    found = _figures_at(run_dir / "log.jsonl", steps)
    return Finalist(genotype, run_dir, steps, found.get("fid", math.inf), found.get("fid_se", 0.0))


def _beyond(known: int, on_update: Callable[[int], None]) -> Callable[[int], None]:
    """An `on_update` that leaves out the first `known` updates, which were told of before."""
    left = known

    def told(n: int) -> None:
        nonlocal left
        skipped = min(n, left)
        left -= skipped
        on_update(n - skipped)

    return told


def _figures_at(log: Path, step: int) -> Mapping[str, float]:
    """What was measured after a step; nothing if a training did not get there.

    One that an earlier call has trained for longer may have been measured later only.
    """
    rows = [row for row in read_log(log).rows if row["step"] >= step and "fid" in row]
    return min(rows, key=lambda row: row["step"], default={})
