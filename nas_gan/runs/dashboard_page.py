"""The page of `nas_gan.dashboard`, which Streamlit runs again at every click and every change."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from nas_gan.errors import MissingDataError, NasGanError
from nas_gan.locks import is_locked
from nas_gan.reading import read_bytes, read_text
from nas_gan.runs.charts import curves_chart
from nas_gan.runs.compressions import BENCH, JOURNAL, POINTS, REPORT
from nas_gan.runs.compressions_page import SIGNS, show_compressions
from nas_gan.runs.looks import Look, key_html, looks_of, short_names, still_chosen
from nas_gan.runs.reading import (
    ACTIVATIONS,
    OTHER,
    Run,
    compared_settings,
    find_runs,
    grouped,
)

FOLDED = (ACTIVATIONS, OTHER)
# Seconds between two looks at the files, and how many runs are chosen at first.
PERIOD, AT_FIRST = 2.0, 12
# What a run writes as it goes on; the page follows these files.
_FOLLOWED = {"config.json", "log.jsonl", "genotype.json", JOURNAL, REPORT, POINTS, BENCH}


def show(folder: Path) -> None:
    """The whole page."""
    st.set_page_config(page_title="Runs", layout="wide")
    st.title("Runs")
    seen = state_of(folder)
    try:
        runs = find_runs(folder)
    except MissingDataError as error:
        st.error(str(error))
        return
    with st.sidebar:
        if st.toggle("Follow the runs", value=True):
            _follow(folder, seen)
        else:
            st.button("Read again")
    if runs:
        _training(runs)
    show_compressions(folder)
    if not seen:
        st.info(
            f"{folder} holds no run yet. Train one with `python -m nas_gan.train --run-dir "
            "runs/first`; it will appear here."
        )


@st.fragment(run_every=PERIOD)
def _follow(folder: Path, seen: object) -> None:
    """Run the page again as soon as a run has written, begun or ended."""
    if state_of(folder) != seen:
        st.rerun()


def state_of(folder: Path) -> tuple[tuple[object, ...], ...]:
    """What changes if any run below a folder writes, begins or ends."""
    found: list[tuple[object, ...]] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(_FOLLOWED.intersection(files)):
            path = Path(parent, name)
            try:
                state = path.stat()
            except OSError:  # it went away meanwhile
                continue
            found.append((str(path), state.st_mtime_ns, state.st_size))
        if parent_state := is_locked(Path(parent)):
            found.append((parent, parent_state))
    return tuple(found)


def _training(runs: Sequence[Run]) -> None:
    chosen = _choose(runs)
    _overview(runs)
    if not chosen:
        st.info("Choose a run at the left.")
        return
    looks = looks_of([run.name for run in chosen])
    _charts(chosen, looks)
    _evaluations(chosen)
    _architectures(chosen)
    _samples(chosen)
    _settings(chosen)


def _choose(runs: Sequence[Run]) -> list[Run]:
    """The runs to compare; those that begin while somebody watches join by themselves."""
    by_name = {run.name: run for run in runs}
    names, state = list(by_name), st.session_state
    # A widget forgets its choice whenever its options change, so the choice is kept beside it.
    if state.get("names") != names:
        state["default"] = still_chosen(
            state.get("chosen", []), state.get("names", []), names, AT_FIRST
        )
        state["names"] = names
    with st.sidebar:
        state["chosen"] = st.multiselect(
            "Runs side by side",
            names,
            default=state["default"],
            format_func=short_names(names).__getitem__,
        )
    return [by_name[name] for name in state["chosen"]]


def _overview(runs: Sequence[Run]) -> None:
    counts = Counter[str](run.status for run in runs)
    st.caption(" · ".join(f"{counts[status]} {status}" for status in SIGNS if counts[status]))
    rows = pd.DataFrame([_row(run) for run in runs])
    st.dataframe(rows, hide_index=True, width="stretch", height=table_height(len(rows)))
    for run in runs:
        if run.problems:
            st.warning(f"{run.name} is damaged: {'; '.join(run.problems)}. The rest is shown.")


def table_height(n_rows: int) -> int:
    """Pixels of a table that shows up to twenty rows without scrolling."""
    return 38 + 35 * min(n_rows, 20)


def _row(run: Run) -> dict[str, object]:
    best, elapsed, speed = run.best_fid, run.pace("wall_s"), run.pace("images_per_s")
    left = run.pace("left_s") if run.status == "running" else None
    return {
        "run": run.name,
        "status": f"{SIGNS[run.status]} {run.status}",
        "step": f"{run.last_step:,}" + (f" of {run.steps:,}" if run.steps else ""),
        "best fid": "" if best is None else f"{best[0]:.4g} at {best[1]:,}",
        "elapsed": "" if elapsed is None else duration(elapsed),
        "images/s": "" if speed is None else f"{speed:.3g}",
        "remaining": "" if left is None else duration(left),
        "dataset": str(run.config.get("dataset", "")),
        "loss": str(run.config.get("loss", "")),
    }


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter.

    >>> duration(8), duration(75), duration(3_900), duration(200_000)
    ('8 s', '1 min 15 s', '1 h 5 min', '2 d 7 h')
    """
    rest = max(0, round(seconds))
    if rest < 60:
        return f"{rest} s"
    for unit, size, small, smaller in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if rest >= size:
            return f"{rest // size} {unit} {rest % size // smaller} {small}"
    raise AssertionError(rest)


def _charts(runs: Sequence[Run], looks: dict[str, Look]) -> None:
    groups = grouped(name for run in runs for name in run.scalars)
    if not groups:
        st.info("Nothing has been logged yet.")
    for group, names in groups.items():
        if group in FOLDED:
            with st.expander(group):
                picked = st.multiselect("Scalars", names, default=names[:2], key=group)
                _row_of_charts(runs, picked, looks)
        else:
            st.header(group)
            if "fid" in names:
                st.caption(
                    "The fid of a log is a Fréchet distance in the features that its run used; "
                    "runs with other features, and published FIDs, cannot be compared with it."
                )
            _row_of_charts(runs, names, looks)
    if "Learning rates" not in groups:
        st.header("Learning rates")
        rates = {
            name: values for name, values in compared_settings(runs).items() if name.endswith("_lr")
        }
        st.caption("No schedule was logged: the rates stay at those of the settings.")
        st.dataframe(_table(rates, runs), width="stretch")


def _row_of_charts(runs: Sequence[Run], names: Sequence[str], looks: dict[str, Look]) -> None:
    logged = {run.name for run in runs if run.scalars.keys() & set(names)}
    st.html(key_html({name: look for name, look in looks.items() if name in logged}))
    for start in range(0, len(names), 2):
        for column, name in zip(st.columns(2), names[start : start + 2], strict=False):
            curves = {run.name: run.scalars[name] for run in runs if name in run.scalars}
            with column:
                st.subheader(name)
                drawn = {run: look for run, look in looks.items() if run in curves}
                st.altair_chart(curves_chart(curves, drawn, name), width="stretch")


def _architectures(runs: Sequence[Run]) -> None:
    """The genotypes that runs found or trained, drawn."""
    pictured = [run for run in runs if run.genotype is not None]
    if not pictured:
        return
    st.header("Architectures")
    picked = st.selectbox("Architecture of", [run.name for run in pictured])
    [run] = [run for run in pictured if run.name == picked]
    assert run.genotype is not None
    try:
        show_genotype(read_text(run.genotype))
    except NasGanError as error:
        st.warning(f"{run.name}: {run.genotype.name} cannot be drawn: {error}")


def show_genotype(text: str) -> None:
    """Draw the JSON of a genotype, cell by cell, with its operations as a table below.

    Raises:
        InvalidValueError: the text is not a genotype.
    """
    from nas_gan.architecture_search.graphs import genotype_table  # these import torch
    from nas_gan.architecture_search.pictures import genotype_figure
    from nas_gan.networks.genotype import Genotype

    genotype = Genotype.from_json(text)
    st.pyplot(genotype_figure(genotype), width="stretch")
    st.code(genotype_table(genotype), language=None)


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
        short = short_names([run.name for run in runs])
        for column, run in zip(st.columns(max(4, len(with_samples))), with_samples, strict=False):
            with column:
                try:
                    picture = read_bytes(run.samples[step])
                    st.image(picture, caption=short[run.name], width="stretch", output_format="PNG")
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
    short = short_names([run.name for run in runs])
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(short.values()))


if __name__ == "__main__":
    show(Path(sys.argv[1]))
