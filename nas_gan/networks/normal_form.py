"""The normal form of a network: plain layers wherever a layer was computed or hidden.

A network of other people may compute the weights of its layers or hold them as bare parameters. In
its normal form it makes the same images from plain layers. Which modules were changed is data, so
that the form can be repeated on a network that is built anew, before its weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from nas_gan.errors import CheckpointError
from nas_gan.networks.parametrizations import fold_parametrizations_
from nas_gan.networks.rewriting import rewrite_modules_


@dataclass(frozen=True)
class NormalForm:
    """What was changed in a network, in this order.

    Attributes:
        folded: modules whose computed parameters were folded.
        rewritten: modules that were rewritten into plain layers, inner ones first.
    """

    folded: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.folded or self.rewritten)

    def to_dict(self) -> dict[str, list[str]]:
        """Plain values for a checkpoint."""
        return {key: list(names) for key, names in asdict(self).items()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> NormalForm:
        """The form that a checkpoint holds.

        Raises:
            CheckpointError: the values are not lists of names.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(f"the normal form of the network is {str(values)[:60]!r}")
        known = {"folded", "rewritten"}
        for key, names in values.items():
            if key not in known or not isinstance(names, list | tuple):
                raise CheckpointError(f"the normal form of the network has {key} {names!r}")
            if not all(isinstance(name, str) for name in names):
                raise CheckpointError(f"the normal form of the network has {key} {names!r}")
        return NormalForm(**{key: tuple(names) for key, names in values.items()})


def normalize_(
    network: nn.Module, inputs: Sequence[Any], options: Mapping[str, Any] | None = None
) -> tuple[NormalForm, tuple[str, ...]]:
    """Bring a network with its weights into normal form, in place.

    Args:
        network: the network; it makes the same images afterwards, to rounding.
        inputs: positional arguments of one call, on the network's device. What is rewritten is
            compared on them.
        options: keyword arguments of that call.

    Returns:
        What was changed, and a line for each module that was known and yet left as it was.
    """
    remarks: list[str] = []
    folded = fold_parametrizations_(network)
    rewritten = rewrite_modules_(network, inputs, options=options, remarks=remarks)
    return NormalForm(folded, rewritten), tuple(remarks)


def normal_form_(network: nn.Module, form: NormalForm) -> None:
    """Repeat on a network what was changed in another of its kind, in place.

    Only the shapes matter: load the weights of the other network next.

    Raises:
        CheckpointError: the network has no such modules.
    """
    if missing := sorted(set(form.folded) - set(fold_parametrizations_(network, form.folded))):
        raise CheckpointError(
            f"{missing[0]}: the checkpoint was made from a network whose weight is computed here, "
            "for example by spectral norm; this one's is not. Build the network that it was made "
            "from"
        )
    rewrite_modules_(network, names=form.rewritten)
