"""Draw samples: `python -m nas_gan.sample ckpt.pt --out grid.png`.

With `--per-class` each row shows one class of a conditional generator, with the same noise in all
rows. With `--interpolate 4` every image walks through four latents and back, as a GIF.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import Tensor

from nas_gan.cli import progress, run, say
from nas_gan.devices import check_device
from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.generators import GeneratorOptions, open_generator
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.panels import ADDRESS, Panel
from nas_gan.pictures.animation import check_animation_path, save_animation
from nas_gan.pictures.grid import check_grid_path, grid_pixels, save_grid
from nas_gan.pictures.samples import class_latents, draw_images, picture_latents, walk_noise

ANIMATION = Panel("animation")
# Images in a picture if the command line does not say.
STILL, MOVING = 64, 16


@dataclass(frozen=True)
class SampleConfig(GeneratorOptions):
    """Which generator, how many images, and where the picture goes."""

    checkpoint: Annotated[Path, tyro.conf.Positional, ADDRESS]
    """A .pt or .safetensors file, dense or compressed; zoo:NAME for a shipped one."""
    out: Path | None = None
    """A .png, .bmp or .ppm file, or a .gif with --interpolate; grid.png or walk.gif by default."""
    n: int | None = None
    """Images in the picture; 64 by default, 16 in a GIF."""
    columns: int = 8
    """Images in a row of the picture."""
    per_class: bool = False
    """Draw a row for each class, with the same noise in all rows."""
    interpolate: Annotated[int, ANIMATION] = 0
    """Latents that each image walks through and back to the first, spherically; 0 is a still."""
    frames: Annotated[int, ANIMATION] = 48
    """Frames of the GIF."""
    fps: Annotated[float, ANIMATION] = 12.0
    """Frames per second."""
    seed: int = 0
    """Seed of the latents."""
    device: str = "cpu"
    """Device to run the generator on: cpu, cuda, cuda:1 and so on."""


def main(config: SampleConfig) -> int:
    out = _checked(config)
    device = check_device(config.device)
    opened = open_generator(config.checkpoint, config, device=config.device)
    generator, interface = opened.generator, opened.interface
    for line in opened.remarks():
        say(line)
    if interface.takes_images and config.interpolate:
        raise InvalidValueError(
            f"needs a network that takes noise; that of {config.checkpoint} takes images",
            setting="interpolate",
        )

    def draw(latents: Tensor) -> Tensor:
        try:
            return draw_images(generator, latents, device)
        except DivergedError as error:
            raise DivergedError(f"{config.checkpoint}: {error}") from error

    latents = _latents(config, interface)
    if not config.interpolate:
        save_grid(draw(latents[0]), out, config.columns)
    else:
        pictures = []
        with progress("frames", config.frames) as advance:
            for moment in walk_noise(interface, latents, config.frames):
                pictures.append(grid_pixels(draw(moment), config.columns))
                advance(1)
        save_animation(pictures, out, fps=config.fps)
    sys.stdout.write(f"{out}\n")
    return 0


def _latents(config: SampleConfig, interface: GeneratorInterface) -> Tensor:
    """Those of every picture that the images pass, `(k, n, input_width)`; of one for a still."""
    n_pictures = config.interpolate or 1
    if not config.per_class:
        n = config.n or (MOVING if config.interpolate else STILL)
        return picture_latents(interface, n, config.seed, n_pictures=n_pictures)
    if not interface.conditional:
        raise InvalidValueError(
            f"needs a conditional generator; that of {config.checkpoint} has no classes",
            setting="per_class",
        )
    return class_latents(interface, config.columns, config.seed, n_pictures=n_pictures)


def _checked(config: SampleConfig) -> Path:
    """Where the picture goes, if the request makes sense."""
    if (config.n is not None and config.n < 1) or config.columns < 1:
        raise InvalidValueError(
            f"--n and --columns must be at least 1; got {config.n} and {config.columns}"
        )
    if config.per_class and config.n is not None:
        raise InvalidValueError("--per-class draws --columns images of every class; leave out --n")
    if not config.interpolate:
        out = config.out or Path("grid.png")
        if out.suffix.lower() == ".gif":
            raise InvalidValueError(f"{out}: a GIF is for --interpolate, as in --interpolate 4")
        check_grid_path(out)
        return out
    if config.interpolate < 2 or config.frames < config.interpolate:
        raise InvalidValueError(
            f"--interpolate must be at least 2 and --frames no less; "
            f"got {config.interpolate} and {config.frames}"
        )
    if not 0 < config.fps <= 50:
        raise InvalidValueError(f"--fps must be above 0 and at most 50; got {config.fps}")
    out = config.out or Path("walk.gif")
    check_animation_path(out)
    return out


if __name__ == "__main__":
    sys.exit(run(main, SampleConfig, prog="python -m nas_gan.sample", description=__doc__))
