"""Making a report from the result of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ard.costs.cost import cost_of
from ard.layers import Profile
from ard.measuring.measurement import Measurement
from ard.pipeline import CompressionResult
from ard.plan import DENSE, RankPlan
from ard.report.delivery import Delivery
from ard.report.values import CompressionReport, LayerRow, Reached, Totals, Trial
from ard.search.budget import Budget
from ard.session.search import Session
from nas_gan.generators import describe_interface


def layer_rows(profile: Profile, plan: RankPlan) -> tuple[LayerRow, ...]:
    """Every factorizable layer before and after."""
    return tuple(
        LayerRow(
            name=layer.name,
            kind=layer.kind,
            weight_shape=layer.weight_shape,
            choice=str(plan.get(layer.name, "dense")),
            params_dense=layer.params(),
            params=layer.params(plan.get(layer.name)),
            macs_dense=layer.macs(),
            macs=layer.macs(plan.get(layer.name)),
        )
        for layer in profile.layers
    )


def plan_params(profile: Profile, plan: RankPlan) -> int:
    """Parameters of the whole generator under a plan."""
    return profile.fixed_params + sum(p.params(plan.get(p.name)) for p in profile.parts)


def plan_macs(profile: Profile, plan: RankPlan) -> int:
    """Multiply-adds per image of the whole generator under a plan."""
    return profile.fixed_macs + sum(p.macs(plan.get(p.name)) for p in profile.layers)


def make_report(
    result: CompressionResult,
    session: Session,
    *,
    checkpoint: str,
    objective: str,
    budget: Budget | None,
    target: Reached | None,
    delivery: Delivery,
    undelivered: str,
    timings: Mapping[str, float],
    environment: Mapping[str, str],
) -> CompressionReport:
    """The report of a compression, from its result, its session and its settings."""
    profile, setting = result.profile, session.setting
    foreign = setting.interface.calling
    precision = delivery.precision
    total = None if precision is None else precision.total

    def cost(plan: RankPlan) -> float:
        if objective in ("params", "macs"):
            return {"params": plan_params, "macs": plan_macs}[objective](profile, plan)
        return cost_of(session.search.cost, profile.parts, plan)

    def totals(generator: nn.Module, plan: RankPlan) -> Totals:
        tensors = generator.state_dict().values()
        return Totals(
            params=plan_params(profile, plan),
            macs=plan_macs(profile, plan),
            cost=cost(plan),
            size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        )

    def trial(measured: Measurement) -> Trial:
        return Trial(
            plan=measured.plan,
            params=plan_params(profile, measured.plan),
            macs=plan_macs(profile, measured.plan),
            cost=cost(measured.plan),
            score=measured.score,
            rounds=measured.rounds,
            within_budget=result.budget is None or measured.score.ci_high <= result.budget,
        )

    return CompressionReport(
        checkpoint=checkpoint,
        dataset=str(setting.checkpoint.provenance.get("dataset", "unknown")),
        objective=objective,
        metric=setting.metric.name,
        budget=result.budget,
        budget_text="" if budget is None else budget.text,
        budget_met=result.budget_met
        and (total is None or result.budget is None or total.ci_high <= result.budget),
        target=target,
        extractor=setting.extractor.name,
        comparable=setting.comparable,
        reference=setting.reference.source,
        plan=result.plan,
        layers=layer_rows(profile, result.plan),
        skipped=result.skipped,
        dense=totals(setting.generator, DENSE),
        compressed=totals(result.generator, result.plan),
        # On the latents that scored the result, which need not be those of the budget.
        dense_score=result.recovered.value - result.recovered.rise,
        factorized=result.factorized,
        recovered=result.recovered,
        rounds=result.rounds,
        trials=tuple(trial(measured) for measured in result.trials),
        table=result.table,
        coverage=profile.coverage,
        latency=delivery.latency,
        timings=timings,
        environment=environment,
        interface="" if foreign is None else describe_interface(setting.interface),
        undelivered=undelivered,
        precision=precision,
    )
