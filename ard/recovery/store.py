"""Recovered generators on disk: each plan is recovered only once, even across restarts."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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


def _name_of(plan: RankPlan) -> str:
    """The name of the file of a plan's recovered generator."""
    return f"{hashlib.sha256(plan.to_json().encode()).hexdigest()[:16]}.pt"


class RecoveredStore:
    """A recovery that calls `recover` once per plan and keeps the results in a folder.

    A copy that is sent to a worker has no folder, which may be on another machine. It knows what
    has been recovered so far, and `made` says what it recovers itself, for `keep` to write.

    Args:
        folder: the folder of the recovered checkpoints.
        dense: the checkpoint that the plans are made for.
        generator: its network.
        recover: the recovery of a plan that is not in the folder.
    """

    def __init__(
        self,
        folder: Path,
        dense: Checkpoint,
        generator: nn.Module,
        recover: Recover,
    ) -> None:
        self.folder: Path | None = folder
        self.dense, self.generator, self.recover = dense, generator, recover
        self._sent: dict[str, Checkpoint] = {}  # from and to another process, by name
        # The same plan is requested twice in a row, to be measured on two banks of latents.
        self._last: tuple[RankPlan, nn.Module] | None = None

    def __call__(self, build: Build, plan: RankPlan) -> nn.Module:
        """The recovered generator of a plan; `build()` makes the factorized one."""
        if self._last is None or self._last[0] != plan:
            self._last = (plan, self._load_or_recover(build, plan))
        return self._last[1]

    def _load_or_recover(self, build: Build, plan: RankPlan) -> nn.Module:
        stored = self._stored(plan)
        if stored is not None:
            device = next(self.generator.parameters()).device
            # The network here is in that form already.
            architecture = {k: v for k, v in stored.architecture.items() if k != "normal_form"}
            stored = replace(stored, architecture=architecture)
            return build_generator(stored, lambda: copy.deepcopy(self.generator)).to(device)
        recovered = self.recover(build, plan)
        self.keep(plan, compressed_checkpoint(self.dense, recovered, plan))
        return recovered

    def _stored(self, plan: RankPlan) -> Checkpoint | None:
        if self.folder is None:
            return self._sent.get(_name_of(plan))
        path = self.folder / _name_of(plan)
        return load_checkpoint(path) if path.exists() else None

    def made(self, plan: RankPlan) -> Checkpoint | None:
        """The recovered generator of a plan, if this is a copy without a folder."""
        return self._sent.get(_name_of(plan))

    def keep(self, plan: RankPlan, recovered: Checkpoint) -> None:
        """Keep a recovered generator, in the folder if there is one."""
        if self.folder is None:
            self._sent[_name_of(plan)] = recovered
        elif not (self.folder / _name_of(plan)).exists():
            save_checkpoint(recovered, self.folder / _name_of(plan))

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
    """

    measure: Callable[[RankPlan], Score]
    store: RecoveredStore

    def __call__(self, plan: RankPlan) -> tuple[Score, Checkpoint | None]:
        return self.measure(plan), self.store.made(plan)

    def take(self, plan: RankPlan, result: tuple[Score, Checkpoint | None]) -> Score:
        """Keep what a worker has recovered; returns the score."""
        score, recovered = result
        if recovered is not None:
            self.store.keep(plan, recovered)
        return score
