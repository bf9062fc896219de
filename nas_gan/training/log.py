"""What a run has to say as it goes on, for machines and for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nas_gan.files import write_text


class RunLog:
    """Scalars as JSON lines and as TensorBoard events; lines past the resumed step are dropped."""

    def __init__(self, run_dir: Path, first: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = run_dir / "log.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= first]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.writer = SummaryWriter(run_dir / "tensorboard", purge_step=first + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, image: Tensor) -> None:
        self.writer.add_image("samples", image, step)

    def close(self) -> None:
        self.writer.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.jsonl, each with its `step`; a line cut short by a crash is left out."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if _step_of(line) < float("inf")]


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
