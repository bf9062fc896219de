"""Second moments of what enters each layer, streamed over latents.

A factorization that knows its inputs spends its rank where signals are. Latents cost nothing, so
the moments can be measured on as many as one likes, without any data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ard.errors import NonFiniteError, PlanError
from nas_gan.structure import evaluating

# Neighbouring positions of a feature map say nearly the same; about a hundred of an image do.
MAX_POSITIONS = 128
# Patches are cut out of this many images at once: 16 x 128 patches of 256 channels and 5 rows are
# 21 MB in float64.
IMAGES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Uncentred second moments `E[x x^T]` of one layer's inputs, in float64.

    `channel (c_in, c_in)` is over the channels at one position. `vertical (c_in k_h, c_in k_h)` is
    over the patches that a `k_h x 1` kernel with the layer's dilation, vertical padding and
    vertical stride sees, channel-major; None where the kernel is one pixel high, for transposed
    convolutions and for linear layers.
    """

    channel: Tensor
    vertical: Tensor | None
    n_images: int


def input_covariances(
    generator: nn.Module,
    latents: Tensor,
    layer_names: Sequence[str],
    batch_size: int = 64,
    max_positions: int = MAX_POSITIONS,
) -> dict[str, LayerStatistics]:
    """Measure the named Conv2d, ConvTranspose2d and Linear layers on `latents (n, latent_dim)`.

    Sums are kept in float64 and every image counts the same, so the result does not depend on the
    batch size beyond rounding. A feature map of more than `max_positions` positions is read on a
    regular grid. Its step is odd: with an even one, a map that was upsampled by two would always
    be read at the same phase.

    Raises:
        PlanError: the generator has no layer of that name, it is of another type or never called.
        NonFiniteError: an input of a layer is NaN or infinite.
    """
    channel = {name: _SecondMoment() for name in layer_names}
    vertical = {name: _SecondMoment() for name in layer_names}

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for x in inputs[0].split(IMAGES_AT_ONCE):
                channel[name].add(_pixels(module, x, max_positions))
                if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1:
                    vertical[name].add(_vertical_patches(module, x, max_positions))

        return hook

    modules = [(name, _find(generator, name)) for name in layer_names]
    handles = [module.register_forward_pre_hook(hook_for(name)) for name, module in modules]
    try:
        with evaluating(generator):
            for batch in latents.split(batch_size):
                generator(batch)
    finally:
        for handle in handles:
            handle.remove()
    statistics = {}
    for name in layer_names:
        mean = channel[name].mean()
        if mean is None:
            raise PlanError(f"{name}: the generator never calls this layer")
        if not mean.isfinite().all():
            raise NonFiniteError(f"{name}: an input of this layer is NaN or infinite")
        statistics[name] = LayerStatistics(mean, vertical[name].mean(), len(latents))
    return statistics


class _SecondMoment:
    """A running `sum x x^T` and how many `x` went into it."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, rows: Tensor) -> None:
        rows = rows.double()  # (m, d)
        product = rows.T @ rows
        self.total = product if self.total is None else self.total + product
        self.count += len(rows)

    def mean(self) -> Tensor | None:
        return None if self.total is None else self.total / self.count


def _find(generator: nn.Module, name: str) -> nn.Module:
    try:
        module = generator.get_submodule(name)
    except AttributeError as error:
        raise PlanError(f"the generator has no layer {name!r}: {error}") from error
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        raise PlanError(f"{name}: a {type(module).__name__} has no input covariance to measure")
    return module


def _pixels(module: nn.Module, x: Tensor, max_positions: int) -> Tensor:
    """Input channels at a grid of positions, `(m, c_in)`."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    down, right = 1, 1
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        down, right = module.stride  # what lies between is never read
    x = x[..., ::down, ::right]
    step = _odd_step(x.shape[-2], x.shape[-1], max_positions)
    return x[..., ::step, ::step].movedim(1, -1).reshape(-1, x.shape[1])


def _vertical_patches(conv: nn.Conv2d, x: Tensor, max_positions: int) -> Tensor:
    """What a `k_h x 1` kernel sees at a grid of its output positions, `(m, c_in k_h)`."""
    k_h, dilation, stride = conv.kernel_size[0], conv.dilation[0], conv.stride[0]
    reach = dilation * (k_h - 1)
    if conv.padding == "same":
        top, bottom = reach // 2, reach - reach // 2
    else:
        top = bottom = 0 if conv.padding == "valid" else int(conv.padding[0])
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, (0, 0, top, bottom), mode=mode)
    height = (x.shape[-2] - reach - 1) // stride + 1
    step = _odd_step(height, x.shape[-1], max_positions)
    patches = F.unfold(x, (k_h, 1), dilation=(dilation, 1), stride=(stride * step, step))
    return patches.transpose(1, 2).flatten(0, 1)  # (n, c_in k_h, m) -> (n m, c_in k_h)


def _odd_step(height: int, width: int, max_positions: int) -> int:
    step = 1
    while -(-height // step) * -(-width // step) > max_positions and step < max(height, width):
        step += 2
    return step
