"""Layers replaced by their factors: a new generator, the old one left alone.

The factors of a layer are an `nn.Sequential` of plain convolutions or linear maps, in the order in
which they are applied, with the bias on the last. Nothing in a compressed generator is of a class
of ours, so it exports, trains and loads like any other net.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ard.errors import NonFiniteError, PlanError, RankError
from ard.factorization.cp import cp
from ard.factorization.statistics import LayerStatistics
from ard.factorization.svd import spatial_svd, svd
from ard.factorization.tucker import tucker2
from ard.layers import Layer, describe_layer
from ard.plan import Factorization, RankPlan
from nas_gan.structure import apply_structure as apply_structure
from nas_gan.structure import layer_spec, replace_modules


def factorize_layer(
    module: nn.Module, choice: Factorization, statistics: LayerStatistics | None = None
) -> nn.Sequential:
    """The factors of one layer; at the method's largest rank they compute what the layer does.

    Computed in float64, returned in the type and on the device of the layer's weight. With
    `statistics` of the layer's inputs the error of its outputs is made small, else that of its
    weight. The same layer gives the same factors: nothing here draws a random number.

    Raises:
        RankError: the method or its rank does not fit the layer, or the method broke down.
        NonFiniteError: the weight or the bias is NaN or infinite.
    """
    if not isinstance(module, Layer):
        raise RankError(f"{choice} does not fit a {type(module).__name__}, which has no factors")
    describe_layer("", module).check(choice)
    if not all(parameter.isfinite().all() for parameter in module.parameters()):
        raise NonFiniteError("a weight is NaN or infinite and cannot be factorized")
    channel = statistics.channel if statistics else None
    if isinstance(module, nn.Linear):
        factors = _linear_svd(module, choice.rank, channel)
    elif isinstance(module, nn.ConvTranspose2d):
        factors = _transposed_tucker2(module, choice.rank, channel)
    elif choice.method == "tucker2":
        factors = _tucker2(module, choice.rank, channel)
    elif choice.method == "cp":
        factors = _cp(module, choice.rank, channel)
    elif choice.method == "svd":
        factors = _pointwise_svd(module, choice.rank, channel)
    else:
        # A kernel of height one has single pixels for vertical patches.
        vertical = statistics.vertical if statistics else None
        factors = _spatial_svd(module, choice.rank, channel if vertical is None else vertical)
    return factors.train(module.training)


def apply_plan(
    generator: nn.Module,
    plan: RankPlan,
    statistics: Mapping[str, LayerStatistics] | None = None,
) -> nn.Module:
    """A new generator whose layers named in the plan are replaced by their factors.

    `statistics` may hold input statistics for some of the layers. The old generator is not changed
    and shares no weight with the new one.

    Raises:
        PlanError: a layer is not in the generator, or a choice does not fit it.
        NonFiniteError: a weight is NaN or infinite.
    """
    factors: dict[str, nn.Module] = {}
    for name, choice in plan.items():
        module = _find(generator, name)
        try:
            factors[name] = factorize_layer(module, choice, (statistics or {}).get(name))
        except RankError as error:
            raise PlanError(f"{name}: {error}") from error
        except NonFiniteError as error:
            raise NonFiniteError(f"{name}: {error}") from error
    return replace_modules(generator, factors)


def describe_structure(generator: nn.Module, plan: RankPlan) -> dict[str, list[dict[str, Any]]]:
    """The factors of each layer of the plan as plain values; `apply_structure` builds them again.

    Raises:
        PlanError: a layer of the plan is missing or dense in this generator.
    """
    structure = {}
    for name in plan:
        factors = _find(generator, name)
        if not isinstance(factors, nn.Sequential):
            raise PlanError(
                f"{name}: expected the factors of {plan[name]}; found {type(factors).__name__}. "
                "Pass the generator that apply_plan returned"
            )
        structure[name] = [layer_spec(factor) for factor in factors]
    return structure


def _find(generator: nn.Module, name: str) -> nn.Module:
    try:
        return generator.get_submodule(name)
    except AttributeError as error:
        names = [n for n, m in generator.named_modules() if isinstance(m, Layer)]
        raise PlanError(
            f"the plan names {name!r}, which the generator does not have; "
            f"its layers are {', '.join(names) or 'none'}"
        ) from error


def _fill(layer: nn.Module, weight: Tensor, source: Layer, with_bias: bool = False) -> nn.Module:
    """Copy a factor, and on the last one the bias of `source`, into a layer built for them."""
    values = {"weight": weight, "bias": source.bias} if with_bias else {"weight": weight}
    for name, parameter in layer.named_parameters():
        with torch.no_grad():
            parameter.copy_(cast(Tensor, values[name]))
        parameter.requires_grad_(getattr(source, name).requires_grad)
    return layer


def _linear(source: nn.Linear, weight: Tensor, last: bool = False) -> nn.Module:
    """A plain linear map of `weight (c_out, c_in)`, with the bias of `source` if it is last."""
    linear = skip_init(
        nn.Linear,
        weight.shape[1],
        weight.shape[0],
        bias=last and source.bias is not None,
        device=source.weight.device,
        dtype=source.weight.dtype,
    )
    return _fill(linear, weight, source, last)


def _conv(
    source: nn.Conv2d | nn.ConvTranspose2d,
    weight: Tensor,
    last: bool = False,
    groups: int = 1,
    **geometry: Any,
) -> nn.Module:
    """A plain convolution of `weight (c_out, c_in / groups, k_h, k_w)`; bias as in `_linear`."""
    conv = skip_init(
        nn.Conv2d,
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        groups=groups,
        bias=last and source.bias is not None,
        device=source.weight.device,
        dtype=source.weight.dtype,
        **geometry,
    )
    return _fill(conv, weight, source, last)


def _geometry(conv: nn.Conv2d, axis: int | None = None) -> dict[str, Any]:
    """Stride, padding and dilation of a convolution, all of them or those along one axis."""

    def along(values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
        return tuple(v if axis in (None, i) else neutral for i, v in enumerate(values))

    padding = conv.padding
    return {
        "stride": along(conv.stride, 1),
        # "same" and "valid" mean the right thing along each axis by themselves.
        "padding": padding if isinstance(padding, str) else along(padding, 0),
        "dilation": along(conv.dilation, 1),
        "padding_mode": conv.padding_mode,
    }


def _linear_svd(
    linear: nn.Linear, rank: tuple[int, ...], covariance: Tensor | None
) -> nn.Sequential:
    left, right = svd(linear.weight, rank[0], covariance)
    return nn.Sequential(_linear(linear, right), _linear(linear, left, last=True))


def _pointwise_svd(
    conv: nn.Conv2d, rank: tuple[int, ...], covariance: Tensor | None
) -> nn.Sequential:
    left, right = svd(conv.weight.flatten(1), rank[0], covariance)
    return nn.Sequential(
        _conv(conv, right[:, :, None, None], **_geometry(conv)),
        _conv(conv, left[:, :, None, None], last=True),
    )


def _spatial_svd(
    conv: nn.Conv2d, rank: tuple[int, ...], covariance: Tensor | None
) -> nn.Sequential:
    horizontal, vertical = spatial_svd(conv.weight, rank[0], covariance)
    return nn.Sequential(
        _conv(conv, vertical, **_geometry(conv, axis=0)),
        _conv(conv, horizontal, last=True, **_geometry(conv, axis=1)),
    )


def _tucker2(conv: nn.Conv2d, rank: tuple[int, ...], covariance: Tensor | None) -> nn.Sequential:
    core, out_factor, in_factor = tucker2(conv.weight, (rank[0], rank[1]), covariance)
    return nn.Sequential(
        _conv(conv, in_factor.T[:, :, None, None]),
        _conv(conv, core, **_geometry(conv)),
        _conv(conv, out_factor[:, :, None, None], last=True),
    )


def _cp(conv: nn.Conv2d, rank: tuple[int, ...], covariance: Tensor | None) -> nn.Sequential:
    (r,) = rank
    a, b, u, v = cp(conv.weight, r, covariance)
    return nn.Sequential(
        _conv(conv, b.T[:, :, None, None]),
        _conv(conv, u.T[:, None, :, None], groups=r, **_geometry(conv, axis=0)),
        _conv(conv, v.T[:, None, None, :], groups=r, **_geometry(conv, axis=1)),
        _conv(conv, a[:, :, None, None], last=True),
    )


def _transposed_tucker2(
    conv: nn.ConvTranspose2d, rank: tuple[int, ...], covariance: Tensor | None
) -> nn.Sequential:
    weight = conv.weight.transpose(0, 1)  # stored as (c_in, c_out, k_h, k_w)
    core, out_factor, in_factor = tucker2(weight, (rank[0], rank[1]), covariance)
    middle = skip_init(
        nn.ConvTranspose2d,
        rank[1],
        rank[0],
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        output_padding=conv.output_padding,
        dilation=conv.dilation,
        bias=False,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    return nn.Sequential(
        _conv(conv, in_factor.T[:, :, None, None]),
        _fill(middle, core.transpose(0, 1), conv),
        _conv(conv, out_factor[:, :, None, None], last=True),
    )
