"""Rewrites of an ONNX graph that change its speed and not its images.

What onnxsim does (constants folded, equal nodes shared, BatchNormalization folded into the one
convolution before it) and what ONNX Runtime does when it loads a graph (layouts, sums fused into
convolutions) is left to them. These know what they do not: that an upsampled map holds equal
pixels, what PMish is, that a scale goes through a sum, and when two convolutions are larger than
one.

A rewrite is a function of one model and gives another; the order is theirs in `REWRITES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from export.activation_forms import choose_activation_forms
from export.folding import fold_affine, fold_gate_scales, merge_convolutions, remove_no_ops
from export.upsampling import delay_upsampling
from nas_gan.errors import unknown_name

if TYPE_CHECKING:
    import onnx

    Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]

REWRITES: dict[str, Rewrite] = {
    "remove_no_ops": remove_no_ops,
    # Activations first: a scale that is folded around one must find its final form.
    "choose_activation_forms": choose_activation_forms,
    "fold_affine": fold_affine,
    "fold_gate_scales": fold_gate_scales,
    "merge_convolutions": merge_convolutions,
    # Last: it makes one convolution of several taps, which nothing behind it has to know.
    "delay_upsampling": delay_upsampling,
}
ALL = tuple(REWRITES)


def rewrite(model: onnx.ModelProto, names: Iterable[str] = ALL) -> onnx.ModelProto:
    """`model` after the rewrites `names`, in the order given; it is left as it is.

    A graph with branches or loops comes back unchanged: the graphs within read tensors unseen here.

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
