"""Draw a grid of samples: `python -m nas_gan.sample ckpt.pt --out grid.png`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import torch
import tyro

from nas_gan.checkpoint import build_generator, import_builder, load_checkpoint
from nas_gan.cli import run
from nas_gan.devices import check_device
from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.grid import save_grid
from nas_gan.metrics.sampling import latent_bank


@dataclass(frozen=True)
class SampleConfig:
    """Which generator, how many images, and where the picture goes."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A .pt or .safetensors file, dense or compressed."""
    out: Path = Path("grid.png")
    n: int = 64
    columns: int = 8
    seed: int = 0
    device: str = "cpu"
    model: str | None = None
    """package.module:build for a checkpoint without an architecture."""


def main(config: SampleConfig) -> int:
    if config.n < 1 or config.columns < 1:
        raise InvalidValueError(
            f"--n and --columns must be at least 1; got {config.n} and {config.columns}"
        )
    checkpoint = load_checkpoint(config.checkpoint)
    build = import_builder(config.model) if config.model else None
    device = check_device(config.device)
    generator = build_generator(checkpoint, build).to(device)
    latents = latent_bank(config.n, cast(int, generator.latent_dim), config.seed)
    with torch.inference_mode():
        images = torch.cat([generator(z.to(device)).cpu() for z in latents.split(64)])
    if not images.isfinite().all():
        raise DivergedError(f"{config.checkpoint}: the generator returns NaN or infinite pixels")
    save_grid(images, config.out, config.columns)
    sys.stdout.write(f"{config.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, SampleConfig, prog="python -m nas_gan.sample", description=__doc__))
