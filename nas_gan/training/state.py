"""The state of an unfinished run: saving it, and resuming if the settings are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nas_gan.errors import CheckpointError
from nas_gan.weights.files import load_torch, save_torch


class Stateful(Protocol):
    """A step of the training loop that can be saved and restored."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        done: number of updates that are done, which is the index of the next one.
        unmeasured: whether the last of them is still to be measured, by an evaluation that was
            interrupted.
    """

    done: int = 0
    unmeasured: bool = False


def save_state(
    run_dir: Path, settings: Mapping[str, str], step: Stateful, position: Position
) -> None:
    """Save all that is needed to resume at `position`.

    `settings` are those that decide what the run computes.
    """
    state = {"config": dict(settings), "step": position.done, "step_state": step.state_dict()}
    if position.unmeasured:
        state["unmeasured"] = True
    save_torch(state, run_dir / "state.pt")


def resume(
    run_dir: Path,
    settings: Mapping[str, str],
    step: Stateful,
    reasons: Mapping[str, str] | None = None,
) -> Position:
    """Load the state of an unfinished run, if there is one.

    Args:
        run_dir: the directory of the run.
        settings: those that decide what the run computes.
        step: what the state is loaded into.
        reasons: why another value of a setting makes another run, if that is not obvious.

    Returns:
        Where the run stands; at its start if there is no state.

    Raises:
        CheckpointError: the directory holds a run with other settings or data, or its state is
            damaged.
    """
    path = run_dir / "state.pt"
    if not path.exists():
        return Position()
    state = load_torch(path)
    try:
        theirs, step_state, done = state["config"], state["step_state"], state["step"]
        if not isinstance(theirs, Mapping) or type(done) is not int or done < 0:
            raise ValueError(f"step {str(done)[:40]}")
        position = Position(done, state.get("unmeasured") is True)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: not a training state; use another run directory") from error
    for name in (*settings, *(theirs.keys() - settings.keys())):
        if theirs.get(name) != settings.get(name):
            reason = (reasons or {}).get(name)
            raise CheckpointError(
                f"{run_dir} holds a run with {name} = {theirs.get(name)}, "
                f"asked for {settings.get(name)}; use another run directory"
                + (f" ({reason})" if reason else "")
            )
    try:
        step.load_state_dict(step_state)
    except (
        *(LookupError, TypeError, ValueError, AttributeError, RuntimeError),
        *(ArithmeticError, AssertionError),
    ) as error:
        raise CheckpointError(
            f"{path}: damaged training state; use another run directory"
        ) from error
    return position
