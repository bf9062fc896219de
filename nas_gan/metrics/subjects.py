"""What is evaluated: images from files, or those that the generator of a checkpoint draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.generators import GeneratorOptions, open_generator
from nas_gan.metrics.protocol import to_uint8
from nas_gan.metrics.sources import GeneratedSource, ImageSource, open_images
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import StreamedLatents
from nas_gan.remote.fetching import local_copy


@dataclass(frozen=True)
class Drawing:
    """How a generator is built and its images are drawn.

    Attributes:
        n: number of images.
        seed: seed of the latents.
        device: where the generator runs.
        quantize: turns images in [-1, 1] into bytes.
        options: how a network that its checkpoint does not describe is built and called.
    """

    n: int
    seed: int
    device: str = "cpu"
    quantize: Callable[[Tensor], Tensor] = to_uint8
    options: GeneratorOptions = field(default_factory=GeneratorOptions)


@dataclass(frozen=True)
class Subject:
    """Images to evaluate.

    Attributes:
        path: where they come from.
        source: the images themselves.
        generator: what draws them, or None if they come from files.
        provenance: what the checkpoint says of its training; empty for files.
        remarks: what was found out about the generator.
    """

    path: Path
    source: ImageSource
    generator: nn.Module | None
    provenance: dict[str, Any]
    remarks: tuple[str, ...] = ()


def open_subject(path: Path, drawing: Drawing) -> Subject:
    """The images behind a path: a folder, an `.npz` file or the generator of a checkpoint.

    Raises:
        CheckpointError: it is none of them.
        InvalidValueError: an `.npz` file does not hold images.
        MissingDataError: a folder holds no images.
    """
    images = open_images(local_copy(path))
    if images is not None:
        return Subject(path, images, None, {})
    opened = open_generator(path, drawing.options, device=drawing.device)
    latents = StreamedLatents(opened.interface, drawing.n, drawing.seed)
    source = GeneratedSource(
        f"{len(latents)} images of {path}",
        opened.generator,
        latents,
        device=drawing.device,
        quantize=drawing.quantize,
    )
    provenance = opened.checkpoint.provenance
    return Subject(path, source, opened.generator, provenance, tuple(opened.remarks()))


def check_pair(subject: Subject, dense: Subject) -> None:
    """Refuse two subjects whose images cannot be paired by their latents.

    Raises:
        InvalidValueError: one of them has no generator, or their interfaces differ.
    """
    if subject.generator is None or dense.generator is None:
        raise InvalidValueError(
            "pairs two generators on the same latents; to compare images, use them as reference",
            setting="against",
        )
    ours, theirs = interface_of(subject.generator), interface_of(dense.generator)
    if not ours.same_rows(theirs):
        raise InvalidValueError(
            f"{subject.path} maps {ours.describe()}, {dense.path} maps {theirs.describe()}: they "
            "cannot be compared on the same latents"
        )
