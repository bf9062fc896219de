"""The generator that a search would deliver at present, to be measured before anybody trains it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from nas_gan.architecture_search.supernet import MixedEdge, SuperCell, SuperGenerator
from nas_gan.networks.genotype import EDGES, Genotype
from nas_gan.networks.searched import Generator
from nas_gan.networks.standing import measure_standing_statistics_


@torch.no_grad()
def derived_generator(supernet: SuperGenerator, genotype: Genotype, latents: Tensor) -> Generator:
    """The generator of a genotype, with the weights that the supernet has for its operations.

    A supernet whose mixing is sure of this genotype computes the same; only the batch statistics
    are measured anew, since those of the supernet come from all the mixings that were drawn.

    Args:
        supernet: where the weights come from; it is not changed.
        genotype: operations that the supernet mixes.
        latents: `(n, latent_dim)` latents for the batch statistics.

    Returns:
        The generator in evaluation mode, on the device of the supernet.
    """
    device = supernet.alphas_normal.device
    generator = Generator(replace(supernet.config, genotype=genotype)).to(device)
    for number, source in enumerate(supernet.inputs, start=1):
        _copy(source, generator.get_submodule(f"l{number}"))
    for number, cell in enumerate(supernet.cells, start=1):
        assert isinstance(cell, SuperCell)
        mixed_edges = [edge for edge in (*cell.ups, *cell.edges) if isinstance(edge, MixedEdge)]
        target = generator.get_submodule(f"cell{number}")
        for name, mixed in zip(EDGES, mixed_edges, strict=True):
            operation = genotype.operation(number, name)
            if operation != "none":
                _copy(mixed.ops[operation], target.get_submodule(name))
        _copy(cell.skip_in_ops, target.get_submodule("skip_in_ops"))
    _copy(supernet.to_rgb, generator.to_rgb)
    measure_standing_statistics_(generator, latents.to(device))
    return generator.eval().requires_grad_(False)


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())
