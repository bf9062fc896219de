"""A measurement in a fresh process, and what the two processes say to each other.

The other one, `edge_bench.worker`, reads a request in JSON from its input and answers in lines of
JSON: how far it is, and in the end what it measured or why it could not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edge_bench import errors
from edge_bench.asked import Covers, RunSettings
from edge_bench.errors import EdgeBenchError, RunnerError
from edge_bench.interrupts import PARENT
from edge_bench.load import MachineLoad
from edge_bench.scenario import Scenario
from edge_bench.session import Request, Session
from edge_bench.timing import Timing, TimingPlan

MODULE = "edge_bench.worker"


def measure_in_child(
    request: Request, advance: Callable[[float], None] = lambda fraction: None
) -> Session:
    """Measure in a fresh process, which ends with this one.

    Args:
        request: What is measured, and how much.
        advance: Called with the finished fraction, 0 to 1.

    Raises:
        EdgeBenchError: The error of the process, or that it ended without an answer.
        MemoryError: It ran out of memory.
        OSError: A file could not be read there.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
        text=True,
        encoding="utf-8",
        # Ctrl-C in a terminal goes to this process alone, which then ends that one.
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its code says why
            process.stdin.write(json.dumps(plain_request(request)))
            process.stdin.close()
        answer = _listen(process.stdout, advance)
        code = process.wait()
    finally:
        process.kill()  # an interrupt: there is nothing that it could save
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
    if "session" in answer:
        return read_session(answer["session"])
    raise _read_error(answer["error"]) if "error" in answer else _no_answer(code)


def _environment() -> dict[str, str]:
    """That of this process; it finds the same `edge_bench`, and ends with this process."""
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, PARENT: str(os.getpid())}


def _listen(lines: Iterable[str], advance: Callable[[float], None]) -> dict[str, Any]:
    """The last thing that the process said; what it said before is progress."""
    answer: dict[str, Any] = {}
    for line in lines:
        try:
            answer = json.loads(line)
        except ValueError:  # it was ended in the middle of a line
            return {}
        if "fraction" in answer:
            advance(answer["fraction"])
    return answer


def _no_answer(code: int) -> RunnerError:
    how = f"signal {-code}" if code < 0 else f"code {code}"
    return RunnerError(
        f"the process that measures ended by {how} without an answer; what it said is above, and "
        "if there is nothing, memory ran out: use a smaller batch"
    )


def plain_request(request: Request) -> dict[str, Any]:
    """A request as plain values."""
    value = dataclasses.asdict(request)
    value["bundles"] = [str(path) for path in request.bundles]
    return value


def read_request(value: dict[str, Any]) -> Request:
    """The request of these values."""
    batches = value["batches"]
    return Request(
        **{
            **value,
            "bundles": tuple(Path(path) for path in value["bundles"]),
            "batches": None if batches is None else tuple(batches),
            "plan": _read_plan(value["plan"]),
            "settings": RunSettings(**value["settings"]),
        }
    )


def _read_plan(value: dict[str, Any]) -> TimingPlan:
    scenario = value["scenario"]
    return TimingPlan(**{**value, "scenario": None if scenario is None else Scenario(**scenario)})


def plain_session(session: Session) -> dict[str, Any]:
    """What was measured, as plain values."""
    return {
        "runtimes": session.runtimes,
        "batches": session.batches,
        "timings": [
            {
                **{field.name: getattr(timing, field.name) for field in dataclasses.fields(timing)},
                "times_ns": timing.times_ns.tolist(),
                "processor_ns": timing.processor_ns.tolist(),
                "device_ns": None if timing.device_ns is None else timing.device_ns.tolist(),
            }
            for timing in session.timings
        ],
        "load": dataclasses.asdict(session.load),
        "covers": [dataclasses.asdict(covered) for covered in session.covers],
    }


def read_session(value: dict[str, Any]) -> Session:
    """What these values say was measured."""
    return Session(
        runtimes=tuple(value["runtimes"]),
        batches=tuple(value["batches"]),
        timings=tuple(
            Timing(
                **{
                    **timing,
                    "times_ns": np.array(timing["times_ns"], np.int64),
                    "processor_ns": np.array(timing["processor_ns"], np.int64),
                    "device_ns": None
                    if timing["device_ns"] is None
                    else np.array(timing["device_ns"], np.int64),
                }
            )
            for timing in value["timings"]
        ),
        load=MachineLoad(**value["load"]),
        covers=tuple(Covers(**covered) for covered in value["covers"]),
    )


def plain_error(error: Exception) -> dict[str, Any]:
    """An error as plain values."""
    value: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, EdgeBenchError):
        value |= {"message": error.message, "setting": error.setting}
    if isinstance(error, OSError):
        value |= {"errno": error.errno, "message": error.strerror, "filename": error.filename}
    return value


def _read_error(value: dict[str, Any]) -> Exception:
    if value["kind"] == "MemoryError":
        return MemoryError(value["message"])
    if "errno" in value:
        return OSError(value["errno"], value["message"], value["filename"])
    kind = getattr(errors, value["kind"], RunnerError)
    error: EdgeBenchError = kind(value["message"], setting=value.get("setting"))
    return error
