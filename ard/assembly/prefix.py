"""Running only what depends on a replaced layer: what ran before it is remembered.

A network that differs from the dense one in a single layer does the same as the dense one until
that layer runs. The modules that are finished by then need not run again: each returns what it
returned in the dense network. Skip connections are no exception, since it does not matter who reads
an output.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ard.plan import RankPlan
from nas_gan.networks.hooks import observing
from nas_gan.networks.memory import bytes_to_keep
from nas_gan.networks.rounding import same_but_for_rounding
from nas_gan.networks.structure import evaluating, weight_sharers

# The outputs that may be kept, of all layers: 32 maps on 32 latents, in a generator of 256 channels
# and 32 x 32 pixels. Less is kept where memory is short.
MAX_BYTES = 2**30
# Rows on which a prefix is tested; some networks refuse a single one.
N_TESTED = 2


class DensePrefix:
    """What the dense generator computes on some latents before a layer runs.

    A layer whose prefix cannot be cut has none, and networks then run as a whole: one that runs
    more than once, that shares its weight, or with whose prefix the dense generator makes other
    images.

    Args:
        dense: the dense generator; it is not changed.
        latents: `(n, latent_dim)` latents on its device, which run as one batch.
        most: bytes of outputs to keep. If they do not suffice, only the first outputs are kept, and
            a network runs from the last of them on.
    """

    def __init__(self, dense: nn.Module, latents: Tensor, most: int = MAX_BYTES) -> None:
        self.dense, self.latents, self.most = dense, latents, most
        self._known: _Known | None = None
        self._sound: dict[str, bool] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what is remembered: a worker on another machine runs the generator itself."""
        return self.__dict__ | {"_known": None}

    @contextmanager
    def skipped(self, network: nn.Module, layer: str | None) -> Iterator[None]:
        """Within the block, `network` skips what it has in common with the dense generator.

        It must be run on all `latents` at once, and may differ from the dense generator in `layer`
        and in what runs after it only. Without a layer nothing is skipped.
        """
        with _returning(network, self.before(layer)):
            yield

    def before(self, layer: str | None) -> dict[str, Tensor]:
        """The outputs of the modules that are finished when the layer runs, by name.

        Of modules within one another only the outermost counts.
        """
        if layer is None:
            return {}
        if self._known is None:
            self._known = self._remembered()
        known = self._known
        outputs = {name: known.outputs[name] for name in known.finished.get(layer, ())}
        if layer not in self._sound:
            self._sound[layer] = self._is_sound(outputs, known.images)
        return outputs if self._sound[layer] else {}

    def _remembered(self) -> _Known:
        """One pass to see the order in which modules run, and one to keep what is needed."""
        finished, sizes = self._finished()
        wanted = _first_within(bytes_to_keep(self.most), finished, sizes)
        finished = {
            layer: tuple(name for name in names if name in wanted)
            for layer, names in finished.items()
        }
        outputs: dict[str, Tensor] = {}
        modules = [(self.dense.get_submodule(name), name) for name in wanted]
        leaving = [(module, partial(_keep, outputs, name)) for module, name in modules]
        with observing(self.dense, leaving=leaving):
            images = self.dense(self.latents)
        if not isinstance(images, Tensor):
            return _Known({}, {}, torch.empty(0))
        return _Known(finished, outputs, images)

    def _finished(self) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
        """For each layer that can be cut at, the modules that are finished when it runs.

        And the bytes of what each module returns for all latents.
        """
        names = {module: name for name, module in self.dense.named_modules() if name}
        events: list[tuple[str, bool]] = []  # a module's name, and whether it left
        unusable: set[str] = set()  # what returns no tensor
        sizes: dict[str, int] = {}
        few = self.latents[:2]

        def enters(name: str, x: Tensor) -> None:
            events.append((name, False))

        def leaves(name: str, inputs: tuple[Any, ...], output: Any) -> None:
            events.append((name, True))
            if isinstance(output, Tensor):
                sizes[name] = output.nbytes * len(self.latents) // len(few)
            else:
                unusable.add(name)

        with observing(
            self.dense,
            entering=[(module, partial(enters, name)) for module, name in names.items()],
            leaving=[(module, partial(leaves, name)) for module, name in names.items()],
        ):
            self.dense(few)
        calls = Counter(name for name, left in events if not left)
        # A layer or an activation: what a plan replaces has no parts.
        layers = {name for module, name in names.items() if not [*module.children()]}
        finished: dict[str, tuple[str, ...]] = {}
        done: list[str] = []
        for name, left in events:
            if calls[name] > 1:
                continue
            if not left and name in layers and len(weight_sharers(self.dense, name)) == 1:
                finished[name] = tuple(done)
            elif left and name not in unusable:
                done = [*(d for d in done if not d.startswith(f"{name}.")), name]
        return finished, sizes

    def _is_sound(self, outputs: dict[str, Tensor], images: Tensor) -> bool:
        """Whether the dense generator makes the same images with these outputs.

        Whatever else a module does than return an output, this is the test of it. A few rows show
        it, with rounding that depends on their number.
        """
        few = {name: output[:N_TESTED] for name, output in outputs.items()}
        with _returning(self.dense, few), evaluating(self.dense):
            found = self.dense(self.latents[:N_TESTED])
        return same_but_for_rounding(found, images[:N_TESTED])


@dataclass(frozen=True)
class _Known:
    """The modules finished before each layer, what they returned, and the images."""

    finished: dict[str, tuple[str, ...]]
    outputs: dict[str, Tensor]
    images: Tensor


def only_layer(plan: RankPlan | None) -> str | None:
    """The layer of a plan of one layer; None for every other plan."""
    return next(iter(plan)) if plan is not None and len(plan) == 1 else None


def _first_within(
    most: int, finished: dict[str, tuple[str, ...]], sizes: dict[str, int]
) -> set[str]:
    """The modules that the first layers need, for as long as their outputs fit into `most` bytes.

    >>> finished = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("ab",), "e": ("ab", "d")}
    >>> sorted(_first_within(7, finished, {"a": 1, "b": 2, "ab": 2, "d": 9}))
    ['a', 'ab', 'b']
    """
    kept: set[str] = set()
    for names in finished.values():
        more = kept.union(names)
        if sum(sizes[name] for name in more) <= most:
            kept = more
    return kept


def _keep(outputs: dict[str, Tensor], name: str, inputs: tuple[Any, ...], output: Any) -> None:
    # A copy, because a later module may write into its input.
    outputs[name] = output.detach().clone()


@contextmanager
def _returning(network: nn.Module, outputs: dict[str, Tensor]) -> Iterator[None]:
    """Within the block, each named module returns a copy of its output without running."""
    with contextlib.ExitStack() as stack:
        for name, output in outputs.items():
            module = network.get_submodule(name)
            before = module.__dict__.get("forward")
            stack.callback(_restore, module, before)
            module.__dict__["forward"] = partial(_copied, output)
        yield


def _copied(output: Tensor, *inputs: Any, **named: Any) -> Tensor:
    return output.clone()


def _restore(module: nn.Module, forward: Any) -> None:
    if forward is None:
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["forward"] = forward
