"""Draw samples: `python -m nas_gan.sample ckpt.pt --out grid.png`.

With `--per-class` each row shows one class of a conditional generator, all rows on the same noise.
With `--interpolate 4` every image walks through so many latents and back, as a GIF.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn

from nas_gan.checkpoint import build_generator, import_builder, load_checkpoint
from nas_gan.cli import progress, run
from nas_gan.devices import check_device
from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.networks.conditional import with_labels
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latent_bank, latents_of
from nas_gan.pictures.animation import check_animation_path, save_animation
from nas_gan.pictures.grid import check_grid_path, grid_pixels, save_grid
from nas_gan.pictures.interpolation import closed_walk

BATCH = 64


@dataclass(frozen=True)
class SampleConfig:
    """Which generator, how many images, and where the picture goes."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A .pt or .safetensors file, dense or compressed; zoo:NAME for a shipped one."""
    out: Path | None = None
    """A .png, .bmp or .ppm file, or a .gif with --interpolate; grid.png or walk.gif by default."""
    n: int | None = None
    """Images in the picture; 64 by default, 16 in a GIF."""
    columns: int = 8
    per_class: bool = False
    """One row a class, the same noise in all rows."""
    interpolate: int = 0
    """Latents that each image walks through and back to the first, spherically; 0 is a still."""
    frames: int = 48
    """Pictures in the GIF."""
    fps: float = 12.0
    """Pictures in a second."""
    seed: int = 0
    device: str = "cpu"
    model: str | None = None
    """package.module:build for a checkpoint without an architecture."""


def main(config: SampleConfig) -> int:
    out = _checked(config)
    checkpoint = load_checkpoint(config.checkpoint)
    build = import_builder(config.model) if config.model else None
    device = check_device(config.device)
    generator = build_generator(checkpoint, build).to(device).eval()
    if not config.interpolate:
        latents = draw_latents(generator, config)  # (n, latent_dim + n_classes)
        save_grid(_images(generator, latents, config), out, config.columns)
    else:
        stops = draw_latents(generator, config, config.interpolate)
        walk = walk_noise(stops, config.frames, interface_of(generator).n_classes)
        pictures = []
        with progress("frames", config.frames) as advance:
            for latents in walk:
                pictures.append(grid_pixels(_images(generator, latents, config), config.columns))
                advance(1)
        save_animation(pictures, out, fps=config.fps)
    sys.stdout.write(f"{out}\n")
    return 0


def _checked(config: SampleConfig) -> Path:
    """Where the picture goes, once the request makes sense."""
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


def draw_latents(generator: nn.Module, config: SampleConfig, stops: int = 0) -> Tensor:
    """Latents of one picture, `(n, d)`, or of `stops` ones, `(stops, n, d)`.

    The first of those is the picture that a still would be. Labels, if any, are the same at all.
    """
    interface = interface_of(generator)
    n_classes, latent_dim = interface.n_classes, interface.latent_dim
    if config.per_class:
        if not interface.conditional:
            raise InvalidValueError(
                f"{config.checkpoint}: --per-class needs a conditional generator; "
                "this one has no classes"
            )
        columns = config.columns
        noise = latent_bank(max(stops, 1) * columns, latent_dim, config.seed)
        rows = noise.view(-1, 1, columns, latent_dim).expand(-1, n_classes, -1, -1)
        labels = torch.arange(n_classes).repeat_interleave(columns)  # (n_classes * columns,)
        pictures = torch.stack(
            [with_labels(row.reshape(-1, latent_dim), labels, n_classes) for row in rows]
        )
    else:
        n = config.n or (16 if stops else 64)
        bank = latents_of(interface, max(stops, 1) * n, config.seed)
        pictures = bank.view(-1, n, bank.shape[1])
        if interface.conditional:
            pictures[:, :, -n_classes:] = pictures[0, :, -n_classes:].clone()
    return pictures if stops else pictures[0]


def walk_noise(stops: Tensor, frames: int, n_classes: int) -> Tensor:
    """`closed_walk` through latents `(k, n, d)` whose last `n_classes` columns stay as they are."""
    noise, labels = stops.tensor_split([stops.shape[2] - n_classes], dim=2)
    return torch.cat([closed_walk(noise, frames), labels[:1].expand(frames, -1, -1)], dim=2)


def _images(generator: nn.Module, latents: Tensor, config: SampleConfig) -> Tensor:
    with torch.inference_mode():
        images = torch.cat([generator(z.to(config.device)).cpu() for z in latents.split(BATCH)])
    if not images.isfinite().all():
        raise DivergedError(f"{config.checkpoint}: the generator returns NaN or infinite pixels")
    return images


if __name__ == "__main__":
    sys.exit(run(main, SampleConfig, prog="python -m nas_gan.sample", description=__doc__))
