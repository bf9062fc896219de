"""The state of an unfinished run: what a continuation loads, and whether it may."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from nas_gan.checkpoint import load_torch, save_torch
from nas_gan.errors import CheckpointError


class Stateful(Protocol):
    """A step of the training loop that can be put aside."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def save_state(run_dir: Path, settings: Mapping[str, str], step: Stateful, done: int) -> None:
    """Write everything that a continuation from `done` finished updates needs.

    `settings` are those that decide what the run computes.
    """
    state = {"config": dict(settings), "step": done, "step_state": step.state_dict()}
    save_torch(state, run_dir / "state.pt")


def resume(
    run_dir: Path,
    settings: Mapping[str, str],
    step: Stateful,
    reasons: Mapping[str, str] | None = None,
) -> int:
    """Load the state of an unfinished run, if there is one; returns the next index.

    `reasons` say of settings why another value is another run, where that needs to be told.

    Raises:
        CheckpointError: the directory belongs to a run with other settings or data, or its state
            is damaged.
    """
    path = run_dir / "state.pt"
    if not path.exists():
        return 0
    state = load_torch(path)
    try:
        theirs = dict(state["config"])
        step_state, first = state["step_state"], int(state["step"])
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a training state; use another --run-dir") from error
    for name in settings:
        if theirs.get(name) != settings[name]:
            reason = (reasons or {}).get(name)
            raise CheckpointError(
                f"{run_dir} holds a run with {name} = {theirs.get(name)}, "
                f"asked for {settings[name]}; use another --run-dir"
                + (f" ({reason})" if reason else "")
            )
    try:
        step.load_state_dict(step_state)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged training state; use another --run-dir") from error
    return first
