"""A function on its way to workers: a small message, and the large parts that it refers to.

A search sends many functions that share most of what they hold: the generator, statistics of its
layers, a reference, the features of a bank of latents. So weights and arrays are taken out of the
function and named by their content. Who has sent a part once need not send it again.

What was on a GPU arrives on the worker's own device: weights, and every `Device` and `torch.device`
that says where something runs. That happens here and nowhere else.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nas_gan.devices import Device
from nas_gan.workers.placement import device_there

# Smaller parts travel in the message: for them, one more look-up costs more than sending them.
LEAST = 4096
Part = npt.NDArray[Any]  # the bytes of a storage, or an array


@dataclass(frozen=True)
class Packed:
    """A function as a message, and its parts.

    Attributes:
        message: what to unpickle.
        parts: the bytes of storages and the arrays that the message refers to, by name.
    """

    message: bytes
    parts: Mapping[str, Part]


def pack(function: Callable[..., Any]) -> Packed:
    """Take a function apart; it may be nested, or hold anything else that cloudpickle can send.

    Tensors that share memory share it again afterwards, as tied weights must.
    """
    from ray import cloudpickle

    parts: dict[str, Part] = {}
    names: dict[Any, str] = {}  # of what was met already
    alive: list[Any] = []  # an id is only good for as long as its object lives

    def name_of(key: Any, content: Callable[[], Part]) -> str:
        if key not in names:
            part = content()
            names[key] = _digest(part)
            parts.setdefault(names[key], part)
        return names[key]

    class Packer(cloudpickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Device | torch.device):
                return _device_id(value)
            if isinstance(value, torch.storage.TypedStorage):
                storage = value._untyped_storage
                if storage.nbytes() < LEAST and storage.device.type == "cpu":
                    return None
                key = ("storage", storage.data_ptr(), storage.nbytes(), str(storage.device))
                name = name_of(key, lambda: _bytes_of(storage))
                alive.append(storage)
                return ("storage", key, name, value.dtype, storage.device.type)
            if type(value) is np.ndarray and value.nbytes >= LEAST and not value.dtype.hasobject:
                alive.append(value)
                name = name_of(("array", id(value)), lambda: np.array(value, order="K"))
                return ("array", id(value), name)
            if getattr(type(value), "kept_by_workers", False):
                alive.append(value)
                name = name_of(("kept", id(value)), lambda: _array(_dumps(value)))
                return ("kept", id(value), name)
            return None

    stream = io.BytesIO()
    Packer(stream).dump(function)
    return Packed(stream.getvalue(), parts)


def unpack(
    message: bytes, parts: Mapping[str, Part], kept: MutableMapping[str, Any], device: str
) -> Any:
    """The function again, on this machine; what it holds is its own and may be changed.

    Weights that lived on a GPU live on this worker's device.

    Args:
        message: that of the packed function.
        parts: its parts.
        kept: objects that functions share, by name: those whose class says `kept_by_workers`, as
            networks do that take long to open and are never changed. New ones are added.
        device: that of this worker, which takes the place of a GPU that was elsewhere.
    """
    made: dict[Any, Any] = {}

    class Unpacker(pickle.Unpickler):  # of what our own driver sent
        def persistent_load(self, found: Any) -> Any:
            if found[0] == "device":
                return _device_here(found, device)
            kind, key, name, *more = found
            if kind == "kept":
                if name not in kept:
                    kept[name] = _loads(parts[name].tobytes(), device)
                return kept[name]
            if (kind, key) not in made:
                part = parts[name]
                made[kind, key] = (
                    part.copy(order="K") if kind == "array" else _storage(part, more[1], device)
                )
            if kind == "array":
                return made[kind, key]
            return torch.storage.TypedStorage(
                wrap_storage=made[kind, key], dtype=more[0], _internal=True
            )

    return Unpacker(io.BytesIO(message)).load()


class _KeptPickler(pickle.Pickler):
    """What is kept by workers travels whole, but for where it runs."""

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Device | torch.device):
            return _device_id(value)
        if isinstance(value, torch.storage.TypedStorage) and value.device.type != "cpu":
            storage = value._untyped_storage
            return ("storage", _bytes_of(storage), value.dtype, storage.device.type)
        return None


class _KeptUnpickler(pickle.Unpickler):  # of what our own driver sent
    def __init__(self, file: io.BytesIO, device: str) -> None:
        super().__init__(file)
        self._device = device

    def persistent_load(self, found: Any) -> Any:
        if found[0] == "device":
            return _device_here(found, self._device)
        _, part, dtype, kind = found
        storage = _storage(part, kind, self._device)
        return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _dumps(value: object) -> bytes:
    stream = io.BytesIO()
    _KeptPickler(stream).dump(value)
    return stream.getvalue()


def _loads(content: bytes, device: str) -> Any:
    return _KeptUnpickler(io.BytesIO(content), device).load()


def _device_id(value: Device | torch.device) -> tuple[str, bool, str]:
    return "device", isinstance(value, torch.device), str(value)


def _device_here(found: tuple[str, bool, str], own: str) -> Device | torch.device:
    _, is_torch, name = found
    here = device_there(name, own)
    return torch.device(here) if is_torch else Device(here)


def _array(text: bytes) -> Part:
    return np.frombuffer(text, np.uint8)


def _bytes_of(storage: torch.UntypedStorage) -> Part:
    bytes_ = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    return bytes_.cpu().numpy()


def _storage(part: Part, kind: str, own: str) -> torch.UntypedStorage:
    """What was on a device of that kind, on the worker's own device if that was a GPU."""
    # In memory of torch, which is aligned: the order in which a kernel adds depends on that.
    bytes_ = torch.empty(part.nbytes, dtype=torch.uint8)
    bytes_.numpy()[:] = part
    return bytes_.to(device_there(kind, own)).untyped_storage()


def _digest(part: Part) -> str:
    head = f"{part.dtype.str} {part.shape} {part.strides}".encode()
    body = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
    return hashlib.blake2b(body.data, digest_size=16, key=hashlib.sha256(head).digest()).hexdigest()
