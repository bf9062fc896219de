"""What the main process of a search writes into its directory, and which settings make a search."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.step import ArchitectureStep, Supernets
from nas_gan.data.images import Images
from nas_gan.files import write_text
from nas_gan.settings import as_text, chosen_settings, settings_but
from nas_gan.training.draws import StepNoise
from nas_gan.training.files import GRID, save_samples
from nas_gan.training.log import RunLog
from nas_gan.training.seeds import Stream
from nas_gan.training.state import Position, save_state

# Settings that may differ between two parts of one search: they do not change what it finds.
_FREE = (
    *("config", "run_dir", "data_root", "device", "threads"),
    *("log_every", "sample_every", "derive_every", "save_every", "save_every_minutes"),
    "background",  # part of the digest of the data
)


class SearchFiles:
    """The files of a search, each written by a callback of the training loop."""

    def __init__(
        self,
        config: SearchConfig,
        networks: Supernets,
        step: ArchitectureStep,
        settings: Mapping[str, str],
        log: RunLog,
    ) -> None:
        self.config, self.networks, self.step = config, networks, step
        self.settings, self.log = settings, log
        self.grid_latents = StepNoise(config.seed + Stream.GRID, GRID, config.latent_dim)(0)

    def log_scalars(self, index: int, scalars: Mapping[str, float]) -> None:
        self.log.scalars(index + 1, scalars)

    def sample(self, index: int, scalars: Mapping[str, float]) -> None:
        with torch.inference_mode():
            drawn = self.networks.average.average(self.grid_latents.to(self.config.device)).cpu()
        save_samples(self.config.run_dir, self.log, index + 1, drawn)

    def derive(self, index: int, scalars: Mapping[str, float]) -> None:
        """Keep both genotypes as they are now."""
        self._write(
            f"genotypes/{index + 1:06d}.json", f"genotypes/{index + 1:06d}_discriminator.json"
        )

    def save(self, index: int, scalars: Mapping[str, float]) -> None:
        save_state(self.config.run_dir, self.settings, self.step, Position(index + 1))

    def finish(self) -> None:
        """Write the genotypes that the search has found."""
        self._write("genotype.json", "discriminator.json")

    def _write(self, generator_name: str, discriminator_name: str) -> None:
        generator, discriminator = self.networks.genotypes()
        write_text(self.config.run_dir / generator_name, generator.to_json())
        write_text(self.config.run_dir / discriminator_name, discriminator.to_json())


def fingerprint(config: SearchConfig, images: Images) -> dict[str, str]:
    """The settings that decide what a search finds, as text: another value is another search."""
    settings = as_text(chosen_settings(config, settings_but(config, _FREE)))
    return settings | {"data_sha256": images.digest}
