"""The report of a compression as a single HTML file, which works offline and can be mailed.

Only the two interactive charts need JavaScript. Strings from files (names of checkpoints, layers
and data sets) are escaped, also inside the charts, where plotly interprets a subset of HTML. A
content security policy keeps the page from loading or sending anything.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ard.costs.objectives import objective_noun
from ard.errors import ArdError
from ard.measuring.score import Score
from ard.measuring.sensitivity import Row
from ard.report.marks import marks
from ard.report.plots import (
    DeltaScale,
    delta_scale,
    is_drawable,
    pareto_axis,
    tick_text,
)
from ard.report.values import (
    CompressionReport,
    LayerRow,
    before_after,
    budget_note,
    delta_text,
    engineering,
    features_note,
    limit_note,
    plain_number,
    precision_note,
    target_note,
)
from nas_gan.pictures.plot_style import BLUE, GREEN, VERMILION

# Visible on a light and on a dark page; text and grid get their colours from the style sheet.
NEUTRAL = "#7a8699"
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def to_html(report: CompressionReport, *, samples_png: bytes | None) -> str:
    """The whole page; `samples_png` is the figure of dense and compressed samples.

    Raises:
        ArdError: plotly is not installed.
    """
    body = "\n".join(
        part
        for part in (
            _header(report),
            _cards(report),
            _section("Before and after", _before_after(report)),
            _section("Samples", _samples(samples_png), "Each pair is made from the same latent."),
            _section("Whole plans that were tried", _chart(*_pareto(report)), _PARETO_NOTE),
            _section("One layer at a time", _chart(*_sensitivity(report)), _SENSITIVITY_NOTE),
            _section("Layers", _layers(report.layers)),
            _section("Activations", _gates(report.gates), _GATES_NOTE),
            _section("Layers left out", _skipped(report.skipped)),
            _section("How it was measured", _measured(report)),
            _section("Time spent", _timings(report.timings)),
        )
        if part
    )
    title = escape(f"{report.checkpoint}, {report.compression:.2f}× smaller")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n"
        f"<script>{_plotly_js()}</script>\n</head>\n<body>\n<main>\n{body}\n"
        "<footer>Written by <code>python -m ard.compress</code>. This file is self-contained: it "
        "loads nothing and sends nothing.</footer>\n</main>\n</body>\n</html>\n"
    )


def _plotly_js() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ArdError(
            "report.html needs plotly, which is not installed; pip install plotly"
        ) from error
    return str(get_plotlyjs())


def _section(title: str, content: str, note: str = "") -> str:
    if not content:
        return ""
    lead = f'<p class="note">{note}</p>\n' if note else ""
    return f"<section>\n<h2>{title}</h2>\n{lead}{content}\n</section>"


def _header(report: CompressionReport) -> str:
    state = ("good", "within the budget") if report.budget_met else ("bad", "over the budget")
    if report.target is not None and (report.budget is None or report.budget_met):
        state = ("good", "target reached") if report.target.reached else ("bad", "target missed")
    allowed = f"Δ{escape(report.distance)} of at most {escape(report.budget_text)}"
    wanted = f"as {escape(objective_noun(report.objective))} as that allows"
    asked = f"The budget: a {allowed}, with {wanted}."
    if report.target is not None:
        asked = f"The target: {escape(report.target.text)}, with the smallest rise that reaches it."
        if report.budget is not None:
            asked = f"The target: {escape(report.target.text)}, within a {allowed}."
    return (
        f'<header>\n<h1>{escape(report.checkpoint)} <span class="badge {state[0]}">{state[1]}'
        f"</span></h1>\n<p>A generator of {escape(report.dataset)} images, factorized layer by "
        f"layer and recovered. {asked}</p>\n"
        "</header>"
    )


def _cards(report: CompressionReport) -> str:
    dense, small = report.dense, report.compressed
    cards = [
        _card(
            f"{report.compression:.2f}×",
            "fewer parameters",
            f"{engineering(dense.params)} → {engineering(small.params)}",
        ),
        _card(
            f"{report.macs_ratio:.2f}×",
            "fewer MACs per image",
            f"{engineering(dense.macs)} → {engineering(small.macs)}",
        ),
    ]
    for row in report.latency[:1]:
        interval = f"[{row.speedup_low:.2f}, {row.speedup_high:.2f}]"
        note = escape(f"{interval}, batch {row.batch}, {row.runtime}")
        cards.append(_card(f"{row.speedup:.2f}×", "faster", note))
    rise, interval = delta_text(report, report.recovered).split(" ", 1)
    cards.append(
        _card(
            rise,
            f"Δ{escape(report.distance_in_features)}",
            f"95 % interval {interval}"
            + ("" if report.budget is None else f", allowed +{plain_number(report.budget)}")
            + (f"; {of}" if (of := limit_note(report)) else ""),
            _meter(report.recovered, report.scale),
            "good" if report.budget_met else "bad",
        )
    )
    return f'<div class="cards">\n{"".join(cards)}\n</div>'


def _card(value: str, label: str, note: str, extra: str = "", mood: str = "") -> str:
    return (
        f'<div class="card"><div class="value {mood}">{value}</div><div class="label">{label}</div>'
        f'<div class="note">{note}</div>{extra}</div>\n'
    )


def _meter(score: Score, budget: float) -> str:
    """The interval on a line from 0 to just beyond the budget."""
    if not is_drawable(score):
        return ""
    low, high = min(0.0, score.ci_low), 1.05 * max(budget, score.ci_high)
    span = (high - low) or 1.0
    zero, limit, start, point, end = (
        100 * (v - low) / span for v in (0.0, budget, score.ci_low, score.rise, score.ci_high)
    )
    return (
        '<div class="meter" role="img" aria-label="the interval between 0 and the budget">'
        f'<i class="allowed" style="left:{zero:.1f}%;width:{limit - zero:.1f}%"></i>'
        f'<i class="interval" style="left:{start:.1f}%;width:{end - start:.1f}%"></i>'
        f'<i class="point" style="left:{point:.1f}%"></i>'
        f'<i class="limit" style="left:{limit:.1f}%"></i></div>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int, kind: str = "") -> str:
    """A table of cells that are already HTML; columns from `numbers` on are right-aligned."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if i >= numbers else ''}>{cell}</{tag}>"
            for i, cell in enumerate(cells)
        )

    body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}">\n<thead><tr>{line(head, "th")}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _before_after(report: CompressionReport) -> str:
    # Keep a unit on the same line as its number.
    rows = [
        [re.sub(r"(?<=\d) (?=[A-Za-z])", "&nbsp;", escape(cell)) for cell in row]
        for row in before_after(report)
    ]
    table = _table(("", "dense", "compressed", "ratio"), rows, 1)
    target = [target_note(report.target)] if report.target else []
    lines = [*target, budget_note(report), *filter(None, [precision_note(report)])]
    if report.coverage.total:
        warning = "Warning: " if report.coverage.low else ""
        lines.append(warning + report.coverage.describe())
    return "\n".join([table, *(f'<p class="note">{escape(line)}.</p>' for line in lines)])


def _samples(png: bytes | None) -> str:
    if png is None:
        return ""
    data = base64.b64encode(png).decode()
    alt = "samples of the dense and the compressed generator on the same latents"
    return f'<img class="samples" alt="{alt}" src="data:image/png;base64,{data}">'


def _layers(layers: Sequence[LayerRow]) -> str:
    widest = max((layer.params_dense for layer in layers), default=1)

    def row(layer: LayerRow) -> list[str]:
        shape = "×".join(map(str, layer.weight_shape))
        before, after = 100 * layer.params_dense / widest, 100 * layer.params / widest
        bar = (
            f'<div class="bar"><i style="width:{before:.1f}%"></i>'
            f'<b style="width:{after:.1f}%"></b></div>'
        )
        choice = escape(layer.choice)
        return [
            f"<code>{escape(layer.name)}</code>",
            f'{escape(layer.kind)} <span class="quiet">{shape}</span>',
            f'<span class="quiet">{choice}</span>' if layer.choice == "dense" else choice,
            bar,
            _change(layer.params_dense, layer.params),
            _change(layer.macs_dense, layer.macs),
            f"{layer.params / layer.params_dense:.0%}",
        ]

    head = ("layer", "weight", "choice", "", "parameters", "MACs", "kept")
    return _table(head, map(row, layers), 4, "layers") if layers else ""


def _gates(gates: Mapping[str, str]) -> str:
    rows = [(f"<code>{escape(name)}</code>", escape(form)) for name, form in gates.items()]
    return _table(("activation", "gate"), rows, 2) if rows else ""


def _change(before: int, after: int) -> str:
    if before == after:
        return f'<span class="quiet">{engineering(before)}</span>'
    return f'<span class="quiet">{engineering(before)} →</span> {engineering(after)}'


def _rounds_text(rounds: int) -> str:
    return f", {rounds} rounds of recovery" if rounds > 1 else ""


def _skipped(skipped: Sequence[tuple[str, str]]) -> str:
    rows = [(f"<code>{escape(name)}</code>", escape(reason)) for name, reason in skipped]
    return _table(("layer", "reason"), rows, 2) if rows else ""


def _measured(report: CompressionReport) -> str:
    searched = {t.score.n_images for t in report.trials}
    facts = {
        "features": features_note(report),
        **({"values": of} if (of := limit_note(report)) else {}),
        "reference": report.reference,
        **({"network": report.interface} if report.interface else {}),
        "the saved model": f"{report.recovered.n_images:,} images of held-out latents",
        "during the search": ", ".join(f"{n:,} images" for n in sorted(searched)),
        f"Δ{escape(report.distance)} before recovery": delta_text(report, report.factorized),
        f"Δ{escape(report.distance)} after recovery": (
            delta_text(report, report.recovered) + _rounds_text(report.rounds)
        ),
        "counting": "parameters include biases; MACs are multiply-adds per image",
        **report.environment,
    }
    rows = [(escape(name), escape(value)) for name, value in facts.items() if value]
    return _table(("", ""), rows, 2, "facts")


def _timings(timings: Mapping[str, float]) -> str:
    if not timings:
        return ""
    total, longest = sum(timings.values()), max(timings.values()) or 1.0
    rows = [
        [
            escape(stage),
            f'<div class="bar"><b style="width:{100 * seconds / longest:.1f}%"></b></div>',
            _duration(seconds),
        ]
        for stage, seconds in timings.items()
    ]
    return _table(("stage", "", "time"), [*rows, ["all", "", _duration(total)]], 2, "timings")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


# ------------------------------------------------------------------------------------ charts

_PARETO_NOTE = (
    "Every plan that was recovered and measured. The bars are 95 % intervals; a plan is within the "
    "budget if the upper end of its interval is. Hover over a mark to see its plan."
)
_GATES_NOTE = (
    "A gate takes the place of an activation where a runtime computes it faster. Its scalars are "
    "fitted to what enters the activation, and trained with the rest."
)
_SENSITIVITY_NOTE = (
    "The rise with one layer factorized and all others dense, before any recovery. Larger marks "
    "keep more of the layer's parameters; chosen ones are circled."
)


def _label(text: str) -> str:
    """`text` escaped for plotly, which interprets tags and most entities but not `&quot;`."""
    return escape(text, quote=False)


def _chart(figure: Any, name: str) -> str:
    chart = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"chart-{name}",
        config={"responsive": True, "displayModeBar": False},
    )
    return (
        f'<div class="chart">{chart}</div>\n<noscript><p class="note">This chart needs JavaScript; '
        f"{name}.png in the same folder shows the same.</p></noscript>"
    )


def _pareto(report: CompressionReport) -> tuple[Any, str]:
    from plotly import graph_objects as go

    trials = [t for t in report.trials if is_drawable(t.score)]
    final = [e for e in (report.factorized, report.recovered) if is_drawable(e)]
    ends = [v for e in (*final, *(t.score for t in trials)) for v in (e.ci_low, e.ci_high)]
    scale = delta_scale(ends, report.scale)
    figure = go.Figure()

    def add(
        name: str, x: list[float], scores: list[Score], texts: list[str], **marker: Any
    ) -> None:
        hover = [
            f"{at:.2f}×, {_label(delta_text(report, score))}{text}"
            for at, score, text in zip(x, scores, texts, strict=True)
        ]
        figure.add_scatter(
            x=x,
            y=scale.forward([e.rise for e in scores]).tolist(),
            error_y=_error_bars(scale, scores, marker["color"]),
            mode="markers",
            name=name,
            marker=marker,
            hovertext=hover,
            hovertemplate="%{hovertext}<extra>%{fullData.name}</extra>",
        )

    figure.add_scatter(
        x=[1], y=[0], mode="markers", name="dense", marker={"color": NEUTRAL, "size": 12}
    )
    for within, name, colour, symbol in (
        (True, "within the budget", BLUE, "circle"),
        (False, "over the budget", VERMILION, "x"),
    ):
        group = [t for t in trials if t.within_budget == within]
        if group:
            add(
                name,
                [report.dense.cost / t.cost for t in group],
                [t.score for t in group],
                [f"{_rounds_text(t.rounds)}<br>{_plan_text(t.plan)}" for t in group],
                color=colour,
                symbol=symbol,
                size=11,
            )
    for trial in filter(report.is_saved, trials):
        figure.add_scatter(
            x=[report.dense.cost / trial.cost],
            y=scale.forward([trial.score.rise]).tolist(),
            mode="markers",
            name="the chosen plan",
            marker={"color": NEUTRAL, "symbol": "circle-open", "size": 22, "line": {"width": 2}},
            hoverinfo="skip",
        )
    saved = report.dense.cost / report.compressed.cost
    for score, name, symbol, size in (
        (report.factorized, "before recovery, held-out latents", "triangle-down-open", 12),
        (report.recovered, "the saved model, held-out latents", "star", 16),
    ):
        if is_drawable(score):
            add(name, [saved], [score], [""], color=GREEN, symbol=symbol, size=size)
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1})
    if report.budget is not None:
        figure.add_hline(
            y=float(scale.forward([report.budget])[0]),
            line={"color": NEUTRAL, "width": 2, "dash": "dash"},
            annotation={"text": f"budget +{plain_number(report.budget)}", "yanchor": "bottom"},
            annotation_position="top right",
        )
    _lay_out(figure, 460)
    figure.update_xaxes(title=_label(pareto_axis(report)), ticksuffix="×")
    figure.update_yaxes(title=f"Δ{_label(report.distance_in_features)}", **_ticks(scale))
    return figure, "pareto"


def _sensitivity(report: CompressionReport) -> tuple[Any, str]:
    from plotly import graph_objects as go

    rows = [row for row in report.table.rows if is_drawable(row.score)]
    names = list(dict.fromkeys(row.layer for row in report.table.rows))
    dense = {layer.name: layer.params_dense for layer in report.layers}
    scale = delta_scale([row.score.rise for row in rows], report.scale)
    # Each method of a layer gets a lane of its own, so that marks do not hide one another.
    methods = {n: [m for m in marks() if _of(rows, n, m)] for n in names}

    def lane(row: Row) -> float:
        used = methods[row.layer]
        offset = used.index(row.choice.method) - (len(used) - 1) / 2
        return names.index(row.layer) + min(0.25, 0.8 / len(used)) * offset

    def text(row: Row) -> str:
        kept = f", {row.params / dense[row.layer]:.0%} kept" if row.layer in dense else ""
        return (
            f"{_label(row.layer)}<br>{_label(str(row.choice))}{kept}<br>"
            f"Δ{escape(report.distance)} {delta_text(report, row.score)}"
        )

    figure = go.Figure()
    for name, mark in marks().items():
        group = [row for row in rows if row.choice.method == name]
        if not group:
            continue
        shares = [row.params / dense.get(row.layer, 2 * row.params) for row in group]
        figure.add_scatter(
            x=scale.forward([row.score.rise for row in group]).tolist(),
            y=[lane(row) for row in group],
            error_x=_error_bars(scale, [row.score for row in group], mark.colour),
            mode="markers",
            name=name,
            marker={
                "color": mark.colour,
                "symbol": mark.symbol,
                "size": [6 + 9 * share for share in shares],
                "line": {"width": 0.5, "color": "white"},
            },
            hovertext=[text(row) for row in group],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    chosen = [row for row in rows if report.plan.get(row.layer) == row.choice]
    if chosen:
        figure.add_scatter(
            x=scale.forward([row.score.rise for row in chosen]).tolist(),
            y=[lane(row) for row in chosen],
            mode="markers",
            name="chosen",
            marker={"color": NEUTRAL, "symbol": "circle-open", "size": 17, "line": {"width": 2}},
            hoverinfo="skip",
        )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1, "dash": "dash"})
    if report.budget is not None:
        figure.add_vline(
            x=float(scale.forward([report.budget])[0]),
            line={"color": NEUTRAL, "width": 2, "dash": "dot"},
            annotation={"text": "whole budget", "yanchor": "bottom"},
            annotation_position="top",
        )
    _lay_out(figure, 170 + 30 * len(names))
    figure.update_xaxes(title=f"Δ{_label(report.distance_in_features)}", **_ticks(scale))
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[_label(name) for name in names],
        range=[len(names) - 0.4, -0.6],
        tickfont={"size": 11},
    )
    return figure, "sensitivity"


def _of(rows: Sequence[Row], layer: str, method: str) -> list[Row]:
    return [row for row in rows if row.layer == layer and row.choice.method == method]


def _plan_text(plan: Mapping[str, object]) -> str:
    lines = [_label(f"{name}: {choice}") for name, choice in plan.items()]
    return "<br>".join(lines) or "all layers dense"


def _error_bars(scale: DeltaScale, scores: Sequence[Score], colour: str) -> dict[str, Any]:
    """Distances from each point to the ends of its interval, in axis coordinates."""
    low, mid, high = (
        scale.forward([getattr(e, name) for e in scores]) for name in ("ci_low", "rise", "ci_high")
    )
    return {
        "type": "data",
        "symmetric": False,
        "array": (high - mid).clip(min=0).tolist(),
        "arrayminus": (mid - low).clip(min=0).tolist(),
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def _ticks(scale: DeltaScale) -> dict[str, Any]:
    if not scale.width:
        return {}
    return {
        "tickvals": scale.forward(scale.ticks).tolist(),
        "ticktext": [tick_text(value) for value in scale.ticks],
    }


def _lay_out(figure: Any, height: int) -> None:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 10, "r": 16, "t": 24, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={
            "orientation": "h",
            "y": 1.06,
            "yanchor": "bottom",
            "x": 0,
            "itemsizing": "constant",
        },
        hoverlabel={"bgcolor": "#1f2430", "font": {"color": "white"}, "align": "left"},
        hovermode="closest",
    )
    figure.update_xaxes(automargin=True, zeroline=False, title_standoff=12)
    figure.update_yaxes(automargin=True, zeroline=False, title_standoff=12)


_STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --ink: #1f2430; --muted: #667085;
  --line: #e4e7ec; --accent: #0072b2; --soft: #cfe3f1; --good: #00704f; --good-soft: #d8f3e8;
  --bad: #a63d00; --bad-soft: #fde6d8; }
@media (prefers-color-scheme: dark) { :root { --page: #101318; --card: #191e25; --ink: #e6e9ef;
  --muted: #98a2b3; --line: #2d343f; --accent: #4aa8e0; --soft: #24485f; --good: #41cfa2;
  --good-soft: #123a2f; --bad: #ff9e64; --bad-soft: #44240f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 12px; }
header p { color: var(--muted); margin: 0 0 20px; max-width: 46em; overflow-wrap: anywhere; }
.badge { font-size: .85rem; font-weight: 600; padding: 4px 12px; border-radius: 99px;
  vertical-align: middle; white-space: nowrap; }
.badge.good { color: var(--good); background: var(--good-soft); }
.badge.bad { color: var(--bad); background: var(--bad-soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 16px;
  margin-bottom: 16px; }
.card, section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 20px; min-width: 0; }
section { margin-bottom: 16px; }
.value { font-size: 2.3rem; font-weight: 700; line-height: 1.1; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.value.good { color: var(--good); } .value.bad { color: var(--bad); }
.label { font-weight: 600; margin-top: 6px; overflow-wrap: anywhere; }
.note { color: var(--muted); font-size: .9rem; overflow-wrap: anywhere; }
p.note { margin: 0 0 12px; } .scroll + p.note { margin: 12px 0 0; }
.meter { position: relative; height: 10px; margin-top: 14px; border-radius: 5px;
  background: var(--line); }
.meter i { position: absolute; top: 0; height: 10px; border-radius: 5px; }
.meter .allowed { background: var(--good-soft); }
.meter .interval { background: var(--accent); opacity: .55; }
.meter .point { width: 4px; margin-left: -2px; top: -3px; height: 16px; background: var(--ink); }
.meter .limit { width: 2px; margin-left: -1px; top: -3px; height: 16px; background: var(--bad);
  border-radius: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: .82rem; font-weight: 600; color: var(--muted); }
th, td { padding: 7px 16px 7px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
th:last-child, td:last-child { padding-right: 0; }
tbody tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
table.layers { font-size: .9rem; } table.layers td { white-space: nowrap; }
table.facts td:first-child { color: var(--muted); width: 13em; vertical-align: top; }
table.facts td { overflow-wrap: anywhere; } table.facts thead { display: none; }
table.timings tbody tr:last-child { font-weight: 600; }
code { font: .86em ui-monospace, "Cascadia Mono", Menlo, monospace; }
.quiet { color: var(--muted); }
.bar { position: relative; height: 10px; min-width: 90px; }
.bar i, .bar b { position: absolute; left: 0; top: 0; height: 10px; border-radius: 3px;
  min-width: 2px; }
.bar i { background: var(--soft); } .bar b { background: var(--accent); }
.samples { display: block; width: 760px; max-width: 100%; height: auto; margin: 0 auto;
  border-radius: 8px; background: #fff; }
.chart { overflow: hidden; }
.chart .xtick text, .chart .ytick text, .chart .xtitle, .chart .ytitle, .chart .legendtext,
.chart .annotation-text { fill: var(--ink) !important; }
.chart .gridlayer path { stroke: var(--line) !important; }
footer { color: var(--muted); font-size: .85rem; text-align: center; margin-top: 24px; }
@media (max-width: 600px) { main { padding: 20px 12px 32px; } h1 { font-size: 1.5rem; }
  .card, section { padding: 16px; } th, td { padding-right: 10px; font-size: .9rem; }
  table.facts td:first-child { width: 8em; } table:not(.layers) .number { white-space: normal; } }
@media print { body { background: #fff; } section, .card { break-inside: avoid; } }
"""
