"""The bytes that a run takes, on the disk and in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ard.assembly.assembler import MAX_OUTPUTS
from ard.assembly.prefix import MAX_BYTES
from ard.assembly.statistics import MAX_CAPTURED, PROBED_AT_ONCE
from ard.forecast.demand import Demand
from ard.forecast.stages import Stage
from ard.layers import Profile
from ard.pipeline import N_RANKED
from ard.recovery.memory import MAX_BYTES as MAX_IMAGES
from ard.session.config import SweepConfig
from ard.session.search import N_PROXY
from nas_gan.generators import OpenedGenerator
from nas_gan.networks.latents import latents_of
from nas_gan.networks.memory import activations_of, bytes_to_keep, fitting_rows, peak_bytes

# A line of the journal, and what a report with its figures takes at least.
LINE_BYTES, REPORT_BYTES = 350, 2_000_000


@dataclass(frozen=True)
class Bytes:
    """What a run writes at most, and the most memory that it has."""

    disk: int
    memory: int


def bytes_of(
    demand: Demand, stages: Sequence[Stage], profile: Profile, dim: int, held: int
) -> Bytes:
    """Bytes of a run.

    Recovered generators lie on the disk until the end, each smaller than the dense one. The
    features of the banks of latents, float32, stay in memory.

    Args:
        demand: what it does.
        stages: its stages.
        profile: the layers.
        dim: the number of features.
        held: what it has in memory beside features and copies of the weights; see `held_bytes`.
    """
    weights, trials = 4 * profile.total_params, demand.recoveries.trials
    lines = LINE_BYTES * sum(stage.evaluations for stage in stages)
    kept = (demand.recoveries.trials + 2) * weights + REPORT_BYTES if trials else 0
    rows = demand.sweep_images + (2 * demand.images if trials else 0)
    copies = weights * (2 if trials else 1)
    return Bytes(lines + kept, held + 4 * rows * dim + copies)


def held_bytes(
    opened: OpenedGenerator, profile: Profile, demand: Demand, config: SweepConfig
) -> int:
    """What a run holds in memory at most, beside features and copies of the weights.

    That is what this process has had when it drew images and looked at them; the second moments of
    all layers' inputs and outputs, in float64; what is remembered of the dense generator; and what
    is larger, the inputs of layers or the pass with gradients.
    """
    latents = latents_of(opened.interface, 2, config.seed).to(config.device)
    row = activations_of(opened.generator, latents)
    moments = 0
    for layer in profile.layers:
        c_out, c_in = layer.shape[:2]
        tall = c_in * layer.shape[2] if len(layer.shape) == 4 and layer.shape[2] > 1 else 0
        moments += 8 * (c_in**2 + tall**2 + (c_out**2 if c_out <= MAX_OUTPUTS else 0))
    remembered = N_PROXY * row.made if demand.anchors else 0
    remembered += demand.moments * row.made
    kept = min(bytes_to_keep(2 * MAX_BYTES), remembered)
    recoveries = demand.recoveries
    updates = recoveries.steps + recoveries.tuning
    pixels = 4 * math.prod(opened.interface.image_shape)
    kept += min(bytes_to_keep(MAX_IMAGES), updates * recoveries.batch * pixels)
    captured = min(MAX_CAPTURED, N_RANKED * row.made)
    backward = row.made * fitting_rows(opened.generator, latents, PROBED_AT_ONCE, gradients=True)
    training = recoveries.batch * row.made if updates else 0
    return peak_bytes() + moments + kept + max(captured, backward, training)
