"""Saving the outcome of a search: the plan and the compressed checkpoint."""

from __future__ import annotations

from pathlib import Path

from ard.layers import Profile
from ard.pipeline import Found
from ard.recovery.store import compressed_checkpoint
from nas_gan.checkpoint import Checkpoint, save_checkpoint
from nas_gan.files import write_text


def save_found(
    found: Found,
    profile: Profile,
    dense: Checkpoint,
    folder: Path,
    suffixes: tuple[str, ...] = (".pt",),
) -> None:
    """Write `plan.json`, and `compressed` with each of the suffixes, into `folder`.

    The plan holds the shapes of the dense weights, so that it is refused for any other network.
    """
    shapes = {layer.name: layer.weight_shape for layer in profile.layers}
    write_text(folder / "plan.json", found.plan.with_shapes(shapes).to_json() + "\n")
    checkpoint = compressed_checkpoint(dense, found.generator, found.plan)
    for suffix in suffixes:
        save_checkpoint(checkpoint, folder / f"compressed{suffix}")
