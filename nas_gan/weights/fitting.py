"""Weights into a network that may know them by other names: with or without a common beginning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nas_gan.errors import CheckpointError
from nas_gan.weights.foreign import COUNTERS, WRAPPERS, groups_of, names_generator, words_of


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights into `module`, in place.

    Names need not agree in what stands before all of them: `module.model.0.weight` fits a network
    that has `0.weight`, `model.0.weight` or `net.0.weight`. A batch-norm layer without its count
    of batches, which older files lack, gets 0.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape, or of whole or complex
            numbers where the network has real ones; the first ones are named.
    """
    expected = {n: t for n, t in module.state_dict().items() if isinstance(t, Tensor)}
    best, problems = dict(state), _problems(state, expected)
    for names in _variants(state, expected) if problems else ():
        found = _problems(names, expected)
        if len(found) < len(problems):
            best, problems = names, found
        if not problems:
            break
    if problems:
        raise CheckpointError(f"the weights do not fit the network: {_listed(problems)}")
    fitted = {name: best[name] for name in expected if name in best}
    counts = {n: t.new_zeros(t.shape) for n, t in expected.items() if n not in fitted}
    try:
        # All names are checked above; a module may keep values of its own beside its tensors.
        module.load_state_dict(fitted | counts, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the weights do not fit the network: {reason}") from error


def _listed(problems: list[str]) -> str:
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return f"{'; '.join(problems[:3])}{more}"


def _problems(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    problems = [
        f"{name} is missing"
        for name in expected
        if name not in state and not name.endswith("num_batches_tracked")
    ]
    problems += [
        f"{name} is not in the network"
        for name, tensor in state.items()
        if name not in expected and not _dispensable(name, tensor)
    ]
    problems += [
        f"{name} is {tuple(state[name].shape)}, the network needs {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and not is_lazy(tensor) and state[name].shape != tensor.shape
    ]
    problems += [
        f"{name} holds {str(state[name].dtype).removeprefix('torch.')}, the network needs "
        f"{str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in expected.items()
        if name in state and not _holds_as(state[name].dtype, tensor.dtype)
    ]
    return problems


def _holds_as(theirs: torch.dtype, ours: torch.dtype) -> bool:
    """Whether values of one type can be those of another: not whole numbers as real weights."""
    if ours.is_complex or theirs.is_complex:
        return ours.is_complex and theirs.is_complex
    return theirs.is_floating_point or not ours.is_floating_point


def _dispensable(name: str, tensor: Tensor) -> bool:
    """Whether a network can do without it: counts of batches and updates, version numbers."""
    last = name.rpartition(".")[2]
    counts = last in ("num_batches_tracked", "version") or name in COUNTERS
    return counts and tensor.numel() == 1


def _variants(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """The weights under every name that they might have in the network, the likeliest first."""
    inside = {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): tensor
        for name, tensor in state.items()
    }
    before = _common(expected)
    for start in (dict(state), inside):
        for names in _within(start):
            for n in range(len(before) + 1):
                prefix = "".join(f"{part}." for part in before[:n])
                yield {prefix + name: tensor for name, tensor in names.items()}


def _within(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """A state dict and the parts of it that may be a generator, under ever shorter names."""
    yield state
    groups = groups_of(state)
    alone = len(groups) == 1
    likely = [name for name in groups if alone or names_generator(name)]
    for name in sorted(likely, key=lambda name: "ema" not in words_of(name)):
        if "" not in groups[name]:
            yield from _within(groups[name])


def _common(names: Mapping[str, Any]) -> list[str]:
    """The parts that stand before all names."""
    common: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return common
