"""How fast a run goes and how much of it is left: what differs from one repetition to the next."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

# The scalars of a log that depend on the machine; all others depend on the settings alone.
PREFIX = "pace/"


class Pace:
    """The pace of a run, measured between one line of its log and the next.

    Args:
        n_steps: of the whole run.
        batch_size: images in a step.
        first: steps that were done before, by an earlier part of the run.
        spent: seconds that they took.
        device: whose memory is told besides that of the process.
        clock: seconds since a fixed moment.
    """

    def __init__(
        self,
        n_steps: int,
        batch_size: int,
        *,
        first: int,
        spent: float,
        device: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n_steps, self.batch_size, self.device = n_steps, batch_size, device
        self.first, self.clock, self.started = first, clock, clock()
        self.spent, self.last = spent, (first, self.started)

    def scalars(self, done: int) -> dict[str, float]:
        """The pace after `done` steps.

        Returns:
            `wall_s`, seconds of the whole run, evaluations included; `images_per_s` since the last
            call; `left_s`, seconds that the rest takes at the mean pace of this part of the run;
            `memory_mib`, the largest that the process had; `device_mib` on a GPU.
        """
        now = self.clock()
        before, then = self.last
        self.last = done, now
        here = now - self.started
        values = {"wall_s": self.spent + here}
        if done > before and now > then:
            values["images_per_s"] = (done - before) * self.batch_size / (now - then)
        if done > self.first:
            values["left_s"] = here / (done - self.first) * max(self.n_steps - done, 0)
        values["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self.device.startswith("cuda"):
            import torch  # logs are read without it

            values["device_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return {f"{PREFIX}{name}": round(value, 3) for name, value in values.items()}


def without_pace(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a log without the scalars that depend on the machine."""
    return {name: value for name, value in row.items() if not name.startswith(PREFIX)}


def seconds_spent(rows: tuple[Mapping[str, Any], ...]) -> float:
    """Seconds that a run took up to the last of its lines; 0 if none of them tells."""
    told = [row[f"{PREFIX}wall_s"] for row in rows if f"{PREFIX}wall_s" in row]
    return float(told[-1]) if told else 0.0
