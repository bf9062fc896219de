"""Pictures of activation functions: curves, learned parameters and the output of random nets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.activations import (
    ACTIVATIONS,
    OUTPUT_ACTIVATIONS,
    SYMMETRIC,
    UNIT,
    Init,
    learned_activations,
    make_activation,
    make_output_activation,
)
from nas_gan.pictures.plot_style import BLUE, CYCLE, GREEN, INK, MUTED, apply_style, new_figure
from nas_gan.seeds import folded

Curve = npt.NDArray[np.float64]
BETAS = (0.5, 1.0, 2.0, 5.0)
# name -> the parameter that its panel varies, and its values
SWEEPS: dict[str, tuple[str, tuple[float, ...]]] = {
    **dict.fromkeys(("swish", "pmish", "mish_a", "mish_b", "pmish_ab"), ("beta", BETAS)),
    "prmmish": ("gamma", BETAS),
    "pnew": ("beta", BETAS),
    "shrelu": ("t", (0.0, 0.5, 1.0, 2.0)),
    "mida": ("t", (0.0, 0.25, 1.0, 2.0)),
    "mida_old": ("b", (-1.0, 0.0, 1.0)),
    "bhsa": ("t", (0.0, 0.25, 1.0)),
    **dict.fromkeys(("bhaa", "bhata", "bhana"), ("t1", (0.1, 0.25, 0.8))),
    "dsilu": ("b", (0.58, 1.0, 2.0)),
}
AT_ITS_MEAN = {"name": "normal", "std": 0.0}
LANDSCAPE_DEPTH, LANDSCAPE_WIDTH = 5, 64
# What is drawn, with the parameters that are not at the mean of their initialisation.
LANDSCAPES: tuple[tuple[str, dict[str, float]], ...] = (
    ("relu", {}),
    ("silu", {}),
    ("mish", {}),
    ("pmish", {"beta": 0.5}),
    ("pmish", {"beta": 5.0}),
    ("shrelu", {"t": 1.0}),
    ("mida", {}),
    ("tanh", {}),
)


class Derivatives(NamedTuple):
    """A function on a grid, with its first and second derivative."""

    value: Curve
    first: Curve
    second: Curve


def derivatives(function: Callable[[Tensor], Tensor], x: npt.ArrayLike) -> Derivatives:
    """`function`, elementwise on a vector, and its derivatives by automatic differentiation."""
    points = torch.as_tensor(np.asarray(x, dtype=np.float64)).requires_grad_()
    value = function(points)
    (first,) = torch.autograd.grad(value.sum(), points, create_graph=True)
    # The slope of a linear function does not depend on x.
    (second,) = (
        torch.autograd.grad(first.sum(), points, allow_unused=True)
        if first.requires_grad
        else (None,)
    )
    if second is None:
        second = torch.zeros_like(points)
    return Derivatives(*(t.detach().numpy() for t in (value, first, second)))


def pmish_figure(betas: Sequence[float] = BETAS) -> Figure:
    """PMish and its first two derivatives for some values of beta."""
    figure = new_figure(11.5, 4.1)
    panels = figure.subplots(1, 3)
    titles = ("f(x) = x tanh(softplus(βx) / β)", "f′(x)", "f″(x)")
    for i, (axes, title, reach) in enumerate(zip(panels, titles, (10, 6, 6), strict=True)):
        x = np.linspace(-reach, reach, 801)
        for colour, beta in zip(CYCLE, betas, strict=False):
            function = hidden_activation("pmish", {"beta": beta})
            axes.plot(x, derivatives(function, x)[i], color=colour, label=f"β = {beta:g}")
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        axes.set_xlim(-reach, reach)
        axes.set_xticks(np.linspace(-reach, reach, 5))
        apply_style(axes)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center", ncols=len(betas), frameon=False, fontsize=10,
    )  # fmt: skip
    return figure


def families_figure() -> Figure:
    """Every hidden activation in a panel of its own, with curves for several parameter values."""
    panels = [(name, partial(hidden_activation, name)) for name in ACTIVATIONS]
    return _curves_figure(panels, reach=4.0, title="Hidden activations")


def outputs_figure() -> Figure:
    """Every output activation in both of its ranges."""
    panels = [
        (f"{name} ({low:g}, {high:g})", partial(output_activation, name, (low, high)))
        for low, high in (SYMMETRIC, UNIT)
        for name in OUTPUT_ACTIVATIONS
    ]
    return _curves_figure(panels, reach=4.0, title="Output activations")


def betas_figure(generator: nn.Module, name: str = "") -> Figure:
    """The learned activation parameters of a network: a bar per site, and a histogram.

    There is a row for each kind of parameter. If a site has many values, the bar is their mean,
    with a line from the smallest to the largest; the histogram of 8 bins counts sites.

    Raises:
        InvalidValueError: no activation of the network has parameters.
    """
    learned = _learned(generator)
    if not learned:
        raise InvalidValueError(
            f"{name or 'the generator'}: no activation has parameters to draw; use a generator "
            "with pmish, swish or another learned activation"
        )
    widest = max(len(values) for values in learned.values())
    figure = new_figure(max(9.0, 3.8 + 0.36 * widest), 3.9 * len(learned))
    rows = figure.subplots(len(learned), 2, squeeze=False, width_ratios=(2.6, 1))
    for (bars, histogram), (parameter, values) in zip(rows, learned.items(), strict=True):
        means = [float(v.mean()) for v in values.values()]
        positions = range(len(means))
        bars.bar(positions, means, color=BLUE, width=0.7)
        ranges = [(float(v.min()), float(v.max())) for v in values.values()]
        if any(low < high for low, high in ranges):
            bars.vlines(positions, *zip(*ranges, strict=True), color=INK, linewidth=1.2)
        bars.axhline(0, color=MUTED, linewidth=1)
        bars.set_xticks(positions, values, rotation=60, ha="right", rotation_mode="anchor")
        bars.set_xlim(-0.7, len(means) - 0.3)
        bars.set_title(f"{parameter} of each site", loc="left", fontsize=12, color=INK)
        histogram.hist(means, bins=8, color=GREEN, edgecolor="white")
        histogram.set_title("how many sites", loc="left", fontsize=12, color=INK)
        histogram.set_xlabel(parameter, color=INK)
        histogram.yaxis.get_major_locator().set_params(integer=True)
        apply_style(bars)
        apply_style(histogram)
        for axes in (bars, histogram):
            axes.grid(visible=False, axis="x")
        for label in bars.get_xticklabels():
            label.set_fontsize(8.5)
    return figure


def landscape(activation: nn.Module, x: npt.ArrayLike, seed: int = 0) -> Curve:
    """Output of a random net of five layers on the square grid `x` by `x`, `(len(x), len(x))`.

    The weights are drawn as He's from the seed and are the same for every activation. Rows are the
    second input, from bottom to top.
    """
    grid = torch.as_tensor(np.asarray(x), dtype=torch.float32)
    sides = torch.meshgrid(grid, grid, indexing="xy")
    h = torch.stack(sides, dim=-1).view(-1, 2)  # (n * n, 2)
    rng = torch.Generator().manual_seed(folded(seed))
    activation = activation.float()
    widths = [2, *[LANDSCAPE_WIDTH] * (LANDSCAPE_DEPTH - 1), 1]
    with torch.no_grad():
        for number, (c_in, c_out) in enumerate(pairwise(widths), 1):
            weight = torch.randn(c_in, c_out, generator=rng) * (2 / c_in) ** 0.5
            h = h @ weight + 0.1 * torch.randn(c_out, generator=rng)
            if number < LANDSCAPE_DEPTH:
                h = activation(h)
    return h.view(len(grid), len(grid)).double().numpy()


def landscape_figure(
    shown: Sequence[tuple[str, dict[str, float]]] = LANDSCAPES, *, seed: int = 0
) -> Figure:
    """`landscape` of several activations side by side, each with its own colour scale."""
    columns = min(4, len(shown))
    n_rows = -(-len(shown) // columns)
    figure = new_figure(2.9 * columns, 3.1 * n_rows + 0.5)
    panels = figure.subplots(n_rows, columns, squeeze=False).ravel()
    x = np.linspace(-6, 6, 161)
    for axes, (name, values) in zip(panels, shown, strict=False):
        activation = nn.Tanh() if name == "tanh" else hidden_activation(name, values)
        heights = landscape(activation, x, seed)
        axes.imshow(heights, origin="lower", extent=(-6, 6, -6, 6), cmap="viridis")
        axes.contour(x, x, heights, levels=9, colors="white", linewidths=0.5, alpha=0.7)
        setting = "".join(f", {parameter} {value:g}" for parameter, value in values.items())
        axes.set_title(name + setting, loc="left", fontsize=11, color=INK)
        axes.set_xticks([-5, 0, 5])
        axes.set_yticks([-5, 0, 5])
        axes.tick_params(labelsize=8, length=0, labelcolor=INK)
        axes.spines[:].set_visible(False)
    for axes in panels[len(shown) :]:
        axes.remove()
    figure.suptitle(
        f"Output of a random net of {LANDSCAPE_DEPTH} layers over its two inputs, the same weights",
        x=0.01, ha="left", fontsize=12, color=INK,
    )  # fmt: skip
    return figure


def _curves_figure(
    panels: Sequence[tuple[str, Callable[[dict[str, float]], nn.Module]]],
    *,
    reach: float,
    title: str,
) -> Figure:
    columns = 5
    n_rows = -(-len(panels) // columns)
    figure = new_figure(2.6 * columns, 2.7 * n_rows + 0.7)
    grid: list[Axes] = list(figure.subplots(n_rows, columns, squeeze=False).flat)
    x = np.linspace(-reach, reach, 401)
    for axes, (name, make) in zip(grid, panels, strict=False):
        parameter, values = SWEEPS.get(name.partition(" ")[0], ("", (0.0,)))
        for number, (colour, value) in enumerate(zip(CYCLE, values, strict=False)):
            found = derivatives(make({parameter: value} if parameter else {}), x)
            label = f"{value:g}" if number else f"{parameter} {value:g}"
            axes.plot(x, found.value, color=colour, label=label)
            axes.plot(x, found.first, color=colour, linewidth=0.9, linestyle=(0, (3, 2)), alpha=0.8)
        # The legend goes between the title and the axes, where no curve runs.
        axes.set_title(name, loc="left", fontsize=10.5, color=INK, pad=20)
        axes.set_xlim(-reach, reach)
        apply_style(axes, size=8)
        if parameter:
            axes.legend(
                ncols=len(values), loc="lower left", bbox_to_anchor=(-0.03, 1.0),
                frameon=False, fontsize=8, handlelength=1.1, handletextpad=0.4, columnspacing=1.0,
                borderpad=0.2,
            )  # fmt: skip
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.suptitle(
        f"{title} (solid) and their slopes (dashed)", x=0.01, ha="left", fontsize=13, color=INK
    )
    return figure


def _init(values: Mapping[str, float]) -> Init:
    """Parameters at the mean of their initialisation, except those in `values`."""
    return {**AT_ITS_MEAN, **{k: {"mean": v, "std": 0.0} for k, v in values.items()}}


def hidden_activation(name: str, values: Mapping[str, float]) -> nn.Module:
    """A hidden activation in float64 with `values`; other parameters as in `AT_ITS_MEAN`."""
    return make_activation(name, init=_init(values)).double()


def output_activation(
    name: str, interval: tuple[float, float], values: Mapping[str, float]
) -> nn.Module:
    """An output activation in the same way."""
    return make_output_activation(name, interval, init=_init(values)).double()


def _learned(network: nn.Module) -> dict[str, dict[str, Curve]]:
    """Parameter -> short name of its site -> values."""
    found: dict[str, dict[str, Curve]] = {}
    for site, activation in learned_activations(network):
        for parameter in activation.starts:
            tensor: Tensor = getattr(activation, parameter)
            values = tensor.detach().double().cpu().numpy().ravel()
            found.setdefault(parameter, {})[_short(site)] = values
    return found


def _short(site: str) -> str:
    """`cell1.c0.ops.0.op.0` as `cell1 c0`: without the parts that all sites share."""
    parts = site.split(".")
    named = [part for part in parts if not part.isdigit() and part not in ("ops", "op", "ups", "c")]
    # The sites of a list of layers only have numbers.
    return " ".join(named) if len(named) > 1 or named == ["to_rgb"] else site
