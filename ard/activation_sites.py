"""Finding the activations of a generator that a gate can replace."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from ard.activations import ActivationProfile, ActivationSignature, is_elementwise
from ard.layers import entangled
from nas_gan.networks.activations import PMish
from nas_gan.networks.hooks import OnOutput, observing
from nas_gan.networks.layer_types import Layer
from nas_gan.networks.randomness import run_repeatably

# An activation of fewer operators is as fast as any gate.
MIN_OPERATORS = 3
# One operator each; the list only spares their export.
FAST = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Upsample,
    nn.modules.dropout._DropoutNd,
)
# The same function in a form that exports to what `export` would write.
FASTER_FORMS: dict[type[nn.Module], type[nn.Module]] = {nn.Mish: PMish}


def find_activations(generator: nn.Module, latents: Tensor) -> tuple[ActivationProfile, ...]:
    """The activations that a runtime makes of three or more operators, in execution order.

    An activation is a module without children that applies one scalar function to every value of
    its input; it is found by what it does, not by its class. One is left out if it has hooks, or
    if the generator does more with it than call it.

    Args:
        generator: maps latents to images; it is not changed.
        latents: `(n, latent_dim)` latents; one or two are enough.
    """
    shapes: dict[str, list[tuple[int, ...]]] = {}
    other: set[str] = set()  # whatever they are, they are not elementwise

    def record(name: str, module: nn.Module) -> OnOutput:
        def on_output(inputs: tuple[Any, ...], output: Any) -> None:
            if name in other or not _same_shape(inputs, output):
                other.add(name)
                return
            x = cast(Tensor, inputs[0])
            if name not in shapes and not is_elementwise(copy.deepcopy(module), x):
                other.add(name)
                return
            shapes.setdefault(name, []).append(tuple(x.shape[1:]))

        return on_output

    candidates = {n: m for n, m in generator.named_modules() if n and _may_be(m)}
    with observing(generator, leaving=[(m, record(n, m)) for n, m in candidates.items()]):
        images = run_repeatably(generator, latents)
    found: list[ActivationProfile] = []
    known: dict[object, nn.Module] = {}
    alone = [(name,) for name in shapes if name not in other]
    harmed = entangled(generator, latents, images, alone)
    for name in (name for (name,) in alone if name not in harmed):
        module = candidates[name]
        timed = FASTER_FORMS[type(module)]() if type(module) in FASTER_FORMS else module
        kind = (type(timed), repr(timed), getattr(timed, "function", None))
        timed = known.setdefault(kind, timed)  # one of each kind is exported
        operators = operators_of(timed)
        if len(operators) >= MIN_OPERATORS:
            calls = tuple(ActivationSignature(operators, shape, timed) for shape in shapes[name])
            n_params = sum(parameter.numel() for parameter in module.parameters())
            found.append(ActivationProfile(name, n_params, calls))
    return tuple(found)


def _same_shape(inputs: tuple[Any, ...], output: Any) -> bool:
    """Whether a module was called with one tensor of floats, and returned one of its shape."""
    if len(inputs) != 1 or not (isinstance(inputs[0], Tensor) and isinstance(output, Tensor)):
        return False
    return inputs[0].is_floating_point() and inputs[0].shape == output.shape


def _may_be(module: nn.Module) -> bool:
    """Whether a module has no parts, no hooks, and at most a few scalars to learn."""
    if isinstance(module, FAST):
        return False
    few = all(parameter.numel() == 1 for parameter in module.parameters())
    hooks = module._forward_hooks or module._forward_pre_hooks
    return few and not isinstance(module, Layer) and not hooks and not [*module.children()]


def operators_of(module: nn.Module) -> tuple[str, ...]:
    """The operators of a module's ONNX graph, constants folded; none if it cannot be exported."""
    try:
        graph = _exported(module, torch.float32).graph
    except Exception:  # whatever the exporter raises: the activation then stays as it is
        return ()
    return tuple(node.op_type for node in graph.node if node.op_type != "Constant")


def activation_model(module: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> bytes:
    """An activation as an ONNX file, from `x (batch, *shape)` to `y (batch, *shape)`."""
    model = copy.deepcopy(_exported(module, dtype))
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        del dims[1:]
        for size in shape:
            dims.add().dim_value = size
    del model.graph.value_info[:]
    return bytes(model.SerializeToString(deterministic=True))


@lru_cache(maxsize=64)
def _exported(module: nn.Module, dtype: torch.dtype) -> Any:
    """The ONNX graph of an activation on vectors, constants folded. It takes torch seconds."""
    import onnxsim

    module = copy.deepcopy(module).cpu().to(dtype).eval().requires_grad_(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecations inside the exporter
        program = torch.onnx.export(
            module,
            (torch.zeros(2, 4, dtype=dtype),),
            input_names=["x"],
            output_names=["y"],
            opset_version=18,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
    model, _ = onnxsim.simplify(program.model_proto)
    model.ir_version = 9  # the newest that the oldest runtime of a Jetson reads
    return model
