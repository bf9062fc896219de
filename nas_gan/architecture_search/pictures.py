"""Pictures of a search: a genotype as a graph, genotypes over time, and the measured curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.ticker import MaxNLocator

from nas_gan.architecture_search.files import (
    ALONG_THE_WAY,
    BEST,
    DISCRIMINATOR,
    GENOTYPE,
    BestGenotype,
    read_best,
)
from nas_gan.architecture_search.finalists import FINALIST
from nas_gan.architecture_search.graphs import NODES_PER_CELL, SKIP_NODE, GraphEdge, graph_edges
from nas_gan.networks.genotype import EDGES, DiscriminatorGenotype, Genotype
from nas_gan.pictures.plot_style import (
    BLUE,
    GRID,
    INK,
    MUTED,
    VERMILION,
    apply_style,
    new_figure,
    save_figure,
)
from nas_gan.reading import read_text
from nas_gan.training.log import read_log

Place = tuple[float, float]
# Where the nodes of a cell and of a block are, from left to right; no two edges cross.
CELL_PLACES = ((0.0, 0.0), (1.0, 1.0), (1.0, -1.0), (2.2, 0.0), (3.7, 0.0))
BLOCK_PLACES = ((0.0, 0.0), (1.4, 0.0), (2.5, 1.0), (2.5, -1.0), (3.7, 0.0))
# Where along an edge its name is, if not in the middle: next to a shorter edge that leaves the same
# node, or enters it.
NAME_AT = {(1, 3): 0.42, (2, 3): 0.42, (1, 4): 0.74, (2, 4): 0.74}
BLOCK_NAME_AT = {(0, 2): 0.36, (0, 3): 0.36}
# How far above their node the skip features of earlier cells come in.
TOP = 1.75
# Colours of operations, by kind: resampling, nothing, identity, convolutions that grow in size.
COLOURS = {
    "nearest": "#f6d8a8", "bilinear": "#e69f00", "bicubic": "#b87a00", "conv_transpose": "#7a4f00",
    "none": "#ffffff", "skip_connect": "#b9bec8",
    "conv_1x1": "#c6dcec", "conv_3x3": "#5aa5d6", "conv_5x5": "#0072b2",
    "dil_conv_3x3": "#8fd3bd", "dil_conv_5x5": "#009e73",
}  # fmt: skip
# Names of scores, by those of a log.
SCORES = {"inception_score": "Inception score", "class_score": "class score"}


def genotype_figure(genotype: Genotype | DiscriminatorGenotype) -> Figure:
    """The cells of a genotype side by side: nodes are feature maps, edges their operations.

    Dashed are the fixed connections that bring the skip features of earlier cells. A node that
    nothing enters or leaves is grey.
    """
    is_generator = isinstance(genotype, Genotype)
    n, columns = len(genotype.rows), 3 if is_generator else 2
    figure = new_figure(4.3 * columns, 3.1 * -(-n // columns))
    panels = figure.subplots(-(-n // columns), columns, squeeze=False).ravel()
    edges = graph_edges(genotype)
    for number, axes in enumerate(panels, start=1):
        last = NODES_PER_CELL * number
        own = [edge for edge in edges if last - NODES_PER_CELL < edge.target <= last]
        layout = (CELL_PLACES, NAME_AT) if is_generator else (BLOCK_PLACES, BLOCK_NAME_AT)
        _draw_cell(axes, own, number, *layout)
        part = "cell" if is_generator else "block"
        axes.set_title(f"{part} {number}", fontsize=11, color=INK)
    return figure


def _draw_cell(
    axes: Axes,
    edges: Sequence[GraphEdge],
    number: int,
    places: Sequence[Place],
    name_at: Mapping[tuple[int, int], float],
) -> None:
    first = NODES_PER_CELL * (number - 1)
    used = {node for edge in edges for node in (edge.source, edge.target)}
    for edge in edges:
        if not edge.skip:
            source, target = edge.source - first, edge.target - first
            share = name_at.get((source, target), 0.5)
            _draw_edge(axes, places[source], places[target], edge, share)
    skips = [edge for edge in edges if edge.skip]
    for edge, aside, share in zip(skips, (-0.35, 0.35), (0.25, 0.5), strict=False):
        x, y = places[SKIP_NODE]
        start = (x + aside, y + TOP)
        _draw_edge(axes, start, (x, y), edge, share)
        earlier = edge.source // NODES_PER_CELL + 1
        axes.text(*start, f"cell {earlier}", ha="center", va="bottom", fontsize=8, color=MUTED)
    for node, (x, y) in enumerate(places):
        colour = INK if first + node in used else GRID
        axes.plot(x, y, "o", markersize=17, color="white", markeredgecolor=colour, zorder=3)
        name = {0: "in", len(places) - 1: "out"}.get(node, str(node))
        axes.text(x, y, name, ha="center", va="center", fontsize=8, color=colour, zorder=4)
    axes.set_xlim(-0.4, 4.1)
    axes.set_ylim(-1.4, TOP + 0.3 if places is CELL_PLACES else 1.4)
    axes.set_axis_off()


def _draw_edge(axes: Axes, start: Place, end: Place, edge: GraphEdge, share: float) -> None:
    colour = MUTED if edge.skip else INK
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=11, shrinkA=0 if edge.skip else 9, shrinkB=9,
        linestyle="--" if edge.skip else "-", color=colour, linewidth=1.1, zorder=1,
    )  # fmt: skip
    axes.add_patch(arrow)
    x, y = (a + share * (b - a) for a, b in zip(start, end, strict=True))
    axes.text(
        x, y, edge.operation, ha="center", va="center", fontsize=7.5, color=colour, zorder=2,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def genotypes_figure(found: Mapping[int, Genotype], best: int | None = None) -> Figure:
    """Which operation each edge had over time: a row for each edge, a column for each derivation.

    Args:
        found: genotypes by the step at which they were derived.
        best: the step of the best one, which is marked.
    """
    steps, names = sorted(found), list(COLOURS)
    table = [
        [names.index(found[step].operation(cell, edge)) for step in steps]
        for cell in (1, 2, 3)
        for edge in EDGES
    ]
    figure = new_figure(7.5, 4.6)
    axes = figure.subplots()
    cells = axes.pcolormesh(
        [*range(len(steps) + 1)], [*range(len(table) + 1)], table,
        cmap=ListedColormap(list(COLOURS.values())),
        norm=BoundaryNorm([n - 0.5 for n in range(len(names) + 1)], len(names)),
        edgecolors=GRID, linewidth=0.3,
    )  # fmt: skip
    cells.set_rasterized(True)
    axes.invert_yaxis()
    axes.set_yticks(
        [row + 0.5 for row in range(len(table))],
        [f"cell {cell}  {edge}" for cell in (1, 2, 3) for edge in EDGES],
        fontsize=7,
    )
    for boundary in (len(EDGES), 2 * len(EDGES)):
        axes.axhline(boundary, color=INK, linewidth=1)
    shown = range(0, len(steps), -(-len(steps) // 8))
    axes.set_xticks([n + 0.5 for n in shown], [f"{steps[n]:,}" for n in shown], fontsize=8)
    axes.set_xlabel("step", color=INK)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    if best in steps:
        axes.annotate(
            "best FID", (steps.index(best) + 0.5, 0), (0, 16), textcoords="offset points",
            ha="center", va="center", fontsize=8, color=VERMILION,
            arrowprops={"arrowstyle": "-|>", "color": VERMILION, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    present = {value for row in table for value in row}
    handles = [
        Patch(facecolor=COLOURS[name], edgecolor=MUTED, linewidth=0.5, label=name)
        for number, name in enumerate(names)
        if number in present
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    return figure


def curve_figure(rows: Sequence[Mapping[str, Any]], best: BestGenotype | None = None) -> Figure:
    """What was measured of derived generators, against the step: FID with its standard error, IS.

    Args:
        rows: those of a log with a `fid` or a class score.
        best: the genotype that was kept, which is marked.
    """
    scores = [name for name in SCORES if any(name in row for row in rows)]
    panels = (["fid"] if any("fid" in row for row in rows) else []) + scores
    figure = new_figure(6.2, 2.7 * len(panels))
    column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(column, panels, strict=True):
        points = [row for row in rows if name in row]
        steps, values = [row["step"] for row in points], [row[name] for row in points]
        spread = "fid_se" if name == "fid" else f"{name}_std"
        axes.errorbar(
            steps, values, [row.get(spread, 0.0) for row in points], color=BLUE, marker="o",
            markersize=4, linewidth=1.4, elinewidth=0.9, capsize=2,
        )  # fmt: skip
        axes.set_ylabel(SCORES.get(name, "FID"), color=INK)
        apply_style(axes, 9)
        if name == "fid" and best is not None:
            axes.plot(
                best.step, best.fid, "o", markersize=11, markerfacecolor="none",
                markeredgecolor=VERMILION, markeredgewidth=1.6, label="best genotype",
            )  # fmt: skip
            axes.legend(fontsize=8, frameon=False)
    column[-1].set_xlabel("step of the search", color=INK)
    column[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_genotype(genotype: Genotype | DiscriminatorGenotype, path: Path) -> None:
    """Write a genotype as a PNG."""
    save_figure(genotype_figure(genotype), path)


def draw_search(run_dir: Path) -> list[Path]:
    """Draw what the directory of a search holds, and return the pictures.

    These are genotype.png, discriminator.png, best_genotype.png and finalist.png, genotypes.png
    (over time) and curve.png (what was measured), each if there is something to draw.
    """
    best = read_best(run_dir)
    figures: dict[str, Figure] = {}
    for name, read in (
        (GENOTYPE, Genotype.from_json),
        (DISCRIMINATOR, DiscriminatorGenotype.from_json),
        (BEST, Genotype.from_json),
        (FINALIST, Genotype.from_json),
    ):
        if (run_dir / name).exists():
            figures[Path(name).stem] = genotype_figure(read(read_text(run_dir / name)))
    found = {
        int(path.stem): Genotype.from_json(read_text(path))
        for path in (run_dir / ALONG_THE_WAY).glob("*.json")
        if path.stem.isdecimal()
    }
    if found:
        figures["genotypes"] = genotypes_figure(found, best.step if best else None)
    measured = [
        row for row in read_log(run_dir / "log.jsonl").rows if row.keys() & {"fid", *SCORES}
    ]
    if measured:
        figures["curve"] = curve_figure(measured, best)
    paths = [run_dir / f"{stem}.png" for stem in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths
