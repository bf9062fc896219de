"""The shipped checkpoints, by names that work wherever the package is installed.

`zoo:fashion_mnist` stands for `fashion_mnist.pt` in this folder.
"""

from __future__ import annotations

from pathlib import Path

from nas_gan.errors import CheckpointError

PREFIX = "zoo:"
FOLDER = Path(__file__).parent


def shipped_names() -> tuple[str, ...]:
    """The name of every shipped checkpoint, as in `zoo:fashion_mnist`."""
    return tuple(sorted(f"{PREFIX}{path.stem}" for path in FOLDER.glob("*.pt")))


def local_path(path: Path) -> Path:
    """The file that `path` stands for: that of a `zoo:` name, otherwise `path` itself.

    Raises:
        CheckpointError: no checkpoint of that name is shipped.
    """
    name = str(path)
    if not name.startswith(PREFIX):
        return path
    if name not in shipped_names():
        raise CheckpointError(
            f"{name}: no such checkpoint is shipped; choose one of {', '.join(shipped_names())}"
        )
    return FOLDER / f"{name.removeprefix(PREFIX)}.pt"


def display_name(path: Path) -> str:
    """What a report calls a checkpoint: its file name, or its name in the zoo."""
    return path.name.removeprefix(PREFIX)
