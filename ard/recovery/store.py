"""Recovered generators on disk: each plan is recovered only once, even across restarts."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from ard.assembly.recomposition import recompose
from ard.assembly.surgery import describe_structure
from ard.measuring.measurement import History
from ard.measuring.score import Score
from ard.plan import RankPlan
from ard.recovery.recover import Assemble, Build, Building, Recover
from nas_gan.checkpoint import Checkpoint, build_generator, load_checkpoint, save_checkpoint
from nas_gan.networks.layout import lay_out_like_


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


def _name_of(plan: RankPlan, history: History) -> str:
    """The name of the file of a plan's generator after a round that follows those of `history`."""
    plans = dict.fromkeys([*history, plan])
    told = history if len(plans) > 1 else ()
    text = "\n".join(each.to_json() for each in (*told, plan))
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{name}-{len(history) + 1}.pt" if history else f"{name}.pt"


class Further(Protocol):
    """A further round of recovery."""

    def __call__(self, network: nn.Module, number: int, /, *, sharpened: bool) -> nn.Module:
        """The network after round `number`, counted from 2.

        Args:
            network: what the rounds before have made; it is not changed.
            number: of the round.
            sharpened: whether it was factorized further since, to another plan.
        """
        ...


class RecoveredStore:
    """A recovery that trains each round once and keeps the results in a folder.

    A copy that is sent to a worker has no folder, which may be on another machine. It knows what
    has been recovered so far, and `made` says what it recovers itself, for `keep` to write.

    Args:
        folder: the folder of the recovered checkpoints.
        dense: the checkpoint that the plans are made for.
        generator: its network.
        recover: the first round of the recovery of a plan.
        further: a further round.
    """

    def __init__(
        self,
        folder: Path,
        dense: Checkpoint,
        generator: nn.Module,
        recover: Recover,
        further: Further,
    ) -> None:
        self.folder: Path | None = folder
        self.dense, self.generator = dense, generator
        self.recover, self.further = recover, further
        self._sent: dict[str, Checkpoint] = {}  # from and to another process, by name
        # The same plan is requested twice in a row, to be measured on two banks of latents.
        self._last: tuple[RankPlan, History, nn.Module] | None = None

    def __call__(self, build: Build, plan: RankPlan) -> nn.Module:
        """The generator of a plan after one round; `build()` makes the factorized one."""
        return self._once(plan, (), lambda: self.recover(build, plan))

    def after(self, assemble: Assemble, plan: RankPlan, history: History) -> nn.Module:
        """The generator of a plan after a round that follows those of `history`."""
        if not history:
            return self(Building(assemble, plan), plan)
        return self._once(plan, history, lambda: self._go_on(assemble, plan, history))

    def _go_on(self, assemble: Assemble, plan: RankPlan, history: History) -> nn.Module:
        *earlier, last = history
        network = self.after(assemble, last, tuple(earlier))
        if last != plan:
            network = assemble(plan, recompose(self.generator, network, last, onto=plan))
        return self.further(network, len(history) + 1, sharpened=last != plan)

    def _once(
        self, plan: RankPlan, history: History, recovered: Callable[[], nn.Module]
    ) -> nn.Module:
        if self._last is None or self._last[:2] != (plan, history):
            self._last = (plan, history, self._load_or_recover(plan, history, recovered))
        return self._last[2]

    def _load_or_recover(
        self, plan: RankPlan, history: History, recovered: Callable[[], nn.Module]
    ) -> nn.Module:
        stored = self._stored(plan, history)
        if stored is not None:
            device = next(self.generator.parameters()).device
            # The network here is in that form already.
            architecture = {k: v for k, v in stored.architecture.items() if k != "normal_form"}
            stored = replace(stored, architecture=architecture)
            network = build_generator(stored, lambda: copy.deepcopy(self.generator)).to(device)
            return lay_out_like_(network, self.generator)
        network = recovered()
        self.keep(plan, history, compressed_checkpoint(self.dense, network, plan))
        return network

    def _stored(self, plan: RankPlan, history: History) -> Checkpoint | None:
        name = _name_of(plan, history)
        if self.folder is None:
            return self._sent.get(name)
        path = self.folder / name
        return load_checkpoint(path) if path.exists() else None

    def made(self, plan: RankPlan, history: History) -> Checkpoint | None:
        """The generator of a plan after a round, if this is a copy without a folder."""
        return self._sent.get(_name_of(plan, history))

    def keep(self, plan: RankPlan, history: History, recovered: Checkpoint) -> None:
        """Keep a recovered generator, in the folder if there is one."""
        name = _name_of(plan, history)
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

    def clear(self, kept: Collection[tuple[RankPlan, History]] = ()) -> None:
        """Remove the generators; call this once the chosen ones are saved elsewhere.

        Args:
            kept: plans, each with the rounds before its last one, that a repeated command needs.
        """
        if self.folder is None:
            return
        names = {_name_of(plan, history) for plan, history in kept}
        for path in self.folder.glob("*.pt"):
            if path.name not in names:
                path.unlink()
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()


@dataclass(frozen=True)
class Bringing:
    """A measurement of recovered plans that brings the recovered generator back with its score.

    Attributes:
        measure: scores the recovered generator of a plan.
        store: the store that `measure` recovers with.
        histories: the rounds before the last one, of the plans that have any.
    """

    trains: ClassVar[bool] = True  # so that an executor of several kinds of devices picks one

    measure: Callable[[RankPlan], Score]
    store: RecoveredStore
    histories: Mapping[RankPlan, History]

    def __call__(self, plan: RankPlan) -> tuple[Score, Checkpoint | None]:
        return self.measure(plan), self.store.made(plan, self.histories.get(plan, ()))

    def take(self, plan: RankPlan, result: tuple[Score, Checkpoint | None]) -> Score:
        """Keep what a worker has recovered; returns the score."""
        score, recovered = result
        if recovered is not None:
            self.store.keep(plan, self.histories.get(plan, ()), recovered)
        return score
