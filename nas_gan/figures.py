"""Draw the figures of the method: `python -m nas_gan.figures --out figures`.

Name some to draw only those: pmish (with its derivatives), hidden and output (the other
activations), sliders (a page that shows all of them under sliders for their parameters), landscape
(the output of a random net), losses and bounds (particles that move under a loss, as a GIF and as
stills), betas (what the activations of --checkpoint learned).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nas_gan.cli import progress, run
from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.generators import GeneratorOptions, open_generator
from nas_gan.panels import ADDRESS


@dataclass(frozen=True)
class FiguresConfig(GeneratorOptions):
    """Which figures, of what, and where they go."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Any of pmish, hidden, output, sliders, landscape, losses, bounds and betas; all that can be
    drawn if none is named."""
    out: Path = Path("figures")
    """Folder of the figures."""
    checkpoint: Annotated[Path | None, ADDRESS] = None
    """Checkpoint whose learned activations betas shows."""
    steps: int | None = None
    """Updates of the particles, instead of 600 for each side (losses) and 5000 (bounds)."""
    seed: int = 0
    """Seed of the particles and of the random net."""


def main(config: FiguresConfig) -> int:
    # Draws, and therefore needs matplotlib, which the help of this command does not.
    from nas_gan.pictures.method_figures import FIGURES, FigureSettings

    for name in config.names:
        if name not in FIGURES:
            raise unknown_name("figure", name, FIGURES)
    if config.seed < 0 or (config.steps is not None and config.steps < 1):
        raise InvalidValueError(
            f"--seed must be at least 0 and --steps 1; got {config.seed} and {config.steps}"
        )
    names = config.names or [n for n in FIGURES if n != "betas" or config.checkpoint is not None]
    generator = None
    if "betas" in names and config.checkpoint is not None:
        generator = open_generator(config.checkpoint, config).generator
    settings = FigureSettings(
        config.out, config.seed, config.steps, generator, str(config.checkpoint), progress
    )
    for name in names:
        for path in FIGURES[name](settings):
            sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, FiguresConfig, prog="python -m nas_gan.figures", description=__doc__))
