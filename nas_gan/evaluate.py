"""Evaluate a generator: `python -m nas_gan.evaluate ckpt.pt --against dense.pt`.

A folder or an `.npz` of uint8 images can be evaluated as well, and can be the reference:
`python -m nas_gan.evaluate images/ --reference other/ --metrics fid kid is prc`.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from nas_gan.cli import progress, run, say
from nas_gan.devices import Device, check_device
from nas_gan.errors import InvalidValueError
from nas_gan.files import write_json
from nas_gan.generators import GeneratorOptions
from nas_gan.metrics.evaluation import EvaluationSettings, Evaluator
from nas_gan.metrics.features import ClassExtractor, ExtractorName, make_extractor
from nas_gan.metrics.protocol import ProtocolName, find_protocol
from nas_gan.metrics.report import EvaluationReport, render
from nas_gan.metrics.scoring import MetricName
from nas_gan.metrics.subjects import open_subject
from nas_gan.networks.interface import interface_of
from nas_gan.panels import ADDRESS, DATA, EVALUATION, FILES, MACHINE
from nas_gan.workers.executors import Executor
from nas_gan.workers.options import WorkerOptions, check_alike, opened_executor


@dataclass(frozen=True)
class EvaluateConfig(WorkerOptions, GeneratorOptions):
    """What is evaluated, by which metrics, in which features and against what."""

    source: Annotated[Path, tyro.conf.Positional, ADDRESS]
    """A .pt or .safetensors file, dense or compressed; zoo:NAME for a shipped one; a folder or an
    .npz of images."""
    against: Annotated[Path | None, ADDRESS] = None
    """The dense generator, to report ΔFID on the same latents with a 95 % interval. The features of
    all samples are then kept: with Inception 8 kB per image for each generator."""
    metrics: tuple[MetricName, ...] = ("fid",)
    """Any of fid, kid, is, prc, parzen, msssim and accuracy."""
    samples: int = 10_000
    """Images that a generator draws; folders and files are measured whole."""
    reference: str = "auto"
    """What the images are compared with: auto (the data set of the checkpoint), dense (the dense
    generator's own images), a file with mu and sigma, a folder or an .npz of images, or another
    checkpoint."""
    features: Annotated[ExtractorName, EVALUATION] = "auto"
    """Network whose features are compared; auto is Inception if its weights are available."""
    protocol: Annotated[ProtocolName, EVALUATION] = "legacy"
    """How pixels become bytes and are resized: legacy, as pytorch-fid and the published code do, or
    clean, as clean-fid does."""
    inception_weights: Annotated[Path | None, EVALUATION] = None
    """Weight file of pytorch-fid, if it cannot be downloaded."""
    kept: Annotated[int, EVALUATION] = 10_000
    """Images per side whose features (kid, prc) or pixels (parzen) are kept: a random subset."""
    seed: int = 20_000
    """Seed of the latents and of the random subsets; compress uses other latents by default."""
    data_root: Annotated[Path | None, DATA, ADDRESS] = None
    """Folder of the data set, if it is not in its usual place."""
    device: str = "cpu"
    """Device for the generator and the features: cpu, cuda, cuda:1 and so on."""
    batch_size: Annotated[int, MACHINE] = 64
    """Images per batch, which only affects speed and memory."""
    out: Path | None = None
    """JSON file to write the result to."""
    save_statistics: Annotated[Path | None, FILES] = None
    """An .npz file to write the mean and covariance of the features to, as a reference for later
    evaluations."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", Device(self.device))


def main(config: EvaluateConfig) -> int:
    report = evaluate(config)
    if config.out is not None:
        write_json(config.out, asdict(report))
    Console().print(render(report))
    return 0


def evaluate(config: EvaluateConfig) -> EvaluationReport:
    """Everything that was asked for, of a generator or of images."""
    settings = _settings(config)
    threads = torch.get_num_threads()
    if config.spread:
        threads = 1  # of a worker, and as many here: sums would otherwise differ in rounding
        torch.set_num_threads(threads)
    with opened_executor(config, config.device, threads) as executor:
        return _evaluate(config, settings, executor if config.spread else None, threads)


def _evaluate(
    config: EvaluateConfig, settings: EvaluationSettings, executor: Executor | None, threads: int
) -> EvaluationReport:
    subject = open_subject(config.source, settings.drawing)
    dense = None if config.against is None else open_subject(config.against, settings.drawing)
    for line in subject.remarks:
        say(line)
    for one in (subject, dense):
        if one is not None and one.generator is not None:
            check_alike(config, interface_of(one.generator))

    @functools.cache
    def extractor() -> ClassExtractor:
        return make_extractor(
            config.features,
            inception_weights=config.inception_weights,
            device=config.device,
            threads=threads,
            protocol=settings.protocol,
        )

    evaluator = Evaluator(settings, extractor, progress, executor)
    return evaluator.evaluate(subject, dense, statistics_file=config.save_statistics)


def _settings(config: EvaluateConfig) -> EvaluationSettings:
    if not config.metrics and config.save_statistics is None:
        raise InvalidValueError("names none, and there is no --save-statistics", setting="metrics")
    check_device(config.device)
    return EvaluationSettings(
        metrics=config.metrics,
        samples=config.samples,
        seed=config.seed,
        protocol=find_protocol(config.protocol),
        reference=config.reference,
        kept=config.kept,
        data_root=config.data_root,
        device=config.device,
        batch_size=config.batch_size,
        options=config,
    )


if __name__ == "__main__":
    sys.exit(run(main, EvaluateConfig, prog="python -m nas_gan.evaluate", description=__doc__))
