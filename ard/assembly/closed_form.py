"""Closed-form correction: each factorized layer is fitted to the outputs of the dense layer.

A factorization is computed for the inputs of its layer in the dense network, and it loses energy:
whatever it drops was part of the variance of the output. The losses of several factorized layers
add up. So the layers are visited in execution order, on the activations of the network corrected so
far, and the last factor of each, a linear map, is refitted in closed form. No gradients and no data
are needed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ard.assembly.statistics import MAX_POSITIONS, odd_step
from nas_gan.networks.halving import halving_batches
from nas_gan.networks.hooks import OnOutput, observing, run_batches

Fit = Literal["none", "moments", "least_squares"]
# How strongly a least-squares fit is pulled towards the factor that it replaces, as a fraction of
# the mean square of its inputs. Directions that are absent from the sample keep their weights.
RIDGE = 1e-4
# A channel that the factors almost lost would otherwise be amplified from noise.
MAX_GAIN = 2.0
# A variance below this fraction of the mean square is a rounding error, not signal.
ROUNDING = 1e-12

_Factor = nn.Conv2d | nn.Linear
LayerOutputs = Mapping[str, Tensor]  # name to outputs at a grid of positions, (m, c_out)


def calibrate(
    factorized: nn.Module,
    latents: Tensor,
    targets: LayerOutputs,
    names: Sequence[str],
    *,
    fit: Fit = "moments",
    batch_size: int = 64,
) -> nn.Module:
    """A copy of `factorized` whose named layers are fitted to the outputs of the dense ones.

    `moments` restores the mean and the variance of every output channel. This undoes the loss of
    energy, which a Fréchet distance penalises. `least_squares` minimises the error of the outputs
    instead (He, Zhang, Sun: Channel Pruning, 2017). The images are then closest to the dense ones
    but smoother, since a least-squares estimate has less variance than its target. Use it if the
    score is an image error. Layers that are not in `targets`, or whose last factor is a transposed
    or grouped convolution, are left unchanged.

    Args:
        factorized: the generator to correct; it is not changed.
        latents: `(n, latent_dim)`.
        targets: `layer_outputs` of the dense generator on the same latents.
        names: the factorized layers, in execution order.
        fit: what to fit.
        batch_size: latents per batch.
    """
    calibrated = copy.deepcopy(factorized).eval()
    for name in names if fit != "none" else ():
        last = _last_factor(calibrated.get_submodule(name))
        if last is None or name not in targets:
            continue
        collect = partial(_collect, last, calibrated, latents, targets[name])
        moments = halving_batches(collect, batch_size)
        if fit == "moments":
            _match_moments_(last, moments)
        else:
            _fit_least_squares_(last, moments)
    return calibrated


def layer_outputs(
    generator: nn.Module, latents: Tensor, names: Sequence[str], batch_size: int = 64
) -> LayerOutputs:
    """The outputs of the named layers on `latents`, at the grid of positions that a fit uses.

    A layer that runs several times per pass is left out, since one fit cannot serve all calls.
    """
    if not names:
        return {}
    return halving_batches(partial(_outputs_of, generator, latents, names), batch_size)


def _outputs_of(
    generator: nn.Module, latents: Tensor, names: Sequence[str], batch_size: int
) -> LayerOutputs:
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str, layer: nn.Module) -> OnOutput:
        return lambda inputs, output: outputs[name].append(_rows(layer, output))

    layers = [(name, generator.get_submodule(name)) for name in names]
    with observing(generator, leaving=[(layer, keep(name, layer)) for name, layer in layers]):
        run_batches(generator, latents, batch_size)
    n_batches = -(-len(latents) // batch_size)
    return {n: torch.cat(rows) for n, rows in outputs.items() if len(rows) == n_batches}


@dataclass(frozen=True)
class _Moments:
    """Second moments of a factor's inputs, with a constant 1 last, and of its target outputs."""

    gram: Tensor  # (d + 1, d + 1)
    cross: Tensor  # (d + 1, c_out)
    mean: Tensor  # (c_out,)
    variance: Tensor  # (c_out,)


class _Reached(Exception):
    """Ends a forward pass at the layer under observation."""


def _last_factor(factors: nn.Module) -> _Factor | None:
    """The last factor of a factorization if it can be fitted, else None."""
    last = list(factors.children())[-1] if isinstance(factors, nn.Sequential) else None
    if isinstance(last, nn.Linear) or (isinstance(last, nn.Conv2d) and last.groups == 1):
        return last
    return None


def _collect(
    last: _Factor, network: nn.Module, latents: Tensor, target: Tensor, batch_size: int
) -> _Moments:
    """Run the network up to `last` and collect the moments for a fit, in float64."""
    sums: list[Tensor] = []
    count = 0

    def add(x: Tensor) -> None:
        nonlocal count
        rows = _patches(last, x)  # (m, d)
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        wanted = target[count : count + len(rows)].to(rows)  # (m, c_out)
        count += len(rows)
        new = [rows.T @ rows, rows.T @ wanted, wanted.sum(dim=0), wanted.square().sum(dim=0)]
        sums[:] = [a + b for a, b in zip(sums, new, strict=True)] if sums else new
        raise _Reached

    with observing(network, entering=[(last, add)]):
        for batch in latents.split(batch_size):
            with suppress(_Reached):
                network(batch)
    gram, cross, total, squares = (part / count for part in sums)
    return _Moments(gram, cross, total, (squares - total.square()).clamp(min=0))


def _weights(last: _Factor) -> Tensor:
    """The weights `(d, c_out)` in float64."""
    return last.weight.detach().double().flatten(1).T


def _set_(last: _Factor, weights: Tensor, bias: Tensor) -> None:
    if not (weights.isfinite().all() and bias.isfinite().all()):
        return
    with torch.no_grad():
        last.weight.copy_(weights.T.reshape(last.weight.shape))
        if last.bias is not None:
            last.bias.copy_(bias)


def _match_moments_(last: _Factor, moments: _Moments) -> None:
    """Scale and shift every output channel to the mean and variance of the dense layer.

    Without a bias the mean cannot be shifted, and the mean square is matched instead.
    """
    weights = _weights(last)
    mean = moments.gram[-1, :-1]  # of the inputs
    centre = mean if last.bias is not None else torch.zeros_like(mean)
    spread = moments.gram[:-1, :-1] - centre[:, None] * centre
    now = (weights * (spread @ weights)).sum(dim=0)
    wanted, energy = moments.variance, moments.variance + moments.mean.square()
    if last.bias is None:
        wanted = energy
    least = ROUNDING * energy.clamp(min=1e-18)  # a channel that never varies keeps its weights
    gain = ((wanted + least) / (now + least)).sqrt().clamp(1 / MAX_GAIN, MAX_GAIN)
    weights = weights * gain
    _set_(last, weights, moments.mean - mean @ weights)


def _fit_least_squares_(last: _Factor, moments: _Moments) -> None:
    """`min ||rows x - wanted||^2 + held ||x - now||^2` over the weight and any bias."""
    now = _weights(last)
    gram, cross = moments.gram, moments.cross
    if last.bias is None:
        gram, cross = gram[:-1, :-1], cross[:-1]
    else:
        now = torch.cat([now, last.bias.detach().double()[None]])
    held = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype).to(gram)
    fitted = now + torch.linalg.solve(gram + held, cross - gram @ now)
    n_inputs = last.weight[0].numel()
    _set_(last, fitted[:n_inputs], fitted[-1])


def _rows(layer: nn.Module, output: Tensor) -> Tensor:
    """Outputs at a grid of positions: `(n, c, h, w)`, or those of a linear layer, to `(m, c)`."""
    if isinstance(layer, nn.Linear) or output.ndim != 4:
        return output.detach().reshape(-1, output.shape[-1])
    step = odd_step(output.shape[-2], output.shape[-1], MAX_POSITIONS)
    return output.detach()[..., ::step, ::step].movedim(1, -1).flatten(0, -2)


def _patches(layer: _Factor, x: Tensor) -> Tensor:
    """The inputs of the layer at those positions, `(m, d)` in float64, ordered like its weight."""
    if isinstance(layer, nn.Linear):
        return x.detach().reshape(-1, x.shape[-1]).double()
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    pads: list[int] = []
    for axis in (1, 0):  # F.pad counts from the last dimension
        if layer.padding == "same":
            pads += [reach[axis] // 2, reach[axis] - reach[axis] // 2]
        else:
            pads += [0 if layer.padding == "valid" else int(layer.padding[axis])] * 2
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x.detach(), pads, mode=mode)
    height, width = ((x.shape[i - 2] - reach[i] - 1) // layer.stride[i] + 1 for i in (0, 1))
    step = odd_step(height, width, MAX_POSITIONS)
    stride = (layer.stride[0] * step, layer.stride[1] * step)
    patches = F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=stride)
    return patches.transpose(1, 2).flatten(0, 1).double()
