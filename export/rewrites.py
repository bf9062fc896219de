"""Rewrites of an ONNX graph that change its speed but not its images.

onnxsim folds constants, shares equal nodes, and folds BatchNormalization into the convolution
before it. ONNX Runtime chooses layouts and fuses sums into convolutions when it loads a graph. All
that is left to them. The rewrites here use what they do not know: that an upsampled map holds equal
pixels, what PMish is, that a scale passes through a sum, and when two convolutions are larger than
one.

A rewrite is a function from model to model. They are applied in the order of `REWRITES`; to add
one, write it in a file of its own and add its line there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from export.activation_forms import choose_activation_forms
from export.folding import (
    fold_affine,
    fold_gate_scales,
    fold_scales_forward,
    merge_convolutions,
    remove_no_ops,
)
from export.upsampling import delay_upsampling
from nas_gan.errors import unknown_name

if TYPE_CHECKING:
    import onnx

    Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]

REWRITES: dict[str, Rewrite] = {
    "remove_no_ops": remove_no_ops,
    # Before any scale is folded around an activation, which must then have its final form.
    "choose_activation_forms": choose_activation_forms,
    "fold_affine": fold_affine,
    "fold_scales_forward": fold_scales_forward,
    # After the scales behind a gate are gone: only convolutions may read it.
    "fold_gate_scales": fold_gate_scales,
    "merge_convolutions": merge_convolutions,
    # Last: it merges the taps of convolutions, which no other rewrite has to understand.
    "delay_upsampling": delay_upsampling,
}
ALL = tuple(REWRITES)


def rewrite(model: onnx.ModelProto, names: Iterable[str] = ALL) -> onnx.ModelProto:
    """`model` after the rewrites `names`, in this order; the model itself is not changed.

    A graph with branches or loops is returned as it is: the graphs inside its nodes read tensors
    that are not visible here.

    Raises:
        InvalidValueError: a name is not in `REWRITES`.
    """
    names = tuple(names)
    for name in names:
        if name not in REWRITES:
            raise unknown_name("rewrite", name, REWRITES)
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        return model
    for name in names:
        model = REWRITES[name](model)
    return model
