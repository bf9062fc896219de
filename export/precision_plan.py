"""Which precision a graph is delivered in, and which of its nodes compute in int8.

Nodes are chosen as ranks are: each is quantized alone, and what that costs in quality is held
against what it is worth. The nodes that cost least for their worth come first, and as many of them
are taken as keep the upper end of the rise of the whole graph, measured, within the budget.

A node is worth the time that it saves in the runtime if the precision is chosen here (`auto`), and
its multiply-adds if somebody asked for int8, who may have another runtime in mind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from ard.measuring.score import Score, to_record
from ard.search.budget import Budget
from export.converting import Converted
from export.errors import ExportError
from export.interface import arrays_of
from export.precision import PRECISIONS, Delivered, Precision, to_fp16
from export.quality import CALIBRATION, Judge, Measuring, Verdict
from export.quantization import Quantizable, Quantizer, calibrate, find_quantizable
from export.sessions import Arrays, Session
from export.speed import Timing, times_ms
from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.progress import Progress, no_progress

if TYPE_CHECKING:
    import onnx

Wanted = Literal["fp32", "fp16", "int8", "auto"]
VERSION = 1
N_CALIBRATION = 128
# A precision below float32 must save this share of its time, or `auto` takes the noise of the
# timing for a gain.
MARGIN = 0.02
# Shares of the nodes that are tried, one after the other, if those that the search chose fail on
# held-out latents.
FEWER = (1.0, 0.75, 0.5, 0.25)


@dataclass(frozen=True)
class Allowed:
    """Upper ends of the rises that a converted graph may have; None allows everything.

    Attributes:
        rise: over the float32 graph.
        total: over the dense generator.
    """

    rise: float | None = None
    total: float | None = None

    def holds(self, verdict: Verdict) -> bool:
        """Whether both rises are within what is allowed."""
        rise = self.rise is None or verdict.rise.ci_high <= self.rise
        total = verdict.total
        return rise and (self.total is None or total is None or total.ci_high <= self.total)


@dataclass(frozen=True)
class NodeEffect:
    """One node quantized alone: the rise in the metric, and what it is worth."""

    name: str
    rise: float
    worth: float


def in_order(effects: Sequence[NodeEffect]) -> tuple[str, ...]:
    """The names of the nodes that are worth something, those that cost least for it first.

    >>> in_order([NodeEffect("a", 2.0, 1.0), NodeEffect("b", 3.0, 6.0), NodeEffect("c", 0.0, -1.0)])
    ('b', 'a')
    """
    useful = [effect for effect in effects if effect.worth > 0]
    # A rise below zero is noise; among those, the more a node is worth the better.
    useful.sort(key=lambda effect: (max(effect.rise, 0.0) / effect.worth, -effect.worth))
    return tuple(effect.name for effect in useful)


def most_that_hold(n: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `n` that holds, by bisection; 0 is not asked about.

    >>> most_that_hold(10, lambda k: k <= 6)
    6
    """
    if n == 0 or holds(n):
        return n
    good, bad = 0, n
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


@dataclass(frozen=True)
class Trial:
    """A graph that could be delivered.

    Attributes:
        precision: of the graph; `int8` if any node is.
        model: the graph; None if it could not be made.
        nodes: those that compute in int8.
        ms: milliseconds per batch in the runtime; None if it was not timed.
        verdict: what was measured of its images; None if nothing was.
        holds: whether its rise is within the budget, as far as there is one.
        reason: why it is out of the question, if not because of its rise.
    """

    precision: Delivered
    model: onnx.ModelProto | None = field(repr=False)
    nodes: tuple[str, ...] = ()
    ms: float | None = None
    verdict: Verdict | None = None
    holds: bool = True
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        rise = None if self.verdict is None else to_record(self.verdict.rise)
        return {
            "precision": self.precision,
            "int8_nodes": len(self.nodes),
            "milliseconds": self.ms,
            "rise": rise,
            "holds": self.holds,
            "reason": self.reason,
        }


def fastest(trials: Sequence[Trial]) -> Trial:
    """The fastest of the trials that hold, of which the first is float32.

    It stays, unless another is faster by more than the noise of the timing.
    """
    fp32, *others = trials
    bound = (1 - MARGIN) * _time(fp32)
    return min((t for t in others if t.holds and _time(t) < bound), key=_time, default=fp32)


@dataclass(frozen=True)
class Budgets:
    """What a conversion may cost, as it was asked for.

    Attributes:
        rise: over the float32 graph; None if nobody said.
        total: over the dense generator, ranks and precision together; None if nobody said.
    """

    rise: Budget | None = None
    total: Budget | None = None


@dataclass(frozen=True, eq=False)
class PrecisionPlanner:
    """Converts graphs to a precision, or to the fastest that holds a budget.

    Attributes:
        wanted: the precision; `auto` for the fastest within the budget.
        measuring: how rises are measured; None if they cannot be.
        unmeasured: why they cannot be, in one line.
        budgets: what a conversion may cost.
        rest: precision of what is not in int8 in an int8 graph.
        timing: how graphs are timed.
        progress: shows bars.

    Raises:
        InvalidValueError: there is a budget, and nothing that could measure a rise; or `auto` has
            no budget.
    """

    wanted: Wanted
    measuring: Measuring | None = None
    unmeasured: str = ""
    budgets: Budgets = field(default_factory=Budgets)
    rest: Precision = "fp32"
    timing: Timing = field(default_factory=Timing)
    progress: Progress = no_progress

    def __post_init__(self) -> None:
        budgets = self.budgets
        if self.wanted == "auto" and budgets == Budgets():
            raise InvalidValueError("auto needs a quality budget", setting="precision")
        if budgets != Budgets() and self.measuring is None and self.wanted != "fp32":
            raise InvalidValueError(
                f"cannot be held, because quality is not measured: {self.unmeasured}",
                setting="quality_budget",
            )
        if budgets.total is not None and (self.measuring is None or self.measuring.dense is None):
            raise InvalidValueError("needs the dense generator", setting="total_budget")

    def __call__(self, model: onnx.ModelProto, generator: nn.Module) -> Converted:
        """Convert a float32 graph.

        Args:
            model: the graph, which is not changed.
            generator: the generator that it was exported from.

        Returns:
            The graph to deliver. Without a budget it is the one that was asked for; otherwise the
            best that holds the budget, which float32 always does.

        Raises:
            ExportError: there is no such graph, or ONNX Runtime does not run it.
        """
        if self.wanted == "fp32":
            return Converted(model, "fp32")
        return _Planning(self, model, generator).converted()

    def for_dense(self, delivered: Delivered) -> PrecisionPlanner:
        """The planner for the dense generator beside a graph that was delivered like this.

        What is compared with it should differ in its ranks, so it gets the same precision, or what
        the int8 graph has around its int8 nodes; no budget is left to it.
        """
        wanted = self.rest if delivered == "int8" else delivered
        measuring = None if self.measuring is None else replace(self.measuring, dense=None)
        return replace(self, wanted=wanted, measuring=measuring, budgets=Budgets())


class _Planning:
    """One conversion by a planner."""

    def __init__(
        self, planner: PrecisionPlanner, model: onnx.ModelProto, generator: nn.Module
    ) -> None:
        self.planner, self.model, self.generator = planner, model, generator
        self.interface = interface_of(generator)
        measuring = planner.measuring
        self.judge: Judge | None = None if measuring is None else measuring.of(model, generator)
        self.allowed = self._allowed()
        self.found: Quantizable | None = None
        self.bits: int | None = None

    def converted(self) -> Converted:
        wanted = self.planner.wanted
        fp32 = Trial("fp32", self.model)
        if wanted == "auto":
            trials = self._timed([fp32, self._try_fp16(), self._try_int8()])
            chosen = fastest(trials)
        else:
            asked = self._try_fp16() if wanted == "fp16" else self._try_int8()
            trials = self._timed([fp32, asked])
            chosen = trials[-1] if trials[-1].holds else trials[0]
        assert chosen.model is not None  # only what could be made can hold
        return Converted(chosen.model, chosen.precision, self._record(chosen, trials))

    def _try_fp16(self) -> Trial:
        try:
            model = PRECISIONS["fp16"].convert(self.model)
        except ExportError as error:
            if self.planner.wanted != "auto":
                raise
            return Trial("fp16", None, holds=False, reason=str(error))
        return self._judged(Trial("fp16", model))

    def _try_int8(self) -> Trial:
        """The int8 graph with as many nodes as hold the budget."""
        try:
            return self._best_int8()
        except ExportError as error:
            if self.planner.wanted != "auto":
                raise
            return Trial("int8", None, holds=False, reason=str(error))

    def _best_int8(self) -> Trial:
        self.found = find_quantizable(self.model)
        if not self.found.nodes:
            reason = "no node has channels in multiples of 32 in and out"
            return Trial("int8", None, holds=False, reason=reason)
        quantizer = calibrate(self.model, self._arrays(N_CALIBRATION, CALIBRATION))
        self.bits = quantizer.bits
        names = tuple(node.name for node in self.found.nodes)
        if self.judge is None or self.allowed == Allowed():
            return self._judged(self._int8(quantizer, names))
        order = in_order(self._effects(quantizer, self.judge))
        if not order:
            return Trial("int8", None, holds=False, reason="no node is faster in int8")
        n = self._search(quantizer, order, self.judge)
        if n == 0:
            # Report what the cheapest node alone costs.
            return self._judged(self._int8(quantizer, order[:1]))
        return self._verified(quantizer, order[:n])

    def _search(self, quantizer: Quantizer, order: Sequence[str], judge: Judge) -> int:
        """How many nodes of an order hold what is allowed, on the latents of the search."""
        rise = self.allowed.rise
        if rise is None:
            return len(order)
        steps = max(1, math.ceil(math.log2(len(order) + 1)))
        with self.planner.progress("choosing int8 nodes", steps) as advance:

            def holds(k: int) -> bool:
                model = self._int8(quantizer, tuple(order[:k])).model
                assert model is not None
                score = _score(judge, judge.searching, model)
                advance(1)
                return score is not None and score.ci_high <= rise

            return most_that_hold(len(order), holds)

    def _verified(self, quantizer: Quantizer, nodes: tuple[str, ...]) -> Trial:
        """The largest share of nodes that holds on held-out latents, which are new each time."""
        counts = dict.fromkeys(max(1, int(share * len(nodes))) for share in FEWER)
        trial = self._int8(quantizer, nodes)
        for bank, count in enumerate(counts):
            trial = self._judged(self._int8(quantizer, nodes[:count]), bank)
            if trial.holds:
                break
        return trial

    def _effects(self, quantizer: Quantizer, judge: Judge) -> list[NodeEffect]:
        """Every node quantized alone."""
        assert self.found is not None
        nodes, timing = self.found.nodes, self.planner.timing
        by_time = self.planner.wanted == "auto"
        arrays = self._timed_arrays()
        base = Session(self.model, "the float32 graph", timing.threads)
        effects = []
        with self.planner.progress("quantizing single nodes", len(nodes)) as advance:
            for node in nodes:
                model = quantizer.quantize([node.name])
                worth = float(node.macs)
                if by_time:
                    session = Session(model, "the quantized graph", timing.threads)
                    before, after = times_ms([base, session], arrays, timing)
                    worth = before - after
                score = _score(judge, judge.quickly, model) if worth > 0 else None
                rise = math.inf if score is None else score.rise
                if math.isfinite(rise):
                    effects.append(NodeEffect(node.name, rise, worth))
                advance(1)
        return effects

    def _int8(self, quantizer: Quantizer, nodes: tuple[str, ...]) -> Trial:
        model = quantizer.quantize(nodes)
        if self.planner.rest == "fp16":
            model = to_fp16(model, fp32_nodes=nodes)
        return Trial("int8", model, nodes)

    def _judged(self, trial: Trial, bank: int = 0) -> Trial:
        if self.judge is None or trial.model is None:
            return trial
        try:
            with self.planner.progress(f"judging {trial.precision}", 1) as advance:
                verdict = self.judge.verdict(
                    trial.model, total=self.allowed.total is not None, bank=bank
                )
                advance(1)
        except DivergedError as error:
            return replace(trial, holds=False, reason=str(error))
        return replace(trial, verdict=verdict, holds=self.allowed.holds(verdict))

    def _timed(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials with their times, taken in turns."""
        made = [trial for trial in trials if trial.model is not None]
        timing = self.planner.timing
        sessions = [
            Session(trial.model, f"the {trial.precision} graph", timing.threads)
            for trial in made
            if trial.model is not None
        ]
        times = iter(times_ms(sessions, self._timed_arrays(), timing))
        return [replace(t, ms=next(times)) if t.model is not None else t for t in trials]

    def _timed_arrays(self) -> Arrays:
        return self._arrays(self.planner.timing.batch, CALIBRATION)

    def _arrays(self, n: int, purpose: int) -> Arrays:
        seed = purpose + (0 if self.planner.measuring is None else self.planner.measuring.seed)
        return arrays_of(self.interface, latents_of(self.interface, n, seed))

    def _allowed(self) -> Allowed:
        budgets, judge = self.planner.budgets, self.judge

        def absolute(budget: Budget | None) -> float | None:
            if budget is None or judge is None:
                return None
            # Only a relative one needs the dense generator's own distance, which takes a while.
            return budget.absolute(judge.dense_value if budget.relative else 0.0)

        return Allowed(absolute(budgets.rise), absolute(budgets.total))

    def _record(self, chosen: Trial, trials: Sequence[Trial]) -> dict[str, Any]:
        planner = self.planner
        verdict = chosen.verdict
        setting = None if planner.measuring is None else planner.measuring.setting
        higher = dict(self.found.higher) if self.found is not None else {}
        if chosen.precision == "int8" and self.found is not None:
            left = (n.name for n in self.found.nodes if n.name not in chosen.nodes)
            higher |= dict.fromkeys(left, "left out by the plan")
        budgets = planner.budgets
        return {
            "version": VERSION,
            "wanted": planner.wanted,
            "rest": planner.rest if chosen.precision == "int8" else chosen.precision,
            "int8_nodes": list(chosen.nodes),
            "higher_precision": higher if chosen.precision == "int8" else {},
            "weight_bits": self.bits if chosen.precision == "int8" else None,
            "runtime": planner.timing.describe(),
            "metric": None if setting is None else setting.metric.name,
            "distance": None if setting is None else setting.distance,
            "reference": None if setting is None else setting.reference.source,
            "rise": None if verdict is None else to_record(verdict.rise),
            "rise_over_dense": (
                None if verdict is None or verdict.total is None else to_record(verdict.total)
            ),
            "seed": None if verdict is None else verdict.seed,
            "budget": None if budgets.rise is None else budgets.rise.text,
            "total_budget": None if budgets.total is None else budgets.total.text,
            "allowed": asdict(self.allowed),
            "missed": planner.wanted not in ("auto", chosen.precision),
            "not_measured": planner.unmeasured if planner.measuring is None else "",
            "tried": [trial.to_dict() for trial in trials],
        }


def _time(trial: Trial) -> float:
    return math.inf if trial.ms is None else trial.ms


def _score(judge: Judge, evaluator: Any, model: onnx.ModelProto) -> Score | None:
    """The score of a converted graph; None if its images are not finite."""
    try:
        return judge.score(evaluator, model)
    except DivergedError:
        return None
