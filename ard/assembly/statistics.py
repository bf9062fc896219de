"""Second moments of each layer's inputs and of the gradients of the image at its outputs.

A factorization that knows its inputs spends its rank where the signal is. One that knows the
gradients at its outputs spends it where the error is visible. Latents are free, so the moments can
be measured on any number of them, without data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ard.errors import NonFiniteError, PlanError
from nas_gan.errors import InvalidValueError
from nas_gan.networks.hooks import OnInput, OnOutput, observing, run_batches
from nas_gan.networks.layer_types import Conv, Layer, layer_type_of
from nas_gan.networks.memory import bytes_to_keep, in_fitting_batches
from nas_gan.networks.structure import weight_sharers

# Neighbouring positions of a feature map are nearly redundant; about a hundred per image suffice.
MAX_POSITIONS = 128
# Patches are extracted from this many images at once: 16 x 128 patches of 256 channels and 5 rows
# take 21 MB in float64.
IMAGES_AT_ONCE = 16
# The most memory for inputs of layers that are captured together.
MAX_CAPTURED = 2**30
# Latents per pass with gradients, which keeps the outputs of all layers.
PROBED_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Uncentred second moments of the inputs and outputs of one layer, in float64.

    Attributes:
        channel: `E[x x^T]` `(c_in, c_in)` of the input channels `x` at one position.
        vertical: the same `(c_in k_h, c_in k_h)` of the patches under a `k_h x 1` kernel with the
            layer's dilation, vertical padding and vertical stride, channel-major. None for kernels
            that are one pixel high or have three axes, and for linear layers.
        n_images: the number of images that were measured.
        output: `E[g g^T]` `(c_out, c_out)` of the gradients of the image (see
            `output_covariances`), or None if not measured.
    """

    channel: Tensor
    vertical: Tensor | None
    n_images: int
    output: Tensor | None = None


def input_covariances(
    generator: nn.Module,
    latents: Tensor,
    layer_names: Sequence[str],
    batch_size: int = 64,
    max_positions: int = MAX_POSITIONS,
    *,
    shrink: bool = False,
) -> dict[str, LayerStatistics]:
    """Measure second moments of the inputs of the named convolutions and linear layers.

    A layer that is called several times, or shares its weight with others, is measured over all
    calls, since it is factorized once. Sums are in float64 and every image has the same weight, so
    the result does not depend on the batch size, apart from rounding. A feature map with more than
    `max_positions` positions is sampled on a regular grid. The step of the grid is odd, because an
    even one would always hit the same phase of a map that was upsampled by two.

    Args:
        generator: maps latents to images; it is not changed.
        latents: `(n, latent_dim)`.
        layer_names: the layers to measure.
        batch_size: latents per batch, or fewer if the memory has no room for so many.
        max_positions: positions per feature map at most.
        shrink: estimate the moments of all latents (see `shrunk`), instead of those of `latents`.

    Raises:
        PlanError: a layer does not exist, is of another type, or is never called.
        NonFiniteError: an input of a layer is NaN or infinite.
    """

    def measure(rows: int) -> tuple[dict[str, _SecondMoment], dict[str, _SecondMoment]]:
        return _input_moments(generator, latents, layer_names, rows, max_positions)

    channel, vertical = in_fitting_batches(measure, generator, latents, batch_size)
    statistics = {}
    for name in layer_names:
        mean = channel[name].mean(shrink=shrink)
        if mean is None:
            raise PlanError(f"{name}: the generator never calls this layer")
        if not mean.isfinite().all():
            raise NonFiniteError(f"{name}: an input of this layer is NaN or infinite")
        statistics[name] = LayerStatistics(mean, vertical[name].mean(shrink=shrink), len(latents))
    return statistics


def _input_moments(
    generator: nn.Module,
    latents: Tensor,
    layer_names: Sequence[str],
    batch_size: int,
    max_positions: int,
) -> tuple[dict[str, _SecondMoment], dict[str, _SecondMoment]]:
    """The sums of the input channels and of the vertical patches of each layer."""
    channel = {name: _SecondMoment() for name in layer_names}
    vertical = {name: _SecondMoment() for name in layer_names}

    def collect(name: str, module: nn.Module) -> OnInput:
        def on_input(images: Tensor) -> None:
            for x in images.split(IMAGES_AT_ONCE):
                channel[name].add(_pixels(module, x, max_positions))
                patches = _vertical_patches(module, x, max_positions)
                if patches is not None:
                    vertical[name].add(patches)

        return on_input

    layers = [
        (module, collect(name, module)) for name in layer_names for module in _find(generator, name)
    ]
    with observing(generator, entering=layers):
        run_batches(generator, latents, batch_size)
    return channel, vertical


def output_covariances(
    generator: nn.Module,
    latents: Tensor,
    layer_names: Sequence[str],
    *,
    n_probes: int = 4,
    seed: int = 0,
    batch_size: int = PROBED_AT_ONCE,
    max_positions: int = MAX_POSITIONS,
) -> dict[str, Tensor]:
    """How much each output of the named layers matters to the image: `E[g g^T]`, `(c_out, c_out)`.

    Let `J` be the derivative of the image with respect to a layer's output. Then `g = J^T v` is the
    gradient of the image along a random direction `v` with entries `+1` and `-1`. Over these
    directions `E[g g^T] = J^T J` (Hutchinson), so a small change `d` of the output changes the
    image by about `d^T E[g g^T] d`, summed over positions. The result is averaged over `n_probes`
    directions per image, over images and over a grid of positions, in float64.

    The directions of image `i` are drawn from `seed` and `i`, so the result does not depend on the
    batch size, apart from rounding, and more latents continue the same sequence. Parameters neither
    need nor get gradients. A layer that the image does not depend on gets zeros, which give equal
    weight to all outputs.

    Args:
        generator: maps latents to images; it is not changed.
        latents: `(n, latent_dim)`.
        layer_names: the layers to measure.
        n_probes: random directions per image.
        seed: seed of the directions.
        batch_size: latents per batch, or fewer if the memory has no room for so many.
        max_positions: positions per feature map at most.

    Raises:
        PlanError: a layer does not exist, is of another type, or is never called.
        InvalidValueError: `n_probes` is below 1, or the generator does not return one tensor.
        NonFiniteError: a gradient is NaN or infinite.
    """
    if n_probes < 1:
        raise InvalidValueError(f"n_probes must be at least 1; got {n_probes}")

    def measure(rows: int) -> dict[str, _SecondMoment]:
        return _gradient_moments(
            generator, latents, layer_names, n_probes, seed, rows, max_positions
        )

    moments = in_fitting_batches(measure, generator, latents, batch_size, gradients=True)
    found = {}
    for name in layer_names:
        mean = moments[name].mean()
        if mean is None:
            raise PlanError(f"{name}: no latents were given to measure it on")
        if not mean.isfinite().all():
            raise NonFiniteError(
                f"{name}: a gradient of the image at this layer is NaN or infinite"
            )
        found[name] = mean
    return found


def _gradient_moments(
    generator: nn.Module,
    latents: Tensor,
    layer_names: Sequence[str],
    n_probes: int,
    seed: int,
    batch_size: int,
    max_positions: int,
) -> dict[str, _SecondMoment]:
    """The sums of the gradients at the outputs of each layer."""
    moments = {name: _SecondMoment() for name in layer_names}
    captured: list[tuple[str, nn.Module, Tensor]] = []
    forward = True  # and not in a backward pass, where activation checkpoints run layers again

    def capture(name: str, module: nn.Module) -> OnOutput:
        def on_output(inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            tracked = output if output.requires_grad else output.requires_grad_()
            if forward:
                captured.append((name, module, tracked))
            return tracked.clone()  # the next layer may modify it in place

        return on_output

    layers = [
        (module, capture(name, module)) for name in layer_names for module in _find(generator, name)
    ]
    start = 0
    with observing(generator, leaving=layers), torch.enable_grad():
        for batch in latents.detach().split(batch_size):
            captured.clear()
            forward = True
            images = generator(batch)
            forward = False
            if not isinstance(images, Tensor):
                raise InvalidValueError(
                    "output covariances need a generator that returns one tensor of images; this "
                    f"one returns a {type(images).__name__}"
                )
            called = {name for name, _, _ in captured}
            if missing := [name for name in layer_names if name not in called]:
                raise PlanError(f"{missing[0]}: the generator never calls this layer")
            directions = _directions(images, n_probes, seed, start)
            start += len(batch)
            if not images.requires_grad:  # the image depends on none of the layers
                images = images + sum(0 * output.sum() for _, _, output in captured)
            for i, direction in enumerate(directions):
                gradients = torch.autograd.grad(
                    images,
                    [output for _, _, output in captured],
                    direction,
                    retain_graph=i + 1 < n_probes,
                    materialize_grads=True,
                )
                for (name, module, _), gradient in zip(captured, gradients, strict=True):
                    moments[name].add(_grid_rows(module, gradient, max_positions))
    return moments


def capture_inputs(
    generator: nn.Module, latents: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """The input of each named module, its first argument, when the generator runs on `latents`.

    They are in the order of the first calls. If the memory has no room for a pass of all latents,
    they run in batches.
    """

    def measure(rows: int) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {}
        for batch in latents.split(rows):
            for name, x in _inputs_of(generator, batch, names).items():
                parts.setdefault(name, []).append(x)
        return {name: xs[0] if len(xs) == 1 else torch.cat(xs) for name, xs in parts.items()}

    return in_fitting_batches(measure, generator, latents, len(latents))


def _inputs_of(generator: nn.Module, latents: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    captured: dict[str, Tensor] = {}

    def capture(name: str) -> OnInput:
        return lambda x: captured.update({name: x.detach()})

    layers = [(generator.get_submodule(name), capture(name)) for name in names]
    with observing(generator, entering=layers):
        generator(latents)
    return captured


def captured_inputs(
    generator: nn.Module, latents: Tensor, names: Sequence[str], most: int = MAX_CAPTURED
) -> Iterator[tuple[str, Tensor]]:
    """Pairs of a module's name and its input, as `capture_inputs` finds them, in order.

    The generator runs as often as it takes for the inputs of each run to fit into memory, so that
    the maps of a large generator are not all there at a time.

    Args:
        generator: maps latents to images.
        latents: `(n, latent_dim)`.
        names: the modules.
        most: bytes for the inputs of one run; those of a single module may take more.
    """
    few = capture_inputs(generator, latents[:2], names)
    sizes = {name: few[name].nbytes * len(latents) // min(2, len(latents)) for name in names}
    for group in _groups(names, sizes, bytes_to_keep(most)):
        found = capture_inputs(generator, latents, group)
        for name in group:
            yield name, found.pop(name)


def _groups(names: Sequence[str], sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Neighbours together while their sizes add up to `most` or less.

    >>> _groups(["a", "b", "c", "d"], {"a": 1, "b": 2, "c": 5, "d": 1}, 3)
    [['a', 'b'], ['c'], ['d']]
    """
    groups: list[list[str]] = []
    left = 0
    for name in names:
        if not groups or sizes[name] > left:
            groups.append([])
            left = most
        groups[-1].append(name)
        left -= sizes[name]
    return groups


def with_outputs(
    statistics: Mapping[str, LayerStatistics], covariances: Mapping[str, Tensor]
) -> dict[str, LayerStatistics]:
    """The statistics, with the results of `output_covariances` added."""
    return {
        name: replace(known, output=covariances.get(name, known.output))
        for name, known in statistics.items()
    }


def _directions(images: Tensor, n_probes: int, seed: int, start: int) -> Tensor:
    """Random signs `(n_probes, n, ...)` shaped like the images; image `i` is number `start + i`."""
    shape = (n_probes, *images.shape[1:])
    signs = [
        np.random.default_rng([seed, start + i]).integers(0, 2, size=shape, dtype=np.int8)
        for i in range(len(images))
    ]
    return torch.from_numpy(np.stack(signs, axis=1)).to(images) * 2 - 1


class _SecondMoment:
    """A running sum of `x x^T` and the number of vectors `x` in it."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, rows: Tensor) -> None:
        rows = rows.double()  # (m, d)
        product = rows.T @ rows
        self.total = product if self.total is None else self.total + product
        self.count += len(rows)

    def mean(self, *, shrink: bool = False) -> Tensor | None:
        if self.total is None:
            return None
        mean = self.total / self.count
        return shrunk(mean, self.count) if shrink else mean


def shrunk(covariance: Tensor, n: int) -> Tensor:
    """A sample covariance `(d, d)` of `n` vectors, shrunk towards a multiple of the identity.

    The eigenvalues of a sample covariance scatter more than those of the true covariance. With few
    vectors per dimension, that scatter dominates: for 128 normal vectors of length 40 whose
    covariance is the identity, some directions seem to weigh five times as much as others. The
    shrinkage is the oracle approximating one, which tends to 0 as `n` grows (Chen, Wiesel, Eldar
    and Hero, "Shrinkage algorithms for MMSE covariance estimation", IEEE Transactions on Signal
    Processing, 2010).
    """
    d = len(covariance)
    trace = covariance.trace()
    squared = covariance.square().sum()  # tr S^2
    scatter = squared - trace**2 / d
    if d == 1 or not scatter > 0:
        return covariance
    share = ((1 - 2 / d) * squared + trace**2) / ((n + 1 - 2 / d) * scatter)
    share = share.clamp(max=1.0)
    identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    return (1 - share) * covariance + share * trace / d * identity


def _find(generator: nn.Module, name: str) -> list[nn.Module]:
    """The named layer and those that share its weight."""
    try:
        module = generator.get_submodule(name)
    except AttributeError as error:
        raise PlanError(f"the generator has no layer {name!r}: {error}") from error
    if not isinstance(module, Layer):
        raise PlanError(f"{name}: a {type(module).__name__} has no input covariance to measure")
    return [generator.get_submodule(other) for other in weight_sharers(generator, name)]


def _pixels(module: nn.Module, x: Tensor, max_positions: int) -> Tensor:
    """Input channels at a grid of positions, `(m, c_in)`."""
    if isinstance(module, Conv) and set(module.kernel_size) == {1}:
        # Pixels between the strides are never read.
        read: tuple[Any, ...] = (..., *(slice(None, None, step) for step in module.stride))
        x = x[read]
    return _grid_rows(module, x, max_positions)


def _grid_rows(module: nn.Module, x: Tensor, max_positions: int) -> Tensor:
    """Channels of a layer's input or output at a grid of positions, `(m, c)`."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    if x.ndim == 3:
        x = x.unsqueeze(-1)  # a sequence is a map of width one
    step = odd_step(x.shape[-2], x.shape[-1], max_positions)
    return x[..., ::step, ::step].movedim(1, -1).reshape(-1, x.shape[1])


def _vertical_patches(module: nn.Module, x: Tensor, max_positions: int) -> Tensor | None:
    """The patches under a `k_h x 1` kernel at a grid of its output positions, `(m, c_in k_h)`.

    None if the kernel is one pixel high or has three axes, and for a linear layer.
    """
    known = layer_type_of(module)
    if known is None or known.n_axes not in (1, 2):
        return None
    conv = cast(nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d, module)
    k_h, dilation, stride = conv.kernel_size[0], conv.dilation[0], conv.stride[0]
    if k_h == 1:
        return None
    if x.ndim == 3:
        x = x.unsqueeze(-1)
    reach = dilation * (k_h - 1)
    if known.transposed:
        # It is a convolution with the flipped kernel, of rows spread apart by the stride.
        apart = x.new_zeros(*x.shape[:2], (x.shape[2] - 1) * stride + 1, x.shape[3])
        apart[:, :, ::stride] = x
        top = reach - int(conv.padding[0])
        x = F.pad(apart, (0, 0, top, top + int(cast(Any, conv).output_padding[0])))
        stride = 1
    else:
        if conv.padding == "same":
            top, bottom = reach // 2, reach - reach // 2
        else:
            top = bottom = 0 if conv.padding == "valid" else int(conv.padding[0])
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = F.pad(x, (0, 0, top, bottom), mode=mode)
    height = (x.shape[-2] - reach - 1) // stride + 1
    step = odd_step(height, x.shape[-1], max_positions)
    patches = F.unfold(x, (k_h, 1), dilation=(dilation, 1), stride=(stride * step, step))
    if known.transposed:
        patches = patches.unflatten(1, (-1, k_h)).flip(2).flatten(1, 2)
    return patches.transpose(1, 2).flatten(0, 1)  # (n, c_in k_h, m) -> (n m, c_in k_h)


def odd_step(height: int, width: int, max_positions: int) -> int:
    """The smallest odd step that samples at most `max_positions` positions of a map."""
    step = 1
    while -(-height // step) * -(-width // step) > max_positions and step < max(height, width):
        step += 2
    return step
