"""Recovered generators on disk: each plan is recovered only once, even across restarts."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from pathlib import Path

from torch import nn

from ard.assembly.surgery import describe_structure
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


class RecoveredStore:
    """A recovery that calls `recover` once per plan and keeps the results in a folder.

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
        self.folder, self.dense, self.generator, self.recover = folder, dense, generator, recover
        # The same plan is requested twice in a row, to be measured on two banks of latents.
        self._last: tuple[RankPlan, nn.Module] | None = None

    def __call__(self, build: Build, plan: RankPlan) -> nn.Module:
        """The recovered generator of a plan; `build()` makes the factorized one."""
        if self._last is None or self._last[0] != plan:
            self._last = (plan, self._load_or_recover(build, plan))
        return self._last[1]

    def _load_or_recover(self, build: Build, plan: RankPlan) -> nn.Module:
        path = self.folder / f"{hashlib.sha256(plan.to_json().encode()).hexdigest()[:16]}.pt"
        if path.exists():
            device = next(self.generator.parameters()).device
            stored = load_checkpoint(path)
            # The network here is in that form already.
            architecture = {k: v for k, v in stored.architecture.items() if k != "normal_form"}
            stored = replace(stored, architecture=architecture)
            return build_generator(stored, lambda: copy.deepcopy(self.generator)).to(device)
        recovered = self.recover(build, plan)
        save_checkpoint(compressed_checkpoint(self.dense, recovered, plan), path)
        return recovered

    def clear(self) -> None:
        """Remove the folder; call this once the chosen generator is saved elsewhere."""
        for path in self.folder.glob("*.pt"):
            path.unlink()
        if self.folder.exists():
            self.folder.rmdir()
