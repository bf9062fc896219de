"""Replacing layers by their factors in a copy of a generator.

The factors of a layer are an `nn.Sequential` of plain convolutions or linear maps, in the order in
which they are applied, with the bias on the last one. A compressed generator contains no classes of
ours, so it exports, trains and loads like any other network.

All kinds of layers are treated alike. The weight is viewed as one kernel `(c_out, c_in, k_h, k_w)`
per group, and the method computes the kernels of the factors. These become layers of the same kind
as the old one, each with the stride, padding and dilation of the axes along which it moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ard.activations import fit_gate, is_elementwise
from ard.assembly.statistics import LayerStatistics
from ard.errors import NonFiniteError, PlanError, RankError
from ard.factorization.method import C_IN, C_OUT, Covariances, Factor
from ard.factorization.methods import METHODS
from ard.factorization.ranks import group_shape
from ard.layers import describe_layer, row_axes
from ard.plan import ActivationForm, Factorization, RankPlan
from nas_gan.networks.layer_types import Conv, Layer, Transposed, convolution_type
from nas_gan.networks.layout import lay_out_like_
from nas_gan.networks.structure import apply_structure as apply_structure
from nas_gan.networks.structure import layer_spec, replace_modules, weight_sharers
from nas_gan.seeds import folded

# Values for a gate whose activation was not observed: what a normalised layer returns, and more.
STANDARD = torch.linspace(-4, 4, 401, dtype=torch.float64)


def factorize_layer(
    module: nn.Module, choice: Factorization, statistics: LayerStatistics | None = None
) -> nn.Sequential:
    """The factors of one layer; at the largest rank they compute the same as the layer.

    The factors are computed in float64, and returned with the type and the device of the layer's
    weight. The result is deterministic. Each group is factorized separately, at its share of the
    rank.

    Args:
        module: a convolution or a linear layer; it is not changed.
        choice: the method and its rank.
        statistics: with statistics of the layer's inputs, the error of its outputs is minimised;
            with those of its outputs too, the error of the image; without any, the error of the
            weight.

    Raises:
        RankError: the method or its rank does not fit the layer, or the method broke down.
        NonFiniteError: the weight or the bias is NaN or infinite.
    """
    if not isinstance(module, Layer):
        raise RankError(f"{choice} does not fit a {type(module).__name__}, which has no factors")
    return assemble(module, choice.method, _factorize(module, choice, statistics))


def random_factors(module: Layer, choice: Factorization, seed: int = 0) -> nn.Sequential:
    """The factors of one layer with random weights: of the right shapes, for a clock.

    Raises:
        RankError: the method or its rank does not fit the layer.
    """
    layer = describe_layer("", module)
    layer.check(choice)
    method, groups = METHODS[choice.method], layer.groups
    c_out, c_in, k_h, k_w = group_shape(layer.shape, groups)
    share = {name: r // groups for name, r in zip(method.ranks, choice.rank, strict=True)}
    channels = {C_IN: c_in, C_OUT: c_out, **share}
    rng = torch.Generator().manual_seed(folded(seed))

    def kernel(factor: Factor) -> Tensor:
        inputs = 1 if factor.depthwise else channels[factor.inputs]
        taps = (k_h if factor.rows else 1, k_w if factor.columns else 1)
        values = torch.randn(channels[factor.outputs], inputs, *taps, generator=rng)
        return values * (inputs * math.prod(taps)) ** -0.5

    factors = method.of_layer(transposed=layer.transposed)
    return assemble(module, choice.method, [[kernel(f) for f in factors] for _ in range(groups)])


def assemble(module: Layer, method: str, kernels: Sequence[Sequence[Tensor]]) -> nn.Sequential:
    """The layers that replace `module`, from the kernels of its factors.

    `kernels` holds, per group of `module`, the kernels `(out, in, k_h, k_w)` of the factors in
    order; `in` is 1 for a depthwise factor.
    """
    factors = METHODS[method].of_layer(transposed=isinstance(module, Transposed))
    layers = [
        _layer(
            module,
            factor,
            [of_group[i] for of_group in kernels],
            last=i == len(factors) - 1,
        )
        for i, factor in enumerate(factors)
    ]
    return nn.Sequential(*layers).train(module.training)


def apply_plan(
    generator: nn.Module,
    plan: RankPlan,
    statistics: Mapping[str, LayerStatistics] | None = None,
    entering: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of a generator in which the layers of a plan are replaced by their factors.

    An activation of the plan is replaced by the gate that differs least from it.

    Layers that share a weight are replaced together if the plan names one of them, and share its
    factors.

    Args:
        generator: the dense generator; it is not changed, and shares no weight with the result.
        plan: the factorization of each layer.
        statistics: statistics of some or all of the layers, which weight the factorizations.
        entering: values `(n,)` that enter each activation of the plan, to which its gate is fitted;
            an activation that is missing is fitted to `STANDARD`.

    Returns:
        The compressed generator, on the device, in the mode and in the memory layout of the dense
        one.

    Raises:
        PlanError: a layer is not in the generator, its shape is not the one that the plan was made
            for, a choice does not fit, or layers that share a weight have different choices.
        NonFiniteError: a weight is NaN or infinite.
    """
    factors: dict[str, nn.Module] = {}
    decided: dict[int, str] = {}  # replaced layers, and the layer in the plan that decided
    for name, choice in plan.items():
        module = _find(generator, name)
        if (first := decided.get(id(module))) is not None:
            if choice != plan[first]:
                raise PlanError(
                    f"{name}: the plan has {choice} here and {plan[first]} for {first}, which has "
                    "the same weight; leave one of them out or give both the same choice"
                )
            continue
        if isinstance(choice, ActivationForm):
            factors[name] = gate_for(name, module, choice, (entering or {}).get(name, STANDARD))
            decided[id(module)] = name
            continue
        if not isinstance(module, Layer):
            raise PlanError(
                f"{name}: {choice} does not fit a {type(module).__name__}, which has no factors"
            )
        shape, made_for = tuple(module.weight.shape), dict(plan.shapes).get(name)
        if made_for not in (None, shape):
            raise PlanError(
                f"{name}: the plan was made for a weight of shape {made_for}, but this generator's "
                f"is {shape}; use the plan with the network that it was made for"
            )
        try:
            kernels = _factorize(module, choice, (statistics or {}).get(name))
        except RankError as error:
            raise PlanError(f"{name}: {error}") from error
        except NonFiniteError as error:
            raise NonFiniteError(f"{name}: {error}") from error
        sharers = {
            other: generator.get_submodule(other) for other in weight_sharers(generator, name)
        }
        for other, sharer in {name: module, **sharers}.items():
            factors[other] = assemble(cast(Layer, sharer), choice.method, kernels)
            decided[id(sharer)] = name
    return lay_out_like_(replace_modules(generator, factors), generator)


def gate_for(
    name: str, module: nn.Module, choice: ActivationForm, samples: Tensor
) -> nn.Sequential:
    """The gate that replaces an activation, on the device of its scalars if it has any.

    Raises:
        PlanError: the module is not an activation.
    """
    if isinstance(module, Layer) or [*module.children()] or not _is_activation(module, samples):
        raise PlanError(
            f"{name}: {choice} does not fit a {type(module).__name__}, which is not an activation"
        )
    gate = fit_gate(module, choice, samples)
    for parameter in module.parameters():
        gate.to(parameter)
        break
    return nn.Sequential(gate).train(module.training)


def _is_activation(module: nn.Module, samples: Tensor) -> bool:
    parameter = next(module.parameters(), None)
    values = samples.float() if parameter is None else samples.to(parameter)
    try:
        return is_elementwise(module, values)
    except Exception:  # whatever a stranger's module raises
        return False


def describe_structure(generator: nn.Module, plan: RankPlan) -> dict[str, list[dict[str, Any]]]:
    """The factors of each layer of a plan as plain values, which `apply_structure` rebuilds.

    Layers that share their factors with a layer of the plan are described too.

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
        for other in weight_sharers(generator, f"{name}.0"):
            parent = other.rpartition(".")[0]
            if (sharer := generator.get_submodule(parent)) is not factors:
                structure[parent] = [layer_spec(factor) for factor in cast(nn.Sequential, sharer)]
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


# -- a layer as one kernel per group, and its factors


Kernels = list[Tensor]


def _factorize(
    module: Layer, choice: Factorization, statistics: LayerStatistics | None
) -> list[Kernels]:
    """The kernels of the factors of each group of the layer, as `assemble` takes them."""
    describe_layer("", module).check(choice)
    if not all(parameter.isfinite().all() for parameter in module.parameters()):
        raise NonFiniteError("a weight is NaN or infinite and cannot be factorized")
    kernels = kernels_of(module)
    rank = tuple(r // len(kernels) for r in choice.rank)
    factorize = METHODS[choice.method].factorize
    return [
        list(factorize(kernel, rank, known))
        for kernel, known in zip(kernels, _of_groups(statistics, len(kernels)), strict=True)
    ]


def kernels_of(module: Layer) -> Kernels:
    """The weight of each group of a layer as one kernel `(c_out, c_in, k_h, k_w)`."""
    weight = module.weight.detach()
    if isinstance(module, nn.Linear):
        return [weight[:, :, None, None]]
    rows = row_axes(weight.ndim - 2)
    kernel = weight.flatten(2, 1 + rows)  # (first, second, k_h, ...)
    kernel = kernel.unsqueeze(3) if kernel.ndim == 3 else kernel
    parts = kernel.chunk(module.groups)
    return [part.transpose(0, 1) for part in parts] if isinstance(module, Transposed) else [*parts]


def weight_of(layer: Layer, kernels: Sequence[Tensor]) -> Tensor:
    """The weight of a layer like `layer` with these kernels, as `kernels_of` returns them."""
    parts = kernels
    if isinstance(layer, Transposed):  # torch stores the inputs of each group first
        parts = [kernel.transpose(0, 1) for kernel in kernels]
    return torch.cat([*parts]).reshape(layer.weight.shape)


def _of_groups(statistics: LayerStatistics | None, groups: int) -> list[Covariances]:
    """The diagonal blocks of a layer's covariances, one per group."""
    if statistics is None:
        return [Covariances()] * groups

    def blocks(covariance: Tensor | None) -> list[Tensor | None]:
        if covariance is None:
            return [None] * groups
        size = len(covariance) // groups
        return [covariance[i : i + size, i : i + size] for i in range(0, len(covariance), size)]

    return [
        Covariances(*known)
        for known in zip(
            blocks(statistics.channel),
            blocks(statistics.vertical),
            blocks(statistics.output),
            strict=True,
        )
    ]


# -- factors as layers


def _layer(source: Layer, factor: Factor, kernels: Kernels, *, last: bool) -> nn.Module:
    """One factor of `source` as a layer, from its kernels `(out, in, k_h, k_w)` per group."""
    options: dict[str, Any] = {
        "bias": last and source.bias is not None,
        "device": source.weight.device,
        "dtype": source.weight.dtype,
    }
    if isinstance(source, nn.Linear):
        c_out, c_in = kernels[0].shape[:2]
        linear = skip_init(nn.Linear, c_in, c_out, **options)
        return _fill(linear, weight_of(linear, kernels), source)
    kernel = torch.cat(kernels)  # (groups out, in, k_h, k_w)
    c_out, c_in = kernel.shape[:2]
    groups = c_out if factor.depthwise else len(kernels)
    moves = _moves(source, factor)
    size = tuple(k if moved else 1 for k, moved in zip(source.kernel_size, moves, strict=True))
    transposed = isinstance(source, Transposed) and factor.along != "none"
    if factor.along != "none":
        options |= _geometry(source, moves)
    layer_type = convolution_type(len(size), transposed=transposed)
    layer = skip_init(layer_type, c_in * groups, c_out, size, groups=groups, **options)
    # A depthwise factor has one kernel a channel, which are its groups.
    return _fill(layer, weight_of(layer, kernel.split(1) if factor.depthwise else kernels), source)


def _moves(source: Conv | Transposed, factor: Factor) -> list[bool]:
    """Whether a factor moves along each of the layer's axes."""
    n_axes = len(source.kernel_size)
    return [factor.rows if axis < row_axes(n_axes) else factor.columns for axis in range(n_axes)]


def _geometry(source: Conv | Transposed, moves: Sequence[bool]) -> dict[str, Any]:
    """Stride, padding and dilation of a convolution along some of its axes."""

    def along(values: Sequence[int], neutral: int) -> tuple[int, ...]:
        return tuple(v if moved else neutral for v, moved in zip(values, moves, strict=True))

    padding = source.padding
    geometry: dict[str, Any] = {
        "stride": along(source.stride, 1),
        # "same" and "valid" are right along each axis as they are.
        "padding": padding if isinstance(padding, str) else along(padding, 0),
        "dilation": along(source.dilation, 1),
        "padding_mode": source.padding_mode,
    }
    if isinstance(source, Transposed):
        geometry["output_padding"] = along(source.output_padding, 0)
    return geometry


def _fill(layer: nn.Module, weight: Tensor, source: Layer) -> nn.Module:
    """Copy a factor, and the bias of `source` if the layer has one, into an empty layer."""
    values = {"weight": weight, "bias": source.bias}
    for name, parameter in layer.named_parameters():
        with torch.no_grad():
            parameter.copy_(cast(Tensor, values[name]))
        parameter.requires_grad_(getattr(source, name).requires_grad)
    return layer
