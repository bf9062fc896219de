"""What the main process of a search writes into its directory, and which settings make a search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.derived import derived_generator
from nas_gan.architecture_search.finalists import FINALIST, Finalist, draw_finalists
from nas_gan.architecture_search.step import ArchitectureStep, Supernets
from nas_gan.architecture_search.supernet import SuperGenerator
from nas_gan.data.images import Images
from nas_gan.errors import InvalidValueError
from nas_gan.files import write_text
from nas_gan.networks.genotype import DiscriminatorGenotype, Genotype
from nas_gan.networks.searched import Generator
from nas_gan.reading import is_number, read_json
from nas_gan.settings import as_text, chosen_settings, settings_but
from nas_gan.training.describe import read_genotype
from nas_gan.training.draws import StepNoise
from nas_gan.training.files import GRID, is_gain, save_samples
from nas_gan.training.log import RunLog
from nas_gan.training.pace import Pace
from nas_gan.training.seeds import Stream
from nas_gan.training.state import Position, save_state

# Settings that may differ between two parts of one search: they do not change what it finds.
_FREE = (
    *("config", "run_dir", "data_root", "device", "threads"),
    *("log_every", "sample_every", "derive_every", "save_every", "save_every_minutes"),
    "on_finish",
    *("eval_every", "eval_metrics", "eval_samples", "best_gain", "reference", "features"),
    *("finalists", "finalist_steps"),
    "background",  # part of the digest of the data
)
GENOTYPE, DISCRIMINATOR = "genotype.json", "discriminator.json"
BEST, BEST_DISCRIMINATOR = "best_genotype.json", "best_discriminator.json"
ALONG_THE_WAY = "genotypes"
# Latents behind the batch statistics of a derived generator.
N_STATISTICS = 512


@dataclass(frozen=True)
class BestGenotype:
    """The genotype of the best FID in a search, as the file holds it.

    Attributes:
        genotype: the architecture.
        step: after how many steps it was derived.
        fid: the FID of the derived generator, with the weights of the supernet.
        fid_se: its standard error.
    """

    genotype: Genotype
    step: int
    fid: float
    fid_se: float

    def to_json(self) -> str:
        """One line that `Genotype.from_json` reads too."""
        return self.genotype.to_json(step=self.step, fid=self.fid, fid_se=self.fid_se)


def read_best(run_dir: Path) -> BestGenotype | None:
    """What the search in a directory found best so far, or None if it measured nothing.

    Raises:
        InvalidValueError: the file holds something else.
    """
    path = run_dir / BEST
    if not path.exists():
        return None
    genotype, measured = read_genotype(path), read_json(path)
    step, fid, error = (measured.get(name) for name in ("step", "fid", "fid_se"))
    if not (is_number(step) and is_number(fid) and is_number(error)):
        raise InvalidValueError(
            f"{path}: a best genotype says its step, fid and fid_se; got {step}, {fid}, {error}"
        )
    return BestGenotype(genotype, int(step), float(fid), float(error))


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
        noise = StepNoise(config.seed + Stream.STATISTICS, N_STATISTICS, config.latent_dim)
        self.statistics_latents = noise(0)
        self.best = read_best(config.run_dir) if log.first else None
        self.pace = Pace(
            config.steps, config.batch_size, first=log.first, spent=log.spent, device=config.device
        )

    def log_scalars(self, index: int, scalars: Mapping[str, float]) -> None:
        self.log.scalars(index + 1, {**scalars, **self.pace.scalars(index + 1)})

    def sample(self, index: int, scalars: Mapping[str, float]) -> None:
        with torch.inference_mode():
            drawn = self.networks.average.average(self.grid_latents.to(self.config.device)).cpu()
        save_samples(self.config.run_dir, self.log, index + 1, drawn)

    def derive(self, index: int, scalars: Mapping[str, float]) -> None:
        """Keep both genotypes as they are now."""
        stem = f"{ALONG_THE_WAY}/{index + 1:06d}"
        self._write(self.networks.genotypes(), f"{stem}.json", f"{stem}_discriminator.json")

    def derived(self) -> Generator:
        """The generator that the search would deliver now, with the averaged weights."""
        average = self.networks.average.average
        assert isinstance(average, SuperGenerator)
        genotype, _ = self.networks.genotypes()
        return derived_generator(average, genotype, self.statistics_latents)

    def measured(self, index: int, figures: Mapping[str, float]) -> None:
        """Log what was measured of the derived generator; keep the genotype if its FID is a gain.

        That is the rule by which a training keeps its best weights.
        """
        self.derive(index, figures)
        self.log.scalars(index + 1, figures)
        fid, error = figures.get("fid", math.nan), figures.get("fid_se", 0.0)
        best = None if self.best is None else (self.best.fid, self.best.fid_se)
        if not is_gain((fid, error), best, self.config.best_gain):
            return
        genotype, discriminator = self.networks.genotypes()
        self.best = BestGenotype(genotype, index + 1, fid, error)
        write_text(self.config.run_dir / BEST, self.best.to_json())
        write_text(self.config.run_dir / BEST_DISCRIMINATOR, discriminator.to_json())

    def save(self, index: int, scalars: Mapping[str, float]) -> None:
        self.save_at(Position(index + 1))

    def save_at(self, position: Position) -> None:
        save_state(self.config.run_dir, self.settings, self.step, position)

    def finish(self) -> None:
        """Write the genotypes that the search has found."""
        self._write(self.networks.genotypes(), GENOTYPE, DISCRIMINATOR)

    def finalists(self) -> tuple[Genotype, ...]:
        """The architectures that are trained at the end."""
        generator = self.networks.generator
        normal, up = (alphas.detach().cpu() for alphas in generator.alphas)
        best = None if self.best is None else self.best.genotype
        n, seed = self.config.finalists, self.config.seed
        return draw_finalists(normal, up, generator.table, n, seed, best)

    def keep(self, finalist: Finalist) -> None:
        """Write the best finalist."""
        write_text(self.config.run_dir / FINALIST, finalist.to_json())

    def _write(
        self, found: tuple[Genotype, DiscriminatorGenotype], generator: str, discriminator: str
    ) -> None:
        write_text(self.config.run_dir / generator, found[0].to_json())
        write_text(self.config.run_dir / discriminator, found[1].to_json())


def fingerprint(config: SearchConfig, images: Images) -> dict[str, str]:
    """The settings that decide what a search finds, as text: another value is another search."""
    settings = as_text(chosen_settings(config, settings_but(config, _FREE)))
    return settings | {"data_sha256": images.digest}
