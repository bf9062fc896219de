"""Runs `python -m ard.compress` and writes the processor seconds of its stages.

    PYTHONPATH=TREE python benchmarks/staged_compress.py seconds.json zoo:fashion_mnist ...

Used by `processor_time.py`, which runs it on two source trees: whatever tree comes first on the
path is measured. Only names that both trees have are wrapped. Seconds count every thread of this
process; those of the export and of the timing, which have processes of their own, do not count.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETUP, CANDIDATES, RECOVERY, ALL = "setup", "candidates", "recovery", "all"
# The journal's names of what is scored -> the stages of the table.
SCORES = {
    "proxy": "proxy",
    "single": "single scores",
    "recovered": "joint and final scores",
    "final": "joint and final scores",
    "factorized": "joint and final scores",
}


class Stages:
    """Processor seconds by stage; within a stage, another one counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.running: list[str] = []
        self.since = time.process_time()

    def enter(self, name: str) -> None:
        self._book()
        self.running.append(name)

    def leave(self) -> None:
        self._book()
        self.running.pop()

    def _book(self) -> None:
        now = time.process_time()
        if self.running:
            name = self.running[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now


def wrap(
    stages: Stages, owner: Any, name: str, stage: Callable[[dict[str, Any]], str | None]
) -> None:
    """Let `owner.name` count for the stage that its keyword arguments name."""
    plain = getattr(owner, name)

    def counted(*given: Any, **named: Any) -> Any:
        stages.enter(stage(named) or "other")
        try:
            return plain(*given, **named)
        finally:
            stages.leave()

    setattr(owner, name, counted)


def main() -> None:
    import ard.pipeline
    import ard.recovery.store
    import ard.session.search

    out, sys.argv = Path(sys.argv[1]), ["ard.compress", *sys.argv[2:]]
    stages = Stages()
    wrap(stages, ard.session.search, "open_session", lambda named: SETUP)
    wrap(stages, ard.pipeline, "prepare", lambda named: CANDIDATES)
    wrap(stages, ard.pipeline, "sweep", lambda named: SCORES.get(str(named.get("stage"))))
    wrap(stages, ard.recovery.store.RecoveredStore, "__call__", lambda named: RECOVERY)
    try:
        runpy.run_module("ard.compress", run_name="__main__", alter_sys=True)
    finally:
        out.write_text(json.dumps({**stages.seconds, ALL: time.process_time()}))


if __name__ == "__main__":
    main()
