"""Modules that hold a bare weight, rewritten into equivalent ones that contain plain layers.

A modulated convolution scales its weight for every image. With the style `s` of the input channels
it is `d * conv(s * x)`, where `conv` is a plain convolution and `d = rsqrt(energy(s^2) + eps)`
normalises the outputs; `energy` is a linear map whose weights are the squares of the kernel, summed
over its positions. A layer with an equalized learning rate is a plain one with its constant
multiplied in. Such layers can be factorized, stored and exported like any other.

Modules are recognised by the name of their class and their attributes, never by an import. Other
modules join by `register_rewrite`, also from the file that `--model` names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from nas_gan.errors import CheckpointError
from nas_gan.networks.hooks import OnOutput, hooked
from nas_gan.networks.randomness import run_repeatably
from nas_gan.networks.structure import evaluating, exchange_

# Makes the equivalent of a module, which it must not change; None if it does not know the module.
# The result may contain submodules of the module.
Rewrite = Callable[[Any], nn.Module | None]
Matches = str | Callable[[nn.Module], bool]
# Largest difference that counts as rounding, in units of the type's precision, relative to the
# largest output. A sum over 4608 products of a wide kernel reaches about a hundred.
ROUNDING = 1024


class Modulated(nn.Module):
    """A convolution with one scale per image and channel: `d * conv(s * x)`.

    Args:
        conv: the convolution, with a bias only if nothing is normalised.
        energy: from the squares of the scales `(n, c_in)` to those of the outputs `(n, c_out)`;
            None if the outputs are not normalised.
        modulation: from the style to the scales `(n, c_in)`.
        before: applied to the feature map before the convolution.
        after: applied to its output.
        offset: added to the scales.
        eps: keeps the norm of the outputs above zero.
    """

    def __init__(
        self,
        conv: nn.Module,
        energy: nn.Module | None = None,
        modulation: nn.Module | None = None,
        *,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
        offset: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.modulation = nn.Identity() if modulation is None else modulation
        self.before = nn.Identity() if before is None else before
        self.conv, self.energy = conv, energy
        self.after = nn.Identity() if after is None else after
        self.offset, self.eps = offset, eps

    def forward(self, input: Tensor, style: Tensor) -> Tensor:
        scale = self.modulation(style) + self.offset  # (n, c_in)
        out = self.conv(self.before(input * scale[:, :, None, None]))
        if self.energy is not None:
            # Factors of the energies may miss zero by a little, on either side.
            squares = self.energy(scale.square()).clamp(min=0) + self.eps  # (n, c_out)
            out = out * squares.rsqrt()[:, :, None, None]
        result: Tensor = self.after(out)
        return result


class Times(nn.Module):
    """A constant factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def plain_layer(weight: Tensor, bias: Tensor | None = None, **options: Any) -> nn.Module:
    """A linear layer or 2D convolution with these values.

    Args:
        weight: `(c_out, c_in)` of a linear layer, `(c_out, c_in, k_h, k_w)` of a convolution.
        bias: `(c_out,)`.
        options: stride, padding and the like of a convolution; `transposed=True` makes a
            transposed one, from a weight in the same order.
    """
    trained = weight.requires_grad
    options |= {"bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
    transposed = options.pop("transposed", False)
    groups = options.get("groups", 1)
    c_out, c_in, *kernel = weight.shape
    layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    if not kernel:
        layer = skip_init(nn.Linear, c_in, c_out, **options)
    elif transposed:
        layer = skip_init(nn.ConvTranspose2d, c_in, c_out, tuple(kernel), **options)
        weight = weight.transpose(0, 1)
    else:
        layer = skip_init(nn.Conv2d, c_in * groups, c_out, tuple(kernel), **options)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias.reshape(-1))
    return layer.requires_grad_(trained)


def energy_of(weight: Tensor) -> nn.Module:
    """The linear map `(c_in) -> (c_out)` of the squares of a kernel `(c_out, c_in, k_h, k_w)`."""
    return plain_layer(weight.square().sum(dim=(2, 3)))


def register_rewrite(matches: Matches, rewrite: Rewrite) -> None:
    """Make modules of a class known; the last one registered is asked first.

    Args:
        matches: the name of the class, or a function that says whether it knows a module.
        rewrite: makes the equivalent of a module. It gets modules that are not trained yet too, so
            only values may depend on the weights, not shapes.
    """
    global _rewrites
    kept = [known for known in _rewrites if known[0] != matches]
    _rewrites = [(matches, rewrite), *kept]


def rewrite_modules_(
    network: nn.Module,
    inputs: Sequence[Any] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    names: Collection[str] | None = None,
    remarks: list[str] | None = None,
) -> tuple[str, ...]:
    """Rewrite the modules of a network that are known, in place.

    With `inputs`, each rewritten module is compared with the old one on the inputs that it gets in
    a pass of the network, and then the network itself. What does not agree to rounding stays.

    Args:
        network: the network; the root itself is not rewritten.
        inputs: positional arguments of one call of the network; without them nothing is compared.
        options: keyword arguments of that call.
        names: the modules to rewrite, as an earlier call returned them; all of them if None.
        remarks: gets a line for each module that was known and yet left as it was.

    Returns:
        The names of the rewritten modules, inner ones first.

    Raises:
        CheckpointError: a module of `names` is missing or cannot be rewritten.
    """
    told = [] if remarks is None else remarks
    if names is not None:
        return _repeat_(network, names)
    found = {name: module for name, module in _inner_first(network) if _is_known(module)}
    if not found:
        return ()
    call = None if inputs is None else _Call(network, tuple(inputs), dict(options or {}))
    seen = {} if call is None else call.record(found.values())
    done: dict[str, tuple[nn.Module, nn.Module]] = {}
    for name, module in found.items():
        try:
            new = _rewritten(module)
            reason = _disagreement(module, new, seen.get(module)) if call and new else None
        except Exception as error:  # what a stranger's module raises is not ours to foresee
            new, reason = None, f"{type(error).__name__}: {error}"
        if new is None or reason is not None:
            told.append(f"{name}: {type(module).__name__} stays as it is: {reason or 'not known'}")
            continue
        exchange_(network, module, new)
        done[name] = (module, new)
    if call is not None and done and call.differs():
        for old, new in reversed(done.values()):
            exchange_(network, new, old)
        for name, (old, _) in [*done.items()]:
            new = _rewritten(old)  # anew, since the old one may contain an inner one that failed
            assert new is not None
            done[name] = (old, new)
            exchange_(network, old, new)
            if (reason := call.differs()) is not None:
                exchange_(network, new, old)
                told.append(f"{name}: {type(old).__name__} stays as it is: {reason}")
                del done[name]
    return tuple(done)


def _repeat_(network: nn.Module, names: Collection[str]) -> tuple[str, ...]:
    """Rewrite the modules of these names, as was done before."""
    modules = dict(_inner_first(network))
    for name in names:
        module = modules.get(name)
        new = None if module is None else _rewritten(module)
        if module is None or new is None:
            found = "no module" if module is None else f"a {type(module).__name__}"
            raise CheckpointError(
                f"{name}: the checkpoint was made from a network with a module here that could be "
                f"rewritten into plain layers; found {found}. Build the network that it was made "
                "from, and register the same rewrites"
            )
        exchange_(network, module, new)
    return tuple(names)


def _inner_first(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules inside a network by name, those inside others before them."""
    named = [(name, module) for name, module in network.named_modules() if name]
    yield from reversed(named)


def _is_known(module: nn.Module) -> bool:
    return any(_matches(module, matches) for matches, _ in _rewrites)


def _matches(module: nn.Module, matches: Matches) -> bool:
    return type(module).__name__ == matches if isinstance(matches, str) else matches(module)


def _rewritten(module: nn.Module) -> nn.Module | None:
    """What the first rewrite that knows the module makes of it, in its mode."""
    for matches, rewrite in _rewrites:
        if _matches(module, matches):
            with torch.inference_mode(False), torch.enable_grad():
                new = rewrite(module)  # so that a layer is trained if the old weight was
            if new is not None:
                new.training = module.training
                for part in set(new.modules()) - set(module.modules()):
                    part.training = module.training
                return new
    return None


# -- whether two modules agree


class _Call:
    """One call of a network, repeated with the same random numbers, and what it returned."""

    def __init__(
        self, network: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self.network, self.inputs, self.options = network, inputs, options
        self.before: Any = None

    def record(self, modules: Collection[nn.Module]) -> dict[nn.Module, tuple[Any, ...]]:
        """Run the network: the inputs and the output of the first call of each module."""
        seen: dict[nn.Module, tuple[Any, ...]] = {}

        def keep(module: nn.Module) -> OnOutput:
            def on_output(inputs: tuple[Any, ...], output: Any) -> None:
                # Later layers may write into their inputs.
                seen.setdefault(module, copy.deepcopy((inputs, output)))

            return on_output

        with hooked(leaving=[(module, keep(module)) for module in modules]):
            self.before = copy.deepcopy(self.run())
        return seen

    def run(self) -> Any:
        with evaluating(self.network):
            return run_repeatably(self.network, *copy.deepcopy(self.inputs), **self.options)

    def differs(self) -> str | None:
        """How the network differs from the recorded pass, or None."""
        try:
            return _difference(self.before, self.run())
        except Exception as error:  # for example, because an attribute of the module is gone
            return f"the network fails without it ({type(error).__name__}: {error})"


def _disagreement(
    old: nn.Module, new: nn.Module, seen: tuple[tuple[Any, ...], Any] | None
) -> str | None:
    """How the new module differs from the old one on inputs that it got, or None."""
    if seen is None:
        return "the network never calls it, so that nothing can be compared"
    inputs, output = seen
    with evaluating(old), evaluating(new):
        # Once more, for a module that draws random numbers of its own.
        again = run_repeatably(old, *copy.deepcopy(inputs))
        same = _difference(output, again) is None
        return _difference(output if same else again, run_repeatably(new, *copy.deepcopy(inputs)))


def _difference(before: Any, after: Any) -> str | None:
    """How the tensors of two outputs differ by more than rounding, or None."""
    ours, theirs = [*_tensors(before)], [*_tensors(after)]
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return "its output has another shape"
    for a, b in zip(ours, theirs, strict=True):
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return "its output differs"
            continue
        largest = float(a.abs().max()) if a.numel() else 0.0
        off = float((a - b).abs().max()) if a.numel() else 0.0
        if not off <= ROUNDING * torch.finfo(a.dtype).eps * largest:
            return f"its output differs by {off:.3g} of {largest:.3g}"
    return None


def _tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in a nested output."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)


# -- the modules that are known from the start


def _modulated(module: Any) -> nn.Module | None:
    """A modulated convolution whose weight is `(1, c_out, c_in, k, k)` and which holds its style.

    The style comes from a submodule `modulation`. The weight may be multiplied by `scale`, and a
    map may be enlarged (`upsample`) or reduced (`downsample`) around a submodule `blur`, or resized
    beforehand (`sample_mode`).
    """
    weight, modulation = getattr(module, "weight", None), getattr(module, "modulation", None)
    if not isinstance(weight, Tensor) or weight.ndim != 5 or len(weight) != 1:
        return None
    if not isinstance(modulation, nn.Module):
        return None
    weight = weight[0] * getattr(module, "scale", 1.0)
    up, down = bool(getattr(module, "upsample", False)), bool(getattr(module, "downsample", False))
    blur = getattr(module, "blur", None)
    before, after = (None, blur) if up else (blur, None)
    if mode := getattr(module, "sample_mode", None):
        factor = {"upsample": 2.0, "downsample": 0.5}[mode]
        before = nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
    if up:
        conv = plain_layer(weight, stride=2, transposed=True)
    elif down:
        conv = plain_layer(weight, stride=2)
    else:
        conv = plain_layer(weight, padding=weight.shape[2] // 2)
    return Modulated(
        conv,
        energy_of(weight) if module.demodulate else None,
        modulation,
        before=before,
        after=after,
        eps=getattr(module, "eps", 1e-8),
    )


def _mod(module: Any) -> nn.Module | None:
    """A modulated convolution with a weight `(c_out, c_in, k, k)`, and scales `y + 1` as input."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 4 or getattr(module, "stride", 1) != 1:
        return None
    padding = getattr(module, "dilation", 1) * (weight.shape[2] - 1) // 2
    return Modulated(
        plain_layer(weight, padding=padding),
        energy_of(weight) if getattr(module, "demod", True) else None,
        offset=1.0,
        eps=getattr(module, "eps", 1e-8),
    )


def _equal(module: Any) -> nn.Module | None:
    """A linear layer or 2D convolution whose weight and bias are multiplied by constants."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim not in (2, 4) or module._modules:
        return None
    scale = _first_number(module, ("scale", "weight_gain", "w_mul", "w_lrmul", "wscale"))
    if scale is None:
        return None
    if isinstance(bias, Tensor):
        gain = _first_number(module, ("lr_mul", "bias_gain", "b_mul", "b_lrmul"))
        bias = bias * (1.0 if gain is None else gain)
    geometry = ("stride", "padding", "dilation", "groups") if weight.ndim == 4 else ()
    options = {name: getattr(module, name) for name in geometry if hasattr(module, name)}
    layer = plain_layer(weight * scale, bias if isinstance(bias, Tensor) else None, **options)
    activation = getattr(module, "activation", None)
    if activation in (None, False, "linear"):
        return layer
    # The leaky ReLU of StyleGAN2, with the gain that keeps the variance.
    return nn.Sequential(layer, nn.LeakyReLU(0.2), Times(2**0.5))


def _first_number(module: nn.Module, names: Sequence[str]) -> float | None:
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
            return float(value)
    return None


_rewrites: list[tuple[Matches, Rewrite]] = [
    ("ModulatedConv2d", _modulated),
    ("Conv2DMod", _mod),
    *(
        (name, _equal)
        for name in (
            *("EqualLinear", "EqualizedLinear", "EqualConv2d", "EqualizedConv2d"),
            "FullyConnectedLayer",
        )
    ),
]
