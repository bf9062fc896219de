"""The generator in a checkpoint of somebody else's: which of its parts that is, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from nas_gan.errors import CheckpointError, named


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names are read word by word: netG_ema is net, g and ema.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_GENERATOR = _words("g gs gen generator generators netg gnet")
_DISCRIMINATOR = _words(
    "d ds dis disc discs discr discriminator discriminators critic critics netd dnet"
)
_AVERAGED = _words("ema avg average averaged averages shadow smooth smoothed running swa polyak gs")
_ENVELOPE = _words("state dict sd model net network params param weights module")
_BESIDE = _words(
    "opt optim optims optimizer optimizers sched scheduler schedulers scaler callbacks "
    "loops loss losses criterion perceptual lpips vgg inception rng"
)
# Those of them that a generator hardly calls a submodule of its own by.
_UNMISTAKABLE = _words("disc discriminator discriminators loss losses perceptual lpips")
# What data parallelism, torch.compile and sharding put before the names of the module they wrap.
WRAPPERS = (
    "module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
)  # fmt: skip
# Counters that averages keep beside the weights.
COUNTERS = _words("n_averaged num_updates num_batches initted step decay")
_DEPTH = 8


@dataclass(frozen=True)
class Part:
    """A state dict within a file.

    Attributes:
        state: its tensors, under the names that are left of theirs.
        path: the keys that lead to it.
        group: the beginning of the names, part by part, that sets it apart from other networks
            in the same state dict.
        wrapped: further beginnings that all its names had in common.
        without: groups that were left out, because they belong to other networks.
    """

    state: Mapping[str, Tensor]
    path: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    wrapped: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What chooses it, as `state_key`."""
        return ".".join((*self.path, *self.group))

    @property
    def averaged(self) -> bool:
        """Whether its name says that it is a running average."""
        return any(words_of(name) & _AVERAGED for name in (*self.path, *self.group))

    @property
    def description(self) -> str:
        """Where it is in the file, in words."""
        text = ".".join(self.path) or "the whole file"
        if self.group:
            text += f", the part {'.'.join(self.group)}."
        if self.without:
            text += f", without the parts {', '.join(f'{name}.' for name in self.without)}"
        if self.wrapped:
            text += f", without the prefix {'.'.join(self.wrapped)}."
        return text


def words_of(name: str) -> frozenset[str]:
    """The words of a name, in lower case."""
    return frozenset(word.lower() for word in _WORD.findall(name))


def names_generator(name: str) -> bool:
    """Whether a part called `name` is a generator, and not its optimizer, say."""
    words = words_of(name)
    return bool(words & _GENERATOR) and not words & (_BESIDE | _DISCRIMINATOR)


def by_position(content: Any, depth: int = _DEPTH) -> Any:
    """Content with the mappings in a sequence under their positions, so that keys lead to them.

    >>> by_position({"nets": [{"w": 1}, {"w": 2}, 5], "sizes": [3, 4]})
    {'nets': {'0': {'w': 1}, '1': {'w': 2}}, 'sizes': [3, 4]}
    """
    if depth == 0:
        return content
    if isinstance(content, Mapping):
        return {name: by_position(value, depth - 1) for name, value in content.items()}
    if isinstance(content, list | tuple):
        inner = enumerate(by_position(value, depth - 1) for value in content)
        found = {str(n): value for n, value in inner if isinstance(value, Mapping)}
        return found or content
    return content


def find_generator(content: Mapping[Any, Any], state_key: str | None = None) -> Part:
    """The generator's state dict in the content of a file.

    Without a key, averaged weights are preferred to others, then what is called a generator, then
    what is called a model or a state dict. A discriminator is never taken.

    Args:
        content: what the file holds, by name, to any depth.
        state_key: the names that lead to the generator, joined by dots.

    Raises:
        CheckpointError: there are no weights under that key, or no part or more than one may be
            the generator.
    """
    if state_key is not None:
        return _part_called(content, state_key)
    return _chosen(_parts(content, ()), content)


def _part_called(content: Mapping[Any, Any], state_key: str) -> Part:
    node: Any = content
    rest, path = state_key, tuple[str, ...]()
    while isinstance(node, Mapping):
        ends = [len(rest), *(m.start() for m in reversed(list(re.finditer(r"\.", rest))))]
        known = next((rest[:end] for end in ends if rest[:end] in node), None)
        if known is not None:
            node, path, rest = node[known], (*path, known), rest[len(known) + 1 :]
            if not rest:
                break
            continue
        group = {
            name[len(rest) + 1 :]: tensor
            for name, tensor in _tensors(node).items()
            if name.startswith(f"{rest}.")
        }
        if group:
            return _unwrapped(Part(group, path, tuple(rest.split("."))))
        where = f" in {'.'.join(path)}" if path else ""
        names = [str(name) for name in _heads(node)]
        there = named(names, 8) or "nothing"
        raise CheckpointError(
            f"{state_key!r} is not in the file; there is {there}{where}", setting="state_key"
        )
    if isinstance(node, Mapping) and not rest:
        if _is_state(node):
            return _unwrapped(Part(_tensors(node), path))
        if parts := _parts(node, path):
            return _chosen(parts, node)
    raise CheckpointError(
        f"{state_key!r} is not a state dict in the file, but a {described(node)}",
        setting="state_key",
    )


def _heads(node: Mapping[Any, Any]) -> list[str]:
    """The names in a mapping, or how its names begin if it is a state dict."""
    names = [str(name) for name in node]
    return list(dict.fromkeys(n.partition(".")[0] for n in names)) if _is_state(node) else names


def _chosen(parts: list[Part], content: Mapping[Any, Any]) -> Part:
    if not parts:
        raise CheckpointError(f"not a state dict of tensors: it is a {described(content)}")
    usable = [part for part in parts if not _other_network(part)]
    if not usable:
        names = ", ".join(part.key for part in parts)
        raise CheckpointError(
            f"must choose the generator: all weights in the file are those of {names}",
            setting="state_key",
        )
    usable = [part for part in usable if not _partial_average(part, usable)]
    best = max(_rank(part) for part in usable)
    found = [part for part in usable if _rank(part) == best]
    if len(found) > 1:
        names = ", ".join(part.key for part in found[:8])
        raise CheckpointError(f"must say which of {names} is the generator", setting="state_key")
    return found[0]


def _other_network(part: Part) -> bool:
    return any(words_of(name) & (_DISCRIMINATOR | _BESIDE) for name in (*part.path, *part.group))


def _partial_average(part: Part, parts: list[Part]) -> bool:
    """Whether an average lacks tensors of the network, as one of parameters without buffers does.

    The network is any other part that is as likely the generator, but for not being an average.
    """
    _, generator, _ = _rank(part)
    plain = [
        other
        for other in parts
        if not other.averaged and any(_rank(other)) and _rank(other)[1] >= generator
    ]
    twins = [_signature(other.state) for other in plain]
    return part.averaged and bool(plain) and _signature(part.state) not in twins


def _rank(part: Part) -> tuple[bool, bool, bool]:
    names = (*part.path, *part.group)
    return (
        part.averaged,
        any(names_generator(name) for name in names),
        all(words_of(name) and words_of(name) <= _ENVELOPE for name in part.path[-1:]),
    )


def _parts(node: Mapping[Any, Any], path: tuple[str, ...]) -> list[Part]:
    """Every state dict in a mapping, to any depth, but those of optimizers."""
    if _is_state(node):
        return _split(Part(_tensors(node), path))
    if len(path) >= _DEPTH:
        return []
    inner = [
        part
        for name, value in node.items()
        if isinstance(name, str) and isinstance(value, Mapping) and "param_groups" not in value
        if not words_of(name) & _BESIDE
        for part in _parts(value, (*path, name))
    ]
    tensors = _tensors(node)
    if not inner and any(tensor.is_floating_point() for tensor in tensors.values()):
        return [_unwrapped(Part(tensors, path))]
    return inner


def _tensors(node: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in node.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _is_state(node: Mapping[Any, Any]) -> bool:
    """Whether its tensors are called as those of a module are, and not only lie beside others."""
    return any("." in name or name in ("weight", "bias") for name in _tensors(node))


def groups_of(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a state dict by the first part of their names; counters are left out."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        if rest or first not in COUNTERS:
            groups.setdefault(first, {})[rest] = tensor
    return groups


def _split(part: Part) -> list[Part]:
    """The networks that share one state dict, each under the beginning of its names."""
    groups = groups_of(part.state)
    if len(groups) == 1:
        [(first, inner)] = groups.items()
        if "" not in inner:
            alone = len(first) > 1 or first.isupper()
            if words_of(first) & _DISCRIMINATOR and alone:
                return [Part(inner, part.path, (*part.group, first))]
            within = _split(Part(inner, part.path, (*part.group, first)))
            if len(within) > 1 or any(p.without or _other_network(p) for p in within):
                return within
        return [_unwrapped(part)]
    roles = {name: words_of(name) for name, inner in groups.items() if "" not in inner}
    generators = [name for name in roles if names_generator(name)]
    others = [name for name, words in roles.items() if words & (_DISCRIMINATOR | _BESIDE)]
    if _apart(generators, others, groups):
        within = [
            p
            for name in (*generators, *others, *_averages(groups))
            for p in [_unwrapped(Part(groups[name], part.path, (*part.group, name)))]
        ]
        return list({p.group: p for p in within}.values())
    plain = [name for name in others if len(name) > 1 and not name.islower()] + [
        name for name in others if name.islower() and roles[name] & _UNMISTAKABLE
    ]
    if plain and len(plain) < len(groups):
        kept = {n: t for n, t in part.state.items() if n.partition(".")[0] not in plain}
        return [_unwrapped(replace(part, state=kept, without=tuple(plain)))]
    return [_unwrapped(part)]


def _apart(
    generators: list[str], others: list[str], groups: Mapping[str, Mapping[str, Tensor]]
) -> bool:
    """Whether the groups are networks of their own, and not the submodules of one.

    A network may call its layers a, b, ... g by itself.
    """
    if _averages(groups):
        return True
    letters = all(len(name) == 1 and name.islower() for name in (*generators, *others))
    if letters and len(groups) > len(generators) + len(others):
        return False
    return bool(generators and others)


def _averages(groups: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """The groups that are averages of other ones: called so, and with the same tensors."""
    inner = {name: group for name, group in groups.items() if "" not in group}
    averaged = [name for name in inner if words_of(name) & _AVERAGED]
    plain = [_signature(group) for name, group in inner.items() if name not in averaged]
    return [name for name in averaged if _signature(inner[name]) in plain]


def _signature(state: Mapping[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    """What two copies of a network have in common, whatever stands before their names."""
    return sorted(
        (name.rpartition(".")[2], tuple(tensor.shape))
        for name, tensor in state.items()
        if tensor.is_floating_point() and tensor.ndim
    )


def _unwrapped(part: Part) -> Part:
    """Without what wrappers put before every name."""
    while True:
        groups = groups_of(part.state)
        if len(groups) != 1:
            return part
        [(first, inner)] = groups.items()
        if "" in inner or not (first in WRAPPERS or names_generator(first)):
            return part
        part = replace(part, state=inner, wrapped=(*part.wrapped, first))


def described(value: Any) -> str:
    """What a value read from a file is, with its first keys if it has any."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        keys = [f"{str(name)[:40]} ({_kind(inner)})" for name, inner in value.items()]
        return f"{kind} of {named(keys, 8)}" if keys else f"{kind} that is empty"
    if isinstance(value, list | tuple):
        return f"{kind} of {_counted(value)}"
    return kind


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, Mapping | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _counted(values: Iterable[Any]) -> str:
    return named((type(value).__name__ for value in values), 8) or "nothing"
