"""What can be said of a generator in seconds: what is within reach, and which layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ard.costs.cost import params_cost
from ard.grid import RankGrid
from ard.layers import LayerProfile, Profile
from ard.pipeline import worthwhile_layers
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.protocol import to_uint8
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.networks.latents import latents_of
from nas_gan.tables import text_table

N_SPREAD, BATCH = 32, 8  # images behind the spread of features, and how many are drawn at a time


@dataclass(frozen=True)
class Outlook:
    """What is possible before any quality is counted.

    Attributes:
        params: parameters of the generator if every layer takes its smallest candidate.
        macs: its multiply-adds per image then.
    """

    params: int
    macs: int


def feature_spread(
    generator: nn.Module,
    interface: GeneratorInterface,
    extractor: FeatureExtractor,
    *,
    device: str = "cpu",
) -> float:
    """The total variance of the features of some images.

    It is the Fréchet distance between the generator and one that always draws the average, and so
    a scale for distances where no real images give one.
    """
    rows = latents_of(interface, N_SPREAD, seed=0).to(device)
    with torch.inference_mode():
        images = torch.cat([generator(batch).cpu() for batch in rows.split(BATCH)])
    features = extractor(to_uint8(images).expand(-1, 3, -1, -1))
    return float(features.var(axis=0, ddof=1).sum())


def outlook_of(profile: Profile, grid: RankGrid) -> Outlook:
    """The smallest generator that the candidates allow; each layer has its cheapest."""

    def least(layer: LayerProfile, cost: Callable[..., int]) -> int:
        return min([cost(), *(cost(choice) for choice in grid.choices(layer))])

    layers, _ = worthwhile_layers(profile, params_cost)
    saved_params = sum(layer.params() - least(layer, layer.params) for layer in layers)
    saved_macs = sum(layer.macs() - least(layer, layer.macs) for layer in layers)
    return Outlook(profile.total_params - saved_params, profile.total_macs - saved_macs)


def duration_text(seconds: float) -> str:
    """A duration as people say it.

    >>> [duration_text(s) for s in (20, 70, 400, 9000)]
    ['under a minute', '1 minute', '7 minutes', '2.5 hours']
    """
    if seconds < 60:
        return "under a minute"
    if seconds < 5400:
        minutes = round(seconds / 60)
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{seconds / 3600:.1f} hours"


def fate_of_layers(profile: Profile, grid: RankGrid) -> Iterator[tuple[str, ...]]:
    """A row per layer: name, kind, weight, parameters, their share, MACs, and its candidates.

    The last column of a layer that stays as it is says why.
    """
    worth, left = worthwhile_layers(profile, params_cost)
    reasons = dict(left)
    total = max(profile.total_params, 1)
    for layer in profile.layers:
        choices = list(grid.choices(layer))
        what = reasons.get(layer.name, f"{len(choices)}")
        yield (
            layer.name,
            layer.kind,
            "x".join(map(str, layer.weight_shape)),
            f"{layer.params():,}",
            f"{layer.params() / total:.1%}",
            f"{layer.macs():,}",
            what if layer in worth or layer.name in reasons else "0",
        )
    for name, reason in profile.skipped:
        yield (name, "", "", "", "", "", reason)


def state_summary(state: Mapping[str, Tensor], most: int = 12) -> Iterator[str]:
    """The tensors of a state dict in lines for a person: their number, and the first of them."""
    params = sum(t.numel() for t in state.values() if t.is_floating_point())
    yield f"{'size':<10} {params:,} numbers"
    yield ""
    rows = [(name, "x".join(map(str, t.shape)) or "1") for name, t in state.items()]
    yield text_table(("tensor", "shape"), rows[:most])
    if len(rows) > most:
        yield f"... and {len(rows) - most} more"
