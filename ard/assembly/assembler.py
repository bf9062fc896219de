"""Building the factorized generator of a plan, corrected in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from ard.activations import ActivationProfile, spread_samples
from ard.assembly.batchnorm import BatchMoments, batch_moments, corrected_with_images, whole
from ard.assembly.closed_form import Fit, LayerOutputs, calibrate, layer_outputs
from ard.assembly.prefix import DensePrefix, only_layer
from ard.assembly.statistics import (
    LayerStatistics,
    capture_inputs,
    input_covariances,
    output_covariances,
    with_outputs,
)
from ard.assembly.surgery import apply_plan
from ard.layers import LayerProfile
from ard.plan import DENSE, RankPlan
from nas_gan.networks.memory import fitting_rows

# Random directions per image, and latents, to measure how much each output matters to the image.
# The estimate also averages over positions, so a few of each are enough.
N_PROBES, N_PROBED = 2, 64
# Latents for batch statistics. Only the difference from the dense network on the same latents
# counts, for which a few are enough, and every plan that is built has to run them.
N_MOMENTS = 32
# A linear layer that fills a feature map has one output per value of the map. With 65,536 outputs,
# the matrix would take 34 GB, so such a layer is weighted by its inputs only.
MAX_OUTPUTS = 1024
# Latents per pass, if there is memory for so many.
BATCH_SIZE = 64
# What probing one image takes, in forward passes; a backward pass takes about as long as two.
PASSES_PROBED = 1 + 2 * N_PROBES


def passes_of(n_latents: int) -> int:
    """The forward passes that the covariances of an assembler take about as long as."""
    return n_latents + min(n_latents, N_PROBED) * PASSES_PROBED


@contextmanager
def _counting_rows(network: nn.Module, n: int, on_rows: Callable[[int], None]) -> Iterator[None]:
    """In the block, tell of the rows of each pass of a network, up to `n` in all.

    There are a few more, which show how many fit into memory.
    """
    left = n

    # By its images: what a network of other people is called with may be a list. It is called as a
    # whole, and `hooked` would see what it returns before it is made one tensor of images.
    def count(module: nn.Module, inputs: object, images: object) -> None:
        nonlocal left
        done = min(len(images), left) if isinstance(images, Tensor) else 0
        left -= done
        on_rows(done)

    hook = network.register_forward_hook(count)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class Assembler:
    """Builds the factorized generator of any plan, from statistics that are measured once.

    Attributes:
        generator: the dense generator; it is never changed.
        latents: `(n, latent_dim)` latents for all statistics.
        statistics: second moments of the inputs of the layers that a plan may replace, in execution
            order, and of the gradients of the image at their outputs.
        moments: moments of the inputs of batch normalisations, on the first `N_MOMENTS` latents.
        outputs: outputs of the layers that run once per pass.
        fit: how each factorized layer is fitted to those outputs.
        entering: values `(n,)` that enter each activation that a plan may replace.
        prefix: what the dense generator computes on the first `N_MOMENTS` latents, which a plan of
            one layer shares up to that layer; None if they do not fit into memory together.
        batch_size: latents per pass.
    """

    generator: nn.Module
    latents: Tensor
    statistics: Mapping[str, LayerStatistics]
    moments: BatchMoments
    outputs: LayerOutputs
    fit: Fit = "none"
    entering: Mapping[str, Tensor] = field(default_factory=dict)
    prefix: DensePrefix | None = None
    batch_size: int = BATCH_SIZE

    @staticmethod
    def measure(
        generator: nn.Module,
        latents: Tensor,
        layers: Sequence[LayerProfile],
        *,
        fit: Fit = "none",
        activations: Sequence[ActivationProfile] = (),
        on_passes: Callable[[int], None] = lambda n: None,
    ) -> Assembler:
        """An assembler for the layers and activations, from a few passes of the dense generator.

        `on_passes` is called with how many of `passes_of` are done since its last call.
        """
        names = [layer.name for layer in layers]
        rows = fitting_rows(generator, latents, BATCH_SIZE)
        weighed = [layer.name for layer in layers if layer.shape[0] <= MAX_OUTPUTS]
        few = latents[:N_PROBED]
        with _counting_rows(generator, len(few), lambda n: on_passes(n * PASSES_PROBED)):
            worth = output_covariances(generator, few, weighed, n_probes=N_PROBES)
        with _counting_rows(generator, len(latents), on_passes):
            inputs = input_covariances(generator, latents, names, shrink=True)
        # Factors shared by several layers could be fitted to only one of them.
        alone = [layer.name for layer in layers if not layer.aliases] if fit != "none" else []
        return Assembler(
            generator,
            latents,
            with_outputs(inputs, worth),
            batch_moments(generator, latents[:N_MOMENTS], rows),
            layer_outputs(generator, latents, alone, rows),
            fit,
            {
                name: spread_samples(x)
                for name, x in capture_inputs(
                    generator, latents[:N_MOMENTS], [activation.name for activation in activations]
                ).items()
            },
            DensePrefix(generator, latents[:N_MOMENTS]) if rows >= N_MOMENTS else None,
            rows,
        )

    def __call__(self, plan: RankPlan, base: nn.Module | None = None) -> nn.Module:
        """The corrected generator of a plan; for an empty plan, the dense generator itself.

        With `base`, a generator with other layers replaced already, the layers of the plan are
        replaced in `base` and weighted by their inputs there.
        """
        return self.with_images(plan, base)[0]

    def with_images(
        self, plan: RankPlan, base: nn.Module | None = None
    ) -> tuple[nn.Module, Tensor | None]:
        """The generator of a plan, and the images that it makes of the first `N_MOMENTS` latents.

        They are None unless the correction of batch statistics has made them anyway.
        """
        if plan == DENSE:
            return self.generator if base is None else base, None
        statistics, moments, source = self.statistics, self.moments, self.generator
        few = self.latents[:N_MOMENTS]
        if base is not None:
            worth = {n: s.output for n, s in self.statistics.items() if s.output is not None}
            layers = [name for name in plan if name in self.statistics]
            inputs = input_covariances(base, self.latents, layers, shrink=True)
            statistics = with_outputs(inputs, worth)
            moments, source = batch_moments(base, few, self.batch_size), base
        factorized = apply_plan(source, plan, statistics, self.entering)
        replaced = [name for name in self.statistics if name in plan]
        corrected = (
            factorized
            if self.fit == "none"
            else calibrate(
                factorized,
                self.latents,
                self.outputs,
                replaced,
                fit=self.fit,
                batch_size=self.batch_size,
            )
        )
        skipping = whole
        if base is None and self.prefix is not None:
            skipping = partial(self.prefix.skipped, layer=only_layer(plan))
        return corrected_with_images(corrected, moments, few, self.batch_size, skipping)
