"""Activations under sliders, as a figure for a page that needs no server and no network.

A menu chooses an activation and one of its parameters, which a slider varies while the others stay
at the mean of their initialisation. The range is that of the published sliders, -15 to 15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.activations import (
    ACTIVATIONS,
    OUTPUT_ACTIVATIONS,
    SYMMETRIC,
    UNIT,
    LearnedActivation,
)
from nas_gan.pictures.activation_figures import (
    derivatives,
    hidden_activation,
    output_activation,
)

REACH = 6.0  # of x, on both sides of 0
POINTS = 121
# Finer near 0, where curves change most.
VALUES = (-15.0, -10.0, -5.0, -3.0, -2.0, -1.5, -1.0, -0.75, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5,
          0.58, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 15.0)  # fmt: skip


class Panel(NamedTuple):
    """An activation with one of its parameters, and a function that builds it at a value."""

    title: str
    parameter: str
    make: Callable[[Mapping[str, float]], nn.Module]


def panels() -> Iterator[Panel]:
    """Every parameter of every hidden and output activation."""
    makers = {name: partial(hidden_activation, name) for name in ACTIVATIONS}
    makers |= {
        f"{name} ({low:g}, {high:g})": partial(output_activation, name, (low, high))
        for low, high in (SYMMETRIC, UNIT)
        for name in OUTPUT_ACTIVATIONS
    }
    for title, make in makers.items():
        activation = make({})
        if isinstance(activation, LearnedActivation):
            for parameter in activation.starts:
                yield Panel(title, parameter, make)


def sliders_figure(values: Sequence[float] = VALUES) -> Any:
    """The figure of plotly; curves are solid, their slopes dashed.

    Raises:
        InvalidValueError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise InvalidValueError(
            "sliders need plotly, which is not installed; run: pip install plotly"
        ) from error
    x = np.linspace(-REACH, REACH, POINTS)
    choices = list(panels())
    frames: list[dict[str, Any]] = []
    for panel in choices:
        steps = []
        for value in values:
            found = derivatives(panel.make({panel.parameter: value}), x)
            curves = {"y": [_plain(found.value), _plain(found.first)]}
            steps.append({"label": f"{value:g}", "method": "restyle", "args": [curves, [0, 1]]})
        frames.append({"steps": steps, "currentvalue": {"prefix": f"{panel.parameter} = "}})
    start = len(values) // 2
    buttons: list[dict[str, Any]] = [
        {
            "label": f"{panel.title}: {panel.parameter}",
            "method": "update",
            "args": [
                {"y": frame["steps"][start]["args"][0]["y"]},
                {"sliders": [frame | {"active": start}], "title.text": panel.title},
            ],
        }
        for panel, frame in zip(choices, frames, strict=True)
    ]
    curves, layout = buttons[0]["args"]
    looks = (("f(x)", "solid"), ("slope", "dash"))
    return go.Figure(
        [
            go.Scatter(x=_plain(x), y=y, name=name, line={"dash": dash})
            for (name, dash), y in zip(looks, curves["y"], strict=True)
        ],
        {
            "title": {"text": choices[0].title},
            "template": "plotly_white",
            "sliders": layout["sliders"],
            "updatemenus": [{"buttons": buttons, "x": 1.0, "xanchor": "right", "y": 1.15}],
        },
    )


def _plain(curve: Any) -> list[float | None]:
    """A curve for JSON, to three decimals; values that are not finite are not drawn."""
    return [round(float(v), 3) if np.isfinite(v) else None for v in curve]
