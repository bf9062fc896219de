"""TensorRT-RTX engines, built ahead of time for GPUs that need not be in this machine.

One engine for each compute capability: a build takes well under a second, an engine that covers all
of them would be their sum in size, and a device then reads only its own file.

The builder runs in a process of its own. polygraphy decides between TensorRT and TensorRT-RTX when
it is first imported, from an environment variable; a crash inside the builder, which is native
code, should cost an engine and not the export; and what the builder prints stays out of our output.

An engine cannot be loaded without a GPU. What is checked here: that the graph parses, that the
network has the inputs and outputs of the ONNX file, that the builder reports no error, and that the
result begins as an engine does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from export.errors import ExportError, MissingPackageError
from export.manifest import BatchRange, Engine, NotBuilt, TensorSpec
from nas_gan.files import write_bytes

TARGET = "tensorrt-rtx"
INSTALL = 'pip install "ard-gan[tensorrt-rtx]"'
# What TensorRT-RTX builds float32 for by default: A100, Ampere, Ada and Blackwell cards.
COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
ENGINE_HEADER = b"vtrt"
RtxChoice = Literal["auto", "require", "off"]


@dataclass(frozen=True)
class EngineBuilds:
    """The engines that were built, those that were not, and how long each one took in seconds."""

    engines: tuple[Engine, ...] = ()
    not_built: tuple[NotBuilt, ...] = ()
    seconds: tuple[float, ...] = ()


def rtx_available() -> bool:
    """Whether both packages that it takes to build a TensorRT-RTX engine are installed."""
    return all(importlib.util.find_spec(name) for name in ("tensorrt_rtx", "polygraphy"))


def build_rtx_engines(
    onnx_path: Path,
    *,
    tensors: Sequence[TensorSpec],
    choice: RtxChoice = "auto",
    batch: BatchRange | None = None,
    compute_capabilities: Sequence[str] = COMPUTE_CAPABILITIES,
    timeout_s: float = 3600.0,
    advance: Callable[[int], None] = lambda n: None,
) -> EngineBuilds:
    """Build `model.sm86.engine` and its like beside `onnx_path`, one for each compute capability.

    `tensors` are the inputs and the output that the network must have. `auto` builds where the
    packages are installed and otherwise builds nothing; `require` raises where they are not, or
    where a build fails; `off` builds nothing. Under `auto` a failed build is in `not_built` with
    the first error line of the builder. `advance(1)` follows each build.

    Raises:
        ExportError: `require`, and an engine could not be built.
        MissingPackageError: `require`, and tensorrt-rtx or polygraphy is not installed.
    """
    if choice == "off":
        return EngineBuilds()
    if not rtx_available():
        if choice == "require":
            raise MissingPackageError(
                f"TensorRT-RTX engines need tensorrt-rtx and polygraphy; install them: {INSTALL}"
            )
        return EngineBuilds()
    batch = batch or BatchRange()
    request = {
        "onnx": str(onnx_path.absolute()),
        "tensors": {tensor.name: list(tensor.shape[1:]) for tensor in tensors},
        "batch": [batch.min, batch.opt, batch.max],
    }
    engines, failed, seconds = [], [], []
    for capability in compute_capabilities:
        file = onnx_path.with_suffix(f".sm{capability.replace('.', '')}.engine")
        reply = _ask_builder(
            request | {"engine": str(file.absolute()), "compute_capability": capability}, timeout_s
        )
        if reason := reply.get("error"):
            failed.append(NotBuilt(TARGET, capability, reason))
        else:
            engines.append(Engine(file.name, TARGET, capability, reply["tool"]))
            seconds.append(float(reply["seconds"]))
        advance(1)
    if failed and choice == "require":
        raise ExportError(
            f"no engine for compute capability {failed[0].compute_capability}: {failed[0].reason}"
        )
    return EngineBuilds(tuple(engines), tuple(failed), tuple(seconds))


def _ask_builder(request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """Build one engine in a fresh process; `{"tool", "seconds"}` or `{"error": one line}`."""
    environment = os.environ | {
        "POLYGRAPHY_USE_TENSORRT_RTX": "1",
        "PYTHONPATH": os.pathsep.join(entry or os.curdir for entry in sys.path),
    }
    command = [sys.executable, "-W", "ignore", "-m", "export.to_tensorrt", json.dumps(request)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"the builder took longer than {timeout_s:g} s"}
    lines = [line.strip() for line in (*done.stdout.splitlines(), *done.stderr.splitlines())]
    # The builder marks its errors [E] and polygraphy what ends a build [!]; the first is the cause,
    # what follows it are consequences. An engine whose build reported an error is not to be used.
    for mark in ("[E]", "[!]"):
        for line in lines:
            if line.startswith(mark):
                return {"error": line.removeprefix(mark).strip()}
    answers = [line for line in lines if line.startswith("{")]
    if done.returncode or not answers:
        last = lines[-1] if lines else "it printed nothing"
        return {"error": f"the builder ended with status {done.returncode}: {last}"}
    answer: dict[str, Any] = json.loads(answers[-1])
    return answer


def _build(request: Mapping[str, Any]) -> dict[str, Any]:
    """Build one engine here; polygraphy raises, after having logged why, where it cannot."""
    import tensorrt_rtx
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import Profile, engine_bytes_from_network, network_from_onnx_path
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.WARNING
    start = time.perf_counter()
    # Every TensorRT-RTX network is strongly typed; older releases want to be told.
    builder, network, parser = network_from_onnx_path(request["onnx"], strongly_typed=True)
    inputs = [network.get_input(place) for place in range(network.num_inputs)]
    outputs = [network.get_output(place) for place in range(network.num_outputs)]
    found = {tensor.name: list(tensor.shape)[1:] for tensor in (*inputs, *outputs)}
    if found != request["tensors"]:
        return {"error": f"the parsed network has {found}; the ONNX file has {request['tensors']}"}
    major, minor = (int(part) for part in request["compute_capability"].split("."))
    profile = Profile()
    for tensor in inputs:
        profile.add(tensor.name, *((n, *found[tensor.name]) for n in request["batch"]))
    config = CreateConfigRTX(profiles=[profile], compute_capabilities=[(major, minor)])
    engine = bytes(engine_bytes_from_network((builder, network, parser), config=config))
    seconds = time.perf_counter() - start
    if not engine.startswith(ENGINE_HEADER):
        return {"error": f"the builder's {len(engine)} bytes do not begin as an engine does"}
    write_bytes(Path(request["engine"]), engine)
    return {"tool": f"{TARGET} {tensorrt_rtx.__version__}", "seconds": seconds}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_build(json.loads(sys.argv[1]))) + "\n")
