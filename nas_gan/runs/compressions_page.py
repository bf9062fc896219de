"""The part of the page about compressions: results, plans and times side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from nas_gan.runs.charts import plan_label, plans_chart
from nas_gan.runs.compressions import (
    Compression,
    compared_plans,
    find_compressions,
    find_timings,
)
from nas_gan.runs.looks import MOST, key_html, looks_of

SIGNS = {"finished": "✔", "running": "▶", "stopped": "■", "damaged": "⚠"}
COSTS = {"parameters": "params_ratio", "multiply-adds": "macs_ratio"}


def show_compressions(folder: Path) -> None:
    """Every compression below a folder, and every benchmark; nothing if there is none."""
    runs = find_compressions(folder)
    if runs:
        st.header("Compressions")
        _overview(runs)
        names = [run.name for run in runs]
        chosen = st.multiselect("Compressions side by side", names, default=names[:MOST])
        shown = [run for run in runs if run.name in chosen]
        _pareto(shown)
        _plans(shown)
    _timings(folder)


def _overview(runs: Sequence[Compression]) -> None:
    rows = []
    for run in runs:
        # Of the results that meet what was asked for, the smallest stands for the run.
        best = max(run.results, key=lambda plan: (plan.good, plan.params_ratio), default=None)
        rows.append(
            {
                "run": run.name,
                "status": f"{SIGNS[run.status]} {run.status}",
                "checkpoint": run.checkpoint,
                "asked for": run.asked,
                "fewer parameters": "" if best is None else f"{best.params_ratio:.2f}×",
                "fewer multiply-adds": "" if best is None else f"{best.macs_ratio:.2f}×",
                "rise": "" if best is None else interval_text(best.rise),
                "met": "" if best is None else ("yes" if best.good else "no"),
                "measured": run.measured,
            }
        )
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")
    for run in runs:
        if run.problems:
            st.warning(f"{run.name} is damaged: {'; '.join(run.problems)}. The rest is shown.")


def _pareto(runs: Sequence[Compression]) -> None:
    """Ratio against rise, a chart for each space in which rises were measured."""
    spaces = list(dict.fromkeys(run.space for run in runs if run.space is not None))
    if not spaces:
        st.info("None of these compressions has a result yet.")
        return
    with_plans = [run for run in runs if run.plans]
    looks = looks_of([run.name for run in with_plans])
    what = st.radio("How much smaller, in", list(COSTS), horizontal=True)
    st.html(key_html(looks))
    for space in spaces:
        inside = [run for run in with_plans if run.space == space]
        st.subheader(f"Δ{space.label}")
        st.caption(f"In {space.features} features, against {space.reference}.")
        chart = plans_chart(
            inside,
            looks,
            cost=COSTS[what],
            x_title=f"times fewer {what}",
            y_title=f"Δ{space.label}",
        )
        st.altair_chart(chart, width="stretch")
    st.caption(
        "Filled: results. Rings: plans that were tried. Bars are 95 % intervals. Rises in other "
        "features, or against another reference, are in a chart of their own."
    )


def _plans(runs: Sequence[Compression]) -> None:
    """The choice for each layer, a table for each network."""
    if not any(plan.layers for run in runs for plan in run.results):
        return
    st.subheader("Plans")
    only_different = st.toggle("Only layers that differ", value=False)
    for checkpoint in dict.fromkeys(run.checkpoint for run in runs if run.results):
        columns = {
            run.name if len(run.results) == 1 else f"{run.name}: {plan_label(plan)}": plan
            for run in runs
            for plan in run.results
            if run.checkpoint == checkpoint
        }
        rows = compared_plans(columns)
        if only_different and len(columns) > 1:
            rows = {layer: choices for layer, choices in rows.items() if len(set(choices)) > 1}
        st.caption(f"Of {checkpoint}:" if rows else f"Of {checkpoint}: no layer differs.")
        if rows:
            frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(columns))
            st.dataframe(frame, width="stretch")


def _timings(folder: Path) -> None:
    timings, problems = find_timings(folder)
    if timings:
        st.header("Benchmarks")
        rows = [
            {
                "file": row.source,
                "machine": row.machine,
                "runtime": row.runner,
                "bundle": row.bundle,
                "batch": row.batch,
                "median ms": round(row.p50_ms, 4),
                "p99 ms": round(row.p99_ms, 4),
                "images/s": round(row.images_per_second, 1),
                "speedup": "" if row.speedup is None else interval_text(row.speedup, "×"),
                "verdict": row.verdict,
                "J/image": row.joules,
            }
            for row in timings
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")
    for problem in problems:
        st.warning(f"{problem}. The other benchmarks are shown.")


def interval_text(value: tuple[float, float, float], unit: str = "") -> str:
    """A value and its interval, to the digits that its width justifies.

    >>> interval_text((2.0992, 2.0047, 2.4968), "×"), interval_text((25.763, 21.2407, 30.3082))
    ('2.10× [2.00, 2.50]', '25.8 [21.2, 30.3]')
    """
    middle, low, high = value
    width = high - low
    digits = min(6, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 2
    digits = max(digits, 1)
    return f"{middle:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"
