from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nas_gan.checkpoint import Checkpoint, save_checkpoint
from nas_gan.errors import InvalidValueError
from nas_gan.metrics.protocol import to_uint8
from nas_gan.metrics.subjects import Drawing, check_pair, open_subject
from nas_gan.networks.latents import latents_of
from nas_gan.networks.models import build_model


def write_generator(path: Path, **options: int) -> Path:
    architecture = {"kind": "dense-cgan", "gf_dim": 4, "image_size": 4, **options}
    generator = build_model(architecture, rng=torch.Generator().manual_seed(0))
    save_checkpoint(Checkpoint(architecture, generator.state_dict(), provenance={"seed": 5}), path)
    return path


def test_a_checkpoint_is_the_images_of_its_generator_and_its_provenance(tmp_path: Path) -> None:
    path = write_generator(tmp_path / "a.pt", latent_dim=6, n_classes=3)
    checkpoint = Checkpoint({"kind": "dense-cgan", "gf_dim": 4, "image_size": 4, "latent_dim": 6,
                             "n_classes": 3}, {})  # fmt: skip
    subject = open_subject(path, Drawing(5, seed=7))
    assert subject.generator is not None
    assert subject.provenance == {"seed": 5}
    [batch] = subject.source.batches(8)
    latents = latents_of(checkpoint.interface, 5, seed=7)
    with torch.no_grad():
        expected = to_uint8(subject.generator(latents))
    assert torch.equal(batch.images, expected.expand(-1, 3, -1, -1))


def test_an_array_has_images_and_no_generator(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((3, 4, 4, 3), np.uint8))
    subject = open_subject(tmp_path / "a.npz", Drawing(5, seed=7))
    assert (len(subject.source), subject.generator, subject.provenance) == (3, None, {})


def test_generators_are_paired_if_their_latents_and_images_are_alike(tmp_path: Path) -> None:
    drawing = Drawing(2, seed=0)
    three, other, four = (
        open_subject(write_generator(tmp_path / f"{i}.pt", latent_dim=6, n_classes=n), drawing)
        for i, n in enumerate((3, 3, 4))
    )
    check_pair(three, other)
    with pytest.raises(InvalidValueError, match=r"one of 3 labels to .* one of 4 labels to"):
        check_pair(three, four)
