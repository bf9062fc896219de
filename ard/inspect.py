"""Say what a checkpoint is, what can be compressed, how long that takes, and what to type next.

    python -m ard.inspect netG.pth --model dcgan.py:Generator

Takes seconds and writes nothing. Without a builder for a bare state dict, it says what is in the
file and what is missing.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from ard.forecast.demand import demand_of
from ard.forecast.speed import Speed, measure_speed
from ard.forecast.stages import stages_of
from ard.grid import RankGrid
from ard.inspection import (
    duration_text,
    fate_of_layers,
    feature_spread,
    outlook_of,
    state_summary,
)
from ard.layers import Profile, profile_layers
from ard.report.values import engineering
from ard.search.budget import SPREAD_SHARE, budget_of_spread
from ard.session.config import SearchConfig, settled
from ard.session.setting import lay_out, wanted_reference
from nas_gan.checkpoint import EXTERNAL_KIND, Checkpoint, load_checkpoint
from nas_gan.cli import DONE, run
from nas_gan.devices import check_device
from nas_gan.generators import GeneratorOptions, OpenedGenerator, describe_interface, generator_of
from nas_gan.metrics.features import ExtractorName, FeatureExtractor, make_extractor
from nas_gan.networks.latents import latents_of
from nas_gan.options import option_name
from nas_gan.panels import ADDRESS
from nas_gan.tables import text_table

# A budget to begin with, in the command that is suggested: a share of the dense generator's
# distance or, where that is one to its own images, of the spread of its features.
FIRST_BUDGET = "5%"
# Images in a batch that is timed.
TIMED = 8
# Settings of a run that only shows what to expect.
FIRST_LOOK: dict[str, Any] = {
    "samples": 2560,
    "sweep_samples": 400,
    "anchors": 8,
    "recover_steps": 50,
    "max_trials": 2,
}


@dataclass(frozen=True)
class InspectConfig(GeneratorOptions):
    """What is inspected."""

    checkpoint: Annotated[Path, tyro.conf.Positional, ADDRESS]
    """Checkpoint to inspect: a file of this toolkit or of somebody else, or zoo:NAME."""
    features: ExtractorName = "auto"
    """Network whose features a run would compare, for the estimate of its time."""
    device: str = "cpu"
    """Device to run on: cpu, cuda, cuda:1 and so on."""


def main(config: InspectConfig) -> int:
    check_device(config.device)
    checkpoint = load_checkpoint(config.checkpoint, state_key=config.state_key)
    if config.model is None and checkpoint.architecture.get("kind") == EXTERNAL_KIND:
        lines = list(_of_state(config, checkpoint))
    else:
        lines = list(_of_generator(config, checkpoint))
    sys.stdout.write("\n".join(lines) + "\n")
    return DONE


def _of_state(config: InspectConfig, checkpoint: Checkpoint) -> Iterator[str]:
    """What a bare state dict tells without its network."""
    yield from _heading(config.checkpoint, checkpoint)
    yield from state_summary(checkpoint.generator)
    yield ""
    yield "The file does not describe the network of these weights. Next, say what builds it:"
    yield ""
    given = {"model": "path/to/file.py:Class", **config.given()}
    yield f"    {_command('ard.inspect', config.checkpoint, given)}"


def _heading(path: Path, checkpoint: Checkpoint) -> Iterator[str]:
    weights = checkpoint.provenance.get("weights", "as they are")
    yield f"{'file':<10} {path}"
    yield f"{'weights':<10} {weights}, {len(checkpoint.generator)} tensors"


def _of_generator(config: InspectConfig, checkpoint: Checkpoint) -> Iterator[str]:
    opened = generator_of(checkpoint, config.checkpoint, config, device=config.device)
    lay_out(opened, config.device)
    with torch.inference_mode():
        rows = latents_of(opened.interface, 2, seed=0).to(config.device)
        profile = profile_layers(opened.generator, rows)
    outlook = outlook_of(profile, RankGrid())
    yield from _heading(config.checkpoint, opened.checkpoint)
    name, params = type(opened.generator).__name__, engineering(profile.total_params)
    macs = engineering(profile.total_macs)
    yield f"{'network':<10} {name}, {params} parameters, {macs} multiply-adds per image"
    yield f"{'interface':<10} {describe_interface(opened.interface)}"
    yield f"{'coverage':<10} {profile.coverage.describe()}"
    yield ""
    yield text_table(
        ("layer", "kind", "weight", "params", "share", "MACs", "candidates"),
        fate_of_layers(profile, RankGrid()),
        n_text=3,
    )
    yield ""
    yield (
        f"within reach at most: {profile.total_params / outlook.params:.2f}x fewer parameters, "
        f"{profile.total_macs / max(outlook.macs, 1):.2f}x fewer multiply-adds, before any quality "
        "is counted"
    )
    yield ""
    extractor = make_extractor(config.features, device=config.device, threads=None)
    dense = wanted_reference("auto", opened.checkpoint.provenance.get("dataset")) == "dense"
    budget = FIRST_BUDGET
    if dense:
        spread = feature_spread(opened.generator, opened.interface, extractor, device=config.device)
        budget = budget_of_spread(spread)
        yield (
            "No data set is known, so images are compared with others of the same generator. The "
            f"features of its images have a spread of {spread:.3g}; the budget below is "
            f"{SPREAD_SHARE:.0%} of that."
        )
    given = {**config.given(), "fid_budget": budget}
    with_defaults, in_a_hurry = _efforts(config, opened, profile, extractor, dense=dense)
    yield f"next: {_command('ard.compress', config.checkpoint, given)}"
    yield f"    {with_defaults}"
    yield f"or, for a first look: the same with {_options(FIRST_LOOK)}"
    yield f"    {in_a_hurry}"


def _efforts(
    config: InspectConfig,
    opened: OpenedGenerator,
    profile: Profile,
    extractor: FeatureExtractor,
    *,
    dense: bool,
) -> Iterator[str]:
    """What a run takes with the default settings, and with those of a first look.

    `dense` is whether the reference is made of images of the dense generator.
    """
    against = "images of the dense generator" if dense else "the data set"
    speed: Speed | None = None
    for settings in ({}, FIRST_LOOK):
        given = SearchConfig(checkpoint=config.checkpoint, device=config.device, **settings)
        search = replace(settled(given), batch_size=TIMED)
        speed = speed or measure_speed(search, opened, profile, extractor)
        demand = replace(demand_of(search, opened, profile, extractor, 1), delivers=True)
        stages, recoveries = stages_of(demand, speed), demand.recoveries
        images = sum(stage.images for stage in stages)
        updates = recoveries.trials * (recoveries.steps + recoveries.tuning)
        yield (
            f"at most about {duration_text(sum(stage.seconds for stage in stages))} on this "
            f"machine: {images:,} images in {extractor.name} features, against {against}, and "
            f"{updates:,} updates"
        )


def _command(module: str, checkpoint: Path, options: Mapping[str, object]) -> str:
    given = (f"{option_name(name)}={value}" for name, value in options.items())
    return shlex.join(["python", "-m", module, str(checkpoint), *given])


def _options(options: Mapping[str, object]) -> str:
    return " ".join(f"{option_name(name)} {value}" for name, value in options.items())


if __name__ == "__main__":
    sys.exit(run(main, InspectConfig, prog="python -m ard.inspect", description=__doc__))
