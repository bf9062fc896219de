"""The power of an NVIDIA GPU, from the library that comes with its driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from edge_bench.power import NoPower, Read, Sensor

Load = Callable[[str], Any]
"""Loads a shared library by name; an OSError says why it cannot."""


class _Refused(Exception):
    """A call of NVML failed; the message is NVML's own."""


def nvml_sensor(load: Load = ctypes.CDLL, interval_s: float = 0.05) -> Sensor | NoPower:
    """A sensor of the first CUDA device, or why there is none.

    The counter of joules is used if the GPU has one, since the watts of newer GPUs are those of
    the last second.

    Args:
        load: Loads `libnvidia-ml.so.1` and `libcuda.so.1`.
        interval_s: Time between two samples.
    """
    try:
        library = load("libnvidia-ml.so.1")
    except OSError:
        return NoPower("no libnvidia-ml.so.1, which comes with NVIDIA's driver")
    bus = _first_cuda_device(load)

    errors: dict[str, str] = {}

    @contextmanager
    def source(name: str) -> Iterator[Read]:
        try:
            _call(library, "nvmlInit_v2")
            gpu = _gpu(library, bus)
        except _Refused as error:
            errors["gpu"] = str(error)
            yield dict
            return

        def read() -> dict[str, float]:
            try:
                # Millijoules or milliwatts.
                return {"gpu": _number(library, name, gpu) / 1e3}
            except _Refused as error:
                errors["gpu"] = str(error)
                return {}

        try:
            yield read
        finally:
            library.nvmlShutdown()

    wraps: dict[str, dict[str, float] | None] = {
        "nvmlDeviceGetTotalEnergyConsumption": {},
        "nvmlDeviceGetPowerUsage": None,
    }
    for name, wraps_j in wraps.items():
        with source(name) as read:
            if read():
                return Sensor(
                    source=partial(source, name),
                    method=f"nvml, GPU {bus} only" if bus else "nvml, GPU only",
                    in_total=("gpu",),
                    interval_s=interval_s,
                    wraps_j=wraps_j,
                    errors=errors,
                )
    return NoPower(f"NVML does not tell the power of this GPU: {errors['gpu']}")


def _first_cuda_device(load: Load) -> str | None:
    """The PCI bus id of the device that CUDA calls 0, which need not be the first of NVML."""
    try:
        cuda = load("libcuda.so.1")
    except OSError:
        return None
    device, bus = ctypes.c_int(), ctypes.create_string_buffer(32)
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if cuda.cuDeviceGetPCIBusId(bus, len(bus), device):
        return None
    return bus.value.decode()


def _gpu(library: Any, bus: str | None) -> ctypes.c_void_p:
    gpu = ctypes.c_void_p()
    if bus is not None:
        _call(library, "nvmlDeviceGetHandleByPciBusId_v2", bus.encode(), ctypes.byref(gpu))
        return gpu
    count = ctypes.c_uint()
    _call(library, "nvmlDeviceGetCount_v2", ctypes.byref(count))
    if count.value != 1:
        raise _Refused(f"{count.value} GPUs, and CUDA does not tell which is the first")
    _call(library, "nvmlDeviceGetHandleByIndex_v2", 0, ctypes.byref(gpu))
    return gpu


def _number(library: Any, name: str, gpu: ctypes.c_void_p) -> int:
    # Of 64 bits, so that both a watt's 32 and an energy's 64 fit on a little-endian machine.
    value = ctypes.c_ulonglong()
    _call(library, name, gpu, ctypes.byref(value))
    return value.value


def _call(library: Any, name: str, *args: Any) -> None:
    try:
        function = getattr(library, name)
    except AttributeError:
        raise _Refused(f"the driver is too old: no {name}") from None
    error = function(*args)
    if error:
        library.nvmlErrorString.restype = ctypes.c_char_p
        raise _Refused(str(library.nvmlErrorString(error).decode()))
