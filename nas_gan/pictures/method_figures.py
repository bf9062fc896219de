"""The figures of the method by name: each function writes the files of one figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from torch import nn

from nas_gan.errors import InvalidValueError
from nas_gan.files import write_text
from nas_gan.pictures.activation_figures import (
    betas_figure,
    families_figure,
    landscape_figure,
    outputs_figure,
    pmish_figure,
)
from nas_gan.pictures.activation_sliders import sliders_figure
from nas_gan.pictures.animation import save_animation
from nas_gan.pictures.particle_figures import World, film_strip, moving_pictures
from nas_gan.pictures.particles import circle_worlds, loss_worlds
from nas_gan.pictures.plot_style import save_figure
from nas_gan.progress import Progress, no_progress

LOSSES_REACH, BOUNDS_REACH = 1.5, 9.0
BOUNDS_STILLS = (0, 15, 35, 50)  # of the frames that are 100 updates apart


@dataclass(frozen=True)
class FigureSettings:
    """What the figures show, and where they go.

    Attributes:
        out: the folder of the files.
        seed: seed of the particles and of the random net.
        steps: updates of the particles; if None 600 for each side (losses) and 5000 (bounds).
        generator: the generator whose learned activations `betas` shows.
        generator_name: its name in messages.
        progress: shows a bar for whatever takes long.
    """

    out: Path
    seed: int = 0
    steps: int | None = None
    generator: nn.Module | None = None
    generator_name: str = ""
    progress: Progress = no_progress


def draw_pmish(settings: FigureSettings) -> list[Path]:
    """PMish with its derivatives."""
    return _saved(pmish_figure(), settings, "pmish")


def draw_hidden(settings: FigureSettings) -> list[Path]:
    """All hidden activations."""
    return _saved(families_figure(), settings, "hidden")


def draw_output(settings: FigureSettings) -> list[Path]:
    """All output activations."""
    return _saved(outputs_figure(), settings, "output")


def draw_sliders(settings: FigureSettings) -> list[Path]:
    """A page that shows all activations under sliders for their parameters."""
    path = settings.out / "sliders.html"
    write_text(path, sliders_figure().to_html())
    return [path]


def draw_landscape(settings: FigureSettings) -> list[Path]:
    """The output of a random net over its two inputs."""
    return _saved(landscape_figure(seed=settings.seed), settings, "landscape")


def draw_betas(settings: FigureSettings) -> list[Path]:
    """The learned activation parameters of the generator.

    Raises:
        InvalidValueError: there is no generator, or its activations have no parameters.
    """
    if settings.generator is None:
        raise InvalidValueError(
            "must be given for betas, which shows what its activations learned",
            setting="checkpoint",
        )
    return _saved(betas_figure(settings.generator, settings.generator_name), settings, "betas")


def draw_losses(settings: FigureSettings) -> list[Path]:
    """Particles that move under the attractive, the repulsive and the bounded loss."""
    worlds = loss_worlds(settings.steps or 600, settings.seed, settings.progress)
    last = len(next(iter(worlds.values()))) - 1
    stills = [0, last // 4, last // 2 - 1, 3 * last // 4, last]
    return _moving_and_stills(worlds, stills, LOSSES_REACH, settings, "losses")


def draw_bounds(settings: FigureSettings) -> list[Path]:
    """Particles that follow a circle, whose radius is the upper bound of the repulsive loss."""
    worlds = circle_worlds(settings.steps or 5000, settings.seed, settings.progress)
    last = len(next(iter(worlds.values()))) - 1
    stills = sorted({min(still, last) for still in BOUNDS_STILLS})
    return _moving_and_stills(worlds, stills, BOUNDS_REACH, settings, "bounds")


FIGURES: dict[str, Callable[[FigureSettings], list[Path]]] = {
    "pmish": draw_pmish,
    "hidden": draw_hidden,
    "output": draw_output,
    "sliders": draw_sliders,
    "landscape": draw_landscape,
    "losses": draw_losses,
    "bounds": draw_bounds,
    "betas": draw_betas,
}


def _saved(figure: Figure, settings: FigureSettings, name: str) -> list[Path]:
    path = settings.out / f"{name}.png"
    save_figure(figure, path)
    return [path]


def _moving_and_stills(
    worlds: Mapping[str, World],
    stills: Sequence[int],
    reach: float,
    settings: FigureSettings,
    name: str,
) -> list[Path]:
    moving = settings.out / f"{name}.gif"
    pictures = []
    with settings.progress(moving.name, len(next(iter(worlds.values())))) as advance:
        for picture in moving_pictures(worlds, reach):
            pictures.append(picture)
            advance(1)
    save_animation(pictures, moving, fps=10)
    return [moving, *_saved(film_strip(worlds, stills, reach), settings, name)]
