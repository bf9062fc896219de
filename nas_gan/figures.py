"""Draw the figures of the method: `python -m nas_gan.figures --out figures`.

Name some to draw only those: pmish (with its derivatives), hidden and output (the other
activations), sliders (a page with all of them, to move their parameters), landscape (of a random
net), losses and bounds (particles that move under a loss, as GIF and as stills), betas (what the
activations of --checkpoint learned).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from nas_gan.checkpoint import build_generator, import_builder, load_checkpoint
from nas_gan.cli import progress, run
from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.files import write_text
from nas_gan.pictures.animation import save_animation
from nas_gan.pictures.particles import LARGE_RADIUS, SMALL_RADIUS, Frame, circle_world, scores_world

# Title of a panel -> loss
COMPARED = {"attractive (mmd)": "mmd", "repulsive (rep)": "rep", "bounded (rmb)": "rmb"}
CIRCLES: dict[str, tuple[float, float | None]] = {
    "small bound": (SMALL_RADIUS, None),
    "large bound": (LARGE_RADIUS, None),
    "rising bound": (SMALL_RADIUS, LARGE_RADIUS),
}
LOSSES_REACH, BOUNDS_REACH = 1.5, 9.0
BOUNDS_STILLS = (0, 15, 35, 50)  # of the frames that are 100 updates apart


@dataclass(frozen=True)
class FiguresConfig:
    """Which figures, of what, and where they go."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """pmish, hidden, output, sliders, landscape, losses, bounds, betas; all that can be drawn if
    none."""
    out: Path = Path("figures")
    """A folder."""
    checkpoint: Path | None = None
    """Whose learned activations betas shows."""
    model: str | None = None
    """package.module:build for a checkpoint without an architecture."""
    steps: int | None = None
    """Updates of the particles, instead of 600 for each side (losses) and 5000 (bounds)."""
    seed: int = 0
    """Of the particles and of the random net."""


Advance = Callable[[int], None]


def draw_pmish(config: FiguresConfig) -> list[Path]:
    from nas_gan.pictures.activation_figures import pmish_figure
    from nas_gan.pictures.plot_style import save_figure

    path = config.out / "pmish.png"
    save_figure(pmish_figure(), path)
    return [path]


def draw_hidden(config: FiguresConfig) -> list[Path]:
    from nas_gan.pictures.activation_figures import families_figure
    from nas_gan.pictures.plot_style import save_figure

    path = config.out / "hidden.png"
    save_figure(families_figure(), path)
    return [path]


def draw_output(config: FiguresConfig) -> list[Path]:
    from nas_gan.pictures.activation_figures import outputs_figure
    from nas_gan.pictures.plot_style import save_figure

    path = config.out / "output.png"
    save_figure(outputs_figure(), path)
    return [path]


def draw_sliders(config: FiguresConfig) -> list[Path]:
    from nas_gan.pictures.activation_sliders import sliders_figure

    path = config.out / "sliders.html"
    write_text(path, sliders_figure().to_html())
    return [path]


def draw_landscape(config: FiguresConfig) -> list[Path]:
    from nas_gan.pictures.activation_figures import landscape_figure
    from nas_gan.pictures.plot_style import save_figure

    path = config.out / "landscape.png"
    save_figure(landscape_figure(seed=config.seed), path)
    return [path]


def draw_betas(config: FiguresConfig) -> list[Path]:
    from nas_gan.pictures.activation_figures import betas_figure
    from nas_gan.pictures.plot_style import save_figure

    if config.checkpoint is None:
        raise InvalidValueError("betas shows what a generator has learned; give --checkpoint")
    build = import_builder(config.model) if config.model else None
    generator = build_generator(load_checkpoint(config.checkpoint), build)
    path = config.out / "betas.png"
    save_figure(betas_figure(generator, str(config.checkpoint)), path)
    return [path]


def draw_losses(config: FiguresConfig) -> list[Path]:
    steps = config.steps or 600
    every = max(1, steps // 30)

    def world(loss: str, advance: Advance) -> tuple[Frame, ...]:
        return scores_world(
            loss, judged_steps=steps, generator_steps=steps, every=every, seed=config.seed,
            advance=advance,
        )  # fmt: skip

    makers = {title: partial(world, loss) for title, loss in COMPARED.items()}
    worlds = _moved(makers, 2 * steps + 1)
    last = len(next(iter(worlds.values()))) - 1
    stills = [0, last // 4, last // 2 - 1, 3 * last // 4, last]
    return _particles(config, "losses", worlds, stills, LOSSES_REACH)


def draw_bounds(config: FiguresConfig) -> list[Path]:
    steps = config.steps or 5000
    every = max(1, steps // 50)

    def world(radii: tuple[float, float | None], advance: Advance) -> tuple[Frame, ...]:
        return circle_world(*radii, steps=steps, every=every, seed=config.seed, advance=advance)

    worlds = _moved({title: partial(world, radii) for title, radii in CIRCLES.items()}, steps + 1)
    last = len(next(iter(worlds.values()))) - 1
    stills = sorted({min(still, last) for still in BOUNDS_STILLS})
    return _particles(config, "bounds", worlds, stills, BOUNDS_REACH)


def _moved(
    makers: Mapping[str, Callable[[Advance], tuple[Frame, ...]]], updates: int
) -> dict[str, tuple[Frame, ...]]:
    with progress("particles", updates * len(makers)) as advance:
        return {title: make(advance) for title, make in makers.items()}


def _particles(
    config: FiguresConfig,
    name: str,
    worlds: dict[str, tuple[Frame, ...]],
    stills: list[int],
    reach: float,
) -> list[Path]:
    from nas_gan.pictures.particle_figures import film_strip, moving_pictures
    from nas_gan.pictures.plot_style import save_figure

    moving, still = config.out / f"{name}.gif", config.out / f"{name}.png"
    pictures = []
    with progress(moving.name, len(next(iter(worlds.values())))) as advance:
        for picture in moving_pictures(worlds, reach):
            pictures.append(picture)
            advance(1)
    save_animation(pictures, moving, fps=10)
    save_figure(film_strip(worlds, stills, reach), still)
    return [moving, still]


FIGURES: dict[str, Callable[[FiguresConfig], list[Path]]] = {
    "pmish": draw_pmish,
    "hidden": draw_hidden,
    "output": draw_output,
    "sliders": draw_sliders,
    "landscape": draw_landscape,
    "losses": draw_losses,
    "bounds": draw_bounds,
    "betas": draw_betas,
}


def main(config: FiguresConfig) -> int:
    for name in config.names:
        if name not in FIGURES:
            raise unknown_name("figure", name, FIGURES)
    if config.seed < 0 or (config.steps is not None and config.steps < 1):
        raise InvalidValueError(
            f"--seed must be at least 0 and --steps 1; got {config.seed} and {config.steps}"
        )
    possible = [n for n in FIGURES if n != "betas" or config.checkpoint is not None]
    for name in config.names or possible:
        for path in FIGURES[name](config):
            sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, FiguresConfig, prog="python -m nas_gan.figures", description=__doc__))
