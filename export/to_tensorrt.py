"""TensorRT-RTX engines, built ahead of time for GPUs that need not be in this machine.

There is one engine per compute capability. A build takes well under a second, one engine for all of
them would be as large as their sum, and a device only has to read its own file.

The builder runs in a process of its own, for three reasons. polygraphy decides between TensorRT and
TensorRT-RTX when it is first imported, from an environment variable. The builder is native code,
and a crash inside it should cost an engine and not the export. And what it prints stays out of our
output.

An engine cannot be loaded without a GPU. What is checked here: the graph parses, the network has
the inputs and outputs of the ONNX file, the builder reports no error, and the result begins as an
engine does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.engines import EngineJob
from export.errors import ExportError
from export.manifest import Engine
from nas_gan.children import run_child
from nas_gan.files import write_bytes

NAME = "tensorrt-rtx"
ENGINE_HEADER = b"vtrt"


@dataclass(frozen=True)
class TensorRTRTX:
    """The target TensorRT-RTX; each engine is written as `model.sm86.engine` and the like.

    By default it builds for what TensorRT-RTX supports in float32: A100, Ampere, Ada and Blackwell.
    """

    compute_capabilities: tuple[str, ...] = ("8.0", "8.6", "8.9", "12.0")
    timeout_s: float = 3600.0
    name: str = NAME
    install: str = 'pip install "ard-gan[tensorrt-rtx]"'

    def is_installed(self) -> bool:
        """Whether both packages are there that it takes to build an engine."""
        return all(importlib.util.find_spec(name) for name in ("tensorrt_rtx", "polygraphy"))

    def build(self, job: EngineJob, compute_capability: str) -> Engine:
        """Write the engine for one compute capability beside the ONNX file.

        Raises:
            ExportError: it could not be built; the message is the builder's first error line.
        """
        suffix = f".sm{compute_capability.replace('.', '')}.engine"
        file = job.onnx_path.with_suffix(suffix)
        request = {
            "onnx": str(job.onnx_path.absolute()),
            "tensors": {tensor.name: list(tensor.shape[1:]) for tensor in job.tensors},
            "batch": [job.batch.min, job.batch.opt, job.batch.max],
            "engine": str(file.absolute()),
            "compute_capability": compute_capability,
        }
        reply = _ask_builder(request, self.timeout_s)
        if "error" in reply:
            raise ExportError(reply["error"])
        return Engine(file.name, self.name, compute_capability, reply["tool"])


def _ask_builder(request: Mapping[str, Any], timeout_s: float) -> dict[str, str]:
    """Build one engine in a fresh process; `{"tool": ...}` or `{"error": one line}`."""
    environment = os.environ | {
        "POLYGRAPHY_USE_TENSORRT_RTX": "1",
        "PYTHONPATH": os.pathsep.join(entry or os.curdir for entry in sys.path),
    }
    command = [sys.executable, "-W", "ignore", "-m", "export.to_tensorrt", json.dumps(request)]
    try:
        done = run_child(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"the builder took longer than {timeout_s:g} s"}
    lines = [line.strip() for line in (*done.stdout.splitlines(), *done.stderr.splitlines())]
    # The builder marks its errors with [E], and polygraphy marks what ends a build with [!]. The
    # first one is the cause and the others follow from it. An engine whose build reported an error
    # must not be used.
    for mark in ("[E]", "[!]"):
        for line in lines:
            if line.startswith(mark):
                return {"error": line.removeprefix(mark).strip()}
    answers = [line for line in lines if line.startswith("{")]
    if done.returncode or not answers:
        last = lines[-1] if lines else "it printed nothing"
        return {"error": f"the builder ended with status {done.returncode}: {last}"}
    answer: dict[str, str] = json.loads(answers[-1])
    return answer


def _build(request: Mapping[str, Any]) -> dict[str, str]:
    """Build one engine in this process; polygraphy logs why it cannot, and then raises."""
    import tensorrt_rtx
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import Profile, engine_bytes_from_network, network_from_onnx_path
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.WARNING
    # Every TensorRT-RTX network is strongly typed, but older releases have to be told so.
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
    if not engine.startswith(ENGINE_HEADER):
        return {"error": f"the builder's {len(engine)} bytes do not begin like an engine"}
    write_bytes(Path(request["engine"]), engine)
    return {"tool": f"{NAME} {tensorrt_rtx.__version__}"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_build(json.loads(sys.argv[1]))) + "\n")
