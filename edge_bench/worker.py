"""The process that measures once; `edge_bench` starts several of them, one after the other.

It is no command for people: `edge_bench.processes` says what it reads and what it answers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from edge_bench.errors import EdgeBenchError
from edge_bench.processes import plain_error, plain_session, read_request
from edge_bench.session import measure_session

# How often it says how far it is.
EVERY_S = 0.2


def main() -> int:
    """Answer the request on the input; the exit code is 0 if there is an answer."""
    # What a runtime prints goes to the errors: the output is for answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    text = sys.stdin.read()
    if not text.strip():
        sys.stderr.write("error: this is started by `python -m edge_bench`; use that command\n")
        return 1
    request = read_request(json.loads(text))
    try:
        session = measure_session(request, time.perf_counter_ns, _progress(answers))
        answer = {"session": plain_session(session)}
    except (EdgeBenchError, MemoryError, OSError) as error:
        answer = {"error": plain_error(error)}
    _say(answers, answer)
    return 0


def _progress(answers: TextIO) -> Callable[[float], None]:
    told = -EVERY_S

    def advance(fraction: float) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= EVERY_S:
            told = now
            _say(answers, {"fraction": fraction})

    return advance


def _say(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
