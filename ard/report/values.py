"""The report of a compression as a value, as JSON and as printed text."""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ard.coverage import Coverage
from ard.measuring.metrics import metric_description, metric_label, metric_limit
from ard.measuring.score import Score, to_record
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import ActivationForm, RankPlan

FORMAT = "ard-gan report 1"


@dataclass(frozen=True)
class LayerRow:
    """One factorizable layer before and after. Parameters include the bias; MACs are per image."""

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    choice: str
    params_dense: int
    params: int
    macs_dense: int
    macs: int


@dataclass(frozen=True)
class Totals:
    """The cost of a whole generator.

    Attributes:
        params: parameters.
        macs: multiply-adds per image.
        cost: the cost by the objective. For parameters and multiply-adds it is that of the whole
            generator, otherwise that of the factorizable layers.
        size_bytes: size of the weights in bytes.
    """

    params: int
    macs: int
    cost: float
    size_bytes: int


@dataclass(frozen=True)
class Trial:
    """A whole plan that was recovered and scored; `cost` is the cost by the objective.

    `rounds` of recovery came before the score.
    """

    plan: RankPlan
    params: int
    macs: int
    cost: float
    score: Score
    rounds: int
    within_budget: bool


@dataclass(frozen=True)
class TimedRow:
    """Median milliseconds per batch, dense and compressed, timed alternately in fresh processes.

    `busy` says what else the machine did meanwhile, in which case the ratio proves nothing.
    """

    runtime: str
    batch: int
    dense_ms: float
    compressed_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    busy: str | None = None


@dataclass(frozen=True)
class DeliveredPrecision:
    """The precision of the bundle, which shares the budget with the ranks.

    Attributes:
        wanted: what was asked for.
        precision: what the bundle has; fp32 if nothing else holds the budget.
        int8_nodes: nodes of the graph that compute in int8.
        runtime: the runtime that its images and its time were measured in.
        rise: the score of its graph against the compressed one in float32; None if it is float32.
        total: the score of its graph against the dense generator, ranks and precision together.
        missed: whether what was asked for does not hold the budget.
    """

    wanted: str
    precision: str
    int8_nodes: int
    runtime: str
    rise: Score | None
    total: Score | None
    missed: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `report.json`."""
        scores = {"rise": self.rise, "total": self.total}
        plain = {name: None if s is None else to_record(s) for name, s in scores.items()}
        return {**vars(self), **plain}


@dataclass(frozen=True)
class Reached:
    """Whether the target was reached.

    Attributes:
        text: the target as the user wrote it.
        quantity: params, macs or latency.
        limit: the largest cost that reaches it, in counts or in milliseconds per batch.
        dense: the cost of the dense network.
        cost: that of the compressed one.
        how: where the cost comes from: counted, measured or predicted.
        reached: whether the cost is within the limit.
        beyond: if the budget and the target cannot be had together, the nearest plan that reaches
            the target, in words.
    """

    text: str
    quantity: str
    limit: float
    dense: float
    cost: float
    how: str
    reached: bool
    beyond: str = ""


@dataclass(frozen=True)
class CompressionReport:
    """Everything that `report.json` and `report.html` show.

    Attributes:
        metric: the metric whose rise the budget bounds.
        budget: the allowed rise, absolute; None if a target was to be reached at any.
        budget_text: the budget as the user wrote it; empty if there was none.
        comparable: whether scores are comparable with published ones, because the features are
            Inception's and the reference consists of real images.
        reference: where the reference came from.
        dense_score: the dense generator's score on the held-out latents.
        factorized: the score of the chosen plan before recovery, on the held-out latents.
        recovered: the score of the saved model, on the held-out latents.
        skipped: layers that stay dense, each with the reason.
        coverage: the share of the parameters in layers that can be factorized.
        timings: seconds per stage.
        interface: what a network of somebody else takes and returns, in words; empty for ours.
        undelivered: why the bundle could not be exported or timed; empty if it was.
        precision: the precision of the bundle; None if it is float32 because nobody wanted another.
        target: whether the target was reached; None if there was none.
    """

    checkpoint: str
    dataset: str
    objective: str
    metric: str
    budget: float | None
    budget_text: str
    budget_met: bool
    extractor: str
    comparable: bool
    reference: str
    plan: RankPlan
    layers: tuple[LayerRow, ...]
    skipped: tuple[tuple[str, str], ...]
    dense: Totals
    compressed: Totals
    dense_score: float
    factorized: Score
    recovered: Score
    rounds: int
    trials: tuple[Trial, ...]
    table: SensitivityTable
    coverage: Coverage = field(default_factory=Coverage)
    latency: tuple[TimedRow, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    interface: str = ""
    undelivered: str = ""
    precision: DeliveredPrecision | None = None
    target: Reached | None = None

    @property
    def scale(self) -> float:
        """A rise that figures are scaled by: the budget, or what was spent."""
        return max(self.recovered.ci_high, 0.0) if self.budget is None else self.budget

    @property
    def met(self) -> bool:
        """Whether everything that was asked for was had: the budget, the target, the precision."""
        missed = self.precision is not None and self.precision.missed
        return self.budget_met and not missed and (self.target is None or self.target.reached)

    @property
    def compression(self) -> float:
        """Dense parameters over compressed ones."""
        return self.dense.params / self.compressed.params

    def is_saved(self, trial: Trial) -> bool:
        """Whether a trial is the one whose generator was saved."""
        return (trial.plan, trial.rounds) == (self.plan, self.rounds)

    @property
    def gates(self) -> dict[str, str]:
        """The form of the gate in the place of each activation that the plan replaces."""
        pairs = self.plan.items()
        return {name: str(form) for name, form in pairs if isinstance(form, ActivationForm)}

    @property
    def macs_ratio(self) -> float:
        """Dense multiply-adds over compressed ones."""
        return self.dense.macs / self.compressed.macs

    @property
    def distance(self) -> str:
        """The label of the metric: `FID` only if values are comparable with published ones."""
        return metric_label(self.metric, self.comparable)

    @property
    def distance_in_features(self) -> str:
        """That label, with the feature space added if values are not comparable."""
        of_features = self.recovered.features and not self.comparable
        return f"{self.distance} ({self.extractor})" if of_features else self.distance

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `report.json`; the sensitivity table has a CSV file of its own."""
        data = asdict(self)
        data.pop("table")
        data["plan"] = _plain_plan(self.plan)
        data[f"{self.metric}_dense"] = data.pop("dense_score")
        data["precision"] = None if self.precision is None else self.precision.to_dict()
        data["coverage"] |= {"share": self.coverage.share}
        for name in ("factorized", "recovered"):
            data[name] = to_record(getattr(self, name))
        data["trials"] = [
            {
                "plan": _plain_plan(trial.plan),
                "params": trial.params,
                "macs": trial.macs,
                "cost": trial.cost,
                "evaluation": to_record(trial.score),
                "rounds": trial.rounds,
                "within_budget": trial.within_budget,
            }
            for trial in self.trials
        ]
        return {
            "format": FORMAT,
            **data,
            "values": metric_limit(self.metric) or "of the images that were scored",
            "compression": self.compression,
            "macs_ratio": self.macs_ratio,
        }


def _plain_plan(plan: RankPlan) -> dict[str, str]:
    return {name: str(choice) for name, choice in plan.items()}


def to_json(report: CompressionReport) -> str:
    """The report as indented JSON."""
    return json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n"


def engineering(value: float, unit: str = "") -> str:
    """A number with three significant digits and a metric prefix.

    >>> engineering(1_234_567), engineering(2_900_000, "B"), engineering(12)
    ('1.23 M', '2.90 MB', '12')
    """
    rounded = float(f"{value:.3g}")  # 999,999 becomes 1.00 M, not 1000 k
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= factor:
            return f"{rounded / factor:#.3g}".rstrip(".") + f" {prefix}{unit}"
    return f"{rounded:g} {unit}".rstrip()


def plain_number(value: float) -> str:
    """Four significant digits without an exponent, for numbers from 0.0005 to 446 and beyond.

    >>> plain_number(0.0005), plain_number(446.04), plain_number(12345.6)
    ('0.0005', '446', '12346')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def distance_digits(report: CompressionReport) -> int:
    """The number of decimals that the interval justifies: two digits of its width."""
    width = report.recovered.ci_high - report.recovered.ci_low
    return min(6, max(1, 1 - math.floor(math.log10(width)))) if 0 < width < math.inf else 2


def delta_text(report: CompressionReport, score: Score) -> str:
    """`+1.2 [+0.8, +1.6]`: the rise and its 95 % interval."""
    digits = distance_digits(report)
    rise, low, high = (f"{v:+z.{digits}f}" for v in (score.rise, score.ci_low, score.ci_high))
    return f"{rise} [{low}, {high}]"


def before_after(report: CompressionReport) -> list[tuple[str, str, str, str]]:
    """The rows of the before/after table: what, dense, compressed, dense over compressed."""
    dense, small, digits = report.dense, report.compressed, distance_digits(report)
    rows = [
        (name, engineering(before, unit), engineering(after, unit), f"{before / after:.2f}×")
        for name, before, after, unit in (
            ("params", dense.params, small.params, ""),
            ("MACs per image", dense.macs, small.macs, ""),
            ("size", dense.size_bytes, small.size_bytes, "B"),
        )
    ]
    name = report.distance_in_features
    rows.append(
        (name, f"{report.dense_score:.{digits}f}", f"{report.recovered.value:.{digits}f}", "")
    )
    rows.append((f"Δ{report.distance}", "0", delta_text(report, report.recovered), ""))
    for row in report.latency:
        speedup = f"{row.speedup:.2f}× [{row.speedup_low:.2f}, {row.speedup_high:.2f}]"
        times = (_milliseconds(row.dense_ms), _milliseconds(row.compressed_ms))
        rows.append((f"latency, batch {row.batch} ({row.runtime})", *times, speedup))
    return rows


def answers(report: CompressionReport) -> list[tuple[str, str]]:
    """What was asked for, in a few lines: the target, quality spent of the allowed, time, size."""
    dense, small = report.dense, report.compressed
    measured = ", ".join(
        f"{row.speedup:.2f}× [{row.speedup_low:.2f}, {row.speedup_high:.2f}] at batch {row.batch}"
        for row in report.latency
    )
    busy = any(row.busy for row in report.latency)
    if busy:
        measured += "; this machine was busy, so measure again"
    return [
        *([("target", target_note(report.target))] if report.target else []),
        ("quality", budget_note(report)),
        ("speed", measured or "not measured"),
        (
            "size",
            f"{dense.params / small.params:.2f}× fewer parameters, "
            f"{dense.macs / small.macs:.2f}× fewer multiply-adds",
        ),
    ]


def target_note(target: Reached) -> str:
    """The target, what was reached of it, and what the nearest plan beyond the budget costs."""
    unit = "ms" if target.quantity == "latency" else target.quantity
    cost, limit = (
        f"{value:.3g}" if unit == "ms" else engineering(value)
        for value in (target.cost, target.limit)
    )
    share = f"{target.cost / target.dense:.3g} of the dense network's"
    note = (
        f"{target.text}: {cost} of at most {limit} {unit}, {target.how}, {share}: "
        f"{'reached' if target.reached else 'NOT reached'}"
    )
    return f"{note}; {target.beyond}" if target.beyond else note


def budget_note(report: CompressionReport) -> str:
    """The budget, absolute and relative to the dense score, and whether it was met.

    Without a budget, what was spent.
    """
    name = report.distance
    if report.budget is None:
        spent = delta_text(report, report.recovered)
        if report.dense_score > 0:
            percent = plain_number(100 * report.recovered.rise / report.dense_score)
            spent += f", {percent} % of the dense {name}"
        return f"Δ{name} {spent}, spent for the target"
    share = ""
    if report.dense_score > 0:
        # A share that was asked for is of the dense score that every search begins with; the one in
        # the report is on held-out latents, and says another percentage.
        percent = report.budget_text.removesuffix("%").rstrip()
        if percent == report.budget_text:
            percent = plain_number(100 * report.budget / report.dense_score)
        share = f", {percent} % of the dense {name}"
    score = report.recovered
    found = report.precision
    if found is not None and found.precision != "fp32" and found.total is not None:
        score = found.total  # ranks and precision share the budget
    spent = delta_text(report, score)
    met = "met"
    if not report.budget_met:  # maybe by less than the digits of the interval show
        top = score.ci_high
        met = f"NOT met (95 % upper end {'+' if top > 0 else ''}{plain_number(top)})"
    return f"Δ{name} {spent} of +{plain_number(report.budget)} allowed{share}: {met}"


def precision_note(report: CompressionReport) -> str:
    """The precision of the bundle and what it costs; empty if it is float32 as a matter of course.

    The rise in all is that of ranks and precision together.
    """
    found = report.precision
    if found is None:
        return ""
    name = report.distance
    nodes = f" in {found.int8_nodes} nodes" if found.int8_nodes else ""
    lines = [f"{found.precision}{nodes}"]
    if found.missed:
        lines = [f"{found.wanted} does not hold the budget with these ranks; the bundle is fp32"]
    if found.rise is not None:
        lines.append(f"Δ{name} {delta_text(report, found.rise)} over fp32")
    if found.total is not None:
        lines.append(f"in all {delta_text(report, found.total)} over the dense generator")
    return f"{'; '.join(lines)} ({found.runtime})"


def features_note(report: CompressionReport) -> str:
    """The metric and its features, and whether it is comparable with published values."""
    what = metric_description(report.metric)
    if not report.recovered.features:
        return what
    within = f"{what} in {report.extractor} features"
    if report.comparable:
        return f"{within}, as in published values"
    return f"{within}; not comparable with published values"


def limit_note(report: CompressionReport) -> str:
    """What the scores and their rise refer to, if not to the images that were scored."""
    limit = metric_limit(report.metric)
    return f"{limit}, estimated from {report.recovered.n_images}" if limit else ""


def notes(report: CompressionReport) -> list[tuple[str, str]]:
    """The notes needed to read the table: features, reference, coverage."""
    of = limit_note(report)
    counts = Counter(report.gates.values())
    forms = ", ".join(f"{n} {form}" for form, n in counts.most_common())
    found = [
        *([("gates", f"in the place of {counts.total()} activations: {forms}")] if forms else []),
        *([("precision", note)] if (note := precision_note(report)) else []),
        *([("values", of)] if of else []),
        ("features", features_note(report)),
        ("reference", report.reference),
    ]
    if report.interface:
        found.append(("network", report.interface))
    if report.coverage.total:
        name = "warning" if report.coverage.low else "coverage"
        found.append((name, report.coverage.describe()))
    if report.undelivered:
        found.append(("bundle", f"not written: {report.undelivered}"))
    return found


def to_text(report: CompressionReport, width: int = 80) -> str:
    """The answers, the before/after table and its notes in `width` columns, without colours."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", overflow="fold")
    for heading in ("dense", "compressed", "ratio"):
        table.add_column(heading, justify="right", overflow="fold")
    for row in before_after(report):
        # As Text, because a name from a file may contain what rich takes for markup.
        table.add_row(*(Text(cell) for cell in row))
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, legacy_windows=False).print(table)
    rows = [line.rstrip() for line in text.getvalue().rstrip().splitlines()]
    blocks = (_named(answers(report), width), rows, _named(notes(report), width))
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _named(notes: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Notes in `width` columns, each after its name."""
    lines: list[str] = []
    for name, note in notes:
        lines += textwrap.wrap(
            f"{name:<10} {note}", width, subsequent_indent=" " * 11, break_on_hyphens=False
        )
    return lines


def _milliseconds(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") + " ms" if value < 1000 else f"{value:.0f} ms"
