"""From a plan to its factorized generator, repaired in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ard.assembly.batchnorm import BatchMoments, batch_moments, correct_batchnorm
from ard.assembly.closed_form import Fit, LayerOutputs, calibrate, layer_outputs
from ard.assembly.statistics import (
    LayerStatistics,
    input_covariances,
    output_covariances,
    with_outputs,
)
from ard.assembly.surgery import apply_plan
from ard.layers import LayerProfile
from ard.plan import DENSE, RankPlan

# Random directions of the image, and latents, behind the worth of each output. The matrix averages
# over positions as well, so a few of each are enough.
N_PROBES, N_PROBED = 2, 64
# Latents behind batch statistics. What counts is the difference from the dense net on the same
# latents, for which a few are enough, and every plan that is built has to run them.
N_MOMENTS = 32
# The matrix of a linear layer that fills a feature map has a row for every value of that map: of
# 65,536 outputs it would take 34 GB. Such a layer is weighted by its inputs alone.
MAX_OUTPUTS = 1024


@dataclass(frozen=True)
class Assembler:
    """Everything about a dense generator that building any plan of it needs, measured once.

    Attributes:
        generator: the dense generator; it is never changed.
        latents: `(n, latent_dim)` latents behind all the statistics.
        statistics: second moments of what enters the layers that a plan may replace, in execution
            order, and of what leaves them by what it is worth to the image.
        moments: of what enters the batch normalisations, on the first `N_MOMENTS` latents.
        outputs: what the layers put out, those that run once in a pass.
        fit: how each replaced layer is fitted to those.
    """

    generator: nn.Module
    latents: Tensor
    statistics: Mapping[str, LayerStatistics]
    moments: BatchMoments
    outputs: LayerOutputs
    fit: Fit = "none"

    @staticmethod
    def measure(
        generator: nn.Module,
        latents: Tensor,
        layers: Sequence[LayerProfile],
        *,
        fit: Fit = "none",
    ) -> Assembler:
        """An assembler for the layers, from a few passes of the dense generator."""
        names = [layer.name for layer in layers]
        weighed = [layer.name for layer in layers if layer.shape[0] <= MAX_OUTPUTS]
        worth = output_covariances(generator, latents[:N_PROBED], weighed, n_probes=N_PROBES)
        # Factors that several layers share would be fitted to one of them only.
        alone = [layer.name for layer in layers if not layer.aliases] if fit != "none" else []
        return Assembler(
            generator,
            latents,
            with_outputs(input_covariances(generator, latents, names, shrink=True), worth),
            batch_moments(generator, latents[:N_MOMENTS]),
            layer_outputs(generator, latents, alone),
            fit,
        )

    def __call__(self, plan: RankPlan, base: nn.Module | None = None) -> nn.Module:
        """The generator under a plan, repaired; the dense one itself for an empty plan.

        With `base`, a generator of which other layers are already replaced, the plan's layers are
        replaced in that one, weighted by what enters them there.
        """
        if plan == DENSE:
            return self.generator if base is None else base
        statistics, moments, source = self.statistics, self.moments, self.generator
        few = self.latents[:N_MOMENTS]
        if base is not None:
            worth = {n: s.output for n, s in self.statistics.items() if s.output is not None}
            entering = input_covariances(base, self.latents, list(plan), shrink=True)
            statistics = with_outputs(entering, worth)
            moments, source = batch_moments(base, few), base
        factorized = apply_plan(source, plan, statistics)
        replaced = [name for name in self.statistics if name in plan]
        repaired = (
            factorized
            if self.fit == "none"
            else calibrate(factorized, self.latents, self.outputs, replaced, fit=self.fit)
        )
        return correct_batchnorm(repaired, source, few, dense_moments=moments)
