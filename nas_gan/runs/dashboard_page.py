"""The page of `nas_gan.dashboard`, which Streamlit runs again at every click."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from nas_gan.errors import MissingDataError
from nas_gan.reading import read_bytes
from nas_gan.runs.reading import (
    ACTIVATIONS,
    OTHER,
    Run,
    compared_settings,
    find_runs,
    grouped,
    thinned,
)

# Okabe and Ito, in the order in which runs get them.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1f2430")
SIGNS = {"finished": "✔", "running": "▶", "stopped": "■", "damaged": "⚠"}
FOLDED = (ACTIVATIONS, OTHER)


def show(folder: Path) -> None:
    """The whole page."""
    st.set_page_config(page_title="Runs", layout="wide")
    st.title("Runs")
    try:
        runs = find_runs(folder)
    except MissingDataError as error:
        st.error(str(error))
        return
    if not runs:
        st.info(
            f"{folder} holds no run yet. Train one with `python -m nas_gan.train --run-dir "
            "runs/first`, then read again."
        )
        st.button("Read again")
        return
    chosen = _choose(runs)
    _overview(runs)
    if not chosen:
        st.info("Choose a run at the left.")
        return
    _charts(chosen)
    _evaluations(chosen)
    _samples(chosen)
    _settings(chosen)


def _choose(runs: Sequence[Run]) -> list[Run]:
    by_name = {run.name: run for run in runs}
    with st.sidebar:
        st.button("Read again")
        names = st.multiselect(
            "Runs side by side", list(by_name), default=list(by_name)[: len(COLOURS)]
        )
    return [by_name[name] for name in names]


def _overview(runs: Sequence[Run]) -> None:
    rows = [
        {
            "run": run.name,
            "status": f"{SIGNS[run.status]} {run.status}",
            "step": f"{run.last_step:,}" + (f" of {run.steps:,}" if run.steps else ""),
            "dataset": str(run.config.get("dataset", "")),
            "loss": str(run.config.get("loss", "")),
            "samples": len(run.samples),
        }
        for run in runs
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")
    for run in runs:
        if run.problems:
            st.warning(f"{run.name} is damaged: {'; '.join(run.problems)}. The rest is shown.")


def _charts(runs: Sequence[Run]) -> None:
    groups = grouped(name for run in runs for name in run.scalars)
    if not groups:
        st.info("Nothing has been logged yet.")
    for group, names in groups.items():
        if group in FOLDED:
            with st.expander(group):
                picked = st.multiselect("Scalars", names, default=names[:2], key=group)
                _row_of_charts(runs, picked)
        else:
            st.header(group)
            if "fid" in names:
                st.caption(
                    "The fid of a log is a Fréchet distance in the features that its run used; "
                    "runs with other features, and published FIDs, cannot be compared with it."
                )
            _row_of_charts(runs, names)
    if "Learning rates" not in groups:
        st.header("Learning rates")
        rates = {
            name: values for name, values in compared_settings(runs).items() if name.endswith("_lr")
        }
        st.caption("No schedule was logged: the rates stay at those of the settings.")
        st.dataframe(_table(rates, runs), width="stretch")


def _row_of_charts(runs: Sequence[Run], names: Sequence[str]) -> None:
    for start in range(0, len(names), 2):
        for column, name in zip(st.columns(2), names[start : start + 2], strict=False):
            curves = {
                run.name: pd.Series(dict(thinned(run.scalars[name])))
                for run in runs
                if name in run.scalars
            }
            colours = [COLOURS[i % len(COLOURS)] for i, r in enumerate(runs) if r.name in curves]
            with column:
                st.subheader(name)
                # Runs log at different steps; a line is continued over the steps it lacks.
                frame = pd.DataFrame(curves).interpolate(limit_area="inside")
                st.line_chart(frame, color=[*colours], x_label="step", height=330)


def _evaluations(runs: Sequence[Run]) -> None:
    rows = [
        {"run": run.name, "file": found.name, "features": found.extractor}
        | {"published FIDs": "comparable" if found.comparable else "not comparable"}
        | dict(found.values)
        for run in runs
        for found in run.evaluations
    ]
    if rows:
        st.header("Evaluations")
        st.caption("Distances compare within the same features, images and reference only.")
        st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")


def _samples(runs: Sequence[Run]) -> None:
    steps = sorted({step for run in runs for step in run.samples})
    if not steps:
        return
    st.header("Samples")
    latest = sorted({max(run.samples) for run in runs if run.samples})
    picked = st.multiselect("Steps", steps, default=latest, format_func="{:,}".format)
    for step in picked:
        st.subheader(f"step {step:,}")
        with_samples = [run for run in runs if step in run.samples]
        for column, run in zip(st.columns(max(2, len(with_samples))), with_samples, strict=False):
            with column:
                try:
                    picture = read_bytes(run.samples[step])
                    st.image(picture, caption=run.name, width="stretch", output_format="PNG")
                except Exception:  # Pillow's readers raise nearly anything on a damaged file
                    st.warning(f"{run.name}: {run.samples[step].name} cannot be read")


def _settings(runs: Sequence[Run]) -> None:
    st.header("Settings")
    rows = compared_settings(runs)
    if len(runs) > 1 and st.toggle("Only those that differ", value=True):
        rows = {name: values for name, values in rows.items() if len(set(values)) > 1}
        if not rows:
            st.caption("All settings are the same.")
    if rows:
        st.dataframe(_table(rows, runs), width="stretch")


def _table(rows: dict[str, tuple[str, ...]], runs: Sequence[Run]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index", columns=[run.name for run in runs])


if __name__ == "__main__":
    show(Path(sys.argv[1]))
