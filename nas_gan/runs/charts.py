"""The charts of the page: curves of training runs, and plans of compressions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from nas_gan.runs.compressions import Compression, Plan
from nas_gan.runs.looks import Look
from nas_gan.runs.reading import Curve, thinned

# A curve with at most so many points shows them; one with more is dense enough to be a line.
FEW = 25
HEIGHT = 330


def curves_chart(curves: Mapping[str, Curve], looks: Mapping[str, Look], y_title: str) -> Any:
    """Curves of one scalar, by the name of the run; a curve of few points shows them.

    The legend is the key of the page, where there is room for whole names.
    """
    rows = [
        {"run": name, "step": step, "value": value, "few": len(curve) <= FEW}
        for name, curve in curves.items()
        for step, value in thinned(curve)
    ]
    frame = pd.DataFrame(rows, columns=["run", "step", "value", "few"])
    base = alt.Chart(frame, height=HEIGHT).encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(format="~s")),
        y=alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=False)),
        color=_colour(looks),
        tooltip=["run:N", alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", format=".5g")],
    )
    dashes = alt.Scale(domain=[*looks], range=[[*look.dash] for look in looks.values()])
    lines = base.mark_line(strokeWidth=1.8).encode(
        strokeDash=alt.StrokeDash("run:N", scale=dashes, legend=None)
    )
    points = base.transform_filter("datum.few").mark_point(filled=True, size=36, opacity=1)
    return lines + points


def plans_chart(
    runs: Sequence[Compression], looks: Mapping[str, Look], *, cost: str, x_title: str, y_title: str
) -> Any:
    """The plans of compressions: how often smaller each is, and what it cost, with its interval.

    Results are filled, and joined if a run has several; trials are rings.

    Args:
        runs: compressions whose rises were measured in one space.
        looks: how each is told apart.
        cost: which ratio the x axis has: `params_ratio` or `macs_ratio`.
        x_title: title of the x axis.
        y_title: title of the y axis.
    """
    frame = pd.DataFrame(list(_plan_rows(runs, cost)))
    base = alt.Chart(frame, height=HEIGHT + 90).encode(
        x=alt.X(
            "ratio:Q",
            title=x_title,
            scale=alt.Scale(zero=False, nice=True, padding=24),
            axis=alt.Axis(format=".3~g"),
        ),
        color=_colour(looks),
        tooltip=["run:N", "plan:N", *(_tip(name) for name in ("ratio", "rise", "low", "high"))],
    )
    y = alt.Y("rise:Q", title=y_title)
    zero = alt.Chart(pd.DataFrame({"rise": [0.0]})).mark_rule(color="#848b98", strokeDash=[2, 2])
    bars = base.mark_rule(strokeWidth=1.4).encode(
        y=alt.Y("low:Q", title=y_title),
        y2="high:Q",
        opacity=alt.condition("datum.saved", alt.value(1.0), alt.value(0.45)),
    )
    joined = base.transform_filter("datum.saved").mark_line(strokeWidth=1.2, opacity=0.6)
    results = base.transform_filter("datum.saved").mark_point(filled=True, size=110, opacity=1)
    trials = base.transform_filter("!datum.saved").mark_point(filled=False, size=60, opacity=0.7)
    return zero.encode(y=y) + bars + joined.encode(y=y) + trials.encode(y=y) + results.encode(y=y)


def _plan_rows(runs: Sequence[Compression], cost: str) -> Iterable[dict[str, Any]]:
    for run in runs:
        for plan in run.plans:
            rise, low, high = plan.rise
            yield {
                **{"run": run.name, "plan": plan_label(plan), "saved": plan.saved},
                **{"ratio": getattr(plan, cost), "rise": rise, "low": low, "high": high},
            }


def plan_label(plan: Plan) -> str:
    """The name of a plan, and whether it meets what was asked for."""
    return plan.name if plan.good else f"{plan.name} (missed)"


def _tip(name: str) -> Any:
    return alt.Tooltip(f"{name}:Q", format=".4g")


def _colour(looks: Mapping[str, Look]) -> Any:
    scale = alt.Scale(domain=[*looks], range=[look.colour for look in looks.values()])
    return alt.Color("run:N", scale=scale, legend=None)
