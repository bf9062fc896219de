"""Recovered generators on disk: each plan is recovered only once, even across restarts."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from ard.assembly.surgery import describe_structure
from ard.measuring.score import Score
from ard.plan import RankPlan
from ard.recovery.recover import Build, Recover
from nas_gan.checkpoint import Checkpoint, build_generator, load_checkpoint, save_checkpoint


def compressed_checkpoint(dense: Checkpoint, generator: nn.Module, plan: RankPlan) -> Checkpoint:
    """The checkpoint of a compressed generator.

    Args:
        dense: the checkpoint of the dense generator, whose provenance is kept.
        generator: the compressed generator.
        plan: its plan.

    Returns:
        A checkpoint with the weights and with the structure as data.
    """
    state = {name: t.detach().cpu().contiguous() for name, t in generator.state_dict().items()}
    return Checkpoint(
        architecture=dense.architecture,
        generator=state,
        provenance={**dense.provenance, "plan": {n: str(c) for n, c in plan.items()}},
        structure=describe_structure(generator, plan),
    )


def _name_of(plan: RankPlan, rounds: int) -> str:
    """The name of the file of a plan's generator after so many rounds of recovery."""
    name = hashlib.sha256(plan.to_json().encode()).hexdigest()[:16]
    return f"{name}.pt" if rounds == 1 else f"{name}-{rounds}.pt"


class RecoveredStore:
    """A recovery that trains each round of each plan once and keeps the results in a folder.

    A copy that is sent to a worker has no folder, which may be on another machine. It knows what
    has been recovered so far, and `made` says what it recovers itself, for `keep` to write.

    Args:
        folder: the folder of the recovered checkpoints.
        dense: the checkpoint that the plans are made for.
        generator: its network.
        recover: the recovery of a plan that is not in the folder.
        further: `further(network, m)` is round `m`, from 2, of the recovery of a network that
            `m - 1` rounds have recovered; it is not changed.
    """

    def __init__(
        self,
        folder: Path,
        dense: Checkpoint,
        generator: nn.Module,
        recover: Recover,
        further: Callable[[nn.Module, int], nn.Module],
    ) -> None:
        self.folder: Path | None = folder
        self.dense, self.generator = dense, generator
        self.recover, self.further = recover, further
        self._sent: dict[str, Checkpoint] = {}  # from and to another process, by name
        # The same plan is requested twice in a row, to be measured on two banks of latents.
        self._last: tuple[RankPlan, int, nn.Module] | None = None

    def __call__(self, build: Build, plan: RankPlan) -> nn.Module:
        """The generator of a plan after one round; `build()` makes the factorized one."""
        return self.after(build, plan, 1)

    def after(self, build: Build, plan: RankPlan, rounds: int) -> nn.Module:
        """The generator of a plan after so many rounds of recovery."""
        if self._last is None or self._last[:2] != (plan, rounds):
            self._last = (plan, rounds, self._load_or_recover(build, plan, rounds))
        return self._last[2]

    def _load_or_recover(self, build: Build, plan: RankPlan, rounds: int) -> nn.Module:
        stored = self._stored(plan, rounds)
        if stored is not None:
            device = next(self.generator.parameters()).device
            # The network here is in that form already.
            architecture = {k: v for k, v in stored.architecture.items() if k != "normal_form"}
            stored = replace(stored, architecture=architecture)
            return build_generator(stored, lambda: copy.deepcopy(self.generator)).to(device)
        if rounds == 1:
            recovered = self.recover(build, plan)
        else:
            recovered = self.further(self.after(build, plan, rounds - 1), rounds)
        self.keep(plan, rounds, compressed_checkpoint(self.dense, recovered, plan))
        return recovered

    def _stored(self, plan: RankPlan, rounds: int) -> Checkpoint | None:
        name = _name_of(plan, rounds)
        if self.folder is None:
            return self._sent.get(name)
        path = self.folder / name
        return load_checkpoint(path) if path.exists() else None

    def made(self, plan: RankPlan, rounds: int) -> Checkpoint | None:
        """The generator of a plan after so many rounds, if this is a copy without a folder."""
        return self._sent.get(_name_of(plan, rounds))

    def keep(self, plan: RankPlan, rounds: int, recovered: Checkpoint) -> None:
        """Keep a recovered generator, in the folder if there is one."""
        name = _name_of(plan, rounds)
        if self.folder is None:
            self._sent[name] = recovered
        elif not (self.folder / name).exists():
            save_checkpoint(recovered, self.folder / name)

    def __getstate__(self) -> dict[str, Any]:
        """The store as another process gets it."""
        sent = dict(self._sent)
        if self.folder is not None:
            sent = {path.name: load_checkpoint(path) for path in sorted(self.folder.glob("*.pt"))}
        return {**self.__dict__, "folder": None, "_sent": sent, "_last": None}

    def clear(self) -> None:
        """Remove the folder; call this once the chosen generator is saved elsewhere."""
        if self.folder is None:
            return
        for path in self.folder.glob("*.pt"):
            path.unlink()
        if self.folder.exists():
            self.folder.rmdir()


@dataclass(frozen=True)
class Bringing:
    """A measurement of recovered plans that brings the recovered generator back with its score.

    Attributes:
        measure: scores the recovered generator of a plan.
        store: the store that `measure` recovers with.
        rounds: of recovery for the plans that get more than one.
    """

    trains: ClassVar[bool] = True  # so that an executor of several kinds of devices picks one

    measure: Callable[[RankPlan], Score]
    store: RecoveredStore
    rounds: Mapping[RankPlan, int]

    def __call__(self, plan: RankPlan) -> tuple[Score, Checkpoint | None]:
        return self.measure(plan), self.store.made(plan, self.rounds.get(plan, 1))

    def take(self, plan: RankPlan, result: tuple[Score, Checkpoint | None]) -> Score:
        """Keep what a worker has recovered; returns the score."""
        score, recovered = result
        if recovered is not None:
            self.store.keep(plan, self.rounds.get(plan, 1), recovered)
        return score
